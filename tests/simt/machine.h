/*
 * machine.h - the simulated GPU as kernels see it through simt.h: who a thread is, where threads meet, shared memory,
 * asynchronous copies, tensor cores; and how work enters it.
 *
 * Blocks run one after another, the threads of a block as fibers of which one runs at a time, each until it has to
 * wait. Which one is next is the thread order (simt_set_order). What is wrong in a kernel is reported (report.h).
 * The functions are called with the fiber of a CUDA thread current. `line` is the caller's source line.
 *
 * Must not know: what kernels compute.
 */
#ifndef COAR_TESTS_SIMT_MACHINE_H
#define COAR_TESTS_SIMT_MACHINE_H

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
/* Enqueues a launch: `run` is called once in every CUDA thread with the `size` bytes of arguments (aligned to 16).
 * Executes at once, unless a stand-in for the CUDA runtime defines it to keep the order of streams. `name` lives for
 * ever. */
cudaError_t simt_launch(const char *name, void (*run)(void *), const void *arguments, size_t size, dim3 grid,
                        dim3 block, size_t shared, cudaStream_t stream);

/* Executes a launch to its end. cudaErrorInvalidConfiguration for a geometry no device takes, cudaErrorInvalidValue
 * for more shared memory than simt_shared_limit, cudaErrorLaunchFailure when a bug was reported and reports are
 * collected. One launch at a time: calls from other host threads wait. */
cudaError_t simt_execute(const char *name, void (*run)(void *), const void *arguments, dim3 grid, dim3 block,
                         size_t shared);
}

namespace simt {

/* These never change while a kernel's function runs, so that the compiler may ask once. */
__attribute__((const)) uint3 thread_index();
__attribute__((const)) uint3 block_index();
__attribute__((const)) dim3 block_shape();
__attribute__((const)) dim3 grid_shape();

/* The launched kernel's name in the text of gpu_launch's arguments. The same text gives the same pointer. */
const char *kernel_name(const char *text);

/* Two calls stay two, so that each has a line of its own. (GCC does not merge calls.) */
#if defined(__clang__)
#define SIMT_PLACE __attribute__((nomerge))
#else
#define SIMT_PLACE
#endif

/* ---- barriers and warp operations */
SIMT_PLACE void barrier(int line);
SIMT_PLACE int barrier_count(int predicate, int line); /* how many threads of the block came with a true one */
SIMT_PLACE void sync_warp(unsigned mask, int line);

enum shuffle_kind { SHUFFLE_INDEX, SHUFFLE_XOR, SHUFFLE_UP, SHUFFLE_DOWN };
SIMT_PLACE uint64_t shuffle_bits(shuffle_kind kind, unsigned mask, uint64_t bits, int operand, int width, int line);
enum vote_kind { VOTE_BALLOT, VOTE_ANY, VOTE_ALL };
SIMT_PLACE unsigned vote(vote_kind kind, unsigned mask, bool predicate, int line); /* the ballot, whichever kind */

SIMT_PLACE void load_matrices(uint32_t r[4], const void *row, bool transposed, int line);
enum mma_kind { MMA_BF16, MMA_HALF, MMA_TF32 };
SIMT_PLACE void multiply(mma_kind kind, float d[4], const uint32_t a[4], const uint32_t b[2], int line);

/* ---- shared memory */

/* Where one GPU_SHARED declaration lies in this launch. Zero before it is first met. */
struct shared_slot {
    uint64_t launch;
    size_t offset;
};
void *shared_static(shared_slot *slot, size_t size, size_t alignment, const char *name);
void *shared_dynamic();

void async_copy(void *shared, const void *global, int bytes, int present);
void async_commit();
void async_wait(int groups);

/* ---- conversions, to nearest, as cvt.rn.bf16.f32, cvt.rn.f16.f32, cvt.f32.f16, cvt.rna.tf32.f32 */
uint16_t float_to_bf16(float f);
uint16_t float_to_half(float f);
float half_to_float(uint16_t bits);
uint32_t float_to_tf32(float f);

} // namespace simt

#endif
