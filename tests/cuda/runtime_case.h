/*
 * runtime_case.h - what tests of the stand-in CUDA runtime share: settings for a while, and a "kernel" to run.
 */
#ifndef COAR_TESTS_RUNTIME_CASE_H
#define COAR_TESTS_RUNTIME_CASE_H

#include <cuda_runtime_api.h>

#include "stand_ins/stand_ins.h"
#include "test.h"

#define CHECK_CUDA(call) CHECK_INT(call, cudaSuccess)

cudaError_t simt_launch(const char *name, void (*run)(void *), const void *arguments, size_t size, dim3 grid,
                        dim3 block, size_t shared, cudaStream_t stream);

static void begin_with(const char *name, const char *value) {
    setenv(name, value, 1);
    stand_in_reset();
}

static void end_with(const char *name) {
    unsetenv(name);
    stand_in_reset();
}

/* ------------------------------------------------------------------------------------------- a "kernel" to run */

typedef struct scale_arguments {
    float *x;
    int n;
    float by;
} scale_arguments;

static void scale_run(void *p) {
    const scale_arguments *a = p;
    for (int i = 0; i < a->n; i++) a->x[i] *= a->by;
}

static cudaError_t scale(float *x, int n, float by, cudaStream_t stream) {
    scale_arguments a = {x, n, by};
    dim3 one = {1, 1, 1};
    return simt_launch("scale", scale_run, &a, sizeof a, one, one, 0, stream);
}

#endif
