/*
 * cuda_library_engine.h - where the backend and the libraries' forms meet: cuDNN and cuBLASLt as entries of the
 * engine table, and the timed choice for a whole plan. Must not know: how forms are computed or measured.
 */
#ifndef COAR_BACKEND_CUDA_LIBRARY_ENGINE_H
#define COAR_BACKEND_CUDA_LIBRARY_ENGINE_H

#include "backend/cuda/cuda.h"
#include "backend/cuda/cuda_choose.h"

extern const cuda_engine cuda_engine_cudnn, cuda_engine_cublaslt;

/* A convolution as a run of b with batches of `pairs` will launch it, for forms to be made, chosen and measured:
 * pointers are given where the run gives some, and the same where they are the same; none may be followed. */
gpu_conv cuda_layer_shape(const cuda_backend *b, const cuda_layer *layer, uint32_t pairs);
/* The same for its data gradient; b is prepared for reverse passes. */
gpu_conv cuda_layer_data_shape(const cuda_backend *b, const cuda_layer *layer, uint32_t pairs);

/* The fastest form of every convolution, in place of the form that each has already, at the batch that fills this
 * device; and of every data gradient that a reverse pass computes. plan->pairs and reverse_pairs are these batches when
 * a library's form is among them. */
coar_status cuda_choose_plan(const graph *g, int device, const plan_timing *t, numerics_plan *plan);

/* backend_interface's time_layers. */
coar_status cuda_time_plan(const graph *g, const numerics_plan *plan, const plan_timing *t, bool reverse,
                           layer_time **times, size_t *count);

#endif
