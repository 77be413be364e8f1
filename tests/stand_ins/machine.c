/*
 * machine.c - the simulated machine under all stand-ins: settings, the lock, failures on request, reports of misuse,
 * and the libraries' objects. The functions of stand_ins.h are here.
 *
 * Must not know: any call of any library, how memory is protected, how work is ordered.
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
    int error = 0;
    memset(m, 0, sizeof *m);
    m->devices = atoi(setting("COAR_STANDIN_DEVICES", "1"));
    if (m->devices < 0 || m->devices > MAX_DEVICES)
        misuse("COAR_STANDIN_DEVICES", "%d is not 0 to %d", m->devices, MAX_DEVICES);
    if (sscanf(setting("COAR_STANDIN_CAPABILITY", "8.0"), "%d.%d", &m->major, &m->minor) != 2)
        misuse("COAR_STANDIN_CAPABILITY", "is not MAJOR.MINOR, such as 8.0");
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
    m->drops_nan = !strcmp(setting("COAR_STANDIN_NAN", "kept"), "dropped");
    snprintf(m->wrong, sizeof m->wrong, "%s", setting("COAR_STANDIN_WRONG", ""));
    read_failures(setting("COAR_STANDIN_FAIL", ""));
}

static size_t object_leaks(void);

static size_t device_leaks(void) {
    return memory_leaks() + queue_leaks() + graph_leaks();
}

/* A program may keep handles and plans of libraries until it ends. */
static void at_exit(void) {
    if (!the_machine.check_leaks || !device_leaks()) return;
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
    if (device_leaks() + object_leaks()) misuse(__func__, "not everything was released");
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
    size_t count = device_leaks() + object_leaks();
    pthread_mutex_unlock(&lock);
    return count;
}

size_t stand_in_refusals(void) {
    pthread_mutex_lock(&lock);
    size_t count = refusals;
    pthread_mutex_unlock(&lock);
    return count;
}

double error_factor(const char *library, int algorithm) {
    char name[sizeof the_machine.wrong];
    snprintf(name, sizeof name, "%s:%d", library, algorithm);
    return strcmp(name, the_machine.wrong) ? 1 : 1.01;
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
cudaError_t usable(void) {
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

void let_others(void) {
    pthread_mutex_unlock(&lock);
    usleep(100);
    pthread_mutex_lock(&lock);
}

cudaError_t enter(const char *call) {
    cudaError_t error = (cudaError_t)enter_library(call);
    if (error == cudaSuccess) error = usable();
    if (error == cudaSuccess) error = the_machine.device[current_device].error;
    return error;
}

cudaError_t take_last_error(bool clear) {
    cudaError_t sticky = the_machine.device[current_device].error;
    cudaError_t error = sticky != cudaSuccess ? sticky : last_error;
    if (clear) last_error = cudaSuccess;
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
