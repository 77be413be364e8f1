/*
 * conv.cuh - what the convolution kernels share: their arguments, the block tiles, and the copies from global memory.
 *
 * A convolution is a matrix product that is never laid out (implicit GEMM):
 *   row m     a position of a pair,                    M = pairs * out_h * out_w
 *   column n  an output channel,                       N = gpu_stride(out_channels)
 *   depth k   (kernel row, kernel column, channel),    K = kernel_h * kernel_w * gpu_stride(in_channels)
 * Both operands have k as their fast index. K is walked upwards in tiles: a block's BM rows of x and BN rows of the
 * weight arrive in shared memory by cp.async, STAGES - 1 tiles ahead.
 *
 * Shared memory of a stage: [BM + BN rows][ROW bytes], ROW = 64 or 128. The 16-byte chunks of a row are permuted by
 * an exclusive or with the row (conv_swizzle), so that the same chunk of 8 neighbouring rows, what one phase of an
 * ldmatrix or of a 16-byte load touches, lies in 8 different groups of 4 banks.
 *
 * The transpose of a convolution with stride s is s^2 products, one for each *phase*, the pixels (y + s j, x + s i) of
 * its result: they lie under the same taps, every s-th of the kernel's. M = pairs * phase_h * phase_w, the same for all
 * phases (what lies outside of the result is not stored), K = what taps the phase has, none at all perhaps. Inside a
 * phase it is a convolution of stride 1 whose taps are taken from the last to the first. blockIdx.z is the phase.
 *
 * A *run* is what lies together in x: the channels of a pixel; where there is no padding, all pixels under one kernel
 * row (patch embeddings); or the whole of K (1x1 kernels, linear layers, kernels as wide as the image). The order
 * of K is the same in all.
 *
 * Must not know: which instruction multiplies (conv_mma.cuh, conv_f32.cu).
 */
#ifndef COAR_KERNELS_CUDA_CONV_CUH
#define COAR_KERNELS_CUDA_CONV_CUH

#include "kernels/cuda/epilogue.cuh"

/* How rows of x are gathered. */
enum conv_gather {
    CONV_RUN,               /* K is one run: a row is K elements that lie together */
    CONV_TAPS,              /* several runs, 16-byte vectors */
    CONV_NARROW,            /* several runs, 8-byte vectors: 4 channels of a 16-bit type (stems) */
    CONV_TRANSPOSED,        /* of dL/d(W x), the taps of one phase of pixels; 16-byte vectors */
    CONV_TRANSPOSED_NARROW, /* with 8-byte vectors */
    CONV_GATHERS
};

template <conv_gather G> constexpr bool conv_transposed = G >= CONV_TRANSPOSED;

/* A gpu_conv as its kernels see it: sizes in elements, divisors ready. By value in the kernels' arguments. */
struct conv_params {
    const void *x, *weight;
    const uint32_t *example;       /* NULL: pair p reads image p */
    float *partial;                /* [splits][rows of y][columns] fp32 sums without an epilogue; NULL: finish y */
    uint32_t rows, columns, depth; /* M, N, K; transposed: M of one phase, K of all */
    uint32_t splits; /* >= 1; split s takes units [s U / splits, (s + 1) U / splits) of conv_unit elements of K */
    uint32_t column_tiles;
    bool dense; /* CONV_RUN: row m begins at m K, whatever pair it belongs to */

    size_t image;            /* of x, from one image to the next */
    uint32_t in_h, in_w;     /* pixels */
    uint32_t line, pixel;    /* of x, from one image row and from one pixel to the next */
    epilogue_divisor run;    /* elements that lie together */
    epilogue_divisor across; /* runs side by side under the kernel: 1, or kernel_w */
    epilogue_divisor out_w;
    uint32_t stride, pad;
    uint32_t step_y, step_x, step_run;  /* one tile of K as (rows of runs, runs, elements) */
    uint32_t out_h, kernel_h, kernel_w; /* transposed, as is the next */
    epilogue_divisor phase_pixels, phase_w;
    bool adds_alone; /* y is what it was and the sums: nothing to do where these have no terms */
    epilogue tail;
};

