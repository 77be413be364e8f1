/*
 * winograd_bf16.c - winograd.c with products in bf16, as F(2x2, 3x3): the same functions compiled once more.
 *
 * Images are transformed in fp32 and rounded where they are stored in V, in pairs of channels; transformed weights are
 * rounded once (pack.c); M is fp32. F(4x4, 3x3) has 1.8 times fewer products, but its transforms add up numbers of
 * other sizes: with bf16's eight digits outputs are too far off (docs/performance.md).
 */
#define WINOGRAD_OUT 2
#define WINOGRAD_BF16 1
#include "kernels/cpu/winograd.c"
