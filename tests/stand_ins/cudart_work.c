/*
 * cudart_work.c - what the CUDA runtime puts into streams: kernels, copies, fills; their arguments are checked at the
 * call and again when they run, since memory may have been freed in between.
 *
 * Pageable host memory behaves as "API synchronization behavior" of the runtime's manual says: uploads are staged at
 * the call, downloads are complete when the call returns.
 *
 * Must not know: how work is ordered.
 */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* tests/simt: executes a kernel's threads; `run` is called by each with the arguments. */
cudaError_t simt_execute(const char *name, void (*run)(void *), const void *arguments, dim3 grid, dim3 block,
                         size_t shared);
cudaError_t simt_launch(const char *name, void (*run)(void *), const void *arguments, size_t size, dim3 grid,
                        dim3 block, size_t shared, cudaStream_t stream);

/* -------------------------------------------------------------------------------------------------- kernels */

typedef struct launch {
    const char *name;
    void (*run)(void *);
    dim3 grid, block;
    size_t shared;
    _Alignas(max_align_t) unsigned char arguments[];
} launch;

static cudaError_t run_launch(const void *arguments) {
    const launch *l = arguments;
    return simt_execute(l->name, l->run, l->arguments, l->grid, l->block, l->shared);
}

static cudaError_t check_geometry(const char *name, dim3 grid, dim3 block, size_t shared) {
    bool counts = grid.x && grid.y && grid.z && grid.x <= 2147483647 && grid.y <= 65535 && grid.z <= 65535 && block.x &&
                  block.y && block.z && block.z <= 64 && (uint64_t)block.x * block.y * block.z <= 1024;
    if (counts && shared <= (size_t)shared_limit()) return cudaSuccess;
    refuse(name, "cannot be launched as a grid of %u x %u x %u, blocks of %u x %u x %u, %zu bytes of shared memory",
           grid.x, grid.y, grid.z, block.x, block.y, block.z, shared);
    return counts ? cudaErrorInvalidValue : cudaErrorInvalidConfiguration;
}

cudaError_t simt_launch(const char *name, void (*run)(void *), const void *arguments, size_t size, dim3 grid,
                        dim3 block, size_t shared, cudaStream_t stream) {
    cudaError_t error = enter("cudaLaunchKernel");
    struct CUstream_st *s = stream_find(name, stream);
    if (error == cudaSuccess && s->device != current_device) {
        refuse(name, "launched into a stream of device %d while device %d is current", s->device, current_device);
        error = cudaErrorInvalidResourceHandle;
    }
    if (error == cudaSuccess && the_machine.major < 8) error = cudaErrorNoKernelImageForDevice; /* built for sm_80 */
    if (error == cudaSuccess) error = check_geometry(name, grid, block, shared);
    if (error != cudaSuccess) return leave(error);
    const launch l = {.name = name, .run = run, .grid = grid, .block = block, .shared = shared};
    operation *o = operation_create(name, run_launch, &l, sizeof l, size);
    memcpy(((launch *)o->arguments)->arguments, arguments, size);
    o->launch = true;
    return leave(enqueue_operation(s, o));
}

/* --------------------------------------------------------------------------------------------------- copies */

typedef enum place { PLACE_PAGEABLE, PLACE_PINNED, PLACE_DEVICE } place;

/* `height` rows of `width` bytes. */
typedef struct copy {
    char call[24];
    unsigned char *to;
    const unsigned char *from; /* NULL: `staged` */
    size_t width, height, to_pitch, from_pitch;
    int device;
    bool to_device, from_device;
    unsigned char staged[];
} copy;

static size_t extent(size_t width, size_t height, size_t pitch) {
    return (height - 1) * pitch + width;
}

/* Where [p, p + size) lies. Memory that was allocated must hold all of it; other memory is taken to be pageable. */
static place find_place(const char *call, const char *what, const void *p, size_t size, int device) {
    const block *b = memory_find(p);
    if (!b) return PLACE_PAGEABLE;
    if (b->device != HOST) {
        memory_check(call, what, p, size, device);
        return PLACE_DEVICE;
    }
    if (b->freed) misuse(call, "%s lies in pinned allocation %u, which was freed", what, b->serial);
    size_t offset = (size_t)((const unsigned char *)p - b->start);
    if (size > b->size - offset)
        misuse(call, "%s: %zu bytes at offset %zu of pinned allocation %u, which has %zu", what, size, offset,
               b->serial, b->size);
    return PLACE_PINNED;
}

static cudaError_t run_copy(const void *arguments) {
    const copy *c = arguments;
    const unsigned char *from = c->from ? c->from : c->staged;
    if (c->to_device)
        memory_check(c->call, "the destination", c->to, extent(c->width, c->height, c->to_pitch), c->device);
    if (c->from_device)
        memory_check(c->call, "the source", from, extent(c->width, c->height, c->from_pitch), c->device);
    for (size_t y = 0; y < c->height; y++) memmove(c->to + y * c->to_pitch, from + y * c->from_pitch, c->width);
    return cudaSuccess;
}

