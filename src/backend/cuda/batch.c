/*
 * batch.c - the (mask, example) pairs of a run as batches.
 *
 * Three streams: masks go up on `upload`, everything from mask bits to outputs and gradients runs on `compute`, these
 * come down on `download`. Two lanes of staging take turns; of one lane's batch
 *   uploaded    is waited for by compute: the masks are there
 *   computed    by download: the outputs are there
 *   downloaded  by the host before it touches the lane again. By then compute has read the lane's inputs, and upload
 *               has read its pinned twin, so nothing else needs to be waited for.
 *
 * The first batch of a shape is launched op by op, each waited for: a failure is then known by its op, and kernels
 * are loaded outside of any capture. From the second on it is a graph; those of the latest shapes are kept.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"

/* ------------------------------------------------------------------------------------------ shapes */

static bool same_shape(const cuda_shape *a, const cuda_shape *b) {
    return a->pairs == b->pairs && a->slots == b->slots && a->source == b->source && a->seed == b->seed &&
           a->threshold == b->threshold && a->stream == b->stream && a->kind == b->kind && a->output == b->output;
}

/* Batches of equal size, so that one graph serves them and hardly a pair is computed twice. */
static uint32_t pairs_per_batch(size_t total, uint32_t most) {
    const size_t batches = (total + most - 1) / most;
    return (uint32_t)((total + batches - 1) / batches);
}

/* Masks in the form in which they go up. */
static cuda_shape shape_of_masks(const mask_range *masks) {
    const sampler *s = masks->sampler;
    cuda_shape shape = {0};
    shape.source = masks->keeps ? SOURCE_VALUES : s && s->kind == SAMPLER_BERNOULLI ? SOURCE_PHILOX : SOURCE_BITS;
    if (shape.source == SOURCE_PHILOX) {
        shape.seed = s->seed;
        shape.stream = s->stream;
        shape.threshold = sampler_threshold(s->alpha);
    }
    return shape;
}

static uint32_t room_for_masks(const cuda_batch *batch, const cuda_shape *shape) {
    return shape->source == SOURCE_VALUES ? batch->value_slots : batch->slots;
}

/* Batches that begin anywhere in a mask. */
static cuda_shape shape_of(const cuda_backend *b, const cuda_batch *batch, const mask_range *masks) {
    const uint32_t planned = cuda_planned_pairs(b, batch->mode);
    cuda_shape shape = shape_of_masks(masks);
    const uint32_t room = room_for_masks(batch, &shape);
    shape.pairs = planned ? planned : pairs_per_batch(masks->count * b->examples, batch->pairs);
    const size_t touched = shape.pairs < 2 ? 1 : (shape.pairs - 2) / b->examples + 2;
    const size_t slots = touched < masks->count ? touched : masks->count;
    shape.slots = slots < room ? (uint32_t)slots : room;
    return shape;
}

/* Batches of whole masks: what an example adds depends on the one before it. No batch is smaller than a path. */
static cuda_shape shape_of_paths(const cuda_backend *b, const cuda_batch *batch, const mask_range *masks) {
    cuda_shape shape = shape_of_masks(masks);
    const uint32_t room = room_for_masks(batch, &shape), fit = batch->pairs / b->examples;
    shape.slots = pairs_per_batch(masks->count, fit < room ? fit : room);
    shape.pairs = shape.slots * b->examples;
    return shape;
}

/* -------------------------------------------------------------------------------------------- lanes */

static void forget(cuda_known *known) {
    for (int i = 0; i < CUDA_LANES; i++)
        if (known->graph[i]) (void)cudaGraphExecDestroy(known->graph[i]);
    *known = (cuda_known){0};
}

void cuda_batches_free_graphs(cuda_backend *b) {
    for (int mode = 0; mode < CUDA_MODES; mode++)
        for (int i = 0; i < CUDA_SHAPES; i++) forget(&b->batch[mode].known[i]);
}

