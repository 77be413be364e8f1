/*
 * cuda_tape.h - what a reverse pass needs of its forward pass, and where all of it lives.
 *
 * A reverse pass reads some values of the forward pass again, and what the masks acted on; it makes a gradient for each
 * value that a component has a part in. The tape says which, for each op, and places values and gradients by lifetime:
 * one block of memory for each pair, in which things that are never needed at once overlap.
 *
 * Time: the forward pass executes op i at i + 1 (the input is there at 0), the output's derivative is taken at T + 1,
 * the reverse pass executes op i at 2T + 1 - i.
 *
 * Must not know: devices, batches, precisions beyond the bytes of a value.
 */
#ifndef COAR_BACKEND_CUDA_TAPE_H
#define COAR_BACKEND_CUDA_TAPE_H

#include "graph/graph.h"

/* Places are offsets in bytes for one pair, multiples of 256: for a batch they are multiplied by its pairs. */
#define CUDA_NOWHERE ((size_t)-1)

/* The reverse pass at one op. */
typedef struct cuda_tape_step {
    bool active;   /* a gradient arrives here that a component has a part in; else the op is passed over */
    size_t kept;   /* OP_CONV: W x; OP_ATTENTION: the result before the mask. CUDA_NOWHERE: not needed. OP_LAYERNORM
                    * with a mask: for the result before it, which the reverse pass computes again */
    size_t logsum; /* OP_ATTENTION: fp32 [heads][positions] (kernels.h) */
    size_t linear; /* OP_CONV: dL/d(W x). CUDA_NOWHERE: the input wants no gradient. May be the place of dL/dy */
    bool add[3];   /* dL/dinput is added to what other readers of the input have left; else written */
    bool add_residual;
} cuda_tape_step;

typedef struct cuda_tape {
    size_t *value;    /* [value_count] CUDA_NOWHERE: not on the tape (the logits, an input that is not copied) */
    size_t *gradient; /* [value_count] dL/dvalue; CUDA_NOWHERE: nobody wants it. A residual may have its sum's place */
    cuda_tape_step *step; /* [op_count] */
    size_t bytes;         /* of one pair */
} cuda_tape;

/* element: bytes of an element of a value, and of its gradient. copied_input: the input is there once for each pair.
 * Free the tape also after a failure. */
coar_status cuda_tape_create(const graph *g, size_t element, bool copied_input, cuda_tape *out);
void cuda_tape_free(cuda_tape *t);

/* Whether dL/d(W x) of a convolution, and its residual's gradient, are dL/dy as it is: nothing scales or masks it. */
bool cuda_tape_is_plain(const op *o);

#endif
