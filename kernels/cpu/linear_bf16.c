/*
 * linear_bf16.c - linear.c with products in bf16, forwards: the same functions compiled once more.
 *
 * A position's channels are rounded into `scratch`, [pair][LANES], before its rows pass over them.
 */
#define LINEAR_BF16 1
#include "kernels/cpu/linear.c"
