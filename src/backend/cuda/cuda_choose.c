/* cuda_choose.c - see cuda_choose.h. */
#include "backend/cuda/cuda_choose.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_plan_cache.h"
#include "backend/cuda/cuda_trial.h"
#include "backend/cuda/error.h"
#include "core/memory.h"
#include "core/statistics.h"

enum {
    ENGINES_MAX = 6,     /* of cuDNN, each graph: the heuristics' first guesses */
    ALGORITHMS_MAX = 6,  /* of cuBLASLt */
    ROUNDS = 7,          /* samples of a candidate; an odd number has a median */
    SPLITS_MAX = 8,      /* partial sums: the workspace grows with them */
    SPLIT_PRODUCTS = 256 /* fewer in one partial sum do not pay for adding it up */
};
#define TIE 1.02     /* closer times are not told apart reliably */
#define HOPELESS 1.5 /* slower than the fastest by this in the first round: out */

typedef struct candidate {
    char text[CUDA_FORM_SIZE];
    uint32_t splits;
    cuda_form *form; /* NULL: it cannot be made */
    cudaGraphExec_t launch;
    double samples[ROUNDS], milliseconds;
    bool out;      /* of the race */
    bool hopeless; /* out because it was slow, and for nothing else */
} candidate;

/* One layer's race. Candidates stand in the order of preference. */
typedef struct race {
    const cuda_choose_settings *s;
    cuda_handles *handles;
    cuda_choice *layer;
    cudaStream_t stream;
    const cuda_timer *timer;
    int multiprocessors;
    cuda_trial *trial;
    candidate *list; /* [count] */
    size_t count, capacity;
} race;

/* ------------------------------------------------------------------------------------------------ timing */

/* CUDA's events, and how many replays make one sample. */
typedef struct event_clock {
    cudaEvent_t start, stop;
} event_clock;

static coar_status time_replays(const event_clock *clock, cudaGraphExec_t launch, int replays, cudaStream_t stream,
                                float *milliseconds) {
    TRY_CUDA(cudaEventRecord(clock->start, stream), "timing");
    for (int i = 0; i < replays; i++) TRY_CUDA(cudaGraphLaunch(launch, stream), "timing");
    TRY_CUDA(cudaEventRecord(clock->stop, stream), "timing");
    TRY_CUDA(cudaEventSynchronize(clock->stop), "timing");
    TRY_CUDA(cudaEventElapsedTime(milliseconds, clock->start, clock->stop), "timing");
    *milliseconds /= (float)replays;
    return COAR_OK;
}

/* One replay first: it warms up, and tells how many are worth a millisecond, which the events' half microsecond does
 * not blur. */
static coar_status time_by_events(void *context, const char *form, uint32_t splits, cudaGraphExec_t launch,
                                  cudaStream_t stream, float *milliseconds) {
    enum { REPLAYS_MAX = 20 };
    const event_clock *clock = context;
    (void)form, (void)splits;
    TRY(time_replays(clock, launch, 1, stream, milliseconds));
    const int replays = *milliseconds * REPLAYS_MAX <= 1 ? REPLAYS_MAX
                        : *milliseconds >= 1             ? 1
                                                         : (int)(1 / *milliseconds);
    return time_replays(clock, launch, replays, stream, milliseconds);
}

static coar_status time_candidate(const race *r, candidate *c, double *milliseconds) {
    float time;
    TRY(r->timer->time(r->timer->context, c->text, c->splits, c->launch, r->stream, &time));
    *milliseconds = time;
    return COAR_OK;
}

/* -------------------------------------------------------------------------------------------- candidates */

static coar_status add_candidate(race *r, const char *text, uint32_t splits) {
    TRY(memory_grow(&r->list, &r->capacity, r->count + 1, sizeof *r->list, "candidates"));
    candidate *c = &r->list[r->count++];
    *c = (candidate){.splits = splits};
    snprintf(c->text, sizeof c->text, "%s", text);
    return COAR_OK;
}

/* Partial sums pay where a launch has too few blocks for the device: fewer than two 64x64 tiles for each
 * multiprocessor. */
