/*
 * conv_mma.cuh - implicit GEMM on tensor cores: bf16, fp16 (mma.m16n8k16) and tf32 (m16n8k8), fp32 sums.
 *
 *   y[m][n] = epilogue(sum over k of x[m][k] weight[n][k])        (shapes, order of k and shared memory: conv.cuh)
 *
 * A block computes BM x BN results, a warp WM x WN of them in m16n8 fragments. Main loop, per tile of K and warp:
 * ROW / 32 steps, in each WM / 16 + WN / 16 ldmatrix.x4 and WM / 16 * WN / 8 mma. Fragments of the next step are
 * loaded while this one multiplies, across tiles too: the wait and the one barrier of a tile lie before its last
 * step. A tf32 fragment is loaded by ldmatrix as well: an 8x8 matrix of 16-bit elements has the rows of an 8x4 one
 * of 32-bit ones. The sum of an element is one chain of mma over k upwards, the same in every form.
 *
 * Epilogue: a warp puts 16 rows of its sums at a time into its own corner of the (then idle) shared memory and reads
 * them back as quads, so that lanes load and store neighbouring channels: whole 32-byte sectors of y and residual.
 * The rows of the corner are padded to 8 banks more than a multiple of 32, so that 16 lanes' 8-byte stores do not
 * meet.
 *
 * Registers (ptxas, sm_80 to sm_120): warp tiles of 32x32 114 to 148 (32 sums, twice 16 for operands), of 64x32 and
 * 32x64 156 to 200 (64, twice 24), of 64x64 236 to 254 (128, twice 32); no spills. Shared memory: 32 to 96 KiB.
 * Flops: 2 M N K. Bytes: from memory x, residual and y once each and the weight once; from the second-level cache
 * (BM + BN) K size for each block, (BM + BN) / (BM BN) size for each multiply-add.
 * Roofline, ResNet-50 layer2 3x3 (128 -> 128 channels, 28x28, bf16) at 256 pairs on an A100 (312 Tflop/s, 2.0 TB/s):
 * M = 200,704, N = 128, K = 1,152: 59.2 Gflop = 190 us; x + y 103 MB = 51 us: bound by the tensor cores. Tiles of
 * 128x128 read 0.92 GB from the second-level cache, tiles of 256x128 0.69 GB.
 */
#ifndef COAR_KERNELS_CUDA_CONV_MMA_CUH
#define COAR_KERNELS_CUDA_CONV_MMA_CUH

#include "kernels/cuda/conv.cuh"

template <class T, int BM, int BN, int ROW, int STAGES, int WARPS_M_, int WARPS_N_>
struct conv_mma_tile : conv_tile<T, BM, BN, ROW, STAGES, 32 * WARPS_M_ * WARPS_N_> {
    static constexpr int WARPS_M = WARPS_M_, WARPS_N = WARPS_N_;
    static constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N; /* of a warp */
    static constexpr int MT = WM / 16, NT = WN / 8;            /* its fragments of sums */
    static constexpr int STEPS = ROW / 32;                     /* mma deep */
    static constexpr int PITCH = WN + 8;                       /* floats, of a warp's corner in the epilogue */
    static_assert(WM % 16 == 0 && WN % 32 == 0, "whole fragments; WN + 8 = 8 modulo 32 banks");
    static_assert(STEPS % 2 == 0, "the two sets of fragments change places once per step and tile");
    static_assert(WARPS_M * WARPS_N * 16 * PITCH * 4 <= STAGES * (BM + BN) * ROW, "the epilogue's corners fit");

    static GPU_INLINE uint32_t channel(uint32_t row) { return row; }
};

/* Operands of one step. */
template <class Tile> struct conv_fragments {
    uint32_t a[Tile::MT][4];
    uint32_t b[Tile::NT / 2][4]; /* two neighbouring fragments of 8 columns each */
};

/* Where this lane's rows and chunks lie in a stage. All rows of a lane are equal modulo 8, so its swizzle is one
 * number, and the chunk of a step follows by an exclusive or with the step. */
