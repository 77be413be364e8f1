/* library.c - see library.h. */
#include "library.h"

#include <stdint.h>

handle *handle_create(const char *kind, size_t size) {
    handle *h = object_create(kind, size);
    h->device = current_device;
    return h;
}

handle *handle_find(const char *call, void *p, const char *kind) {
    object_check(call, p, kind);
    handle *h = p;
    if (h->device != current_device)
        misuse(call, "the %s belongs to device %d, the current device is %d", kind, h->device, current_device);
    return h;
}

struct CUstream_st *handle_stream(const char *call, const handle *h) {
    struct CUstream_st *s = stream_find(call, h->stream);
    if (s->device != h->device) misuse(call, "the stream belongs to device %d, the handle to %d", s->device, h->device);
    return s;
}

bool expect(bool condition, const char *call, const char *what) {
    if (!condition) refuse(call, "not so: %s", what);
    return condition;
}

bool argument_valid(const char *call, const argument *a) {
    if (a->rows < 0 || a->columns < 0 || a->batch < 0) {
        refuse(call, "%s is %lld x %lld, batch %lld", a->name, (long long)a->rows, (long long)a->columns,
               (long long)a->batch);
        return false;
    }
    if (a->ld < (a->rows > 1 ? a->rows : 1)) {
        refuse(call, "the leading dimension of %s is %lld; it has %lld rows", a->name, (long long)a->ld,
               (long long)a->rows);
        return false;
    }
    if (!a->p || (uintptr_t)a->p % element_size(a->type)) {
        refuse(call, "%s = %p is not aligned to its elements of %zu bytes", a->name, a->p, element_size(a->type));
        return false;
    }
    return true;
}

void argument_check(const char *call, const argument *a, int device) {
    if (!a->rows || !a->columns || !a->batch) return;
    const int64_t last = (a->batch - 1) * a->stride + (a->columns - 1) * a->ld + a->rows;
    memory_check(call, a->name, a->p, (size_t)last * element_size(a->type), device);
}
