/*
 * cuda_nccl.h - links between CUDA devices (backend/device_link.h) by NCCL, and what kernels' results in device memory need
 * of them.
 * Must not know: MPI, what is summed.
 */
#ifndef COAR_BACKEND_CUDA_NCCL_H
#define COAR_BACKEND_CUDA_NCCL_H

#include <cuda_runtime_api.h>

#include "backend/device_link.h"

extern const device_links cuda_links;

typedef enum link_number { LINK_INT32, LINK_INT64 } link_number;

/* values[count] in device memory of rank 0 become the sums of all ranks' when the work before them in `stream` is done, and
 * that has been waited for. Those of the others stay as they are. Sums must not overflow. */
coar_status cuda_link_sum(device_link *l, void *values, size_t count, link_number type, cudaStream_t stream);

#endif
