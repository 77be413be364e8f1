/*
 * cudart_device.c - the stand-in's settings, its lock, failures on request, what is reported about misuse, and the calls of
 * the CUDA runtime that ask about devices and errors.
 *
 * Must not know: how memory is protected, how work is ordered.
 */
#include "device.h"
#include "stand_ins.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

machine the_machine;
_Thread_local int current_device;
static _Thread_local cudaError_t last_error;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool is_set_up;

/* Calls by name, in the order in which they were first seen. */
static struct counter {
    char name[112];
    size_t calls;
} counters[512];
static size_t counter_count, refusals;

static struct failure {
    char call[64];
    unsigned after;
    int error;
} failures[32];
static size_t failure_count;

static object *objects;

/* ------------------------------------------------------------------------------------------------- messages */

static void print_line(const char *call, const char *format, va_list list) {
    char text[512];
    vsnprintf(text, sizeof text, format, list);
    fprintf(stderr, "stand-in: %s: %s\n", call, text);
}

void misuse(const char *call, const char *format, ...) {
    va_list list;
    va_start(list, format);
    print_line(call, format, list);
    va_end(list);
    abort();
}

void refuse(const char *call, const char *format, ...) {
    va_list list;
    va_start(list, format);
    print_line(call, format, list);
    va_end(list);
    refusals++;
}

void count_call(const char *prefix, const char *name) {
    char full[sizeof counters[0].name];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    size_t i = 0;
    while (i < counter_count && strcmp(counters[i].name, full)) i++;
    if (i == counter_count) {
        if (i == sizeof counters / sizeof *counters) misuse(name, "the stand-in's table of calls is full");
        strcpy(counters[i].name, full);
        counters[i].calls = 0;
        counter_count++;
    }
    counters[i].calls++;
}

/* ------------------------------------------------------------------------------------------------- settings */

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

static void add_failure(const char *call, unsigned after, int error) {
    if (failure_count == sizeof failures / sizeof *failures) misuse("stand_in_fail", "too many failures are waiting");
    struct failure *f = &failures[failure_count++];
    snprintf(f->call, sizeof f->call, "%s", call);
    f->after = after;
    f->error = error;
}

static void read_failures(const char *text) {
    char call[64];
    unsigned after;
    int error, length;
    while (*text) {
        if (sscanf(text, "%63[^:,]:%u:%d%n", call, &after, &error, &length) != 3)
            misuse("COAR_STANDIN_FAIL", "\"%s\" is not CALL:AFTER:ERROR", text);
        add_failure(call, after, error);
        text += length;
        if (*text == ',') text++;
    }
}

static void read_order(const char *text) {
    unsigned long long seed;
    the_machine.random = 0;
    if (!strcmp(text, "lazy"))
        the_machine.order = ORDER_LAZY;
    else if (!strcmp(text, "others"))
        the_machine.order = ORDER_OTHERS;
    else if (!strcmp(text, "eager"))
        the_machine.order = ORDER_EAGER;
    else if (sscanf(text, "random:%llu", &seed) == 1) {
        the_machine.order = ORDER_RANDOM;
        the_machine.random = seed;
    } else
        misuse("COAR_STANDIN_ORDER", "\"%s\" is not lazy, others, eager or random:SEED", text);
}

static void read_settings(void) {
    machine *m = &the_machine;
    int capability = 80, error = 0;
    memset(m, 0, sizeof *m);
    m->devices = atoi(setting("COAR_STANDIN_DEVICES", "1"));
    if (m->devices < 0 || m->devices > MAX_DEVICES)
        misuse("COAR_STANDIN_DEVICES", "%d is not 0 to %d", m->devices, MAX_DEVICES);
    if (sscanf(setting("COAR_STANDIN_CAPABILITY", "8.0"), "%d.%d", &m->major, &m->minor) != 2)
        misuse("COAR_STANDIN_CAPABILITY", "is not MAJOR.MINOR, such as %d.%d", capability / 10, capability % 10);
    m->memory = strtoull(setting("COAR_STANDIN_MEMORY", "268435456"), NULL, 10);
    const char *driver = getenv("COAR_STANDIN_DRIVER");
    m->driver = driver ? atoi(driver) : CUDART_VERSION;
    m->check_leaks = strcmp(setting("COAR_STANDIN_LEAKS", "1"), "0") != 0;
    read_order(setting("COAR_STANDIN_ORDER", "lazy"));
    m->kill_device = -1;
    const char *kill = setting("COAR_STANDIN_KILL", "");
    if (*kill && sscanf(kill, "%d:%lu:%d", &m->kill_device, &m->kill_launches, &error) != 3)
        misuse("COAR_STANDIN_KILL", "\"%s\" is not DEVICE:LAUNCHES:ERROR", kill);
    m->kill_error = (cudaError_t)error;
    read_failures(setting("COAR_STANDIN_FAIL", ""));
}

static size_t object_leaks(void);

static size_t leaks(void) {
    return memory_leaks() + queue_leaks() + graph_leaks() + object_leaks();
}

static void at_exit(void) {
    if (!the_machine.check_leaks || !leaks()) return;
    fflush(NULL);
    _exit(1);
}

static void set_up(void) {
    if (is_set_up) return;
    is_set_up = true;
    read_settings();
    atexit(at_exit);
}

/* ---------------------------------------------------------------------------------------------------- tests */