/* Elements of K that splits are counted in: 128 bytes, a multiple of every form's depth of tile, so that where a
 * sum is cut does not depend on the form. */
template <class T> constexpr uint32_t conv_unit = 128 / sizeof(T);

/* The largest dynamic shared memory of a form: what sm_86, sm_89 and sm_120 can give is 99 KiB (CUDA C++ programming
 * guide, "Technical Specifications per Compute Capability"), so no form has to be refused on any device. */
constexpr uint32_t CONV_SHARED_MAX = 96 << 10;

/* A block tile: BM x BN results, K in steps of ROW bytes. */
template <class T, int BM_, int BN_, int ROW_, int STAGES_, int THREADS_> struct conv_tile {
    using type = T;
    static constexpr int BM = BM_, BN = BN_, ROW = ROW_, STAGES = STAGES_, THREADS = THREADS_;
    static constexpr uint32_t DEPTH = ROW / sizeof(T), STAGE = (BM + BN) * ROW, SHARED = STAGES * STAGE;
    static_assert(ROW == 64 || ROW == 128, "conv_swizzle knows these rows");
    static_assert(SHARED <= CONV_SHARED_MAX, "every device must be able to run every form");
};

/* Where chunk (16 bytes) `chunk` of row `row` lies. With 64-byte rows two rows share the 128 bytes of all banks. */
template <int ROW> GPU_INLINE constexpr uint32_t conv_swizzle(uint32_t row, uint32_t chunk) {
    return row * ROW + ((chunk ^ (ROW == 128 ? row & 7 : row >> 1 & 3)) << 4);
}

/* Whether the chunks of 8 neighbouring rows lie in all 8 groups of 4 banks. */
template <int ROW> GPU_INLINE constexpr bool conv_spreads(uint32_t chunk) {
    uint32_t groups = 0;
    for (uint32_t row = 8; row < 16; row++) groups |= 1u << (conv_swizzle<ROW>(row, chunk) / 16 % 8);
    return groups == 0xff;
}
static_assert(conv_spreads<64>(0) && conv_spreads<64>(3) && conv_spreads<128>(0) && conv_spreads<128>(5),
              "no bank conflicts");

/* ---------------------------------------------------------------------------------------- this block's part */

/* A phase along one axis: its first tap in the kernel, how many it has, and the pixel of x that its last tap takes to
 * the phase's first pixel. */
struct conv_axis {
    uint32_t tap, taps;
    int32_t from;

    GPU_INLINE conv_axis(const conv_params &p, uint32_t phase, uint32_t kernel) {
        tap = (phase + p.pad) % p.stride;
        taps = tap < kernel ? (kernel - tap + p.stride - 1) / p.stride : 0;
        from = (int32_t)((phase + p.pad - tap) / p.stride) - (int32_t)taps + 1;
    }
    /* The last tap's place in the kernel. */
    GPU_INLINE uint32_t last(const conv_params &p) const { return tap + (taps - 1) * p.stride; }
};

struct conv_phase {
    conv_axis y, x;
    GPU_INLINE explicit conv_phase(const conv_params &p)
        : y(p, blockIdx.z / p.stride, p.kernel_h), x(p, blockIdx.z % p.stride, p.kernel_w) {}
};

/* K of this block's product. */
template <conv_gather G> GPU_INLINE uint32_t conv_depth(const conv_params &p) {
    if (!conv_transposed<G>) return p.depth;
    const conv_phase phase(p);
    return phase.y.taps * phase.x.taps * p.run.value;
}

/* Whether this block's pixels stay as they are: of a 1x1 kernel with stride 2, three phases of four have no taps. */
template <conv_gather G> GPU_INLINE bool conv_idle(const conv_params &p) {
    return conv_transposed<G> && p.adds_alone && conv_depth<G>(p) == 0;
}

