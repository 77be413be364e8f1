/*
 * head.cu - what is read off a network: outputs of logits, and sums of channels for `mean` ablation.
 *
 *   outputs       out[p] = f(logits[p], label[example[p]])         f: output_value of src/graph/outputs.c
 *   gradients     gradient[p][c] = loss_scale df / dlogits[p][c]         output_gradient of the same file
 *   next tokens   out[p] = mean over t < length - 1 of f(values[p][t])  f: next_value; its gradient next_gradient
 *   channel sums  sums[c] += sum over p, then q, of x[p][q][c]
 *
 * logits fp32 [pairs][gpu_stride(classes)], gradient likewise in the type's storage; x
 * [pairs][positions][gpu_stride(channels)]; sums double [channels]. Both in double: attributions are differences of
 * outputs that are almost equal, and a sum over 10^9 values keeps 1e-16 of each. Consumer cards do doubles at 1/64 of
 * their rate; no kernel here has enough of them to matter.
 *
 * Outputs: one warp per pair, lane l takes the classes l, l + 32, ...; the 32 partial results meet in a tree of fixed
 * shape. Gradients are written in a second pass over the row. Shared memory none, registers 17 to 32 (sm_80). Bytes:
 * the logits once. Roofline: 1,000 classes, 4,096 pairs: 16 MB, 8 us at 2.04 TB/s (A100 80 GB), 5 us at 3.35 TB/s
 * (H100); the loss adds 4.1e6 exponentials of about 40 flops: 17 us at 9.7 Tflop/s of doubles (A100), 5 us at 34
 * (H100).
 *
 * Channel sums: additions in the order of pairs and positions, whatever the batch: the only order that gives the same
 * bits however the examples are cut into calls. So a channel is one chain of additions, and only channels are
 * parallel: 32 of them to a block, whose first warp adds while all four load the rows of the next stages. Shared
 * memory: STAGES x 64 rows x 32 channels, 24 KiB (fp32) or 12 KiB. Registers 28. The chain is the bound, not memory:
 * 8 cycles an addition, 5.7 ns at 1.41 GHz; 64 images of 56x56 positions: 1.1 ms, where their 51 MB (128 channels,
 * bf16) would take 25 us. `mean` ablation asks for it once for each example of a run, beside thousands of masked
 * passes.
 */
#include "kernels/cuda/vectors.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;

/* ------------------------------------------------------------------------------------------------ outputs */

constexpr uint32_t OUTPUT_WARPS = 4;

static GPU_INLINE double largest_of_warp(double x) {
#pragma unroll
    for (int d = 16; d; d >>= 1) {
        const double other = __shfl_xor_sync(ALL_LANES, x, d);
        x = other > x ? other : x;
    }
    return x;
}

static GPU_INLINE double sum_of_warp(double x) {
#pragma unroll
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(ALL_LANES, x, d);
    return x;
}

/* logits[label] minus the largest other; a NaN anywhere makes it NaN, which comparisons alone would drop. */
static GPU_INLINE double margin(const float *logits, uint32_t classes, uint32_t label, uint32_t lane) {
    double largest = -INFINITY;
    bool undefined = false;
    for (uint32_t c = lane; c < classes; c += 32) {
        const double value = logits[c];
        undefined |= value != value;
        if (c != label && value > largest) largest = value;
    }
    largest = largest_of_warp(largest);
    return __any_sync(ALL_LANES, undefined) ? NAN : logits[label] - largest;
}

/* The logarithm of the sum of exp(logits): shifted by the largest logit exp cannot overflow. */
static GPU_INLINE double log_sum_exp(const float *logits, uint32_t classes, uint32_t lane) {
    double most = -INFINITY, sum = 0;
    for (uint32_t c = lane; c < classes; c += 32) most = logits[c] > most ? (double)logits[c] : most;
    most = largest_of_warp(most);
    for (uint32_t c = lane; c < classes; c += 32) sum += exp(logits[c] - most);
    return most + log(sum_of_warp(sum));
}

/* -log softmax(logits)[label] */
static GPU_INLINE double loss(const float *logits, uint32_t classes, uint32_t label, uint32_t lane) {
    return log_sum_exp(logits, classes, lane) - logits[label];
}

