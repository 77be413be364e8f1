/*
 * next.c - OP_NEXT: a vocabulary of logits for some positions of a batch at a time, of which four numbers a position
 * are left (kernels.h, gpu_next).
 *
 * Products are those of a linear layer by our own kernels, whose forms follow from the shape by rule; how many
 * positions are taken at once decides no bits. Backwards, outputs that are made of single logits (margin, logit) need
 * two rows of the weight a position and no products. The loss's gradient has a part in every logit: they are made once
 * more, become gradients, and go through the transposed weight; sums over so many tokens are cut into parts, by the
 * vocabulary alone.
 *
 * Must not know: where memory comes from, masks, runs.
 */
#include "backend/cuda/cuda.h"

_Static_assert((int)NEXT_CHANNELS == (int)GPU_NEXT_CHANNELS && (int)NEXT_LOGIT == (int)GPU_NEXT_LOGIT &&
                   (int)NEXT_LARGEST == (int)GPU_NEXT_LARGEST && (int)NEXT_LOGSUM == (int)GPU_NEXT_LOGSUM &&
                   (int)NEXT_OTHER == (int)GPU_NEXT_OTHER,
               "the kernels' numbers are those of the graph");

/* Bytes of logits at once, and positions beyond which a device is filled no better. The weight is read for each block
 * of positions once more: with GPT-2's 50,257 tokens and 768 channels 77 MB for 640 positions, beside their 129 MB of
 * logits, which no cache holds until they are read. */
#define LOGITS_BYTES ((size_t)128 << 20)
#define POSITIONS_MAX 4096

/* Positions are taken in multiples of this, the rows of a kernel's smallest tile. */
#define POSITIONS_STEP 64

/* Tokens whose gradients are one partial sum: the result has few tiles, and these fill the device. */
#define TOKENS_PER_SPLIT 4096
#define SPLITS_MAX 16

/* Of a block's workspace. */
#define ALIGNMENT 256

/* ------------------------------------------------------------------------------------------- shapes */

