/*
 * simt.h - gpu.h's other side: the names that kernels use, for a C++ compiler without a GPU.
 *
 * Included by gpu.h only. A kernel becomes an ordinary function; each CUDA thread runs it on a fiber of its own
 * (machine.h), and whatever lets threads meet (barriers, warp operations, mma) or is more than C++ (shared memory,
 * cp.async) is a call into the shim. Values are what the hardware gives: conversions and fragment layouts are those of
 * the PTX ISA.
 *
 * Knows nothing of the project but the three storage types that gpu.h declares before it includes this file.
 */
#ifndef COAR_TESTS_SIMT_H
#define COAR_TESTS_SIMT_H

#include <cuda_runtime_api.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <tuple>
#include <type_traits>

#include "machine.h"

/* Small functions become part of their caller, so that a report can name the kernel's line. */
#define GPU_INLINE inline __attribute__((always_inline))

/* ------------------------------------------------------------------------------------------ CUDA C++'s own words */

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __forceinline__
#define __forceinline__ inline __attribute__((always_inline))
#ifndef __noinline__
#define __noinline__ __attribute__((noinline))
#endif
/* A variable that is silently private to each thread is what plain __shared__ would be. */
#undef __shared__
#define __shared__ static_assert(false, "shared memory is declared with GPU_SHARED or GPU_DYNAMIC_SHARED");

#define threadIdx (simt::thread_index())
#define blockIdx (simt::block_index())
#define blockDim (simt::block_shape())
#define gridDim (simt::grid_shape())
#define warpSize 32

/* The line of the call stands in for the instruction: lanes that meet at different ones are a bug. */
GPU_INLINE void __syncthreads(int line = __builtin_LINE()) {
    simt::barrier(line);
}
GPU_INLINE int __syncthreads_count(int predicate, int line = __builtin_LINE()) {
    return simt::barrier_count(predicate, line);
}
GPU_INLINE int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
    return simt::barrier_count(predicate, line) != 0;
}
GPU_INLINE int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
    return simt::barrier_count(!predicate, line) == 0;
}
GPU_INLINE void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    simt::sync_warp(mask, line);
}
GPU_INLINE void __threadfence() {} /* blocks run one after another, threads one at a time: memory is always in order */
GPU_INLINE void __threadfence_block() {}

namespace simt {
template <class T> GPU_INLINE T shuffle(shuffle_kind kind, unsigned mask, T value, int operand, int width, int line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = shuffle_bits(kind, mask, bits, operand, width, line);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
} // namespace simt

template <class T>
GPU_INLINE T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
    return simt::shuffle(simt::SHUFFLE_INDEX, mask, value, source, width, line);
}
template <class T>
GPU_INLINE T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, int line = __builtin_LINE()) {
    return simt::shuffle(simt::SHUFFLE_XOR, mask, value, bits, width, line);
}
template <class T>
GPU_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    return simt::shuffle(simt::SHUFFLE_UP, mask, value, (int)delta, width, line);
}
template <class T>
GPU_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    return simt::shuffle(simt::SHUFFLE_DOWN, mask, value, (int)delta, width, line);
}
GPU_INLINE unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return simt::vote(simt::VOTE_BALLOT, mask, predicate != 0, line);
}
GPU_INLINE int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return simt::vote(simt::VOTE_ANY, mask, predicate != 0, line) != 0;
}
GPU_INLINE int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return simt::vote(simt::VOTE_ALL, mask, predicate != 0, line) == mask;
}