static uint32_t most_splits(const race *r) {
    const gpu_conv *c = &r->layer->conv;
    const uint64_t tile = 64, rows = (uint64_t)c->pairs * c->out_h * c->out_w;
    const uint64_t tiles = (rows + tile - 1) / tile * ((c->out_channels + tile - 1) / tile);
    const uint64_t products = (uint64_t)c->in_channels * c->kernel_h * c->kernel_w;
    uint32_t splits = 1;
    if (c->transposed) return 1; /* as large as the layers in front of them, whose sums are long */
    while (splits < SPLITS_MAX && tiles * splits < 2 * (uint64_t)r->multiprocessors &&
           products / (2 * splits) >= SPLIT_PRODUCTS)
        splits *= 2;
    return splits;
}

static coar_status add_own(race *r) {
    const char *name;
    const uint32_t most = most_splits(r);
    for (uint32_t splits = 1; splits <= most; splits *= 2)
        for (int i = 0; (name = gpu_conv_form(r->layer->conv.type, i)); i++) {
            gpu_conv c = r->layer->conv;
            c.splits = splits;
            if (gpu_conv_can(&c, i)) TRY(add_candidate(r, name, splits));
        }
    return COAR_OK;
}

/* A library that refuses the layer has no candidates for it. */
static coar_status refused_is_none(coar_status status) {
    if (status != COAR_ERROR_UNSUPPORTED) return status;
    status_clear();
    return COAR_OK;
}

static coar_status add_cudnn(race *r, cuda_cudnn_kind kind) {
    char forms[ENGINES_MAX][CUDA_FORM_SIZE];
    size_t count, offered;
    if (!r->handles->cudnn || !cuda_cudnn_can(&r->layer->conv, kind)) return COAR_OK;
    TRY(refused_is_none(
        cuda_cudnn_propose(r->handles->cudnn, &r->layer->conv, kind, ENGINES_MAX, forms, &count, &offered)));
    for (size_t i = 0; i < count; i++) TRY(add_candidate(r, forms[i], 1));
    return COAR_OK;
}

static coar_status add_cublaslt(race *r) {
    char forms[ALGORITHMS_MAX][CUDA_FORM_SIZE];
    size_t count;
    if (!r->handles->cublaslt || !cuda_cublaslt_can(&r->layer->conv)) return COAR_OK;
    TRY(refused_is_none(cuda_cublaslt_propose(r->handles->cublaslt, &r->layer->conv, ALGORITHMS_MAX, forms, &count)));
    for (size_t i = 0; i < count; i++) TRY(add_candidate(r, forms[i], 1));
    return COAR_OK;
}

static coar_status add_candidates(race *r) {
    TRY(add_own(r));
    TRY(add_cublaslt(r));
    for (int kind = 0; kind < CUDA_CUDNN_KINDS; kind++) TRY(add_cudnn(r, (cuda_cudnn_kind)kind));
    return COAR_OK;
}

static coar_status make_candidate(void *context, size_t task, int worker) {
    race *r = context;
    candidate *c = &r->list[task];
    (void)worker;
    TRY_CUDA(cudaSetDevice(r->s->device), "CUDA device %d", r->s->device);
    return refused_is_none(cuda_form_open(r->handles, &r->layer->conv, c->text, c->splits, &c->form));
}

static coar_status make_candidates(race *r) {
    if (r->s->pool) return thread_pool_run(r->s->pool, r->count, make_candidate, r);
    for (size_t i = 0; i < r->count; i++) TRY(make_candidate(r, i, 0));
    return COAR_OK;
}

/* ---------------------------------------------------------------------------------------------- the race */

/* Those that agree and can be captured stay. */
static coar_status admit(race *r) {
    char why[256], signature[CUDA_SIGNATURE_SIZE];
    cuda_signature(&r->layer->conv, signature);
    for (size_t i = 0; i < r->count; i++) {
        candidate *c = &r->list[i];
        bool agrees = false;
        c->out = true;
        if (!c->form) continue;
        TRY(cuda_trial_agrees(r->trial, c->form, &agrees, why));
        if (!agrees) {
            log_warning(r->s->callbacks, "layer %s: form '%s' is left out: %s", signature, c->text, why);
            continue;
        }
        TRY(cuda_trial_capture(r->trial, c->form, &c->launch));
        c->out = !c->launch;
    }
    return COAR_OK;
}

static double fastest(const race *r) {
    double least = -1;
    for (size_t i = 0; i < r->count; i++)
        if (!r->list[i].out && (least < 0 || r->list[i].milliseconds < least)) least = r->list[i].milliseconds;
    return least;
}