static __global__ void __launch_bounds__(OUTPUT_WARPS * 32)
    output_kernel(gpu_output_kind kind, uint32_t a, uint32_t b, uint32_t pairs, uint32_t classes, uint32_t stride,
                  const float *logits, const int32_t *label, const uint32_t *example, float *out) {
    const uint32_t lane = threadIdx.x % 32, pair = blockIdx.x * OUTPUT_WARPS + threadIdx.x / 32;
    if (pair >= pairs) return; /* whole warps */
    const float *row = logits + (size_t)pair * stride;
    double value;
    switch (kind) {
    case GPU_OUTPUT_MARGIN:
        value = margin(row, classes, (uint32_t)label[example[pair]], lane);
        break;
    case GPU_OUTPUT_LOGIT:
        value = row[label[example[pair]]];
        break;
    case GPU_OUTPUT_CLASS:
        value = row[a];
        break;
    case GPU_OUTPUT_DIFFERENCE:
        value = (double)row[a] - row[b];
        break;
    default:
        value = loss(row, classes, (uint32_t)label[example[pair]], lane);
    }
    if (lane == 0) out[pair] = (float)value;
}

static bool output_valid(gpu_output_kind kind, uint32_t a, uint32_t b, uint32_t classes) {
    const bool one = kind == GPU_OUTPUT_CLASS, two = kind == GPU_OUTPUT_DIFFERENCE;
    if (!classes || kind < GPU_OUTPUT_MARGIN || kind > GPU_OUTPUT_LOSS) return false;
    return !((one || two) && a >= classes) && !(two && b >= classes);
}

extern "C" cudaError_t gpu_output_launch(gpu_output_kind kind, uint32_t a, uint32_t b, uint32_t pairs, uint32_t classes,
                                         const float *logits, const int32_t *label, const uint32_t *example, float *out,
                                         cudaStream_t stream) {
    if (!pairs || !output_valid(kind, a, b, classes)) return cudaErrorInvalidValue;
    return gpu_launch(output_kernel, dim3(blocks_of(pairs, OUTPUT_WARPS)), dim3(OUTPUT_WARPS * 32), 0, stream, kind, a,
                      b, pairs, classes, gpu_stride(classes), logits, label, example, out);
}

/* ---------------------------------------------------------------------------------------------- gradients */

struct ranked_logit {
    float value;
    uint32_t class_;
};

/* NaN ranks above everything, the first above its equals: the margin's rule in outputs.c. */
static GPU_INLINE bool ranks_above(ranked_logit a, ranked_logit b) {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan != b_nan) return a_nan;
    if (!a_nan && a.value != b.value) return a.value > b.value;
    return a.class_ < b.class_;
}

/* The class of the largest logit that is not the label's. */
static GPU_INLINE uint32_t largest_other(const float *logits, uint32_t classes, uint32_t label, uint32_t lane) {
    ranked_logit best = {-INFINITY, UINT32_MAX};
    for (uint32_t c = lane; c < classes; c += 32) {
        const ranked_logit candidate = {logits[c], c};
        if (c != label && ranks_above(candidate, best)) best = candidate;
    }
#pragma unroll
    for (int d = 16; d; d >>= 1) {
        const ranked_logit other = {__shfl_xor_sync(ALL_LANES, best.value, d),
                                    __shfl_xor_sync(ALL_LANES, best.class_, d)};
        if (ranks_above(other, best)) best = other;
    }
    return best.class_;
}

template <class T>
static __global__ void __launch_bounds__(OUTPUT_WARPS * 32)
    output_gradient_kernel(gpu_output_kind kind, uint32_t a, uint32_t b, uint32_t pairs, uint32_t classes,
                           uint32_t stride, const float *logits, const int32_t *label, const uint32_t *example,
                           float loss_scale, T *gradient) {
    const uint32_t lane = threadIdx.x % 32, pair = blockIdx.x * OUTPUT_WARPS + threadIdx.x / 32;
    if (pair >= pairs) return; /* whole warps */
    const float *row = logits + (size_t)pair * stride;
    gradient += (size_t)pair * stride;
    const bool labelled = kind != GPU_OUTPUT_CLASS && kind != GPU_OUTPUT_DIFFERENCE;
    const uint32_t plus = labelled ? (uint32_t)label[example[pair]] : a;
    uint32_t minus = kind == GPU_OUTPUT_DIFFERENCE ? b : UINT32_MAX;
    if (kind == GPU_OUTPUT_MARGIN) minus = largest_other(row, classes, plus, lane);
    const double whole = kind == GPU_OUTPUT_LOSS ? log_sum_exp(row, classes, lane) : 0;
    for (uint32_t c = lane; c < stride; c += 32) {
        double value = (c == plus) - (c == minus);
        if (kind == GPU_OUTPUT_LOSS) value = exp(row[c] - whole) - value; /* a quotient spills on sm_100 */
        gradient[c] = from_float<T>(c < classes ? loss_scale * (float)value : 0);
    }
}