static size_t positions_of(const cuda_layer *layer, uint32_t pairs) {
    return shape_positions(layer->in) * pairs;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* How many positions of a batch are taken at once. */
static uint32_t positions_at_once(const cuda_layer *layer, uint32_t pairs) {
    const size_t row = gpu_stride(layer->op->vocabulary) * sizeof(float), all = positions_of(layer, pairs);
    const size_t fit = larger(LOGITS_BYTES / row / POSITIONS_STEP * POSITIONS_STEP, POSITIONS_STEP);
    const size_t most = fit < POSITIONS_MAX ? fit : POSITIONS_MAX;
    return (uint32_t)(all < most ? all : most);
}

/* The products of so many positions: a linear layer that each of them is a pair of. */
static gpu_conv products_of(const cuda_backend *b, uint32_t positions, uint32_t inputs, uint32_t outputs) {
    return (gpu_conv){.type = b->type,
                      .pairs = positions,
                      .in_h = 1,
                      .in_w = 1,
                      .in_channels = inputs,
                      .out_h = 1,
                      .out_w = 1,
                      .out_channels = outputs,
                      .kernel_h = 1,
                      .kernel_w = 1,
                      .stride = 1,
                      .splits = 1};
}

static gpu_conv logits_of(const cuda_backend *b, const cuda_layer *layer, uint32_t positions) {
    gpu_conv c = products_of(b, positions, layer->in.c, layer->op->vocabulary);
    c.weight = layer->weight;
    c.wide = true;
    return c;
}

/* From the logits' gradients to those of what they are made of. */
static gpu_conv back_of(const cuda_backend *b, const cuda_layer *layer, uint32_t positions) {
    gpu_conv c = products_of(b, positions, layer->op->vocabulary, layer->in.c);
    const uint32_t splits = layer->op->vocabulary / TOKENS_PER_SPLIT + 1;
    c.weight = layer->transposed;
    c.splits = splits < SPLITS_MAX ? splits : SPLITS_MAX;
    return c;
}

coar_status cuda_next_describe(const cuda_backend *b, cuda_layer *layer) {
    const uint32_t positions = positions_at_once(layer, CUDA_TYPICAL_PAIRS);
    const gpu_conv logits = logits_of(b, layer, positions), back = back_of(b, layer, positions);
    layer->form = cuda_choose_own_form(&logits);
    layer->data_form = cuda_choose_own_form(&back);
    if (gpu_conv_can(&logits, layer->form) && gpu_conv_can(&back, layer->data_form)) return COAR_OK;
    return status_set(COAR_ERROR_UNSUPPORTED,
                      "layer '%s': the cuda backend cannot compute logits of %u tokens from %u channels",
                      layer->op->name, layer->op->vocabulary, layer->in.c);
}

/* Whether every logit has a part in an output. */
static bool reads_all(const cuda_backend *b, size_t output) {
    return b->outputs[output].kind == OUTPUT_LOSS;
}

bool cuda_next_wants_transposed(const cuda_backend *b, const cuda_layer *layer) {
    bool all = false;
    for (size_t k = 0; k < b->settings.output_count; k++) all |= reads_all(b, k);
    return all && layer->op->kind == OP_NEXT && b->settings.reverse && b->tape.step[layer - b->layers].active;
}

/* ---------------------------------------------------------------------------------------- workspace */

/* Parts of the workspace of a block of positions, in bytes from its start. */
typedef struct next_space {
    size_t gradients; /* of the logits, which are the first part: the same place in fp32 */
    size_t partial;   /* of the transposed product */
    size_t bytes;
} next_space;

static size_t aligned(size_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static next_space space_of(const cuda_backend *b, const cuda_layer *layer, uint32_t positions, bool backwards) {
    const size_t count = (size_t)positions * gpu_stride(layer->op->vocabulary), size = gpu_type_size(b->type);
    const gpu_conv back = back_of(b, layer, positions);
    next_space s = {.bytes = aligned(count * sizeof(float))};
    if (!backwards) return s;
    s.gradients = size == sizeof(float) ? 0 : s.bytes;
    s.partial = size == sizeof(float) ? s.bytes : s.bytes + aligned(count * size);
    s.bytes = s.partial + gpu_conv_workspace(&back);
    return s;
}

size_t cuda_next_workspace(const cuda_backend *b, const cuda_layer *layer, uint32_t pairs) {
    return space_of(b, layer, positions_at_once(layer, pairs), cuda_next_wants_transposed(b, layer)).bytes;
}

/* ------------------------------------------------------------------------------------------- passes */

/* Some positions of a pass. */
static gpu_next block_of(const cuda_pass *pass, const cuda_layer *layer, size_t first, uint32_t most) {
    const size_t left = positions_of(layer, pass->pairs) - first;
    return (gpu_next){.type = pass->b->type,
                      .first = (uint32_t)first,
                      .rows = left < most ? (uint32_t)left : most,
                      .tokens = (uint32_t)shape_positions(layer->in),
                      .vocabulary = layer->op->vocabulary,
                      .token = pass->b->inputs,
                      .example = pass->example,
                      .logits = pass->batch->workspace,
                      .y = pass->batch->logits};
}

/* The position in a value, or gradient, that a block begins with. */
static void *position_in(const cuda_pass *pass, const cuda_layer *layer, void *value, const gpu_next *n) {
    return (char *)value + (size_t)n->first * gpu_stride(layer->in.c) * gpu_type_size(pass->b->type);
}

static coar_status launch_logits(const cuda_pass *pass, const cuda_layer *layer, const gpu_next *n) {
    gpu_conv c = logits_of(pass->b, layer, n->rows);
    c.x = position_in(pass, layer, cuda_value(pass, layer->op->input[0]), n);
    c.y = pass->batch->workspace;
    return cuda_launched(pass, layer, gpu_conv_launch(&c, layer->form, pass->stream));
}

coar_status cuda_next_forward(const cuda_pass *pass, const cuda_layer *layer) {
    const size_t all = positions_of(layer, pass->pairs);
    const uint32_t most = positions_at_once(layer, pass->pairs);
    for (size_t first = 0; first < all; first += most) {
        const gpu_next n = block_of(pass, layer, first, most);
        TRY(launch_logits(pass, layer, &n));
        TRY(cuda_launched(pass, layer, gpu_next_launch(&n, pass->stream)));
    }
    return COAR_OK;
}

/* The logits of a block once more, their gradients, and what those are for dx. */
static coar_status reverse_block(const cuda_pass *pass, const cuda_layer *layer, const gpu_next *n, const float *dy,
                                 void *dx, bool add) {
    const next_space space = space_of(pass->b, layer, n->rows, true);
    char *gradients = (char *)pass->batch->workspace + space.gradients;
    gpu_conv c = back_of(pass->b, layer, n->rows);
    TRY(launch_logits(pass, layer, n));
    TRY(cuda_launched(pass, layer, gpu_next_reverse_launch(n, dy, gradients, pass->stream)));
    c.x = gradients;
    c.y = position_in(pass, layer, dx, n);
    c.residual = add ? c.y : NULL;
    c.workspace = (float *)((char *)pass->batch->workspace + space.partial);
    return cuda_launched(pass, layer, gpu_conv_launch(&c, layer->data_form, pass->stream));
}

coar_status cuda_next_reverse(const cuda_pass *pass, const cuda_layer *layer, size_t output, const float *dy, void *dx,
                              bool add) {
    const size_t all = positions_of(layer, pass->pairs);
    const uint32_t most = positions_at_once(layer, pass->pairs);
    if (!reads_all(pass->b, output)) {
        const gpu_next n = block_of(pass, layer, 0, UINT32_MAX);
        return cuda_launched(pass, layer,
                             gpu_next_picked_launch(&n, dy, layer->in.c, layer->weight, dx, add, pass->stream));
    }
    for (size_t first = 0; first < all; first += most) {
        const gpu_next n = block_of(pass, layer, first, most);
        TRY(reverse_block(pass, layer, &n, dy, dx, add));
    }
    return COAR_OK;
}
