/*
 * cudart_device.c - the calls of the CUDA runtime that ask about devices, versions and errors.
 *
 * Must not know: memory, streams.
 */
#include "device.h"

#include <stdio.h>
#include <string.h>

/* -------------------------------------------------------------------------------------- devices */

cudaError_t cudaGetDeviceCount(int *count) {
    cudaError_t error = (cudaError_t)enter_library(__func__);
    if (error == cudaSuccess) error = usable();
    *count = error == cudaSuccess ? the_machine.devices : 0;
    return leave(error);
}

cudaError_t cudaDriverGetVersion(int *version) {
    cudaError_t error = (cudaError_t)enter_library(__func__);
    *version = the_machine.driver;
    return leave(error);
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    cudaError_t error = (cudaError_t)enter_library(__func__);
    *version = CUDART_VERSION;
    return leave(error);
}

cudaError_t cudaSetDevice(int device) {
    cudaError_t error = (cudaError_t)enter_library(__func__);
    if (error == cudaSuccess) error = usable();
    if (error == cudaSuccess && (device < 0 || device >= the_machine.devices)) {
        refuse(__func__, "there is no device %d", device);
        error = cudaErrorInvalidDevice;
    }
    if (error == cudaSuccess) {
        current_device = device;
        error = the_machine.device[device].error;
    }
    return leave(error);
}

cudaError_t cudaGetDevice(int *device) {
    cudaError_t error = enter(__func__);
    *device = current_device;
    return leave(error);
}

/* What the stand-in's kernels may use: the figures of the generation (CUDA programming guide, "Technical Specifications
 * per Compute Capability"). */
int shared_limit(void) {
    if (the_machine.major >= 9 && the_machine.major < 12) return 227 << 10;
    return the_machine.major == 8 && the_machine.minor == 0 ? 163 << 10 : the_machine.major < 8 ? 64 << 10 : 99 << 10;
}

static void fill_properties(struct cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "Stand-in sm_%d%d", the_machine.major, the_machine.minor);
    p->totalGlobalMem = the_machine.memory;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = (size_t)shared_limit();
    p->reservedSharedMemPerBlock = 1 << 10;
    p->sharedMemPerMultiprocessor = (size_t)shared_limit() + (1 << 10);
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = the_machine.major;
    p->minor = the_machine.minor;
    p->multiProcessorCount = 108;
    p->l2CacheSize = 40 << 20;
    p->memoryBusWidth = 5120;
    p->asyncEngineCount = 2;
    p->unifiedAddressing = p->canMapHostMemory = p->concurrentKernels = p->ECCEnabled = 1;
    p->pciBusID = device + 1;
    p->uuid.bytes[0] = (char)(device + 1);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    cudaError_t error = enter(__func__);
    if (error == cudaSuccess && (device < 0 || device >= the_machine.devices)) {
        refuse(__func__, "there is no device %d", device);
        error = cudaErrorInvalidDevice;
    }
    if (error == cudaSuccess) fill_properties(properties, device);
    return leave(error);
}