extern "C" cudaError_t gpu_output_gradient_launch(gpu_output_kind kind, uint32_t a, uint32_t b, gpu_type type,
                                                  uint32_t pairs, uint32_t classes, const float *logits,
                                                  const int32_t *label, const uint32_t *example, float loss_scale,
                                                  void *gradient, cudaStream_t stream) {
    if (!pairs || !output_valid(kind, a, b, classes)) return cudaErrorInvalidValue;
    return with_vectors(type, classes, [&](auto vector) {
        using T = typename decltype(vector)::element;
        return gpu_launch(output_gradient_kernel<T>, dim3(blocks_of(pairs, OUTPUT_WARPS)), dim3(OUTPUT_WARPS * 32), 0,
                          stream, kind, a, b, pairs, classes, gpu_stride(classes), logits, label, example, loss_scale,
                          static_cast<T *>(gradient));
    });
}

/* ---------------------------------------------------------------------------------------- language models */

/* What a position's numbers count for: outputs are linear in them (next_weights of outputs.c). */
struct next_weights {
    float logit, largest, logsum;
};

static GPU_INLINE next_weights weights_of(gpu_output_kind kind) {
    if (kind == GPU_OUTPUT_LOSS) return {-1, 0, 1};
    return {1, kind == GPU_OUTPUT_MARGIN ? -1.0f : 0.0f, 0};
}

/* Numbers that count for nothing are not read: the largest other logit may be infinite where the next one is not. */
static GPU_INLINE double next_value(gpu_output_kind kind, const float *numbers) {
    const double logit = numbers[GPU_NEXT_LOGIT];
    if (kind == GPU_OUTPUT_MARGIN) return logit - numbers[GPU_NEXT_LARGEST];
    return kind == GPU_OUTPUT_LOSS ? numbers[GPU_NEXT_LOGSUM] - logit : logit;
}

/* One warp per pair, as above. */
static __global__ void __launch_bounds__(OUTPUT_WARPS * 32)
    next_output_kernel(gpu_output_kind kind, uint32_t pairs, uint32_t tokens, const float *values,
                       const int32_t *length, const uint32_t *example, float *out) {
    const uint32_t lane = threadIdx.x % 32, pair = blockIdx.x * OUTPUT_WARPS + threadIdx.x / 32;
    if (pair >= pairs) return; /* whole warps */
    const float *row = values + (size_t)pair * tokens * GPU_NEXT_CHANNELS;
    const uint32_t positions = (uint32_t)length[example[pair]] - 1;
    double sum = 0;
    for (uint32_t t = lane; t < positions; t += 32) sum += next_value(kind, row + (size_t)t * GPU_NEXT_CHANNELS);
    sum = sum_of_warp(sum);
    if (lane == 0) out[pair] = (float)(sum / positions);
}

static bool next_valid(gpu_output_kind kind, uint32_t pairs, uint32_t tokens) {
    return pairs && tokens > 1 && (kind == GPU_OUTPUT_MARGIN || kind == GPU_OUTPUT_LOGIT || kind == GPU_OUTPUT_LOSS);
}

extern "C" cudaError_t gpu_next_output_launch(gpu_output_kind kind, uint32_t pairs, uint32_t tokens,
                                              const float *values, const int32_t *length, const uint32_t *example,
                                              float *out, cudaStream_t stream) {
    if (!next_valid(kind, pairs, tokens)) return cudaErrorInvalidValue;
    return gpu_launch(next_output_kernel, dim3(blocks_of(pairs, OUTPUT_WARPS)), dim3(OUTPUT_WARPS * 32), 0, stream,
                      kind, pairs, tokens, values, length, example, out);
}