/* NULL: not known. */
static cuda_known *find_known(cuda_batch *batch, const cuda_shape *shape) {
    for (int i = 0; i < CUDA_SHAPES; i++)
        if (same_shape(&batch->known[i].shape, shape)) return &batch->known[i];
    return NULL;
}

/* No graph is under way that is forgotten here: a call has one shape, and has ended before another begins. */
static void remember(cuda_batch *batch, const cuda_shape *shape) {
    cuda_known *known = &batch->known[batch->oldest];
    batch->oldest = (batch->oldest + 1) % CUDA_SHAPES;
    forget(known);
    known->shape = *shape;
}

/* One call of run or run_reverse. */
typedef struct run_call {
    cuda_backend *b;
    cuda_batch *batch;
    const mask_range *masks;
    cuda_shape shape;
    size_t total;        /* pairs */
    size_t output_count; /* 1 of a reverse pass */
    float *outputs;      /* [output_count][total]; NULL = not wanted */
    float *gradients;    /* [total][n]; NULL but for a reverse pass */
    void *scratch;       /* of the sampler */
} run_call;

static void copy_masks(const run_call *call, cuda_lane *lane, size_t first_mask, size_t count) {
    const mask_range *m = call->masks;
    const size_t bytes = mask_bytes(m->n);
    switch (call->shape.source) {
    case SOURCE_PHILOX:
        *lane->host.first = m->first + first_mask;
        break;
    case SOURCE_BITS:
        for (size_t s = 0; m->sampler && s < count; s++)
            sampler_mask(m->sampler, m->first + first_mask + s, (uint8_t *)lane->host.masks + s * bytes, call->scratch);
        if (!m->sampler) memcpy(lane->host.masks, m->bits + first_mask * bytes, count * bytes);
        break;
    case SOURCE_VALUES:
        memcpy(lane->host.masks, m->keeps + first_mask * m->n, count * m->n * sizeof *m->keeps);
        break;
    case SOURCE_NONE:
        break;
    }
}

static size_t mask_block_bytes(const run_call *call, size_t masks) {
    const uint32_t n = call->masks->n;
    const cuda_source source = call->shape.source;
    return source == SOURCE_BITS ? masks * mask_bytes(n) : source == SOURCE_VALUES ? masks * n * sizeof(float) : 0;
}

/* Pairs from `first` on into the lane's pinned block; what it takes up in bytes. */
static size_t fill_lane(const run_call *call, cuda_lane *lane, size_t first) {
    const size_t examples = call->b->examples, first_mask = first / examples;
    const size_t end = (first_mask + call->shape.slots) * examples; /* no room for further masks */
    const size_t limit = end < call->total ? end : call->total;
    lane->first = first;
    lane->count = limit - first < call->shape.pairs ? (uint32_t)(limit - first) : call->shape.pairs;
    for (uint32_t p = 0; p < call->shape.pairs; p++) {
        const size_t pair = first + (p < lane->count ? p : lane->count - 1);
        lane->host.slot[p] = (uint32_t)(pair / examples - first_mask);
        lane->host.example[p] = (uint32_t)(pair % examples);
    }
    const size_t masks = (first + lane->count - 1) / examples - first_mask + 1;
    copy_masks(call, lane, first_mask, masks);
    return call->batch->input_header + mask_block_bytes(call, masks);
}

/* ------------------------------------------------------------------------------------------ compute */

static coar_status expand_keeps(const cuda_backend *b, const cuda_batch *batch, const cuda_lane *lane,
                                const cuda_shape *shape) {
    const graph *g = b->settings.graph;
    const float gain = b->settings.ablation.gain;
    cudaError_t error = cudaSuccess;
    if (!g->rows) return COAR_OK;
    if (shape->source == SOURCE_PHILOX)
        error = gpu_keep_from_philox_launch(shape->seed, shape->stream, lane->device.first, shape->threshold, gain,
                                            b->component, g->rows, shape->slots, batch->keep, b->compute);
    else if (shape->source == SOURCE_VALUES)
        error = gpu_keep_from_values_launch(lane->device.masks, g->components, b->component, g->rows, shape->slots,
                                            batch->keep, b->compute);
    else
        error = gpu_keep_from_bits_launch(lane->device.masks, (uint32_t)mask_bytes(g->components), gain, b->component,
                                          g->rows, shape->slots, batch->keep, b->compute);
    return cuda_error(error, "keeps of %u masks of %u components (compute stream)", shape->slots, g->components);
}