/* Where row m of this block's product lies in y: EPILOGUE_NO_ROW behind the last, and outside of a result that is no
 * whole number of phases. */
template <conv_gather G> GPU_INLINE uint32_t conv_row(const conv_params &p, uint32_t m) {
    if (m >= p.rows) return EPILOGUE_NO_ROW;
    if (!conv_transposed<G>) return m;
    const uint32_t pair = epilogue_divide(m, p.phase_pixels), pixel = m - pair * p.phase_pixels.value;
    const uint32_t row = epilogue_divide(pixel, p.phase_w), column = pixel - row * p.phase_w.value;
    const uint32_t y = blockIdx.z / p.stride + row * p.stride, x = blockIdx.z % p.stride + column * p.stride;
    return y < p.out_h && x < p.out_w.value ? (pair * p.out_h + y) * p.out_w.value + x : EPILOGUE_NO_ROW;
}

/* Blocks are numbered with the column tiles first: blocks that run at the same time share rows of x in the
 * second-level cache, and all of them the weight. */
template <class Tile> struct conv_block {
    uint32_t row, column; /* of the result, first of the block */
    uint32_t deep;        /* K */
    uint32_t depth;       /* first k */
    uint32_t tiles;       /* of K; 0 only where a phase has no taps, or fewer units than splits */

    GPU_INLINE conv_block(const conv_params &p, uint32_t k_end) : deep(k_end) {
        const uint32_t unit = conv_unit<typename Tile::type>, units = (deep + unit - 1) / unit;
        row = blockIdx.x / p.column_tiles * Tile::BM;
        column = blockIdx.x % p.column_tiles * Tile::BN;
        depth = units * blockIdx.y / p.splits * unit;
        const uint32_t end = units * (blockIdx.y + 1) / p.splits * unit;
        tiles = ((end < deep ? end : deep) - depth + Tile::DEPTH - 1) / Tile::DEPTH;
    }
};

/* --------------------------------------------------------------------------------------------- the copies */

/* A thread's share of every tile: one vector of each of A rows of x and B rows of the weight, all at the same k. What
 * depends on the row is worked out once; from tile to tile only k moves on, and with several runs the place under the
 * kernel. Tile::channel(r): which of the block's columns row r of the weight's tile holds. */