/* One thread per position. */
static __global__ void __launch_bounds__(VECTOR_THREADS)
    next_gradient_kernel(gpu_output_kind kind, uint32_t tokens, const int32_t *length, const uint32_t *example,
                         float loss_scale, float *gradient, uint32_t items) {
    using V = channel_vector<float, GPU_NEXT_CHANNELS>;
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const uint32_t positions = (uint32_t)length[example[item / tokens]] - 1;
    const next_weights w = weights_of(kind);
    const double share = item % tokens < positions ? 1.0 / positions : 0;
    V out = {};
    out.at[GPU_NEXT_LOGIT] = loss_scale * (float)(w.logit * share);
    out.at[GPU_NEXT_LARGEST] = loss_scale * (float)(w.largest * share);
    out.at[GPU_NEXT_LOGSUM] = loss_scale * (float)(w.logsum * share);
    store_vector(gradient, item, out);
}

extern "C" cudaError_t gpu_next_gradient_launch(gpu_output_kind kind, uint32_t pairs, uint32_t tokens,
                                                const int32_t *length, const uint32_t *example, float loss_scale,
                                                float *gradient, cudaStream_t stream) {
    const size_t positions = (size_t)pairs * tokens;
    if (!next_valid(kind, pairs, tokens) || !items_fit(positions, 1)) return cudaErrorInvalidValue;
    return gpu_launch(next_gradient_kernel, dim3(blocks_of(positions, VECTOR_THREADS)), dim3(VECTOR_THREADS), 0, stream,
                      kind, tokens, length, example, loss_scale, gradient, (uint32_t)positions);
}

/* ------------------------------------------------------------------------------------------- channel sums */

constexpr int SUM_THREADS = 128, SUM_ROWS = 64, SUM_LANES = 32, SUM_STAGES = 3;

template <class T> struct alignas(16) sum_row { T at[SUM_LANES]; };

/* Starts copying the rows first .. first + SUM_ROWS - 1 of channels c0 .. c0 + SUM_LANES - 1, as far as both exist. */
template <class V>
static GPU_INLINE void load_rows(sum_row<typename V::element> *tile, const void *x, size_t first, size_t rows,
                                 uint32_t c0, uint32_t stride) {
    constexpr int VECTORS = SUM_LANES / V::width;
    const uint32_t column = threadIdx.x % VECTORS * V::width;
    if (c0 + column < stride)
        for (int r = threadIdx.x / VECTORS; r < SUM_ROWS && first + r < rows; r += SUM_THREADS / VECTORS)
            cp_async<sizeof(V)>(&tile[r].at[column],
                                static_cast<const V *>(x) + ((first + r) * stride + c0 + column) / V::width, sizeof(V));
    cp_async_commit();
}

template <class V>
static __global__ void __launch_bounds__(SUM_THREADS)
    channel_sums_kernel(const void *x, size_t rows, uint32_t channels, uint32_t stride, double *sums) {
    GPU_SHARED(sum_row<typename V::element>, tile, [SUM_STAGES][SUM_ROWS]);
    const uint32_t c0 = blockIdx.x * SUM_LANES, c = c0 + threadIdx.x;
    const bool adds = threadIdx.x < SUM_LANES && c < channels;
    double sum = adds ? sums[c] : 0;
    for (int s = 0; s < SUM_STAGES - 1; s++) load_rows<V>(tile[s], x, (size_t)s * SUM_ROWS, rows, c0, stride);
    int stage = 0;
    for (size_t first = 0; first < rows; first += SUM_ROWS) {
        const int free = (stage + SUM_STAGES - 1) % SUM_STAGES; /* added before the barrier that follows */
        cp_async_wait<SUM_STAGES - 2>();
        __syncthreads();
        load_rows<V>(tile[free], x, first + (SUM_STAGES - 1) * SUM_ROWS, rows, c0, stride);
        const int count = rows - first < SUM_ROWS ? (int)(rows - first) : SUM_ROWS;
        for (int r = 0; adds && r < count; r++) sum += to_float(tile[stage][r].at[threadIdx.x]);
        stage = (stage + 1) % SUM_STAGES;
    }
    if (adds) sums[c] = sum;
}

extern "C" cudaError_t gpu_channel_sums_launch(gpu_type type, bool wide, uint32_t pairs, uint32_t positions,
                                               uint32_t channels, const void *x, double *sums, cudaStream_t stream) {
    if (!pairs || !positions || !channels) return cudaErrorInvalidValue;
    return with_vectors(wide ? GPU_F32 : type, channels, [&](auto vector) {
        using V = decltype(vector);
        return gpu_launch(channel_sums_kernel<V>, dim3(blocks_of(channels, SUM_LANES)), dim3(SUM_THREADS), 0, stream, x,
                          (size_t)pairs * positions, channels, gpu_stride(channels), sums);
    });
}