static gpu_output_kind output_kind_of(output_kind kind) {
    static const gpu_output_kind kinds[] = {
        [OUTPUT_MARGIN] = GPU_OUTPUT_MARGIN,     [OUTPUT_LOGIT] = GPU_OUTPUT_LOGIT,
        [OUTPUT_LOGIT_CLASS] = GPU_OUTPUT_CLASS, [OUTPUT_LOGIT_DIFFERENCE] = GPU_OUTPUT_DIFFERENCE,
        [OUTPUT_LOSS] = GPU_OUTPUT_LOSS,
    };
    return kinds[kind];
}

/* outputs [pairs] of the logits. */
static coar_status enqueue_output(const cuda_pass *pass, size_t output, float *outputs) {
    const cuda_backend *b = pass->b;
    const output_spec *o = &b->outputs[output];
    const shape s = b->settings.graph->values[b->settings.graph->logits];
    const gpu_output_kind kind = output_kind_of(o->kind);
    const cudaError_t error = b->settings.graph->vocabulary
                                  ? gpu_next_output_launch(kind, pass->pairs, s.w, pass->batch->logits, b->labels,
                                                           pass->example, outputs, pass->stream)
                                  : gpu_output_launch(kind, o->a, o->b, pass->pairs, s.c, pass->batch->logits,
                                                      b->labels, pass->example, outputs, pass->stream);
    return cuda_error(error, "output '%s' of a batch of %u (compute stream)", o->name, pass->pairs);
}

/* The output's derivative: seed [pairs] of the logits' gradients on the tape. */
static coar_status enqueue_seed(const cuda_pass *pass, size_t output, void *seed) {
    const cuda_backend *b = pass->b;
    const output_spec *o = &b->outputs[output];
    const shape s = b->settings.graph->values[b->settings.graph->logits];
    const gpu_output_kind kind = output_kind_of(o->kind);
    const cudaError_t error =
        b->settings.graph->vocabulary
            ? gpu_next_gradient_launch(kind, pass->pairs, s.w, b->labels, pass->example, cuda_loss_scale(b), seed,
                                       pass->stream)
            : gpu_output_gradient_launch(kind, o->a, o->b, b->type, pass->pairs, s.c, pass->batch->logits, b->labels,
                                         pass->example, cuda_loss_scale(b), seed, pass->stream);
    return cuda_error(error, "gradient of output '%s' of a batch of %u (compute stream)", o->name, pass->pairs);
}

/* Components that no gradient reaches have none: their sums are nobody's to write. */
static coar_status enqueue_reverse(const cuda_pass *pass, const cuda_lane *lane, const cuda_shape *shape) {
    const cuda_backend *b = pass->b;
    const graph *g = b->settings.graph;
    void *seed = cuda_tape_at(pass, b->tape.gradient[g->logits]);
    TRY(enqueue_output(pass, shape->output, lane->outputs));
    TRY_CUDA(cudaMemsetAsync(lane->gradients, 0, (size_t)pass->pairs * g->components * sizeof *lane->gradients,
                             pass->stream),
             "gradients of a batch of %u (compute stream)", pass->pairs);
    if (!seed) return COAR_OK;
    TRY(enqueue_seed(pass, shape->output, seed));
    return cuda_reverse(pass, shape->kind, shape->output, lane->gradients);
}