/* Atomics. The compiler's own, so that the checker (check.cc) and libtsan both know them for what they are. */
namespace simt {
template <class T, class F> GPU_INLINE T atomic_update(T *address, F next) {
    T old, wanted;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    do wanted = next(old);
    while (!__atomic_compare_exchange(address, &old, &wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template <class T> struct same { /* keeps an argument out of type deduction: atomicAdd(long *, 1) */
    typedef T type;
};
template <class T> using same_t = typename same<T>::type;
} // namespace simt

template <class T> GPU_INLINE T atomicAdd(T *address, simt::same_t<T> value) {
    return simt::atomic_update(address, [=](T old) { return (T)(old + value); });
}
template <class T> GPU_INLINE T atomicSub(T *address, simt::same_t<T> value) {
    return simt::atomic_update(address, [=](T old) { return (T)(old - value); });
}
template <class T> GPU_INLINE T atomicMax(T *address, simt::same_t<T> value) {
    return simt::atomic_update(address, [=](T old) { return old < value ? value : old; });
}
template <class T> GPU_INLINE T atomicMin(T *address, simt::same_t<T> value) {
    return simt::atomic_update(address, [=](T old) { return value < old ? value : old; });
}
template <class T> GPU_INLINE T atomicOr(T *address, simt::same_t<T> value) {
    return simt::atomic_update(address, [=](T old) { return (T)(old | value); });
}
template <class T> GPU_INLINE T atomicAnd(T *address, simt::same_t<T> value) {
    return simt::atomic_update(address, [=](T old) { return (T)(old & value); });
}
template <class T> GPU_INLINE T atomicXor(T *address, simt::same_t<T> value) {
    return simt::atomic_update(address, [=](T old) { return (T)(old ^ value); });
}
template <class T> GPU_INLINE T atomicExch(T *address, simt::same_t<T> value) {
    return simt::atomic_update(address, [=](T) { return value; });
}
template <class T> GPU_INLINE T atomicCAS(T *address, simt::same_t<T> compare, simt::same_t<T> value) {
    return simt::atomic_update(address, [=](T old) { return old == compare ? value : old; });
}

template <class T> GPU_INLINE T __ldg(const T *address) {
    return *address;
}

GPU_INLINE int __popc(unsigned x) {
    return __builtin_popcount(x);
}
GPU_INLINE int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
GPU_INLINE int __ffs(int x) {
    return __builtin_ffs(x);
}
GPU_INLINE int __ffsll(long long x) {
    return __builtin_ffsll(x);
}
GPU_INLINE int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
GPU_INLINE int __clzll(long long x) {
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
GPU_INLINE unsigned __brev(unsigned x) {
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
}
GPU_INLINE unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((uint64_t)a * b >> 32);
}
GPU_INLINE int __mulhi(int a, int b) {
    return (int)((int64_t)a * b >> 32);
}

namespace simt {
template <class To, class From> To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps their number");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace simt

GPU_INLINE unsigned __float_as_uint(float x) {
    return simt::bit_cast<unsigned>(x);
}
GPU_INLINE int __float_as_int(float x) {
    return simt::bit_cast<int>(x);
}
GPU_INLINE float __uint_as_float(unsigned x) {
    return simt::bit_cast<float>(x);
}
GPU_INLINE float __int_as_float(int x) {
    return simt::bit_cast<float>(x);
}
GPU_INLINE long long __double_as_longlong(double x) {
    return simt::bit_cast<long long>(x);
}
GPU_INLINE double __longlong_as_double(long long x) {
    return simt::bit_cast<double>(x);
}

/* The hardware's approximate functions have errors of a few units in the last place; these have less. rsqrtf is a macro
 * because new C libraries declare a function of that name. */
#define rsqrtf(x) (1.0f / sqrtf(x))
GPU_INLINE float __expf(float x) {
    return expf(x);
}
GPU_INLINE float __logf(float x) {
    return logf(x);
}
GPU_INLINE float __log2f(float x) {
    return log2f(x);
}
GPU_INLINE float __fdividef(float a, float b) {
    return a / b;
}
GPU_INLINE float __fdiv_rn(float a, float b) {
    return a / b;
}
GPU_INLINE float __fadd_rn(float a, float b) {
    return a + b;
}
GPU_INLINE float __fsub_rn(float a, float b) {
    return a - b;
}
GPU_INLINE float __fmul_rn(float a, float b) {
    return a * b;
}
GPU_INLINE float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}
GPU_INLINE float __frcp_rn(float x) {
    return 1.0f / x;
}
GPU_INLINE float __fsqrt_rn(float x) {
    return sqrtf(x);
}
GPU_INLINE float __saturatef(float x) {
    return x > 0 ? (x < 1 ? x : 1) : 0;
}
GPU_INLINE double __dadd_rn(double a, double b) {
    return a + b;
}
GPU_INLINE double __dmul_rn(double a, double b) {
    return a * b;
}
GPU_INLINE double __fma_rn(double a, double b, double c) {
    return fma(a, b, c);
}
GPU_INLINE int __float2int_rn(float x) {
    return (int)rintf(x);
}

/* CUDA's overloads: mixed signs give the unsigned type, as the usual conversions do. */
#define SIMT_MIN_MAX(result, left, right)                                                                              \
    GPU_INLINE result min(left a, right b) {                                                                           \
        return (result)a < (result)b ? (result)a : (result)b;                                                          \
    }                                                                                                                  \
    GPU_INLINE result max(left a, right b) {                                                                           \
        return (result)a > (result)b ? (result)a : (result)b;                                                          \
    }
SIMT_MIN_MAX(int, int, int)
SIMT_MIN_MAX(unsigned, unsigned, unsigned)
SIMT_MIN_MAX(unsigned, int, unsigned)
SIMT_MIN_MAX(unsigned, unsigned, int)
SIMT_MIN_MAX(long, long, long)
SIMT_MIN_MAX(unsigned long, unsigned long, unsigned long)
SIMT_MIN_MAX(unsigned long, long, unsigned long)
SIMT_MIN_MAX(unsigned long, unsigned long, long)
SIMT_MIN_MAX(long long, long long, long long)
SIMT_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
SIMT_MIN_MAX(unsigned long long, long long, unsigned long long)
SIMT_MIN_MAX(unsigned long long, unsigned long long, long long)
#undef SIMT_MIN_MAX
GPU_INLINE float min(float a, float b) {
    return fminf(a, b);
}
GPU_INLINE float max(float a, float b) {
    return fmaxf(a, b);
}
GPU_INLINE double min(double a, double b) {
    return fmin(a, b);
}
GPU_INLINE double max(double a, double b) {
    return fmax(a, b);
}

#define SIMT_MAKE(type, element)                                                                                       \
    GPU_INLINE type##2 make_##type##2(element x, element y) {                                                          \
        return {x, y};                                                                                                 \
    }                                                                                                                  \
    GPU_INLINE type##3 make_##type##3(element x, element y, element z) {                                               \
        return {x, y, z};                                                                                              \
    }                                                                                                                  \
    GPU_INLINE type##4 make_##type##4(element x, element y, element z, element w) {                                    \
        return {x, y, z, w};                                                                                           \
    }
