/*
 * headers.c - the shim's own cuda_runtime_api.h says the same as the toolkit's: sizes, alignments and values, compiled
 * against whichever this build uses. Both builds (SIMT_HEADERS=own and without) must give these figures.
 */
#include <cuda_runtime_api.h>
#include <stdalign.h>

#include "tests/test.h"

static void check_types(void) {
#define LAYOUT(type, size, alignment)                                                                                  \
    CHECK_INT(sizeof(struct type), size);                                                                              \
    CHECK_INT(alignof(struct type), alignment)
    LAYOUT(char2, 2, 2);
    LAYOUT(char3, 3, 1);
    LAYOUT(char4, 4, 4);
    LAYOUT(uchar4, 4, 4);
    LAYOUT(short2, 4, 4);
    LAYOUT(short4, 8, 8);
    LAYOUT(ushort4, 8, 8);
    LAYOUT(int2, 8, 8);
    LAYOUT(int3, 12, 4);
    LAYOUT(int4, 16, 16);
    LAYOUT(uint2, 8, 8);
    LAYOUT(uint3, 12, 4);
    LAYOUT(uint4, 16, 16);
    LAYOUT(float2, 8, 8);
    LAYOUT(float3, 12, 4);
    LAYOUT(float4, 16, 16);
    LAYOUT(longlong2, 16, 16);
    LAYOUT(ulonglong2, 16, 16);
    LAYOUT(double2, 16, 16);
    LAYOUT(dim3, 12, 4);
#undef LAYOUT
}

static void check_values(void) {
    CHECK_INT(cudaSuccess, 0);
    CHECK_INT(cudaErrorInvalidValue, 1);
    CHECK_INT(cudaErrorInvalidConfiguration, 9);
    CHECK_INT(cudaErrorLaunchFailure, 719);
}

int main(void) {
    test_begin("vector types");
    check_types();
    test_begin("errors");
    check_values();
    return test_end();
}
