/*
 * cuda_library_engine.h - where the backend and the libraries' forms meet: cuDNN and cuBLASLt as entries of the engine table,
 * and the timed choice for a whole plan. Must not know: how forms are computed or measured.
 */
#ifndef COAR_BACKEND_CUDA_LIBRARY_ENGINE_H
#define COAR_BACKEND_CUDA_LIBRARY_ENGINE_H

#include "backend/cuda/cuda.h"
#include "backend/cuda/cuda_choose.h"

extern const cuda_engine cuda_engine_cudnn, cuda_engine_cublaslt;

/* A convolution as a run of b with batches of `pairs` will launch it, for forms to be made, chosen and measured: pointers
 * are given where the run gives some, and the same where they are the same; none may be followed. */
gpu_conv cuda_layer_shape(const cuda_backend *b, const cuda_layer *layer, uint32_t pairs);

/* Puts the fastest form of every convolution into a plan, which has some form for each of them already. s: without a class. */
coar_status cuda_choose_plan(const graph *g, numerics_plan *plan, uint32_t pairs, const cuda_choose_settings *s);

/* One entry of cuda_time_plan. */
typedef struct cuda_layer_time {
    const char *name; /* the op's; borrowed from the graph */
    char signature[CUDA_SIGNATURE_SIZE], form[CUDA_FORM_SIZE];
    uint32_t splits;
    double seconds, flops; /* of one launch; dense */
} cuda_layer_time;

/* Times every convolution of a plan in its form: *times has *count entries in the order of the ops, malloc'ed. */
coar_status cuda_time_plan(const graph *g, const numerics_plan *plan, uint32_t pairs, const cuda_choose_settings *s,
                           cuda_layer_time **times, size_t *count);

#endif