template <class Tile, conv_gather G> struct conv_loader {
    using T = typename Tile::type;
    static constexpr int BYTES = G == CONV_NARROW || G == CONV_TRANSPOSED_NARROW ? 8 : 16;
    static constexpr uint32_t ELEMENTS = BYTES / sizeof(T), ACROSS = Tile::ROW / BYTES;
    static constexpr uint32_t STEP = Tile::THREADS / ACROSS; /* rows that the block's threads reach at once */
    static constexpr int A = Tile::BM / STEP, B = Tile::BN / STEP;
    static constexpr uint32_t NOWHERE = 0xffffffffu;
    static_assert(A * STEP == Tile::BM && B * STEP == Tile::BN, "whole rows for every thread");
    static_assert(STEP % 8 == 0, "a thread's rows are swizzled alike");

    uint32_t to;               /* of the first row's vector in a stage */
    uint32_t k;                /* in the next tile to copy */
    uint32_t deep, across;     /* transposed: K of the phase, and its taps side by side */
    uint32_t tap_y, tap_x, at; /* the same k: row and column of the run under the kernel, element of the run */
    int64_t row[A];     /* element of x where the row's k = 0 lies, even if that is padding; CONV_RUN: -1 = no row */
    int32_t y[A], x[A]; /* its pixel */
    uint32_t weight[B]; /* element where the row of the weight begins, transposed: its last tap; NOWHERE: no such row */

    GPU_INLINE conv_loader(const conv_params &p, const conv_block<Tile> &block) {
        const uint32_t first = threadIdx.x / ACROSS, vector = threadIdx.x % ACROSS;
        to = conv_swizzle<Tile::ROW>(first, vector * BYTES / 16) + vector * BYTES % 16;
        k = block.depth + vector * ELEMENTS;
        deep = block.deep;
        const uint32_t last_tap = find_tap(p);
#pragma unroll
        for (int i = 0; i < A; i++) find_row(p, i, block.row + first + i * STEP);
#pragma unroll
        for (int i = 0; i < B; i++) {
            const uint32_t n = block.column + Tile::channel(first + i * STEP);
            weight[i] = n < p.columns ? n * p.depth + last_tap : NOWHERE;
        }
    }

    /* The place of k under the kernel; returns where the phase's last tap, its first k, lies in a row of the weight. */
    GPU_INLINE uint32_t find_tap(const conv_params &p) {
        if (G == CONV_RUN) return 0;
        const uint32_t tap = epilogue_divide(k, p.run);
        at = k - tap * p.run.value;
        if (!conv_transposed<G>) {
            tap_y = epilogue_divide(tap, p.across);
            tap_x = tap - tap_y * p.across.value;
            return 0;
        }
        const conv_phase phase(p);
        across = phase.x.taps;
        tap_y = across ? tap / across : 0;
        tap_x = tap - tap_y * across;
        return (phase.y.last(p) * p.kernel_w + phase.x.last(p)) * p.run.value;
    }

    GPU_INLINE void find_row(const conv_params &p, int i, uint32_t m) {
        if (m >= p.rows) {
            row[i] = -1;
            y[i] = x[i] = -(1 << 30); /* outside of every image */
        } else if (G == CONV_RUN && p.dense) {
            row[i] = (int64_t)m * p.depth;
        } else {
            const epilogue_divisor &pixels = conv_transposed<G> ? p.phase_pixels : p.tail.positions;
            const epilogue_divisor &wide = conv_transposed<G> ? p.phase_w : p.out_w;
            const uint32_t pair = epilogue_divide(m, pixels), position = m - pair * pixels.value;
            const uint32_t out_y = epilogue_divide(position, wide), out_x = position - out_y * wide.value;
            if (conv_transposed<G>) {
                const conv_phase phase(p);
                y[i] = (int32_t)out_y + phase.y.from;
                x[i] = (int32_t)out_x + phase.x.from;
            } else {
                y[i] = (int32_t)(out_y * p.stride) - (int32_t)p.pad;
                x[i] = (int32_t)(out_x * p.stride) - (int32_t)p.pad;
            }
            row[i] = (int64_t)((p.example ? p.example[pair] : pair) * p.image) + y[i] * (int32_t)p.line +
                     x[i] * (int32_t)p.pixel;
        }
    }

    /* Whether row i has a pixel under the tap (k below K). */
    GPU_INLINE bool inside(const conv_params &p, int i) const {
        if (G == CONV_RUN) return row[i] >= 0;
        return (uint32_t)y[i] + tap_y < p.in_h && (uint32_t)x[i] + tap_x < p.in_w;
    }

    /* Asks for the next tile's vectors; what lies in the padding, behind K or behind the last row arrives as
     * zeros. */
    GPU_INLINE void copy(const conv_params &p, unsigned char *stage) {
        const T *image = (const T *)p.x, *weights = (const T *)p.weight;
        const bool some = k < (conv_transposed<G> ? deep : p.depth);
        const uint32_t offset = G == CONV_RUN ? k : tap_y * p.line + tap_x * p.pixel + at;
        const uint32_t taken = conv_transposed<G> ? at - (tap_y * p.kernel_w + tap_x) * p.stride * p.run.value : k;
#pragma unroll
        for (int i = 0; i < A; i++) {
            const bool there = some && inside(p, i);
            cp_async<BYTES>(stage + to + i * (STEP * Tile::ROW), there ? image + (row[i] + offset) : image,
                            there ? BYTES : 0);
        }
#pragma unroll
        for (int i = 0; i < B; i++) {
            const bool there = some && weight[i] != NOWHERE;
            cp_async<BYTES>(stage + Tile::BM * Tile::ROW + to + i * (STEP * Tile::ROW),
                            there ? weights + (weight[i] + taken) : weights, there ? BYTES : 0);
        }
        advance(p);
    }

    GPU_INLINE void advance(const conv_params &p) {
        k += Tile::DEPTH;
        if (G == CONV_RUN) return;
        if (conv_transposed<G>) { /* how many taps stand side by side is the phase's: no step is known beforehand */
            for (at += Tile::DEPTH; at >= p.run.value; at -= p.run.value) {
                if (++tap_x < across) continue;
                tap_x = 0;
                tap_y++;
            }
            return;
        }
        at += p.step_run;
        tap_x += p.step_x;
        tap_y += p.step_y;
        if (at >= p.run.value) {
            at -= p.run.value;
            tap_x++;
        }
        if (tap_x >= p.across.value) { /* once is enough: step_x < across */
            tap_x -= p.across.value;
            tap_y++;
        }
    }
};

