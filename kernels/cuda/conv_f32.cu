/*
 * conv_f32.cu - implicit GEMM in fp32 on the ordinary units: the reference grade of the convolutions.
 *
 *   y[m][n] = epilogue(sum over k of x[m][k] weight[n][k])        (shapes, order of k and shared memory: conv.cuh)
 *
 * A thread computes 8 rows x 4 or 8 columns, each sum one chain of fused multiply-adds over k upwards: an element has
 * the same bits in every form, those of a plain loop of fmaf. Rows are dealt out one by one (ty, ty + TY, ...),
 * columns in quads. The rows of the weight's tile are stored in such an order (channel below) that the 8 lanes
 * which read at the same time read 8 neighbouring rows, without bank conflicts, and yet each of them ends with 4
 * neighbouring channels.
 *
 * Per 4 k: 8 + 4 or 8 loads of 16 bytes for 128 or 256 multiply-adds.
 * Registers (ptxas, sm_80 to sm_120): 125 to 166 with 32 sums, 168 to 254 with 64; no spills. Shared memory: 24 to
 * 48 KiB. Flops and bytes: as conv_mma.cuh. Roofline, ResNet-50 layer2 3x3 (128 -> 128 channels, 28x28) at 256
 * pairs on an A100 (19.5 Tflop/s, 2.0 TB/s): 59.2 Gflop = 3.0 ms; x + y 206 MB = 0.10 ms: bound by the multiply-adds.
 */
#include "kernels/cuda/conv.cuh"

/* GROUPS quads of columns per thread. */
template <int BM, int BN, int STAGES, int GROUPS_>
struct conv_f32_tile : conv_tile<float, BM, BN, 64, STAGES, BM / 8 * (BN / (4 * GROUPS_))> {
    static constexpr int GROUPS = GROUPS_, TX = BN / (4 * GROUPS), TY = BM / 8;
    static_assert(TX % 8 == 0 && TY % 4 == 0, "a warp is 8 columns of threads by 4 rows");

    /* Row (group, i, tx) of the weight's tile holds column (group, tx, i). */
    static GPU_INLINE uint32_t channel(uint32_t row) {
        const uint32_t tx = row % TX, i = row / TX % 4, group = row / (4 * TX);
        return (group * TX + tx) * 4 + i;
    }
};

/* This thread's place in the block. */
template <class Tile> struct conv_f32_thread {
    uint32_t tx, ty;
    GPU_INLINE conv_f32_thread() {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        tx = warp % (Tile::TX / 8) * 8 + lane % 8;
        ty = warp / (Tile::TX / 8) * 4 + lane / 8;
    }
};

/* One tile of K. */
template <class Tile>
GPU_INLINE void conv_f32_multiply(float (&sums)[Tile::GROUPS * 4][8], const unsigned char *stage,
                                  const conv_f32_thread<Tile> &thread) {
#pragma unroll
    for (uint32_t chunk = 0; chunk < Tile::ROW / 16; chunk++) {
        float a[8][4], b[4];
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            epilogue_load<float>(stage + conv_swizzle<Tile::ROW>(thread.ty + i * Tile::TY, chunk), 0, a[i]);
#pragma unroll
        for (uint32_t j = 0; j < Tile::GROUPS * 4; j++) {
            epilogue_load<float>(stage + conv_swizzle<Tile::ROW>(Tile::BM + j * Tile::TX + thread.tx, chunk), 0, b);
#pragma unroll
            for (uint32_t k = 0; k < 4; k++)
#pragma unroll
                for (uint32_t i = 0; i < 8; i++) sums[j][i] = fmaf(a[i][k], b[k], sums[j][i]);
        }
    }
}

/* Finishes a thread's sums, four rows of a quad at a time; not unrolled, so that the epilogue is compiled once. */
template <class Tile, conv_gather G>
GPU_INLINE void conv_f32_store(const conv_params &p, const conv_block<Tile> &block,
                               const float (&sums)[Tile::GROUPS * 4][8], const conv_f32_thread<Tile> &thread) {
#pragma unroll 1
    for (uint32_t part = 0; part < Tile::GROUPS * 2; part++) {
        const uint32_t column = block.column + (part / 2 * Tile::TX + thread.tx) * 4;
        const uint32_t row = block.row + thread.ty + part % 2 * (4 * Tile::TY);
        float v[4][4];
#pragma unroll
        for (uint32_t q = 0; q < Tile::GROUPS * 2; q++) {
            if (q != part) continue;
#pragma unroll
            for (uint32_t r = 0; r < 4; r++)
#pragma unroll
                for (uint32_t i = 0; i < 4; i++) v[r][i] = sums[q / 2 * 4 + i][q % 2 * 4 + r];
        }
        if (column >= p.columns) continue;
        epilogue_channels c = epilogue_begin(p.tail, column);
        conv_store<float, G>(p, c, row, Tile::TY, v);
    }
}

template <class Tile, conv_gather G> __global__ void __launch_bounds__(Tile::THREADS) conv_f32_kernel(conv_params p) {
    if (conv_idle<G>(p)) return;
    GPU_DYNAMIC_SHARED(unsigned char, shared);
    const conv_block<Tile> block(p, conv_depth<G>(p));
    const conv_f32_thread<Tile> thread;
    conv_loader<Tile, G> loader(p, block);
    float sums[Tile::GROUPS * 4][8] = {};

#pragma unroll
    for (uint32_t s = 0; s < Tile::STAGES - 1; s++) {
        if (s < block.tiles) loader.copy(p, shared + s * Tile::STAGE);
        cp_async_commit(); /* groups are counted, so the empty ones too */
    }
    uint32_t from = 0, to = (Tile::STAGES - 1) * Tile::STAGE; /* stages of this tile and of the one to copy */
#pragma unroll 1
    for (uint32_t tile = 0; tile < block.tiles; tile++) {
        cp_async_wait<Tile::STAGES - 2>();
        __syncthreads(); /* this tile has arrived, and everyone has read the one before */
        if (tile + Tile::STAGES - 1 < block.tiles) loader.copy(p, shared + to);
        cp_async_commit();
        conv_f32_multiply<Tile>(sums, shared + from, thread);
        from = from + Tile::STAGE == Tile::SHARED ? 0 : from + Tile::STAGE;
        to = to + Tile::STAGE == Tile::SHARED ? 0 : to + Tile::STAGE;
    }
    conv_f32_store<Tile, G>(p, block, sums, thread);
}

template <class Tile, conv_gather G> static cudaError_t launch(conv_params p, cudaStream_t stream) {
    const dim3 grid = conv_set_tile<Tile, G>(&p);
    return gpu_launch(conv_f32_kernel<Tile, G>, grid, dim3(Tile::THREADS), Tile::SHARED, stream, p);
}

template <class Tile> constexpr conv_form form(const char *name) {
    return {name, {launch<Tile, CONV_RUN>, launch<Tile, CONV_TAPS>, NULL, launch<Tile, CONV_TRANSPOSED>, NULL}};
}

static const conv_form forms[] = {
    form<conv_f32_tile<64, 64, 3, 1>>("64x64x16 s3 w4"),
    form<conv_f32_tile<128, 32, 3, 1>>("128x32x16 s3 w4"),
    form<conv_f32_tile<128, 64, 3, 2>>("128x64x16 s3 w4"),
    form<conv_f32_tile<128, 128, 3, 2>>("128x128x16 s3 w8"),
    {},
};

const conv_form *conv_forms_f32() {
    return forms;
}