/* From mask bits to outputs, and gradients, enqueued on `compute`. */
static coar_status enqueue(cuda_backend *b, const cuda_batch *batch, const cuda_lane *lane, const cuda_shape *shape,
                           bool checked) {
    const cuda_pass pass = {.b = b,
                            .batch = batch,
                            .pairs = shape->pairs,
                            .count = shape->pairs,
                            .slot = lane->device.slot,
                            .example = lane->device.example,
                            .stream = b->compute,
                            .checked = checked};
    TRY(expand_keeps(b, batch, lane, shape));
    TRY(cuda_forward(&pass));
    if (batch->mode == CUDA_REVERSE) return enqueue_reverse(&pass, lane, shape);
    for (size_t k = 0; k < b->settings.output_count; k++)
        TRY(enqueue_output(&pass, k, lane->outputs + k * shape->pairs));
    return COAR_OK;
}

/* Where an op other than a convolution reads the input, it is there once for each pair. The list of examples is the
 * host's, so this stays outside of graphs; no published architecture needs it. */
static coar_status gather_input(cuda_backend *b, const cuda_batch *batch, const cuda_lane *lane, uint32_t pairs) {
    const shape s = b->settings.graph->values[0];
    const size_t bytes = shape_positions(s) * gpu_stride(s.c) * gpu_type_size(b->type);
    const cuda_pass pass = {.b = b, .batch = batch};
    if (!b->gathers) return COAR_OK;
    for (uint32_t p = 0; p < pairs; p++)
        TRY_CUDA(cudaMemcpyAsync((char *)cuda_value(&pass, 0) + p * bytes,
                                 (const char *)b->input + lane->host.example[p] * bytes, bytes,
                                 cudaMemcpyDeviceToDevice, b->compute),
                 "input of pair %u of a batch of %u (compute stream)", p, pairs);
    return COAR_OK;
}

static coar_status capture(cuda_backend *b, const cuda_batch *batch, const cuda_lane *lane, const cuda_shape *shape,
                           cudaGraphExec_t *out) {
    coar_status status;
    cudaGraph_t graph = NULL;
    TRY_CUDA(cudaStreamBeginCapture(b->compute, cudaStreamCaptureModeThreadLocal), "capturing a batch of %u",
             shape->pairs);
    status = enqueue(b, batch, lane, shape, false);
    const cudaError_t ended =
        cudaStreamEndCapture(b->compute, &graph); /* also after a failure: or the stream stays captured */
    if (status != COAR_OK) {
        (void)cudaGetLastError(); /* that the capture ended badly is no news, and not for the next launch to report */
        goto done;
    }
    TRY_CUDA_GOTO(ended, "capturing a batch of %u", shape->pairs);
    TRY_CUDA_GOTO(cudaGraphInstantiate(out, graph, 0), "the graph of a batch of %u", shape->pairs);
done:
    if (graph) (void)cudaGraphDestroy(graph);
    return status;
}

static coar_status compute(cuda_backend *b, cuda_batch *batch, cuda_lane *lane, const cuda_shape *shape) {
    TRY(gather_input(b, batch, lane, shape->pairs));
    cuda_known *known = find_known(batch, shape);
    if (!known) {
        TRY(batch->mode == CUDA_FORWARD ? cuda_layers_prepare(b, shape->pairs)
                                        : cuda_layers_prepare_reverse(b, shape->pairs));
        TRY(enqueue(b, batch, lane, shape, true));
        remember(batch, shape);
        return COAR_OK;
    }
    cudaGraphExec_t *graph = &known->graph[lane - batch->lane];
    if (!*graph) TRY(capture(b, batch, lane, shape, graph));
    TRY_CUDA(cudaGraphLaunch(*graph, b->compute), "the graph of a batch of %u (compute stream)", shape->pairs);
    return COAR_OK;
}

/* ----------------------------------------------------------------------------------------- pipeline */

