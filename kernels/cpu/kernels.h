/*
 * kernels.h - the CPU kernels: one table of functions per instruction set.
 *
 * Layout of every activation array: [position][channel][lane], 32 lanes of fp32, so 128 bytes per (position, channel)
 * and 64-byte alignment throughout. A lane is one example under one mask; no kernel ever mixes lanes, so the result of
 * a lane does not depend on the lanes beside it.
 * All kernels are thread-safe and allocate nothing. Must not know: graphs, masks, models.
 */
#ifndef COAR_KERNELS_CPU_KERNELS_H
#define COAR_KERNELS_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LANES 32
#define TILE_ROWS_MAX 16 /* of any instruction set's tile_rows */

/* Elementwise, in place, over `count` floats (a multiple of LANES). */
typedef void (*activate_kernel)(float *x, size_t count);

/* A sliding window: convolution or pooling. */
typedef struct window {
    uint32_t in_h, in_w, out_h, out_w;
    uint32_t kernel_h, kernel_w, stride, pad;
} window;

/* y[p][channel[r]] = act(mul[r] * (W x)[p][r] + add[zone(p)][r] + residual[p][channel[r]]) for the packed rows r, and
 * y[p][constant_channel[i]] = act(constant[i] + residual) for rows that are known without computing them. */
typedef struct conv_args {
    window window;
    uint32_t in_channels;  /* channels stored per input position = packed columns */
    uint32_t out_channels; /* channels stored per output position */
    const float *input;    /* [in_h * in_w][in_channels][LANES] */
    float *output;         /* [out_h * out_w][out_channels][LANES]; must not overlap the input */
    const float *residual; /* shape of the output, may be the output itself; or NULL */

    uint32_t rows;           /* packed rows */
    const float *weight;     /* conv_block_first */
    const uint32_t *channel; /* [rows] where each packed row goes */
    const float *mul;        /* [rows][LANES] */
    const float *add;        /* [zones][rows][LANES]; zone = zone_y[y] * zones_x + zone_x[x] */
    const uint32_t *zone_y;  /* [out_h] */
    const uint32_t *zone_x;  /* [out_w] */
    uint32_t zones_x;

    uint32_t constants;
    const uint32_t *constant_channel; /* [constants] */
    const float *constant;            /* [constants] */

    bool relu;                /* act = max(0, y), fused */
    activate_kernel activate; /* any other act, or NULL */
} conv_args;

/* Packed weights: rows are cut into balanced blocks of at most `tile_rows`; block b is rows conv_block_first(b) up to
 * conv_block_first(b + 1), stored as [kernel_h][kernel_w][in_channels][rows of the block], blocks one after another. */
static inline uint32_t conv_blocks(uint32_t rows, uint32_t tile_rows) {
    return (rows + tile_rows - 1) / tile_rows;
}
static inline uint32_t conv_block_first(uint32_t rows, uint32_t blocks, uint32_t b) {
    return (uint32_t)((uint64_t)rows * b / blocks);
}

typedef struct pool_args {
    window window;
    uint32_t channels;
    const float *input; /* [in_h * in_w][channels][LANES] */
    float *output;      /* [out_h * out_w][channels][LANES] */
} pool_args;

typedef struct layernorm_args {
    size_t positions;
    uint32_t channels;
    const float *gamma, *beta; /* [channels]; NULL = 1, 0 */
    float eps;
    const float *input; /* [positions][channels][LANES] */
    float *output;      /* the same; may be the input */
} layernorm_args;

typedef struct attention_args {
    uint32_t tokens, heads, head_width; /* width = heads * head_width */
    const float *q, *k, *v;             /* [tokens][width][LANES] each */
    float *output;                      /* [tokens][width][LANES]; must not overlap them */
    float *scratch;                     /* attention_scratch(tokens, head_width) floats */
} attention_args;

typedef struct cpu_kernels {
    const char *isa;    /* "portable", "avx2" */
    uint32_t tile_rows; /* rows of a packed weight block */

    void (*conv)(const conv_args *args);
    void (*maxpool)(const pool_args *args); /* padding never wins */
    void (*avgpool)(const pool_args *args); /* no padding */
    void (*layernorm)(const layernorm_args *args);
    void (*attention)(const attention_args *args);
    size_t (*attention_scratch)(uint32_t tokens, uint32_t head_width);
    activate_kernel relu, gelu_erf, gelu_tanh, quickgelu;

    /* output[i][lane] = pixels[i][lane] * mul[i % channels] + add[i % channels] for i < count. */
    void (*normalise)(const uint8_t *pixels, size_t count, uint32_t channels, const float *mul, const float *add,
                      float *output);
    /* x[p][c][lane] = x[p][c][lane] * mul[c][lane] + add[c][lane]. */
    void (*scale_channels)(float *x, size_t positions, uint32_t channels, const float *mul, const float *add);
    /* output[0] = table[0], output[t] = input[t - 1] + table[t]; table [tokens][channels], input one token shorter. */
    void (*embed)(const float *input, const float *table, uint32_t tokens, uint32_t channels, float *output);

    /* Multiply-adds that do nothing but keep the units busy; returns how many flops that were. */
    double (*peak)(size_t iterations);
} cpu_kernels;

extern const cpu_kernels cpu_kernels_portable;
#if defined(__x86_64__)
extern const cpu_kernels cpu_kernels_avx2;
#endif

#endif
