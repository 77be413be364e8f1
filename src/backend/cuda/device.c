/*
 * device.c - which CUDA device, and what it can do. Every way of not having one ends in one line that says what to do.
 */
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda.h"

/* The kernels use the sm_80 feature set: mma on bf16 and tf32, cp.async. */
#define COMPUTE_CAPABILITY_MIN 8

/* Left to CUDA itself when nothing is said about memory: graphs, libraries' kernels, printf buffers. */
#define MEMORY_SPARED ((size_t)256 << 20)

static coar_status attribute(int *out, enum cudaDeviceAttr name, int device) {
    TRY_CUDA(cudaDeviceGetAttribute(out, name, device), "CUDA device %d: attribute %d", device, (int)name);
    return COAR_OK;
}

/* Device classes are paths: a name's blanks and slashes would not survive scripts. */
static void class_name(const char *name, char *out, size_t size) {
    size_t i = 0;
    for (; name[i] && i + 1 < size; i++) out[i] = name[i] == ' ' || name[i] == '/' ? '-' : name[i];
    out[i] = '\0';
}

static coar_status describe(int index, int driver, cuda_device *d) {
    struct cudaDeviceProp properties;
    char name[64], libraries[48];
    TRY_CUDA(cudaGetDeviceProperties(&properties, index), "CUDA device %d: properties", index);
    *d = (cuda_device){.index = index};
    snprintf(d->name, sizeof d->name, "%.*s", (int)sizeof d->name - 1, properties.name);
    TRY(attribute(&d->major, cudaDevAttrComputeCapabilityMajor, index));
    TRY(attribute(&d->minor, cudaDevAttrComputeCapabilityMinor, index));
    TRY(attribute(&d->multiprocessors, cudaDevAttrMultiProcessorCount, index));
    class_name(d->name, name, sizeof name);
    cuda_library_versions(libraries, sizeof libraries);
    snprintf(d->device_class, sizeof d->device_class, "cuda/%s/%d.%d/%s", name, driver / 1000 % 100, driver / 10 % 100,
             libraries);
    return COAR_OK;
}

/* The driver's version, and how many devices it shows. After a failure *count is 1 unless it is known that there is
 * none: where a driver was installed there may be a device. */
static coar_status ask_driver(int *driver, int *count) {
    int runtime = 0;
    *count = 1;
    TRY_CUDA(cudaDriverGetVersion(driver), "--backend cuda: the CUDA driver");
    TRY_CUDA(cudaRuntimeGetVersion(&runtime), "--backend cuda: the CUDA runtime");
    if (*driver == 0) {
        *count = 0;
        return status_set(
            COAR_ERROR_UNSUPPORTED,
            "--backend cuda: there is no CUDA driver on this machine: install one, or give --backend cpu");
    }
    if (*driver / 1000 < runtime / 1000) /* minor versions of one major version are compatible */
        return status_set(
            COAR_ERROR_UNSUPPORTED,
            "--backend cuda: the driver knows CUDA up to %d.%d, this build needs %d.0: update the driver, "
            "or give --backend cpu",
            *driver / 1000, *driver % 1000 / 10, runtime / 1000);
    const cudaError_t error = cudaGetDeviceCount(count);
    if (error != cudaSuccess) *count = error != cudaErrorNoDevice;
    TRY_CUDA(error, "--backend cuda: counting devices");
    return COAR_OK;
}

coar_status cuda_device_count(int *count) {
    int driver = 0;
    TRY(ask_driver(&driver, count));
    for (int i = 0; i < *count; i++) {
        int major;
        TRY(attribute(&major, cudaDevAttrComputeCapabilityMajor, i));
        if (major >= COMPUTE_CAPABILITY_MIN) return COAR_OK;
    }
    return cuda_device_open(0, NULL); /* says what is wrong with it, as with all the others */
}

coar_status cuda_device_open(int index, cuda_device *out) {
    int driver = 0, count = 0;
    cuda_device d;
    TRY(ask_driver(&driver, &count));
    if (index < 0 || index >= count)
        return status_set(COAR_ERROR_UNSUPPORTED, "--backend cuda: device %d of %d: there is no such device", index,
                          count);
    /* First: while a device that died is the thread's, every call fails with its error, whatever it asks about. */
    TRY_CUDA(cudaSetDevice(index), "--backend cuda: device %d", index);
    TRY(describe(index, driver, &d));
    if (d.major < COMPUTE_CAPABILITY_MIN)
        return status_set(
            COAR_ERROR_UNSUPPORTED,
            "--backend cuda: %s has compute capability %d.%d, the kernels need %d.0 (A100 and later): leave "
            "it out by --devices, or give --backend cpu",
            d.name, d.major, d.minor, COMPUTE_CAPABILITY_MIN);
    if (out) *out = d;
    return COAR_OK;
}

coar_status cuda_device_memory(int index, size_t *bytes) {
    size_t available, total;
    TRY(cuda_device_open(index, NULL));
    TRY_CUDA(cudaMemGetInfo(&available, &total), "CUDA device %d: free memory", index);
    const size_t spared = available / 8 < MEMORY_SPARED ? available / 8 : MEMORY_SPARED;
    *bytes = available - spared;
    return COAR_OK;
}

/* -------------------------------------------------------------------------------------------- peak */

/* Dense flops of one multiprocessor in one clock, fp32 sums: on CUDA cores, and on tensor cores with 16-bit operands
 * (tf32: half of that). From NVIDIA's architecture white papers: A100, GA102, AD102, H100, B200, GB202. */
static const struct throughput {
    int major, minor, fp32, tensor;
} throughputs[] = {
    {8, 0, 128, 2048}, {8, 6, 256, 1024}, {8, 9, 256, 1024}, {9, 0, 256, 4096}, {10, 0, 256, 8192}, {12, 0, 256, 1024},
};

/* What the data sheet allows at the device's highest clock: there is no faster way to know it than to be told, since
 * a loop of mma alone would measure the power limit. 0 for an architecture that is not in the table. */
coar_status cuda_peak(const numerics_plan *plan, thread_pool *pool, double *flops) {
    cuda_device d;
    int kilohertz = 0;
    precision p = PRECISION_FP32;
    (void)pool;
    *flops = 0;
    TRY(cuda_device_open(0, &d));
    TRY(attribute(&kilohertz, cudaDevAttrClockRate, 0));
    (void)precision_parse(plan->precision, &p);
    for (size_t i = 0; i < sizeof throughputs / sizeof *throughputs; i++) {
        const struct throughput *t = &throughputs[i];
        if (t->major != d.major || t->minor != d.minor) continue;
        const int each = p == PRECISION_FP32 ? t->fp32 : p == PRECISION_TF32 ? t->tensor / 2 : t->tensor;
        *flops = 1e3 * kilohertz * d.multiprocessors * each;
    }
    return COAR_OK;
}
