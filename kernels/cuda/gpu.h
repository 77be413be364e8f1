/*
 * gpu.h - the only header that kernels include besides kernels.h: what they need of a GPU, under one set of names.
 *
 * nvcc: CUDA C++ and inline PTX of the sm_80 feature set. Anything else: tests/simt/simt.h, which gives the same
 * names to a C++ compiler and runs each CUDA thread as a fiber, so that kernels are executed where there is no GPU.
 * A kernel uses nothing of a GPU that is not named here or by CUDA C++ itself (threadIdx, __syncthreads, ...).
 *
 * The rules that keep both sides the same:
 * - static shared memory is declared with GPU_SHARED(type, name, [count]), dynamic with GPU_DYNAMIC_SHARED(type, name);
 * - kernels are launched with gpu_launch, never with <<<>>>;
 * - 16-bit values are bf16 and half (below), never __nv_bfloat16 or __half;
 * - a shuffle, vote, ldmatrix or mma is executed by all 32 lanes of a warp.
 */
#ifndef COAR_KERNELS_CUDA_GPU_H
#define COAR_KERNELS_CUDA_GPU_H

#include <stddef.h>
#include <stdint.h>

/* 16-bit storage. Arithmetic is in float: to_float(x), from_float<T>(f) (to nearest even; fp16 overflows to
 * infinity). */
struct bf16 {
    uint16_t bits;
};
struct half {
    uint16_t bits;
};
/* fp32 in memory that is multiplied as tf32: a type of its own, so that templates can tell it from float. */
struct tf32 {
    float value;
};

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define GPU_SHARED(type, name, extent) __shared__ type name extent
#define GPU_DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(128) unsigned char gpu_dynamic_shared[]; \
    type *name = reinterpret_cast<type *>(gpu_dynamic_shared)
#define GPU_INLINE __device__ __forceinline__

template <class T> GPU_INLINE T from_float(float f);
template <> GPU_INLINE float from_float<float>(float f) { return f; }
template <> GPU_INLINE tf32 from_float<tf32>(float f) { return {f}; }
template <> GPU_INLINE bf16 from_float<bf16>(float f) {
    bf16 x;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(x.bits) : "f"(f));
    return x;
}
template <> GPU_INLINE half from_float<half>(float f) {
    half x;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(x.bits) : "f"(f));
    return x;
}
GPU_INLINE float to_float(float x) { return x; }
GPU_INLINE float to_float(tf32 x) { return x.value; }
GPU_INLINE float to_float(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
GPU_INLINE float to_float(half x) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
    return f;
}

/* Two 16-bit values as one register, the first in the low half: one instruction, where two conversions take three and
 * one of those the slow unit that exponentials need too. */
template <class T> GPU_INLINE uint32_t pack2(float low, float high);
template <> GPU_INLINE uint32_t pack2<bf16>(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
template <> GPU_INLINE uint32_t pack2<half>(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* 2^x with a relative error of about 2^-22, exactly 1 and 0 for 0 and -INFINITY; results below 2^-126 are zero. exp2f
 * is as exact and keeps those, for three instructions more. */
GPU_INLINE float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* The bits of f rounded to tf32 (to nearest, ties away from zero), as an operand of mma. */
GPU_INLINE uint32_t round_tf32(float f) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(f));
    return bits;
}

/* Copies BYTES (4, 8 or 16; both addresses aligned to it) to shared memory in the background; the last BYTES -
 * present are zeros and their source is not read. The data is there after cp_async_wait and a barrier. */
template <int BYTES> GPU_INLINE void cp_async(void *shared, const void *global, int present) {
    unsigned address = (unsigned)__cvta_generic_to_shared(shared);
    if constexpr (BYTES == 16) /* .cg: past L1, whose lines would be read once only */
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(present)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(address), "l"(global), "r"(present),
                     "n"(BYTES)
                     : "memory");
}
GPU_INLINE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most N of the groups that this thread committed are still under way. */
template <int N> GPU_INLINE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

/* Four 8x8 matrices of 16-bit elements; lane 8 i + j gives the address (aligned to 16) of row j of matrix i. Fragment
 * r[i] of lane l holds elements 2 (l % 4) and the next of row l / 4 of matrix i; of column l / 4 when transposed. */
GPU_INLINE void ldmatrix_x4(uint32_t r[4], const void *shared) {
    unsigned address = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
GPU_INLINE void ldmatrix_x4_transposed(uint32_t r[4], const void *shared) {
    unsigned address = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/* d += a b on tensor cores, fp32 sums. Fragments as in the PTX ISA, "Matrix Fragments for mma.m16n8k16" and "m16n8k8":
 * with g = lane / 4, t = lane % 4, d = {(g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1)};
 * 16-bit: a[0..3] = pairs at (g, 2t), (g+8, 2t), (g, 2t+8), (g+8, 2t+8), b[0..1] = pairs at rows 2t, 2t+8 of column g;
 * tf32: a[0..3] = (g, t), (g+8, t), (g, t+4), (g+8, t+4), b[0..1] = rows t, t+4 of column g. */
GPU_INLINE void mma(float d[4], const uint32_t a[4], const uint32_t b[2], bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
GPU_INLINE void mma(float d[4], const uint32_t a[4], const uint32_t b[2], half) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
GPU_INLINE void mma(float d[4], const uint32_t a[4], const uint32_t b[2], tf32) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Enqueues kernel<<<grid, block, shared, stream>>>(arguments). Dynamic shared memory above 48 KiB is asked for here, at
 * every launch: the attribute belongs to a kernel on the current device, of which there may be several. */
template <class... P, class... A>
cudaError_t gpu_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, A... arguments) {
    auto launch = [&](P... values) {
        void *list[] = {(void *)&values...};
        if (shared > 48 << 10) {
            cudaError_t error = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                     (int)shared);
            if (error != cudaSuccess) return error;
        }
        return cudaLaunchKernel((const void *)kernel, grid, block, list, shared, stream);
    };
    return launch(arguments...);
}

#else

#include "simt.h"

#endif

/* ------------------------------------------------------------------------------- the same on both sides */

/* Sum and maximum over a warp, in every lane: a tree of fixed shape, the same bits in all of them. */
GPU_INLINE float warp_sum(float x) {
#pragma unroll
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
GPU_INLINE float warp_max(float x) {
#pragma unroll
    for (int d = 16; d; d >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}

#endif