template <class Tile> struct conv_lane {
    uint32_t a, b, a_chunk, b_chunk; /* bytes */

    GPU_INLINE conv_lane() {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const uint32_t m = warp / Tile::WARPS_N * Tile::WM, n = warp % Tile::WARPS_N * Tile::WN;
        /* The four matrices of an x4, in this order: of a rows 0-7 and 8-15 at low k, then at high k; of b low and
         * high k of columns 0-7, then of columns 8-15. */
        const uint32_t a_row = lane % 16, b_row = lane / 16 * 8 + lane % 8;
        a = (m + a_row) * Tile::ROW;
        b = (Tile::BM + n + b_row) * Tile::ROW;
        a_chunk = conv_swizzle<Tile::ROW>(a_row, lane / 16) - a_row * Tile::ROW;
        b_chunk = conv_swizzle<Tile::ROW>(b_row, lane / 8 % 2) - b_row * Tile::ROW;
    }

    GPU_INLINE void load(conv_fragments<Tile> &f, const unsigned char *stage, int step) const {
#pragma unroll
        for (int i = 0; i < Tile::MT; i++)
            ldmatrix_x4(f.a[i], stage + a + i * (16 * Tile::ROW) + (a_chunk ^ (step << 5)));
#pragma unroll
        for (int j = 0; j < Tile::NT / 2; j++)
            ldmatrix_x4(f.b[j], stage + b + j * (16 * Tile::ROW) + (b_chunk ^ (step << 5)));
    }
};

/* 16-bit operands are as mma wants them; tf32 ones have to be rounded, or mma would cut them off. */
template <class Tile, class T> GPU_INLINE void conv_round(conv_fragments<Tile> &, T) {}
template <class Tile> GPU_INLINE void conv_round(conv_fragments<Tile> &f, tf32) {
#pragma unroll
    for (int i = 0; i < Tile::MT; i++)
#pragma unroll
        for (int r = 0; r < 4; r++) f.a[i][r] = round_tf32(__uint_as_float(f.a[i][r]));
#pragma unroll
    for (int j = 0; j < Tile::NT / 2; j++)
#pragma unroll
        for (int r = 0; r < 4; r++) f.b[j][r] = round_tf32(__uint_as_float(f.b[j][r]));
}

template <class Tile>
GPU_INLINE void conv_multiply(float (&sums)[Tile::MT][Tile::NT][4], const conv_fragments<Tile> &f) {
#pragma unroll
    for (int i = 0; i < Tile::MT; i++)
#pragma unroll
        for (int j = 0; j < Tile::NT; j++) mma(sums[i][j], f.a[i], &f.b[j / 2][j % 2 * 2], typename Tile::type());
}

/* The quads of four rows of a warp's corner, `step` rows apart. */
template <int PITCH>
GPU_INLINE void conv_read_corner(const float *corner, uint32_t row, uint32_t step, uint32_t channel, float (&v)[4][4]) {
#pragma unroll
    for (int r = 0; r < 4; r++) epilogue_load<float>(corner, (row + r * step) * PITCH + channel, v[r]);
}

/* Finishes a warp's sums. The loop over slices is not unrolled, so that the epilogue is compiled once: the slice to
 * put down is picked by comparing, which keeps the sums in registers. */
template <class Tile, conv_gather G>
GPU_INLINE void conv_mma_store(const conv_params &p, const conv_block<Tile> &block,
                               const float (&sums)[Tile::MT][Tile::NT][4], unsigned char *shared) {
    constexpr uint32_t QUADS = Tile::WN / 4, STEP = 32 / QUADS; /* rows that a warp reads at once */
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t channel = lane % QUADS * 4; /* in the warp's tile */
    const uint32_t first = block.row + warp / Tile::WARPS_N * Tile::WM;
    const uint32_t column = block.column + warp % Tile::WARPS_N * Tile::WN + channel;
    float *corner = (float *)shared + warp * (16 * Tile::PITCH);
    epilogue_channels c = {};
    if (column < p.columns) c = epilogue_begin(p.tail, column);

#pragma unroll 1
    for (int slice = 0; slice < Tile::MT; slice++) {
#pragma unroll
        for (int i = 0; i < Tile::MT; i++) {
            if (i != slice) continue;
#pragma unroll
            for (int j = 0; j < Tile::NT; j++) {
                float *to = corner + lane / 4 * Tile::PITCH + j * 8 + lane % 4 * 2;
                *(float2 *)to = make_float2(sums[i][j][0], sums[i][j][1]);
                *(float2 *)(to + 8 * Tile::PITCH) = make_float2(sums[i][j][2], sums[i][j][3]);
            }
        }
        __syncwarp();
#pragma unroll 1
        for (uint32_t r = lane / QUADS; r < 16 && column < p.columns; r += 4 * STEP) {
            float v[4][4];
            conv_read_corner<Tile::PITCH>(corner, r, STEP, channel, v);
            conv_store<typename Tile::type, G>(p, c, first + slice * 16 + r, STEP, v);
        }
        __syncwarp();
    }
}

