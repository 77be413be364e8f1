/*
 * winograd_bf16.c - winograd.c with products in bf16: the same functions compiled once more.
 *
 * Images are transformed in fp32 and rounded where they are stored in V, [window][36][pair][LANES]; transformed weights
 * are rounded once (pack.c); M is fp32. The rounding is that of the direct form, but what is rounded is several times
 * larger than what it adds up to: outputs of whole networks are some 2.6 times as far off as with the direct form
 * (docs/performance.md).
 */
#define WINOGRAD_BF16 1
#include "kernels/cpu/winograd.c"
