/*
 * libcuda.c - a libcuda.so.1 without a device, so that the real cuDNN builds execution plans for described devices on
 * machines without a driver. cuDNN compiles and loads kernels while it builds a plan: loading succeeds and gives
 * handles that nothing can run; every other call answers CUDA_ERROR_NO_DEVICE. Without any libcuda.so.1 cuDNN offers no
 * engine for a fused graph, and reports success.
 *
 * cuDNN looks up some functions by name in the library, and the CUDA runtime inside it all of them by cuGetProcAddress.
 */
#include <cuda.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static int something; /* what every handle points to */

/* ---------------------------------------------------------------------------------------- loading of kernels */

CUresult cuDriverGetVersion(int *version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jit, void **jit_values,
                           unsigned jit_count, CUlibraryOption *options, void **values, unsigned count) {
    (void)code, (void)jit, (void)jit_values, (void)jit_count, (void)options, (void)values, (void)count;
    *library = (CUlibrary)(void *)&something;
    return CUDA_SUCCESS;
}

CUresult cuLibraryUnload(CUlibrary library) {
    (void)library;
    return CUDA_SUCCESS;
}

CUresult cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name) {
    (void)library, (void)name;
    *kernel = (CUkernel)(void *)&something;
    return CUDA_SUCCESS;
}

CUresult cuLibraryGetModule(CUmodule *module, CUlibrary library) {
    (void)library;
    *module = (CUmodule)(void *)&something;
    return CUDA_SUCCESS;
}

CUresult cuKernelGetFunction(CUfunction *function, CUkernel kernel) {
    (void)kernel;
    *function = (CUfunction)(void *)&something;
    return CUDA_SUCCESS;
}

CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice device) {
    (void)attribute, (void)value, (void)kernel, (void)device;
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    (void)image;
    *module = (CUmodule)(void *)&something;
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, CUjit_option *options, void **values) {
    (void)count, (void)options, (void)values;
    return cuModuleLoadData(module, image);
}

CUresult cuModuleUnload(CUmodule module) {
    (void)module;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    (void)module, (void)name;
    *function = (CUfunction)(void *)&something;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    (void)function, (void)attribute, (void)value;
    return CUDA_SUCCESS;
}

/* ------------------------------------------------------------------------------------------------- all the rest */

static CUresult no_device(void) {
    return CUDA_ERROR_NO_DEVICE;
}

/* Names that are looked up in the library itself. The header renames some of them, hence the labels. */
#define NO_DEVICE(name)                                                                                                \
    CUresult without_device_##name(void) __asm__(#name);                                                               \
    CUresult without_device_##name(void) {                                                                             \
        return CUDA_ERROR_NO_DEVICE;                                                                                   \
    }

NO_DEVICE(cuInit)
NO_DEVICE(cuGetErrorName)
NO_DEVICE(cuGetErrorString)
NO_DEVICE(cuCtxGetCurrent)
NO_DEVICE(cuCtxGetLimit)
NO_DEVICE(cuCtxPopCurrent)
NO_DEVICE(cuCtxPushCurrent)
NO_DEVICE(cuStreamGetCtx)
NO_DEVICE(cuLinkCreate)
NO_DEVICE(cuLinkAddData)
NO_DEVICE(cuLinkComplete)
NO_DEVICE(cuLinkDestroy)
NO_DEVICE(cuLaunchKernel)
NO_DEVICE(cuLaunchKernelEx)
NO_DEVICE(cuLaunchCooperativeKernel)
NO_DEVICE(cuDeviceGet)
NO_DEVICE(cuDeviceGetCount)
NO_DEVICE(cuLibraryLoadFromFile)
NO_DEVICE(cuKernelGetAttribute)
NO_DEVICE(cuOccupancyMaxPotentialClusterSize)
NO_DEVICE(cuOccupancyMaxActiveClusters)
NO_DEVICE(cuTensorMapEncodeTiled)
NO_DEVICE(cuTensorMapEncodeIm2col)

#undef cuGetProcAddress
CUresult cuGetProcAddress(const char *name, void **address, int version, cuuint64_t flags);
CUresult cuGetProcAddress_v2(const char *name, void **address, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *result);

CUresult cuGetProcAddress_v2(const char *name, void **address, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *result) {
    static void *self;
    (void)flags;
    if (!self) self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    const bool newest = !strcmp(name, "cuGetProcAddress") && version >= 12000;
    *address = self ? dlsym(self, newest ? "cuGetProcAddress_v2" : name) : NULL;
    if (!*address) {
        CUresult (*const none)(void) = no_device;
        memcpy(address, &none, sizeof none); /* ISO C has no conversion between the two kinds of pointer */
    }
    if (result) *result = CU_GET_PROC_ADDRESS_SUCCESS;
    return CUDA_SUCCESS;
}

CUresult cuGetProcAddress(const char *name, void **address, int version, cuuint64_t flags) {
    return cuGetProcAddress_v2(name, address, version, flags, NULL);
}
