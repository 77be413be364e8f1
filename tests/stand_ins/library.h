/*
 * library.h - what the stand-ins of cuBLAS, cuBLASLt and cuSOLVER have in common: handles that belong to a device and a
 * stream, and column-major matrices in device memory.
 *
 * Must not know: any library's calls.
 */
#ifndef COAR_TESTS_STAND_INS_LIBRARY_H
#define COAR_TESTS_STAND_INS_LIBRARY_H

#include "device.h"
#include "element.h"

/* Every handle begins like this. */
typedef struct handle {
    object object;
    int device; /* the current one when the handle was created */
    cudaStream_t stream;
} handle;

/* A column-major matrix of device memory, as a call names it. */
typedef struct argument {
    const char *name; /* "A" */
    const void *p;
    cudaDataType type;
    int64_t rows, columns, ld, stride; /* stride: elements from one matrix of a batch to the next */
    int64_t batch;
} argument;

handle *handle_create(const char *kind, size_t size);
/* Stops the program unless the handle is alive and its device is current. */
handle *handle_find(const char *call, void *h, const char *kind);
/* The stream that the handle's work goes to. */
struct CUstream_st *handle_stream(const char *call, const handle *h);

/* False, with a line, when the leading dimension or the pointer's alignment is refused. */
bool argument_valid(const char *call, const argument *a);
/* Stops the program unless all of it is memory of `device`. Called when work is put into a stream and when it runs. */
void argument_check(const char *call, const argument *a, int device);
/* A line, and false, unless the condition holds. */
bool expect(bool condition, const char *call, const char *what);

#endif