/* One round to warm up and to drop the hopeless, then all that are left in turn. */
static coar_status run_rounds(race *r) {
    for (size_t i = 0; i < r->count; i++)
        if (!r->list[i].out) TRY(time_candidate(r, &r->list[i], &r->list[i].milliseconds));
    const double limit = fastest(r) * HOPELESS;
    for (size_t i = 0; i < r->count; i++) {
        candidate *c = &r->list[i];
        c->hopeless = !c->out && c->milliseconds > limit;
        c->out |= c->hopeless;
    }
    for (int round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < r->count; i++)
            if (!r->list[i].out) TRY(time_candidate(r, &r->list[i], &r->list[i].samples[round]));
    for (size_t i = 0; i < r->count; i++) {
        candidate *c = &r->list[i];
        if (c->out) continue;
        qsort(c->samples, ROUNDS, sizeof *c->samples, double_ascending);
        c->milliseconds = c->samples[ROUNDS / 2];
    }
    return COAR_OK;
}

/* Whether the form serves the layer filled with means too: a plan does not say which ablation it is for. For our own
 * kernels, and behind cuBLASLt, a fill changes nothing that could be refused. */
static coar_status check_filled(const race *r, const candidate *c, bool *serves, char why[256]) {
    static const float any = 0;
    gpu_conv filled = r->layer->conv;
    cuda_form *form = NULL;
    *serves = true;
    if (strncmp(c->text, "cudnn:", strlen("cudnn:")) || filled.mask.place == GPU_PLACE_NONE || filled.mask.fill)
        return COAR_OK;
    filled.mask.fill = &any;
    const coar_status status = cuda_form_open(r->handles, &filled, c->text, 1, &form);
    if (status == COAR_ERROR_UNSUPPORTED) status_copy(why, 256);
    *serves = status == COAR_OK;
    cuda_form_close(form);
    return refused_is_none(status);
}

/* The slow ones, when none of the fast ones holds; false when there are none. Their times are those of the first
 * round. */
static bool let_hopeless_in(race *r) {
    bool any = false;
    for (size_t i = 0; i < r->count; i++) {
        candidate *c = &r->list[i];
        if (!c->hopeless) continue;
        c->out = c->hopeless = false;
        any = true;
    }
    return any;
}

/* The first in the order of preference that is about as fast as the fastest, and holds; NULL when nobody is left. */
static coar_status find_winner(race *r, candidate **winner) {
    char why[256], signature[CUDA_SIGNATURE_SIZE];
    cuda_signature(&r->layer->conv, signature);
    *winner = NULL;
    for (double limit; (limit = fastest(r)) >= 0 || let_hopeless_in(r);) {
        if (limit < 0) continue;
        candidate *c = r->list;
        while (c->out || c->milliseconds > limit * TIE) c++;
        bool holds;
        TRY(cuda_trial_repeats(r->trial, c->form, &holds, why));
        if (holds) TRY(check_filled(r, c, &holds, why));
        if (holds) {
            *winner = c;
            return COAR_OK;
        }
        log_warning(r->s->callbacks, "layer %s: form '%s' is left out: %s", signature, c->text, why);
        c->out = true;
    }
    return COAR_OK;
}

static size_t largest_workspace(const race *r) {
    size_t most = 0;
    for (size_t i = 0; i < r->count; i++) {
        const size_t bytes = r->list[i].form ? cuda_form_workspace(r->list[i].form) : 0;
        if (bytes > most) most = bytes;
    }
    return most;
}

static coar_status prepare_trial(race *r) {
    const size_t workspace = largest_workspace(r), bytes = cuda_trial_bytes(&r->layer->conv, workspace);
    if (bytes > r->s->memory)
        return status_set(
            COAR_ERROR_MEMORY,
            "choosing the form of a layer takes %zu MiB of device memory at a batch of %u, %zu are allowed: "
            "give more --memory, or --exact",
            bytes >> 20, r->layer->conv.pairs, r->s->memory >> 20);
    return cuda_trial_create(&r->layer->conv, workspace, r->stream, &r->trial);
}

static void end_race(race *r) {
    for (size_t i = 0; i < r->count; i++) {
        if (r->list[i].launch) cudaGraphExecDestroy(r->list[i].launch);
        cuda_form_close(r->list[i].form);
    }
    cuda_trial_destroy(r->trial);
    free(r->list);
}