template <class Tile, conv_gather G>
__global__ void __launch_bounds__(Tile::THREADS, 1) conv_mma_kernel(conv_params p) {
    if (conv_idle<G>(p)) return;
    GPU_DYNAMIC_SHARED(unsigned char, shared);
    const conv_block<Tile> block(p, conv_depth<G>(p));
    const conv_lane<Tile> lane;
    conv_loader<Tile, G> loader(p, block);
    float sums[Tile::MT][Tile::NT][4] = {};
    conv_fragments<Tile> fragments[2];

#pragma unroll
    for (uint32_t s = 0; s < Tile::STAGES - 1; s++) {
        if (s < block.tiles) loader.copy(p, shared + s * Tile::STAGE);
        cp_async_commit(); /* groups are counted, so the empty ones too */
    }
    cp_async_wait<Tile::STAGES - 2>();
    __syncthreads();
    if (block.tiles > 0) lane.load(fragments[0], shared, 0);

    uint32_t from = 0, to = (Tile::STAGES - 1) * Tile::STAGE; /* stages of this tile and of the one to copy */
#pragma unroll 1
    for (uint32_t tile = 0; tile < block.tiles; tile++) {
#pragma unroll
        for (int step = 0; step < Tile::STEPS; step++) {
            if (step == Tile::STEPS - 1) { /* the next tile has arrived, and everyone has read this one */
                cp_async_wait<Tile::STAGES - 2>();
                __syncthreads();
                from = from + Tile::STAGE == Tile::SHARED ? 0 : from + Tile::STAGE;
            }
            if (step < Tile::STEPS - 1 || tile + 1 < block.tiles)
                lane.load(fragments[(step + 1) % 2], shared + from, (step + 1) % Tile::STEPS);
            if (step == 0) { /* into the stage that everyone had read at the last barrier */
                if (tile + Tile::STAGES - 1 < block.tiles) loader.copy(p, shared + to);
                cp_async_commit();
                to = to + Tile::STAGE == Tile::SHARED ? 0 : to + Tile::STAGE;
            }
            conv_round(fragments[step % 2], typename Tile::type());
            conv_multiply<Tile>(sums, fragments[step % 2]);
        }
    }
    conv_mma_store<Tile, G>(p, block, sums, shared); /* nobody reads tiles behind the last barrier */
}

/* ------------------------------------------------------------------------------------------------ forms */

template <class Tile, conv_gather G> cudaError_t conv_mma_launch(conv_params p, cudaStream_t stream) {
    const dim3 grid = conv_set_tile<Tile, G>(&p);
    return gpu_launch(conv_mma_kernel<Tile, G>, grid, dim3(Tile::THREADS), Tile::SHARED, stream, p);
}

template <class Tile> constexpr conv_form conv_mma_form(const char *name) {
    return {name,
            {conv_mma_launch<Tile, CONV_RUN>, conv_mma_launch<Tile, CONV_TAPS>, NULL,
             conv_mma_launch<Tile, CONV_TRANSPOSED>, NULL}};
}
/* Stems have few columns: the large tiles are not compiled for them. */
template <class Tile> constexpr conv_form conv_mma_form_narrow(const char *name) {
    return {name,
            {conv_mma_launch<Tile, CONV_RUN>, conv_mma_launch<Tile, CONV_TAPS>, conv_mma_launch<Tile, CONV_NARROW>,
             conv_mma_launch<Tile, CONV_TRANSPOSED>, conv_mma_launch<Tile, CONV_TRANSPOSED_NARROW>}};
}

template <class T>
const conv_form conv_forms_16bit[] = {
    conv_mma_form_narrow<conv_mma_tile<T, 64, 64, 64, 4, 2, 2>>("64x64x32 s4 w4"),
    conv_mma_form_narrow<conv_mma_tile<T, 128, 32, 64, 4, 4, 1>>("128x32x32 s4 w4"),
    conv_mma_form_narrow<conv_mma_tile<T, 128, 64, 64, 4, 2, 2>>("128x64x32 s4 w4"),
    conv_mma_form<conv_mma_tile<T, 64, 128, 128, 3, 2, 2>>("64x128x64 s3 w4"),
    conv_mma_form<conv_mma_tile<T, 128, 128, 64, 4, 2, 2>>("128x128x32 s4 w4"),
    conv_mma_form<conv_mma_tile<T, 128, 128, 128, 3, 2, 4>>("128x128x64 s3 w8"),
    conv_mma_form<conv_mma_tile<T, 256, 128, 64, 4, 4, 2>>("256x128x32 s4 w8"),
    {},
};

#endif