static coar_status start(const run_call *call, cuda_lane *lane, size_t first) {
    cuda_backend *b = call->b;
    const size_t bytes = fill_lane(call, lane, first);
    TRY_CUDA(cudaMemcpyAsync(lane->device_block, lane->host_block, bytes, cudaMemcpyHostToDevice, b->upload),
             "masks of a batch of %u (upload stream)", call->shape.pairs);
    TRY_CUDA(cudaEventRecord(lane->uploaded, b->upload), "upload stream");
    TRY_CUDA(cudaStreamWaitEvent(b->compute, lane->uploaded, 0), "compute stream");
    TRY(compute(b, call->batch, lane, &call->shape));
    TRY_CUDA(cudaEventRecord(lane->computed, b->compute), "compute stream");
    TRY_CUDA(cudaStreamWaitEvent(b->download, lane->computed, 0), "download stream");
    TRY_CUDA(cudaMemcpyAsync(lane->host_outputs, lane->outputs,
                             call->output_count * call->shape.pairs * sizeof *lane->outputs, cudaMemcpyDeviceToHost,
                             b->download),
             "outputs of a batch of %u (download stream)", call->shape.pairs);
    if (call->gradients)
        TRY_CUDA(cudaMemcpyAsync(lane->host_gradients, lane->gradients,
                                 (size_t)lane->count * call->masks->n * sizeof *lane->gradients, cudaMemcpyDeviceToHost,
                                 b->download),
                 "gradients of a batch of %u (download stream)", call->shape.pairs);
    TRY_CUDA(cudaEventRecord(lane->downloaded, b->download), "download stream");
    return COAR_OK;
}

/* Waits for the lane's batch, if there is one, and takes its outputs and gradients. */
static coar_status finish(const run_call *call, cuda_lane *lane) {
    const cuda_backend *b = call->b;
    if (!lane->count) return COAR_OK;
    const uint32_t count = lane->count;
    lane->count = 0;
    TRY_CUDA(cudaEventSynchronize(lane->downloaded),
             "a batch of %u pairs from mask %zu of the unit on (%s, streams "
             "compute and download; CUDA_LAUNCH_BLOCKING=1 names the kernel)",
             call->shape.pairs, lane->first / b->examples, b->settings.plan->precision);
    for (size_t k = 0; call->outputs && k < call->output_count; k++)
        memcpy(call->outputs + k * call->total + lane->first, lane->host_outputs + k * call->shape.pairs,
               count * sizeof *call->outputs);
    if (call->gradients)
        memcpy(call->gradients + lane->first * call->masks->n, lane->host_gradients,
               (size_t)count * call->masks->n * sizeof *call->gradients);
    return COAR_OK;
}

/* After a failure: nothing is under way any more, so that memory may be freed and the run begun again. */
static void abandon(cuda_backend *b) {
    (void)cudaStreamSynchronize(b->upload);
    (void)cudaStreamSynchronize(b->compute);
    (void)cudaStreamSynchronize(b->download);
    for (int mode = 0; mode < CUDA_MODES; mode++)
        for (int i = 0; i < CUDA_LANES; i++) b->batch[mode].lane[i].count = 0;
}

static coar_status run_batches(run_call *call) {
    coar_status status;
    const sampler *s = call->masks->sampler;
    cuda_lane *const lanes = call->batch->lane;
    size_t batch = 0;
    TRY(memory_new(s ? sampler_scratch(s) : 0, 1, "masks", &call->scratch));
    for (size_t first = 0; first < call->total; batch++) {
        cuda_lane *lane = &lanes[batch % CUDA_LANES];
        TRY_GOTO(finish(call, lane));
        TRY_GOTO(start(call, lane, first));
        first += lane->count;
    }
    for (int i = 0; i < CUDA_LANES; i++) TRY_GOTO(finish(call, &lanes[(batch + (size_t)i) % CUDA_LANES]));
done:
    if (status != COAR_OK) abandon(call->b);
    free(call->scratch);
    return status;
}