static coar_status take_winner(race *r) {
    candidate *winner;
    char signature[CUDA_SIGNATURE_SIZE];
    TRY(find_winner(r, &winner));
    if (!winner) {
        cuda_signature(&r->layer->conv, signature);
        return status_set(COAR_ERROR_UNSUPPORTED, "layer %s: no kernel of this build computes it on this device",
                          signature);
    }
    snprintf(r->layer->form, sizeof r->layer->form, "%s", winner->text);
    r->layer->splits = winner->splits;
    r->layer->milliseconds = (float)winner->milliseconds;
    cuda_form *form = winner->form;
    winner->form = NULL;
    return cuda_form_keep(form);
}

/* `frame` has what all layers share. */
static coar_status choose_layer(const race *frame, cuda_choice *layer) {
    coar_status status = COAR_OK;
    race r = *frame;
    r.layer = layer;
    TRY_GOTO(add_candidates(&r));
    TRY_GOTO(make_candidates(&r));
    TRY_GOTO(prepare_trial(&r));
    TRY_GOTO(admit(&r));
    TRY_GOTO(run_rounds(&r));
    TRY_GOTO(take_winner(&r));
done:
    end_race(&r);
    return status;
}

/* ------------------------------------------------------------------------------------------- many layers */

/* What one call of this file needs on the device. */
typedef struct bench_frame {
    race race;
    event_clock clock;
    cuda_timer events;
} bench_frame;

static coar_status frame_open(const cuda_choose_settings *s, bench_frame *f) {
    *f = (bench_frame){.race = {.s = s}, .events = {.time = time_by_events, .context = &f->clock}};
    f->race.timer = s->timer ? s->timer : &f->events;
    TRY(cuda_handles_get(s->device, &f->race.handles));
    TRY_CUDA(cudaDeviceGetAttribute(&f->race.multiprocessors, cudaDevAttrMultiProcessorCount, s->device),
             "CUDA device %d", s->device);
    TRY_CUDA(cudaStreamCreateWithFlags(&f->race.stream, cudaStreamNonBlocking), "timing: stream");
    TRY_CUDA(cudaEventCreate(&f->clock.start), "timing: event");
    TRY_CUDA(cudaEventCreate(&f->clock.stop), "timing: event");
    return COAR_OK;
}

static void frame_close(bench_frame *f) {
    if (f->clock.stop) cudaEventDestroy(f->clock.stop);
    if (f->clock.start) cudaEventDestroy(f->clock.start);
    if (f->race.stream) cudaStreamDestroy(f->race.stream);
}

static bool same_signature(const cuda_choice *a, const cuda_choice *b) {
    char first[CUDA_SIGNATURE_SIZE], second[CUDA_SIGNATURE_SIZE];
    cuda_signature(&a->conv, first);
    cuda_signature(&b->conv, second);
    return !strcmp(first, second);
}

/* The layer before this one whose answer is this one's too; NULL = none. */
static const cuda_choice *like_before(const cuda_choice *layers, size_t i) {
    for (size_t j = 0; j < i; j++)
        if (same_signature(&layers[j], &layers[i])) return &layers[j];
    return NULL;
}

static void copy_answer(const cuda_choice *from, cuda_choice *to) {
    memcpy(to->form, from->form, sizeof to->form);
    to->splits = from->splits;
    to->milliseconds = from->milliseconds;
}

static void log_handles(const cuda_choose_settings *s, cuda_handles *h) {
    if (h->told) return;
    h->told = true;
    if (h->cudnn_why[0]) log_info(s->callbacks, "cuDNN's forms are no candidates: %s", h->cudnn_why);
    if (h->cublaslt_why[0]) log_info(s->callbacks, "cuBLASLt's forms are no candidates: %s", h->cublaslt_why);
}

/* Those with an answer in the cache that can still be made; known[i] says which. A cached form that this machine
 * refuses is measured again. */
static coar_status take_known(const bench_frame *f, const cuda_plan_cache *cache, cuda_choice *layers, size_t count,
                              bool *known) {
    coar_status status = COAR_OK;
    const cuda_choose_settings *s = f->race.s;
    cuda_form_wanted *wanted = NULL;
    size_t n = 0;
    TRY_GOTO(memory_new(count, sizeof *wanted, "forms", &wanted));
    for (size_t i = 0; i < count; i++) {
        known[i] = cuda_plan_cache_find(cache, &layers[i]);
        if (known[i])
            wanted[n++] =
                (cuda_form_wanted){.conv = layers[i].conv, .text = layers[i].form, .splits = layers[i].splits};
    }
    status = cuda_forms_build(f->race.handles, wanted, n, s->pool, s->callbacks);
    if (status == COAR_ERROR_UNSUPPORTED) {
        log_warning(s->callbacks, "plan cache: %s; layers are measured again", coar_last_error());
        status_clear();
        memset(known, 0, count * sizeof *known);
        status = COAR_OK;
    }
done:
    free(wanted);
    return status;
}