SIMT_MAKE(char, signed char)
SIMT_MAKE(uchar, unsigned char)
SIMT_MAKE(short, short)
SIMT_MAKE(ushort, unsigned short)
SIMT_MAKE(int, int)
SIMT_MAKE(uint, unsigned)
SIMT_MAKE(float, float)
#undef SIMT_MAKE
GPU_INLINE longlong2 make_longlong2(long long x, long long y) {
    return {x, y};
}
GPU_INLINE ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) {
    return {x, y};
}
GPU_INLINE double2 make_double2(double x, double y) {
    return {x, y};
}

/* -------------------------------------------------------------------------------------------------- gpu.h's names */

/* A struct around the variable keeps whatever `type` and `extent` say (attributes, several dimensions, none). */
#define GPU_SHARED(type, name, extent)                                                                                 \
    struct simt_shared_##name {                                                                                        \
        type member extent;                                                                                            \
    };                                                                                                                 \
    static simt::shared_slot simt_slot_##name;                                                                         \
    auto &name = static_cast<simt_shared_##name *>(simt::shared_static(&simt_slot_##name, sizeof(simt_shared_##name),  \
                                                                       alignof(simt_shared_##name), #name))            \
                     ->member
#define GPU_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(simt::shared_dynamic())

template <class T> GPU_INLINE T from_float(float f);
template <> GPU_INLINE float from_float<float>(float f) {
    return f;
}
template <> GPU_INLINE tf32 from_float<tf32>(float f) {
    return {f};
}
template <> GPU_INLINE bf16 from_float<bf16>(float f) {
    return {simt::float_to_bf16(f)};
}
template <> GPU_INLINE half from_float<half>(float f) {
    return {simt::float_to_half(f)};
}
GPU_INLINE float to_float(float x) {
    return x;
}
GPU_INLINE float to_float(tf32 x) {
    return x.value;
}
GPU_INLINE float to_float(bf16 x) {
    return __uint_as_float((uint32_t)x.bits << 16);
}
GPU_INLINE float to_float(half x) {
    return simt::half_to_float(x.bits);
}
template <class T> GPU_INLINE uint32_t pack2(float low, float high) {
    return (uint32_t)from_float<T>(low).bits | (uint32_t)from_float<T>(high).bits << 16;
}
GPU_INLINE float fast_exp2(float x) {
    float y = exp2f(x);
    return y < 0x1p-126f ? 0 : y;
}
GPU_INLINE uint32_t round_tf32(float f) {
    return simt::float_to_tf32(f);
}

template <int BYTES> GPU_INLINE void cp_async(void *shared, const void *global, int present) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    simt::async_copy(shared, global, BYTES, present);
}
GPU_INLINE void cp_async_commit() {
    simt::async_commit();
}
template <int N> GPU_INLINE void cp_async_wait() {
    simt::async_wait(N);
}