coar_status cuda_batches_run(cuda_backend *b, const mask_range *masks, float *outputs) {
    run_call call = {.b = b,
                     .batch = &b->batch[CUDA_FORWARD],
                     .masks = masks,
                     .total = masks->count * b->examples,
                     .output_count = b->settings.output_count,
                     .outputs = outputs};
    call.shape = shape_of(b, call.batch, masks);
    return run_batches(&call);
}

coar_status cuda_batches_reverse(cuda_backend *b, reverse_kind kind, size_t output, const mask_range *masks,
                                 float *gradients, float *outputs) {
    run_call call = {.b = b,
                     .batch = &b->batch[CUDA_REVERSE],
                     .masks = masks,
                     .total = masks->count * b->examples,
                     .output_count = 1,
                     .outputs = outputs,
                     .gradients = gradients};
    call.shape = kind == REVERSE_CONDUCTANCE ? shape_of_paths(b, call.batch, masks) : shape_of(b, call.batch, masks);
    call.shape.kind = kind;
    call.shape.output = output;
    return run_batches(&call);
}

/* ----------------------------------------------------------------------------------- without masks */

coar_status cuda_batches_unablated(cuda_backend *b, uint32_t first, uint32_t count, cuda_pass *pass) {
    cuda_batch *batch = &b->batch[CUDA_FORWARD];
    cuda_lane *lane = &batch->lane[0];
    const uint32_t n = b->settings.graph->components;
    const uint32_t planned = b->settings.plan->pairs, pairs = planned ? planned : count;
    const cuda_shape shape = {.pairs = pairs, .slots = 1, .source = SOURCE_BITS};
    for (uint32_t p = 0; p < pairs; p++) {
        lane->host.slot[p] = 0;
        lane->host.example[p] = first + (p < count ? p : count - 1);
    }
    memset(lane->host.masks, 0xff, mask_bytes(n));
    *pass = (cuda_pass){.b = b,
                        .batch = batch,
                        .pairs = pairs,
                        .count = count,
                        .slot = lane->device.slot,
                        .example = lane->device.example,
                        .stream = b->compute};
    TRY_CUDA(cudaMemcpyAsync(lane->device_block, lane->host_block, batch->input_header + mask_bytes(n),
                             cudaMemcpyHostToDevice, b->compute),
             "a batch of %u without masks (compute stream)", count);
    TRY(gather_input(b, batch, lane, pairs));
    TRY(cuda_layers_prepare(b, pairs));
    return expand_keeps(b, batch, lane, &shape);
}

static coar_status logits_of(cuda_backend *b, uint32_t first, uint32_t count, float *padded, float *logits) {
    const size_t stride = b->logits_stride, kept = graph_logits(b->settings.graph, 1).count;
    cuda_pass pass;
    TRY(cuda_batches_unablated(b, first, count, &pass));
    TRY(cuda_forward(&pass));
    TRY_CUDA(cudaMemcpyAsync(padded, pass.batch->logits, count * stride * sizeof *padded, cudaMemcpyDeviceToHost,
                             b->compute),
             "logits of %u examples (compute stream)", count);
    TRY_CUDA(cudaStreamSynchronize(b->compute), "logits of %u examples (compute stream)", count);
    for (uint32_t p = 0; p < count; p++)
        memcpy(logits + (first + p) * kept, padded + p * stride, kept * sizeof *logits);
    return COAR_OK;
}

coar_status cuda_batches_logits(cuda_backend *b, float *logits) {
    coar_status status = COAR_OK;
    const uint32_t pairs = pairs_per_batch(b->examples, b->batch[CUDA_FORWARD].pairs);
    float *padded = NULL;
    TRY(memory_new(pairs, b->logits_stride * sizeof *padded, "logits", &padded));
    for (uint32_t first = 0; first < b->examples; first += pairs) {
        const uint32_t left = b->examples - first;
        TRY_GOTO(logits_of(b, first, left < pairs ? left : pairs, padded, logits));
    }
done:
    if (status != COAR_OK) abandon(b);
    free(padded);
    return status;
}
