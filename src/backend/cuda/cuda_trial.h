/*
 * cuda_trial.h - one layer on random data: does a form compute it, and how long does it take.
 *
 * The batch holds TRIAL_PERIOD different (slot, example) pairs over and over: pair p is pair p % TRIAL_PERIOD. What is
 * right is computed once for those few, by our fp32 kernel on the same numbers; that every other pair has the same bits
 * shows that a result does not depend on where in the batch it stands, which is what a numerics plan promises.
 *
 * The numbers are exact in every precision (8 significant bits), so that only sums and the rounding of y can differ:
 *   |y - r| <= u |r| + 2^-12 max |r|,  u = 2^-8 (bf16), 2^-10 (fp16), 2^-20 (tf32, fp32):
 * one unit in the last place of y, and what sums may lose: fp32 sums of some thousand products in another order
 * differ by about 2^-20 of the largest, sums kept in 16 bits by 2^-9. A channel left out or a mask in the wrong place
 * is far outside.
 *
 * A transpose has its weight in both orders (cuda_form.h), and each form gets the one that it reads.
 *
 * Must not know: where forms come from, which one is chosen.
 */
#ifndef COAR_BACKEND_CUDA_TRIAL_H
#define COAR_BACKEND_CUDA_TRIAL_H

#include "backend/cuda/cuda_form.h"

enum { TRIAL_PERIOD = 3 };

typedef struct cuda_trial cuda_trial;

/* Device bytes that a trial of layer c takes, with `workspace` bytes for the forms; SIZE_MAX when that overflows. */
size_t cuda_trial_bytes(const gpu_conv *c, size_t workspace);

/* Takes the memory, makes the numbers and computes what is right. c: a shape (pointers given or not). Uses the
 * current device; the stream is the caller's. */
coar_status cuda_trial_create(const gpu_conv *c, size_t workspace, cudaStream_t stream, cuda_trial **out);
void cuda_trial_destroy(cuda_trial *t);

/* Whether the form computes the layer; `why` says where it does not. An error is a failure of the device, not of the
 * form. */
coar_status cuda_trial_agrees(cuda_trial *t, const cuda_form *form, bool *agrees, char why[256]);

/* The same for the whole batch, twice: every pair has the bits of its like, and a second launch those of the first. And
 * in fp16, whose range networks do leave: NaN stays NaN, or nobody would know that the pair is to be computed once
 * more in fp32. A ReLU of a library's may make 0 of it. */
coar_status cuda_trial_repeats(cuda_trial *t, const cuda_form *form, bool *repeats, char why[256]);

/* One launch of the form, captured; replaying it is what a run does. NULL in *out: it cannot be captured. */
coar_status cuda_trial_capture(cuda_trial *t, const cuda_form *form, cudaGraphExec_t *out);

#endif
