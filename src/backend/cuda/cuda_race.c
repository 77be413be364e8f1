/* cuda_race.c - see cuda_race.h. */
#include "backend/cuda/cuda_race.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    const cuda_track *track;
    cuda_choice *layer;
    cuda_trial *trial;
    candidate *list; /* [count] */
    size_t count, capacity;
} race;

/* ------------------------------------------------------------------------------------------------ timing */

static coar_status time_replays(const cuda_track *t, cudaGraphExec_t launch, int replays, cudaStream_t stream,
                                float *milliseconds) {
    TRY_CUDA(cudaEventRecord(t->start, stream), "timing");
    for (int i = 0; i < replays; i++) TRY_CUDA(cudaGraphLaunch(launch, stream), "timing");
    TRY_CUDA(cudaEventRecord(t->stop, stream), "timing");
    TRY_CUDA(cudaEventSynchronize(t->stop), "timing");
    TRY_CUDA(cudaEventElapsedTime(milliseconds, t->start, t->stop), "timing");
    *milliseconds /= (float)replays;
    return COAR_OK;
}

/* One replay first: it warms up, and tells how many are worth a millisecond, which the events' half microsecond does
 * not blur. */
static coar_status time_by_events(void *context, const char *form, uint32_t splits, cudaGraphExec_t launch,
                                  cudaStream_t stream, float *milliseconds) {
    enum { REPLAYS_MAX = 20 };
    const cuda_track *t = context;
    (void)form, (void)splits;
    TRY(time_replays(t, launch, 1, stream, milliseconds));
    const int replays = *milliseconds * REPLAYS_MAX <= 1 ? REPLAYS_MAX
                        : *milliseconds >= 1             ? 1
                                                         : (int)(1 / *milliseconds);
    return time_replays(t, launch, replays, stream, milliseconds);
}

static coar_status time_candidate(const race *r, candidate *c, double *milliseconds) {
    float time;
    TRY(r->track->timer->time(r->track->timer->context, c->text, c->splits, c->launch, r->track->stream, &time));
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
    while (splits < SPLITS_MAX && tiles * splits < 2 * (uint64_t)r->track->multiprocessors &&
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
    if (!r->track->handles->cudnn || !cuda_cudnn_can(&r->layer->conv, kind)) return COAR_OK;
    TRY(refused_is_none(
        cuda_cudnn_propose(r->track->handles->cudnn, &r->layer->conv, kind, ENGINES_MAX, forms, &count, &offered)));
    for (size_t i = 0; i < count; i++) TRY(add_candidate(r, forms[i], 1));
    return COAR_OK;
}

static coar_status add_cublaslt(race *r) {
    char forms[ALGORITHMS_MAX][CUDA_FORM_SIZE];
    size_t count;
    if (!r->track->handles->cublaslt || !cuda_cublaslt_can(&r->layer->conv)) return COAR_OK;
    TRY(refused_is_none(
        cuda_cublaslt_propose(r->track->handles->cublaslt, &r->layer->conv, ALGORITHMS_MAX, forms, &count)));
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
    TRY_CUDA(cudaSetDevice(r->track->settings->device), "CUDA device %d", r->track->settings->device);
    return refused_is_none(cuda_form_open(r->track->handles, &r->layer->conv, c->text, c->splits, &c->form));
}

static coar_status make_candidates(race *r) {
    if (r->track->settings->pool) return thread_pool_run(r->track->settings->pool, r->count, make_candidate, r);
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
            log_warning(r->track->settings->callbacks, "layer %s: form '%s' is left out: %s", signature, c->text, why);
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
    const coar_status status = cuda_form_open(r->track->handles, &filled, c->text, 1, &form);
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
        log_warning(r->track->settings->callbacks, "layer %s: form '%s' is left out: %s", signature, c->text, why);
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
    if (bytes > r->track->settings->memory)
        return status_set(
            COAR_ERROR_MEMORY,
            "choosing the form of a layer takes %zu MiB of device memory at a batch of %u, %zu are allowed: "
            "give more --memory, or --exact",
            bytes >> 20, r->layer->conv.pairs, r->track->settings->memory >> 20);
    return cuda_trial_create(&r->layer->conv, workspace, r->track->stream, &r->trial);
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

coar_status cuda_race_run(const cuda_track *track, cuda_choice *layer) {
    coar_status status = COAR_OK;
    race r = {.track = track, .layer = layer};
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

coar_status cuda_race_time(const cuda_track *track, cuda_choice *layer) {
    coar_status status = COAR_OK;
    char why[256];
    bool agrees;
    race r = {.track = track, .layer = layer};
    TRY_GOTO(add_candidate(&r, layer->form, layer->splits));
    candidate *c = &r.list[0];
    TRY_GOTO(cuda_form_open(track->handles, &layer->conv, c->text, c->splits, &c->form));
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

/* ------------------------------------------------------------------------------------------------- track */

coar_status cuda_track_open(const cuda_choose_settings *s, cuda_track *t) {
    *t = (cuda_track){.settings = s, .events = {.time = time_by_events, .context = t}};
    t->timer = s->timer ? s->timer : &t->events;
    TRY(cuda_handles_get(s->device, &t->handles));
    TRY_CUDA(cudaDeviceGetAttribute(&t->multiprocessors, cudaDevAttrMultiProcessorCount, s->device), "CUDA device %d",
             s->device);
    TRY_CUDA(cudaStreamCreateWithFlags(&t->stream, cudaStreamNonBlocking), "timing: stream");
    TRY_CUDA(cudaEventCreate(&t->start), "timing: event");
    TRY_CUDA(cudaEventCreate(&t->stop), "timing: event");
    return COAR_OK;
}

void cuda_track_close(cuda_track *t) {
    if (t->stop) cudaEventDestroy(t->stop);
    if (t->start) cudaEventDestroy(t->start);
    if (t->stream) cudaStreamDestroy(t->stream);
}
