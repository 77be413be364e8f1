/*
 * stand_ins.h - what tests say to the stand-ins for the CUDA runtime, cuBLAS, cuBLASLt, cuSOLVER, cuDNN
 * and NCCL.
 *
 * The stand-ins have the real libraries' headers and symbols and no GPU: "device memory" is host memory behind page
 * protection, and work runs on the CPU. They are strict where the real libraries are undefined, and lazy: whatever is
 * put into a stream runs only when something waits for it, in an order that honours streams and events and nothing
 * else. A program that breaks a rule is stopped with one line on stderr ("stand-in: CALL: what") and abort(); one that
 * passes arguments which the real library refuses gets the real library's error, a line, and is counted.
 *
 * Settings come from the environment, so that the program itself can be run under them; stand_in_reset reads them
 * again:
 *   COAR_STANDIN_DEVICES     number of devices (1)
 *   COAR_STANDIN_CAPABILITY  compute capability (8.0); below 8.0 no kernel can be launched
 *   COAR_STANDIN_MEMORY      bytes of device memory, each (268435456)
 *   COAR_STANDIN_DRIVER      driver version (the runtime's); 0 = none installed
 *   COAR_STANDIN_ORDER       lazy: nothing runs before something waits for it, and then only what it depends on
 *                            (default)
 *                            others: whatever other streams may do at that moment happens first
 *                            eager: everything runs as soon as it is enqueued, as on an infinitely fast device
 *                            random:SEED: any of these, step by step
 *   COAR_STANDIN_FAIL        CALL:AFTER:ERROR[,...], see stand_in_fail
 *   COAR_STANDIN_KILL        DEVICE:LAUNCHES:ERROR: after that many kernels the device fails for good
 *   COAR_STANDIN_WRONG       LIBRARY:N: results of algorithm N of cublaslt, or engine N of cudnn, are a hundredth too
 *                            large
 *   COAR_STANDIN_NCCL        hang:RANK:CALL or error:RANK:CALL:CODE: from NCCL's collective CALL (from 0; -1 = the start) on
 *                            this rank gives nothing to the others, or is told of this error
 *   COAR_STANDIN_NAN         dropped = cuDNN's ReLU makes 0 of NaN, as it may
 *   COAR_STANDIN_LEAKS       0 = what is left at exit is no error
 *
 * Must not know: the engine, kernels, tests.
 */
#ifndef COAR_TESTS_STAND_INS_H
#define COAR_TESTS_STAND_INS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As if the program had just started: counters are zero, settings are read from the environment, devices work again.
 * Everything must have been released. */
void stand_in_reset(void);

/* The (after + 1)-th call of `call` from now on returns `error` (the library's own number) and does nothing else. Names
 * are those of the symbols ("cublasDgemm_v2"); kernels are launched by "cudaLaunchKernel". */
void stand_in_fail(const char *call, unsigned after, int error);

/* Calls of `call` since the last reset; kernels and library calls that ran count under "run NAME". */
size_t stand_in_count(const char *call);

/* Prints what is alive (memory, streams, events, graphs, handles, descriptors), one line each, and returns how many.
 * The same happens at exit, but for what belongs to libraries, and makes the exit code 1. */
size_t stand_in_leaks(void);

/* Calls refused with a line on stderr since the last reset. */
size_t stand_in_refusals(void);

#ifdef __cplusplus
}
#endif

#endif
