/*
 * runtime.cc - the calls of the CUDA runtime that launchers make, for programs without a stand-in runtime (tests/stand_ins/
 * defines them all, and wins over these weak ones). One device; streams are executed at once.
 */
#include "machine.h"

#include "report.h"

extern "C" {

__attribute__((weak)) cudaError_t simt_launch(const char *name, void (*run)(void *), const void *arguments, size_t,
                                              dim3 grid, dim3 block, size_t shared, cudaStream_t) {
    return simt_execute(name, run, arguments, grid, block, shared);
}

__attribute__((weak)) cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

__attribute__((weak)) cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = 48 << 10;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)simt_shared_limit();
        return cudaSuccess;
    case cudaDevAttrMaxThreadsPerBlock:
        *value = 1024;
        return cudaSuccess;
    case cudaDevAttrWarpSize:
        *value = 32;
        return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        *value = 4;
        return cudaSuccess; /* few, so that small tests fill them */
    case cudaDevAttrComputeCapabilityMajor:
        *value = 8;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        return cudaSuccess;
    default:
        return cudaErrorInvalidValue;
    }
}

__attribute__((weak)) cudaError_t cudaGetLastError(void) {
    return cudaSuccess;
}
__attribute__((weak)) cudaError_t cudaPeekAtLastError(void) {
    return cudaSuccess;
}
__attribute__((weak)) const char *cudaGetErrorString(cudaError_t error) {
    return error == cudaSuccess ? "no error" : "error";
}
}