static int attribute_of(const struct cudaDeviceProp *p, enum cudaDeviceAttr attribute) {
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        return p->maxThreadsPerBlock;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        return (int)p->sharedMemPerBlock;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        return (int)p->sharedMemPerBlockOptin;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        return (int)p->sharedMemPerMultiprocessor;
    case cudaDevAttrReservedSharedMemoryPerBlock:
        return (int)p->reservedSharedMemPerBlock;
    case cudaDevAttrMaxRegistersPerBlock:
        return p->regsPerBlock;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
        return p->regsPerMultiprocessor;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        return p->maxThreadsPerMultiProcessor;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
        return p->maxBlocksPerMultiProcessor;
    case cudaDevAttrMultiProcessorCount:
        return p->multiProcessorCount;
    case cudaDevAttrWarpSize:
        return p->warpSize;
    case cudaDevAttrComputeCapabilityMajor:
        return p->major;
    case cudaDevAttrComputeCapabilityMinor:
        return p->minor;
    case cudaDevAttrL2CacheSize:
        return p->l2CacheSize;
    case cudaDevAttrMaxGridDimX:
        return p->maxGridSize[0];
    case cudaDevAttrMaxGridDimY:
        return p->maxGridSize[1];
    case cudaDevAttrMaxGridDimZ:
        return p->maxGridSize[2];
    case cudaDevAttrClockRate:
        return 1410000; /* kHz */
    case cudaDevAttrMemoryClockRate:
        return 1593000; /* kHz */
    case cudaDevAttrGlobalMemoryBusWidth:
        return p->memoryBusWidth;
    case cudaDevAttrEccEnabled:
        return p->ECCEnabled;
    case cudaDevAttrAsyncEngineCount:
        return p->asyncEngineCount;
    case cudaDevAttrUnifiedAddressing:
        return p->unifiedAddressing;
    case cudaDevAttrPciBusId:
        return p->pciBusID;
    default:
        misuse("cudaDeviceGetAttribute", "the stand-in does not know attribute %d", (int)attribute);
    }
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    cudaError_t error = enter(__func__);
    if (error == cudaSuccess && (device < 0 || device >= the_machine.devices)) {
        refuse(__func__, "there is no device %d", device);
        error = cudaErrorInvalidDevice;
    }
    if (error == cudaSuccess) {
        struct cudaDeviceProp properties;
        fill_properties(&properties, device);
        *value = attribute_of(&properties, attribute);
    }
    return leave(error);
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value) {
    cudaError_t error = enter(__func__);
    if (error == cudaSuccess && (!function || attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
                                 value > shared_limit())) {
        refuse(__func__, "attribute %d cannot be %d here (dynamic shared memory: at most %d)", (int)attribute, value,
               shared_limit());
        error = cudaErrorInvalidValue;
    }
    return leave(error);
}

/* --------------------------------------------------------------------------------------- errors */

cudaError_t cudaGetLastError(void) {
    enter_library(__func__);
    return (cudaError_t)leave_library(take_last_error(true));
}

cudaError_t cudaPeekAtLastError(void) {
    enter_library(__func__);
    return (cudaError_t)leave_library(take_last_error(false));
}

/* clang-format off */
#define ERRORS(X)                                                                     \
    X(cudaSuccess, "no error")                                                        \
    X(cudaErrorInvalidValue, "invalid argument")                                      \
    X(cudaErrorMemoryAllocation, "out of memory")                                     \
    X(cudaErrorInitializationError, "initialization error")                           \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")                \
    X(cudaErrorInsufficientDriver, "the driver is older than the runtime")            \
    X(cudaErrorDevicesUnavailable, "all devices are busy or unavailable")             \
    X(cudaErrorInvalidDeviceFunction, "invalid device function")                      \
    X(cudaErrorNoDevice, "no device is detected")                                     \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                               \
    X(cudaErrorNoKernelImageForDevice, "no kernel image for this device")             \
    X(cudaErrorECCUncorrectable, "uncorrectable ECC error")                           \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")                      \
    X(cudaErrorNotReady, "device not ready")                                          \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")            \
    X(cudaErrorLaunchOutOfResources, "too many resources requested for launch")       \
    X(cudaErrorLaunchTimeout, "the launch timed out")                                 \
    X(cudaErrorLaunchFailure, "unspecified launch failure")                           \
    X(cudaErrorNotSupported, "operation not supported")                               \
    X(cudaErrorStreamCaptureUnsupported, "not permitted while a stream is captured")  \
    X(cudaErrorStreamCaptureInvalidated, "the capture was invalidated")               \
    X(cudaErrorStreamCaptureMerge, "would merge two captures")                        \
    X(cudaErrorStreamCaptureUnmatched, "the capture did not begin in this stream")    \
    X(cudaErrorStreamCaptureUnjoined, "the capture has a fork that was not joined")   \
    X(cudaErrorStreamCaptureIsolation, "a dependency would cross the capture")        \
    X(cudaErrorStreamCaptureImplicit, "implicit dependency on a capture")             \
    X(cudaErrorCapturedEvent, "the event was last recorded in a capture")             \
    X(cudaErrorStreamCaptureWrongThread, "the capture began in another thread")       \
    X(cudaErrorUnknown, "unknown error")
/* clang-format on */

const char *cudaGetErrorName(cudaError_t error) {
    switch ((int)error) {
#define ERROR_NAME(name, text)                                                                                         \
    case name:                                                                                                         \
        return #name;
        ERRORS(ERROR_NAME)
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error) {
    switch ((int)error) {
#define ERROR_TEXT(name, text)                                                                                         \
    case name:                                                                                                         \
        return text;
        ERRORS(ERROR_TEXT)
    }
    return "unrecognized error code";
}
