/* error.c - see error.h. */
#include "backend/cuda/error.h"

#include <stdarg.h>
#include <stdio.h>

bool cuda_error_is_sticky(cudaError_t error) {
    switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchTimeout:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContextIsDestroyed:
    case cudaErrorUnknown:
        return true;
    default:
        return false;
    }
}

/* What the user can do about it. */
static const char *advice(cudaError_t error) {
    switch (error) {
    case cudaErrorNoDevice:
        return "this machine shows no CUDA device (is CUDA_VISIBLE_DEVICES set?): give --backend cpu";
    case cudaErrorInsufficientDriver:
        return "the driver is missing or older than this build's CUDA: update the driver, or give --backend cpu";
    case cudaErrorDevicesUnavailable:
        return "another process has it for itself, or its mode is exclusive or prohibited (nvidia-smi -q -d COMPUTE): "
               "choose another by --devices, or give --backend cpu";
    case cudaErrorStubLibrary:
        return "the libcuda.so.1 that was found is the toolkit's stub: take its folder out of LD_LIBRARY_PATH";
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
    case cudaErrorCompatNotSupportedOnDevice:
        return "driver and CUDA do not fit together: update the driver, or give --backend cpu";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
        return "this build has no kernels for the device: build with make CUDA=1 on this machine, or make cuda-all";
    case cudaErrorMemoryAllocation:
        return "give less --memory, or free the device";
    case cudaErrorInvalidDevice:
        return "there is no such device";
    default:
        return cuda_error_is_sticky(error) ? "the device's state is lost; what was finished is saved, the same command "
                                             "goes on from there"
                                           : "compute-sanitizer may say more";
    }
}

coar_status cuda_error(cudaError_t error, const char *format, ...) {
    char what[512];
    va_list arguments;
    if (error == cudaSuccess) return COAR_OK;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    (void)cudaGetLastError(); /* CUDA keeps it until it is asked */
    return status_set(error == cudaErrorMemoryAllocation ? COAR_ERROR_MEMORY : COAR_ERROR_UNSUPPORTED,
                      "%s: %s (%s): %s", what, cudaGetErrorString(error), cudaGetErrorName(error), advice(error));
}
