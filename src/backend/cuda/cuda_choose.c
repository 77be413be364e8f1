/* cuda_choose.c - see cuda_choose.h. */
#include "backend/cuda/cuda_choose.h"

#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_plan_cache.h"
#include "backend/cuda/cuda_race.h"
#include "core/memory.h"

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
static coar_status take_known(const cuda_track *t, const cuda_plan_cache *cache, cuda_choice *layers, size_t count,
                              bool *known) {
    coar_status status = COAR_OK;
    const cuda_choose_settings *s = t->settings;
    cuda_form_wanted *wanted = NULL;
    size_t n = 0;
    TRY_GOTO(memory_new(count, sizeof *wanted, "forms", &wanted));
    for (size_t i = 0; i < count; i++) {
        known[i] = cuda_plan_cache_find(cache, &layers[i]);
        if (known[i])
            wanted[n++] =
                (cuda_form_wanted){.conv = layers[i].conv, .text = layers[i].form, .splits = layers[i].splits};
    }
    status = cuda_forms_build(t->handles, wanted, n, s->pool, s->callbacks);
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

static coar_status choose_all(const cuda_track *t, cuda_plan_cache *cache, cuda_choice *layers, size_t count,
                              const bool *known) {
    const coar_callbacks *callbacks = t->settings->callbacks;
    const size_t distinct = count_distinct(layers, count, known);
    size_t done = 0;
    progress progress;
    if (distinct)
        log_info(callbacks, "measuring %zu kinds of layers on %s, once per device class", distinct,
                 t->settings->device_class);
    progress_begin(&progress, callbacks, "choose", "layers", 0, distinct);
    for (size_t i = 0; i < count; i++) {
        const cuda_choice *like = like_before(layers, i);
        if (known[i]) continue;
        if (like) {
            copy_answer(like, &layers[i]);
            continue;
        }
        TRY(cuda_race_run(t, &layers[i]));
        TRY(cuda_plan_cache_add(cache, &layers[i]));
        if (progress_update(&progress, ++done))
            return status_set(COAR_STOPPED, "stopped after measuring %zu of %zu kinds of layers", done, distinct);
    }
    return COAR_OK;
}

coar_status cuda_choose(const cuda_choose_settings *s, cuda_choice *layers, size_t count) {
    coar_status status = COAR_OK;
    cuda_track t;
    cuda_plan_cache *cache = NULL;
    bool *known = NULL;
    TRY_GOTO(cuda_track_open(s, &t));
    log_handles(s, t.handles);
    TRY_GOTO(memory_new(count, sizeof *known, "layers", &known));
    TRY_GOTO(cuda_plan_cache_open(s->device_class, s->callbacks, &cache));
    TRY_GOTO(take_known(&t, cache, layers, count, known));
    status = choose_all(&t, cache, layers, count, known);
    cuda_plan_cache_save(cache); /* what was measured before a failure or a stop is not lost */
done:
    cuda_plan_cache_close(cache);
    free(known);
    cuda_track_close(&t);
    return status;
}

coar_status cuda_choose_time(const cuda_choose_settings *s, cuda_choice *layers, size_t count) {
    coar_status status = COAR_OK;
    cuda_track t;
    TRY_GOTO(cuda_track_open(s, &t));
    for (size_t i = 0; i < count; i++) {
        const cuda_choice *like = like_before(layers, i);
        if (like && !strcmp(like->form, layers[i].form) && like->splits == layers[i].splits)
            layers[i].milliseconds = like->milliseconds;
        else
            TRY_GOTO(cuda_race_time(&t, &layers[i]));
    }
done:
    cuda_track_close(&t);
    return status;
}