GPU_INLINE void ldmatrix_x4(uint32_t r[4], const void *shared, int line = __builtin_LINE()) {
    simt::load_matrices(r, shared, false, line);
}
GPU_INLINE void ldmatrix_x4_transposed(uint32_t r[4], const void *shared, int line = __builtin_LINE()) {
    simt::load_matrices(r, shared, true, line);
}
GPU_INLINE void mma(float d[4], const uint32_t a[4], const uint32_t b[2], bf16, int line = __builtin_LINE()) {
    simt::multiply(simt::MMA_BF16, d, a, b, line);
}
GPU_INLINE void mma(float d[4], const uint32_t a[4], const uint32_t b[2], half, int line = __builtin_LINE()) {
    simt::multiply(simt::MMA_HALF, d, a, b, line);
}
GPU_INLINE void mma(float d[4], const uint32_t a[4], const uint32_t b[2], tf32, int line = __builtin_LINE()) {
    simt::multiply(simt::MMA_TF32, d, a, b, line);
}

namespace simt {
/* A kernel and its arguments by value, as bytes that may be copied and run later, any number of times. */
template <class... P> struct call {
    static_assert((std::is_trivially_copyable<P>::value && ...), "kernel arguments are copied as bytes");
    void (*kernel)(P...);
    std::tuple<P...> arguments;

    static void run(void *self) {
        call *c = static_cast<call *>(self);
        std::apply(c->kernel, c->arguments);
    }
};

template <class... P, class... A>
cudaError_t launch(const char *text, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                   A... arguments) {
    call<P...> c{kernel, std::tuple<P...>(static_cast<P>(arguments)...)};
    return simt_launch(kernel_name(text), call<P...>::run, &c, sizeof c, grid, block, shared, stream);
}
} // namespace simt

/* A macro, so that a report can name the kernel. */
#define gpu_launch(...) simt::launch(#__VA_ARGS__, __VA_ARGS__)

#endif
