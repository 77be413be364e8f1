/*
 * cuda_choose.h - which form computes a layer fastest on this device: measured once per device class and layer.
 *
 * Candidates of a layer: each of our kernels that gpu_conv_can, also with partial sums where it has few blocks; the
 * engines that cuDNN and the algorithms that cuBLASLt propose. Each must first agree with our fp32 kernel
 * (cuda_trial.h); then all are timed in turn, so that a change of the clock meets all of them; the median of several
 * counts. Of those within 2 % of the fastest, ours come first, then fewer partial sums: their bits do not depend on
 * the batch size. The winner must also give every pair the same bits wherever it stands in the batch, and every time,
 * and in fp16 keep NaN; else the next wins. A data gradient is a layer like any other, without partial sums.
 *
 * Must not know: graphs of ops, numerics plans.
 */
#ifndef COAR_BACKEND_CUDA_CHOOSE_H
#define COAR_BACKEND_CUDA_CHOOSE_H

#include "backend/cuda/cuda_form.h"

/* A layer: what is asked, and the answer. */
typedef struct cuda_choice {
    gpu_conv conv; /* a shape at the batch in use: pointers given or not, as in the run */
    char form[CUDA_FORM_SIZE];
    uint32_t splits;
    float milliseconds; /* of one launch */
} cuda_choice;

/* How launches are timed; the default is CUDA's events around replays of a captured launch. */
typedef struct cuda_timer {
    /* *milliseconds of one replay of `launch`, which is form `form` with `splits`. */
    coar_status (*time)(void *context, const char *form, uint32_t splits, cudaGraphExec_t launch, cudaStream_t stream,
                        float *milliseconds);
    void *context;
} cuda_timer;

typedef struct cuda_choose_settings {
    int device;
    const char *device_class; /* the cache file is this class's */
    size_t memory;            /* device bytes that may be taken */
    thread_pool *pool;        /* builds execution plans; NULL = one after another */
    const cuda_timer *timer;  /* NULL = events */
    const coar_callbacks *callbacks;
} cuda_choose_settings;

/* Fills the answers. Layers of one signature are measured once; what the cache file knows is not measured. The
 * answers are written back to it; a cache that cannot be read or written costs a line in the log. Forms that were
 * chosen are kept in the process, ready for cuda_form_get. COAR_ERROR_MEMORY when a layer's trial does not fit;
 * COAR_STOPPED when the progress callback asks for it. */
coar_status cuda_choose(const cuda_choose_settings *s, cuda_choice *layers, size_t count);

/* Times the given forms (form and splits are read, milliseconds written), without the cache. */
coar_status cuda_choose_time(const cuda_choose_settings *s, cuda_choice *layers, size_t count);

#endif