static void check_direction(const char *call, enum cudaMemcpyKind kind, bool to_device, bool from_device) {
    static const char *const names[2][2] = {{"host to host", "host to device"}, {"device to host", "device to device"}};
    static const enum cudaMemcpyKind kinds[2][2] = {{cudaMemcpyHostToHost, cudaMemcpyHostToDevice},
                                                    {cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice}};
    if (kind != cudaMemcpyDefault && kind != kinds[from_device][to_device])
        misuse(call, "the direction is %d, but this is a copy from %s", (int)kind, names[from_device][to_device]);
}

/* Enqueues the copy (call, addresses, sizes are set). Gives whether the call has to wait for it: a blocking one from
 * pageable memory may return once its bytes are staged, one between device addresses at once ("API synchronization
 * behavior" of the runtime's manual). */
static cudaError_t enqueue_copy(copy c, struct CUstream_st *s, enum cudaMemcpyKind kind, bool blocking, bool *wait) {
    const char *call = c.call;
    const size_t to_size = extent(c.width, c.height, c.to_pitch), from_size = extent(c.width, c.height, c.from_pitch);
    const place target = find_place(call, "the destination", c.to, to_size, s->device);
    const place source = find_place(call, "the source", c.from, from_size, s->device);
    const void *from = c.from;
    c.device = s->device;
    c.to_device = target == PLACE_DEVICE;
    c.from_device = source == PLACE_DEVICE;
    check_direction(call, kind, c.to_device, c.from_device);
    if (s->capture && (source == PLACE_PAGEABLE || target == PLACE_PAGEABLE)) {
        refuse(call, "a copy of pageable memory in a capture");
        return cudaErrorStreamCaptureUnsupported;
    }
    const size_t staged = c.to_device && source == PLACE_PAGEABLE ? from_size : 0;
    if (staged) c.from = NULL;
    operation *o = operation_create(call, run_copy, &c, sizeof c, staged);
    if (staged) memcpy(((copy *)o->arguments)->staged, from, staged);
    if (!c.to_device)
        o->host = (host_range){
            .start = c.to, .size = to_size, .written = true, .sparse = c.to_pitch != c.width && c.height > 1};
    else if (source == PLACE_PINNED)
        o->host = (host_range){.start = (unsigned char *)(uintptr_t)from, .size = from_size};
    *wait = blocking ? !c.to_device || source == PLACE_PINNED : !c.to_device && target == PLACE_PAGEABLE;
    return enqueue_operation(s, o);
}

static cudaError_t do_copy(const char *call, cudaStream_t stream, copy c, enum cudaMemcpyKind kind, bool blocking) {
    bool wait = false;
    cudaError_t error = enter(call);
    if (error == cudaSuccess && blocking) error = capture_forbids(call);
    if (error == cudaSuccess && (c.to_pitch < c.width || c.from_pitch < c.width)) {
        refuse(call, "rows of %zu bytes with pitches of %zu and %zu", c.width, c.to_pitch, c.from_pitch);
        error = cudaErrorInvalidPitchValue;
    }
    if (error != cudaSuccess || !c.width || !c.height) return error;
    struct CUstream_st *s = stream_find(call, stream);
    snprintf(c.call, sizeof c.call, "%s", call);
    error = enqueue_copy(c, s, kind, blocking, &wait);
    if (error == cudaSuccess && wait) error = run_until(stream_end(s));
    return error;
}

static copy flat_copy(void *to, const void *from, size_t size) {
    return (copy){.to = to, .from = from, .width = size, .height = 1, .to_pitch = size, .from_pitch = size};
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return leave(do_copy(__func__, stream, flat_copy(to, from, size), kind, false));
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    return leave(do_copy(__func__, NULL, flat_copy(to, from, size), kind, true));
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    copy c = {.to = to, .from = from, .width = width, .height = height, .to_pitch = to_pitch, .from_pitch = from_pitch};
    return leave(do_copy(__func__, stream, c, kind, false));
}

/* ---------------------------------------------------------------------------------------------------- fills */

typedef struct fill {
    char call[24];
    unsigned char *to;
    size_t size;
    int value, device;
} fill;

static cudaError_t run_fill(const void *arguments) {
    const fill *f = arguments;
    memory_check(f->call, "the destination", f->to, f->size, f->device);
    memset(f->to, f->value, f->size);
    return cudaSuccess;
}

static cudaError_t do_fill(const char *call, cudaStream_t stream, void *to, int value, size_t size) {
    cudaError_t error = enter(call);
    if (error != cudaSuccess || !size) return error;
    struct CUstream_st *s = stream_find(call, stream);
    memory_check(call, "the destination", to, size, s->device);
    fill f = {.to = to, .size = size, .value = value, .device = s->device};
    snprintf(f.call, sizeof f.call, "%s", call);
    return enqueue(call, s, run_fill, &f, sizeof f);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t size, cudaStream_t stream) {
    return leave(do_fill(__func__, stream, to, value, size));
}

/* Asynchronous too, in the default stream: the manual says so for device memory. */
cudaError_t cudaMemset(void *to, int value, size_t size) {
    return leave(do_fill(__func__, NULL, to, value, size));
}