/* ------------------------------------------------------------------------------------------- the results */

/* Sums v of rows row, row + step, ... (those that y has) at the channels c: finished, or, with splits, put aside
 * for conv_finish_launch. */
template <class T, conv_gather G>
GPU_INLINE void conv_store(const conv_params &p, epilogue_channels &c, uint32_t row, uint32_t step, float (&v)[4][4]) {
    const auto row_of = [&](uint32_t r) { return conv_row<G>(p, row + r * step); };
    if (!p.partial) {
        epilogue_rows<T>(p.tail, c, v, row_of);
        return;
    }
#pragma unroll
    for (uint32_t r = 0; r < 4; r++) {
        const size_t at = (size_t)blockIdx.y * p.tail.rows + row_of(r);
        if (row_of(r) != EPILOGUE_NO_ROW) epilogue_store<float>(p.partial, at * p.columns + c.first, v[r]);
    }
}

/* ------------------------------------------------------------------------------------------------ forms */

/* A block tile of one type, compiled for the ways to gather. */
struct conv_form {
    const char *name; /* "128x64x32 s4 w4": rows x columns x depth, stages, warps. NULL ends a list */
    cudaError_t (*launch[CONV_GATHERS])(conv_params p, cudaStream_t stream); /* NULL: not compiled */
};

/* The lists. The first form of each can gather in every way that its type needs. Rows of a tile are at least 64,
 * columns at least 32 (conv.cu counts blocks by that). */
const conv_form *conv_forms_f32(), *conv_forms_tf32(), *conv_forms_bf16(), *conv_forms_f16();

/* Settles what of p depends on the tile; returns the grid (tiles of the result, splits, phases). */
template <class Tile, conv_gather G> dim3 conv_set_tile(conv_params *p) {
    const uint32_t runs = Tile::DEPTH / p->run.value;
    p->step_run = Tile::DEPTH % p->run.value;
    p->step_y = runs / p->across.value;
    p->step_x = runs % p->across.value;
    p->column_tiles = (p->columns + Tile::BN - 1) / Tile::BN;
    return dim3((p->rows + Tile::BM - 1) / Tile::BM * p->column_tiles, p->splits,
                conv_transposed<G> ? p->stride * p->stride : 1);
}

/* conv.cu: whether the sizes of c's result allow an epilogue, and that epilogue. */
bool conv_result_in_range(const gpu_conv *c);
epilogue conv_epilogue_of(const gpu_conv *c);

/* conv_epilogue.cu: adds the splits' partial sums in order and finishes y. sums [splits][rows][stride]. */
cudaError_t conv_finish_launch(gpu_type type, const epilogue &e, const float *sums, uint32_t splits,
                               cudaStream_t stream);

#endif