void stand_in_reset(void) {
    pthread_mutex_lock(&lock);
    set_up();
    if (leaks()) misuse(__func__, "not everything was released");
    queue_reset();
    graph_reset();
    memory_reset();
    counter_count = failure_count = refusals = 0;
    current_device = 0;
    last_error = cudaSuccess;
    read_settings();
    pthread_mutex_unlock(&lock);
}

void stand_in_fail(const char *call, unsigned after, int error) {
    pthread_mutex_lock(&lock);
    set_up();
    add_failure(call, after, error);
    pthread_mutex_unlock(&lock);
}

size_t stand_in_count(const char *call) {
    size_t calls = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < counter_count; i++)
        if (!strcmp(counters[i].name, call)) calls = counters[i].calls;
    pthread_mutex_unlock(&lock);
    return calls;
}

size_t stand_in_leaks(void) {
    pthread_mutex_lock(&lock);
    size_t count = leaks();
    pthread_mutex_unlock(&lock);
    return count;
}

size_t stand_in_refusals(void) {
    pthread_mutex_lock(&lock);
    size_t count = refusals;
    pthread_mutex_unlock(&lock);
    return count;
}

unsigned random_below(unsigned limit) { /* splitmix64 */
    uint64_t z = the_machine.random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (unsigned)((z ^ z >> 31) % limit);
}

/* ---------------------------------------------------------------------------------------- entering and leaving */

/* The error of a failure that is due for this call, or 0. */
static int injected(const char *call) {
    for (size_t i = 0; i < failure_count; i++) {
        if (strcmp(failures[i].call, call)) continue;
        if (failures[i].after--) return 0;
        int error = failures[i].error;
        failures[i] = failures[--failure_count];
        return error;
    }
    return 0;
}

/* A runtime needs a driver of its own major version or newer. */
static cudaError_t usable(void) {
    if (the_machine.driver / 1000 < CUDART_VERSION / 1000) return cudaErrorInsufficientDriver;
    return the_machine.devices ? cudaSuccess : cudaErrorNoDevice;
}

int enter_library(const char *call) {
    pthread_mutex_lock(&lock);
    set_up();
    count_call("", call);
    return injected(call);
}

int leave_library(int status) {
    pthread_mutex_unlock(&lock);
    return status;
}

cudaError_t enter(const char *call) {
    cudaError_t error = (cudaError_t)enter_library(call);
    if (error == cudaSuccess) error = usable();
    if (error == cudaSuccess) error = the_machine.device[current_device].error;
    return error;
}

cudaError_t leave(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    pthread_mutex_unlock(&lock);
    return error;
}

/* -------------------------------------------------------------------------------------------------- objects */

void *object_create(const char *kind, size_t size) {
    object *o = calloc(1, size);
    if (!o) misuse(kind, "out of host memory");
    o->next = objects;
    o->kind = kind;
    o->alive = true;
    objects = o;
    return o;
}

static object *find_object(const void *p, const char *kind) {
    for (object *o = objects; o; o = o->next)
        if (o == p) return strcmp(o->kind, kind) ? NULL : o;
    return NULL;
}

bool object_is(const void *p, const char *kind) {
    const object *o = find_object(p, kind);
    return o && o->alive;
}

void object_check(const char *call, const void *p, const char *kind) {
    const object *o = find_object(p, kind);
    if (!o) misuse(call, "%p is no %s", p, kind);
    if (!o->alive) misuse(call, "the %s was destroyed before", kind);
}

void object_destroy(const char *call, void *p, const char *kind) {
    object_check(call, p, kind);
    find_object(p, kind)->alive = false;
}

static size_t object_leaks(void) {
    size_t count = 0;
    for (const object *o = objects; o; o = o->next) {
        if (!o->alive) continue;
        fprintf(stderr, "stand-in: a %s was not destroyed\n", o->kind);
        count++;
    }
    return count;
}

/* -------------------------------------------------------------------------------------- the runtime: devices */

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

/* What the stand-in's kernels may use: the figures of the generation (CUDA programming guide, "Technical Specifications per
 * Compute Capability"). */
static int shared_optin(void) {
    if (the_machine.major >= 9 && the_machine.major < 12) return 227 << 10;
    return the_machine.major == 8 && the_machine.minor == 0 ? 163 << 10 : the_machine.major < 8 ? 64 << 10 : 99 << 10;
}

static void fill_properties(struct cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "Stand-in sm_%d%d", the_machine.major, the_machine.minor);
    p->totalGlobalMem = the_machine.memory;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = (size_t)shared_optin();
    p->reservedSharedMemPerBlock = 1 << 10;
    p->sharedMemPerMultiprocessor = (size_t)shared_optin() + (1 << 10);
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
                                 value > shared_optin())) {
        refuse(__func__, "attribute %d cannot be %d here (dynamic shared memory: at most %d)", (int)attribute, value,
               shared_optin());
        error = cudaErrorInvalidValue;
    }
    return leave(error);
}

/* --------------------------------------------------------------------------------------- the runtime: errors */

static cudaError_t sticky_or_last(void) {
    cudaError_t sticky = the_machine.device[current_device].error;
    return sticky != cudaSuccess ? sticky : last_error;
}

cudaError_t cudaGetLastError(void) {
    enter_library(__func__);
    cudaError_t error = sticky_or_last();
    last_error = cudaSuccess;
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t cudaPeekAtLastError(void) {
    enter_library(__func__);
    cudaError_t error = sticky_or_last();
    pthread_mutex_unlock(&lock);
    return error;
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