static size_t count_distinct(const cuda_choice *layers, size_t count, const bool *known) {
    size_t distinct = 0;
    for (size_t i = 0; i < count; i++) distinct += !known[i] && !like_before(layers, i);
    return distinct;
}

static coar_status choose_all(const bench_frame *f, cuda_plan_cache *cache, cuda_choice *layers, size_t count,
                              const bool *known) {
    const coar_callbacks *callbacks = f->race.s->callbacks;
    const size_t distinct = count_distinct(layers, count, known);
    size_t done = 0;
    progress progress;
    if (distinct)
        log_info(callbacks, "measuring %zu kinds of layers on %s, once per device class", distinct,
                 f->race.s->device_class);
    progress_begin(&progress, callbacks, "choose", "layers", 0, distinct);
    for (size_t i = 0; i < count; i++) {
        const cuda_choice *like = like_before(layers, i);
        if (known[i]) continue;
        if (like) {
            copy_answer(like, &layers[i]);
            continue;
        }
        TRY(choose_layer(&f->race, &layers[i]));
        TRY(cuda_plan_cache_add(cache, &layers[i]));
        if (progress_update(&progress, ++done))
            return status_set(COAR_STOPPED, "stopped after measuring %zu of %zu kinds of layers", done, distinct);
    }
    return COAR_OK;
}

coar_status cuda_choose(const cuda_choose_settings *s, cuda_choice *layers, size_t count) {
    coar_status status = COAR_OK;
    bench_frame f;
    cuda_plan_cache *cache = NULL;
    bool *known = NULL;
    TRY_GOTO(frame_open(s, &f));
    log_handles(s, f.race.handles);
    TRY_GOTO(memory_new(count, sizeof *known, "layers", &known));
    TRY_GOTO(cuda_plan_cache_open(s->device_class, s->callbacks, &cache));
    TRY_GOTO(take_known(&f, cache, layers, count, known));
    status = choose_all(&f, cache, layers, count, known);
    cuda_plan_cache_save(cache); /* what was measured before a failure or a stop is not lost */
done:
    cuda_plan_cache_close(cache);
    free(known);
    frame_close(&f);
    return status;
}

/* --------------------------------------------------------------------------------------------- given forms */

static coar_status time_layer(const race *frame, cuda_choice *layer) {
    coar_status status = COAR_OK;
    char why[256];
    bool agrees;
    race r = *frame;
    r.layer = layer;
    TRY_GOTO(add_candidate(&r, layer->form, layer->splits));
    candidate *c = &r.list[0];
    TRY_GOTO(cuda_form_open(r.handles, &layer->conv, c->text, c->splits, &c->form));
    TRY_GOTO(prepare_trial(&r));
    TRY_GOTO(cuda_trial_agrees(r.trial, c->form, &agrees, why)); /* and its kernels are loaded before the capture */
    if (agrees) TRY_GOTO(cuda_trial_capture(r.trial, c->form, &c->launch));
    if (!c->launch) {
        status = status_set(COAR_ERROR_UNSUPPORTED, "form '%s' cannot be timed: %s", c->text,
                            agrees ? "it cannot be captured" : why);
        goto done;
    }
    TRY_GOTO(run_rounds(&r));
    layer->milliseconds = (float)c->milliseconds;
done:
    end_race(&r);
    return status;
}

coar_status cuda_choose_time(const cuda_choose_settings *s, cuda_choice *layers, size_t count) {
    coar_status status = COAR_OK;
    bench_frame f;
    TRY_GOTO(frame_open(s, &f));
    for (size_t i = 0; i < count; i++) {
        const cuda_choice *like = like_before(layers, i);
        if (like && !strcmp(like->form, layers[i].form) && like->splits == layers[i].splits)
            layers[i].milliseconds = like->milliseconds;
        else
            TRY_GOTO(time_layer(&f.race, &layers[i]));
    }
done:
    frame_close(&f);
    return status;
}
