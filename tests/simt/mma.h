/*
 * mma.h - the arithmetic of tensor cores, for a whole warp at once. Must not know: threads, fibers.
 */
#ifndef COAR_TESTS_SIMT_MMA_H
#define COAR_TESTS_SIMT_MMA_H

#include "machine.h"

namespace simt {

/* Each lane's registers, laid out as gpu.h describes at `mma`. */
struct mma_fragments {
    float *d[32];          /* [4] each, read and written */
    const uint32_t *a[32]; /* [4] each */
    const uint32_t *b[32]; /* [2] each */
};

/* d += a b with 16 x 8 sums over k = 16 (bf16, fp16) or 8 (tf32). Products are exact in fp32; they are added in the
 * order of k, rounding each time. (Hardware adds several at once and truncates; which is not documented.) */
void mma_warp(mma_kind kind, const mma_fragments *f);

} // namespace simt

#endif
