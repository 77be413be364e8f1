/*
 * cuda.c - the cuda backend's interface: prepare, bind, run, run_reverse, logits, destroy.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_fit.h"
#include "backend/cuda/cuda_library_engine.h"
#include "backend/cuda/cuda_nccl.h"

/* ------------------------------------------------------------------------------------ preparation */

/* The logits are fp32 in a buffer of their own: so a convolution or an OP_NEXT makes them, and nobody reads them again. */
static coar_status check_logits(const graph *g) {
    const op *last = &g->ops[g->logits - 1];
    bool read = false;
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        for (int k = 0; k < 3; k++) read |= o->input[k] == g->logits;
        read |= o->residual == g->logits;
    }
    if ((last->kind == OP_CONV || last->kind == OP_NEXT) && !read) return COAR_OK;
    return status_set(COAR_ERROR_UNSUPPORTED,
                      "layer '%s': the cuda backend wants logits that a linear layer makes and no other layer reads",
                      last->name);
}

static coar_status check_settings(const backend_settings *s, const cuda_device *device) {
    const char *layer = s->plan->layers ? s->plan->name[0] : "";
    if (s->path_examples > PATH_EXAMPLES_MAX || s->path_examples > s->examples_max)
        return status_set(COAR_ERROR_INTERNAL, "cuda: paths of %u examples, of %u at once", s->path_examples,
                          s->examples_max);
    if (s->output_count > OUTPUTS_MAX || s->plan->layers != s->graph->op_count)
        return status_set(COAR_ERROR_INTERNAL, "cuda: %zu outputs, a plan of %zu layers for a model of %zu",
                          s->output_count, s->plan->layers, s->graph->op_count);
    if (strcmp(s->plan->device_class, device->device_class))
        return status_set(COAR_ERROR_MISMATCH, "layer '%s': its plan is for device class %s, but device %d is %s",
                          layer, s->plan->device_class, s->device, device->device_class);
    return check_logits(s->graph);
}

static coar_status describe(const backend_settings *s, cuda_backend *b) {
    const graph *g = s->graph;
    const shape input = g->values[0], logits = g->values[g->logits];
    *b = (cuda_backend){.base.interface = &backend_cuda,
                        .settings = *s,
                        .logits_stride = shape_positions(logits) * gpu_stride(logits.c),
                        .input_bytes = graph_input_bytes(g)};
    TRY(cuda_device_open(s->device, &b->device));
    TRY(check_settings(s, &b->device));
    if (!precision_parse(s->plan->precision, &b->precision))
        return status_set(COAR_ERROR_MISMATCH, "cuda: no precision '%s'", s->plan->precision);
    b->type = cuda_type(s->plan);
    memcpy(b->outputs, s->outputs, s->output_count * sizeof *s->outputs);
    if (!s->memory) TRY(cuda_device_memory(s->device, &b->settings.memory));
    TRY(memory_new(g->op_count, sizeof *b->layers, "cuda backend", &b->layers));
    TRY(cuda_layers_describe(b));
    TRY(buffer_plan_create(g, false, &b->buffers));
    if (s->reverse) TRY(cuda_tape_create(g, gpu_type_size(b->type), b->gathers, &b->tape));
    TRY(memory_new(b->buffers.buffers, sizeof *b->buffer_bytes, "cuda backend", &b->buffer_bytes));
    TRY(memory_new(b->buffers.buffers, sizeof(void *), "cuda backend", &b->batch[CUDA_FORWARD].buffer));
    TRY(memory_new(input.c, sizeof *b->mul, "cuda backend", &b->mul));
    TRY(memory_new(input.c, sizeof *b->add, "cuda backend", &b->add));
    TRY(memory_new(s->examples_max, sizeof *b->host_scale, "cuda backend", &b->host_scale));
    TRY(memory_new(s->examples_max, sizeof *b->host_labels, "cuda backend", &b->host_labels));
    return cuda_retry_plan(b);
}

coar_status cuda_describe(const backend_settings *s, cuda_backend **out) {
    cuda_backend *b;
    *out = NULL;
    TRY(memory_new(1, sizeof *b, "cuda backend", &b));
    coar_status status = describe(s, b);
    if (status == COAR_OK)
        *out = b;
    else
        cuda_destroy(&b->base);
    return status;
}

void cuda_destroy(backend *base) {
    if (!base) return;
    cuda_backend *b = cuda_self(base);
    cudaStream_t *const streams[] = {&b->compute, &b->upload, &b->download};
    if (b->device.major) (void)cudaSetDevice(b->device.index); /* 0: never opened, and nothing is on it */
    if (b->fp32) cuda_destroy(&b->fp32->base);
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
        if (*streams[i]) (void)cudaStreamSynchronize(*streams[i]); /* a run that failed may have left work behind */
    cuda_memory_free(b);
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
        if (*streams[i]) (void)cudaStreamDestroy(*streams[i]);
    cuda_layers_release(b);
    plan_free(&b->fp32_plan);
    buffer_plan_free(&b->buffers);
    cuda_tape_free(&b->tape);
    free(b->buffer_bytes);
    free(b->layers);
    free(b->mul);
    free(b->add);
    free(b->host_scale);
    free(b->host_labels);
    free(b);
}

static coar_status cuda_memory(const backend_settings *s, size_t *least, size_t *best) {
    cuda_backend *b;
    TRY(cuda_describe(s, &b));
    cuda_memory_sizes(b, least, best);
    cuda_destroy(&b->base);
    return COAR_OK;
}

/* Row r of the keeps is the component that channel r of all masked channels belongs to. */
static coar_status upload_tables(cuda_backend *b) {
    coar_status status = COAR_OK;
    const graph *g = b->settings.graph;
    uint32_t *component = NULL;
    if (!g->rows) return COAR_OK;
    TRY(memory_new(g->rows, sizeof *component, "components of rows", &component));
    for (size_t i = 0; i < g->op_count; i++) {
        const mask_site *m = &g->ops[i].mask;
        if (m->place == PLACE_NONE) continue;
        for (uint32_t c = 0; c < m->count * m->width; c++) component[m->row_first + c] = m->first + c / m->width;
    }
    TRY_CUDA_GOTO(cudaMemcpy(b->component, component, g->rows * sizeof *component, cudaMemcpyHostToDevice),
                  "components of rows");
    if (b->fill)
        TRY_CUDA_GOTO(cudaMemcpy(b->fill, b->settings.ablation.fill, g->rows * sizeof *b->fill, cudaMemcpyHostToDevice),
                      "means of rows");
done:
    free(component);
    return status;
}

static coar_status fill_device(cuda_backend *b) {
    TRY_CUDA(cudaStreamCreateWithFlags(&b->compute, cudaStreamNonBlocking), "CUDA stream");
    TRY_CUDA(cudaStreamCreateWithFlags(&b->upload, cudaStreamNonBlocking), "CUDA stream");
    TRY_CUDA(cudaStreamCreateWithFlags(&b->download, cudaStreamNonBlocking), "CUDA stream");
    TRY(cuda_memory_allocate(b));
    TRY(cuda_layers_upload(b));
    TRY(upload_tables(b));
    /* A copy from pageable memory may return before it has arrived, and streams of this kind do not wait for the
     * default one. */
    TRY_CUDA(cudaDeviceSynchronize(), "upload of weights");
    return COAR_OK;
}

coar_status cuda_create(const backend_settings *s, cuda_backend **out) {
    cuda_backend *b;
    *out = NULL;
    TRY(cuda_describe(s, &b));
    coar_status status = fill_device(b);
    if (status == COAR_OK)
        *out = b;
    else
        cuda_destroy(&b->base);
    return status;
}

static coar_status cuda_prepare(const backend_settings *s, backend **out) {
    cuda_backend *b;
    *out = NULL;
    TRY(cuda_create(s, &b));
    *out = &b->base;
    return COAR_OK;
}

/* --------------------------------------------------------------------------------------- examples */

/* The bound images, from pixels to b->input. */
static coar_status normalise(cuda_backend *b) {
    const shape s = b->settings.graph->values[0];
    const uint32_t positions = (uint32_t)shape_positions(s);
    TRY_CUDA(cudaMemcpyAsync(b->pixel_mul, b->mul, s.c * sizeof *b->mul, cudaMemcpyHostToDevice, b->compute), "std");
    TRY_CUDA(cudaMemcpyAsync(b->pixel_add, b->add, s.c * sizeof *b->add, cudaMemcpyHostToDevice, b->compute), "mean");
    TRY_CUDA(
        cudaMemcpyAsync(b->scale, b->host_scale, b->examples * sizeof *b->scale, cudaMemcpyHostToDevice, b->compute),
        "factors of %u examples", b->examples);
    TRY_CUDA(gpu_normalise_launch(b->type, b->examples, positions, s.c, b->inputs, b->pixel_mul, b->pixel_add, b->scale,
                                  b->input, b->compute),
             "normalising %u images of %u x %u x %u (compute stream)", b->examples, s.h, s.w, s.c);
    return COAR_OK;
}

coar_status cuda_finish_bind(cuda_backend *b) {
    TRY_CUDA(
        cudaMemcpyAsync(b->labels, b->host_labels, b->examples * sizeof *b->labels, cudaMemcpyHostToDevice, b->compute),
        "labels of %u examples", b->examples);
    if (!b->settings.graph->vocabulary) TRY(normalise(b)); /* tokens are taken as they are */
    TRY_CUDA(cudaStreamSynchronize(b->compute), "inputs of %u examples (compute stream)", b->examples);
    return COAR_OK;
}

static coar_status cuda_bind(backend *base, const example_batch *batch) {
    cuda_backend *b = cuda_self(base);
    TRY(backend_check_batch(&b->settings, batch));
    TRY_CUDA(cudaSetDevice(b->device.index), "CUDA device %d", b->device.index);
    b->examples = batch->count;
    for (uint32_t e = 0; e < batch->count; e++) {
        b->host_labels[e] = batch->labels ? batch->labels[e] : 0;
        b->host_scale[e] = batch->scale ? batch->scale[e] : 1;
    }
    const uint32_t channels = b->settings.graph->vocabulary ? 0 : b->settings.graph->values[0].c;
    for (uint32_t c = 0; c < channels; c++) { /* (pixel / 255 - mean) / std */
        b->mul[c] = (float)(1 / (255.0 * batch->std[c]));
        b->add[c] = (float)(-(double)batch->mean[c] / batch->std[c]);
    }
    if (!batch->count) return COAR_OK;
    TRY_CUDA(
        cudaMemcpyAsync(b->inputs, batch->inputs, batch->count * b->input_bytes, cudaMemcpyHostToDevice, b->compute),
        "%u examples", batch->count);
    return cuda_finish_bind(b);
}

/* -------------------------------------------------------------------------------------------- runs */

/* Enters the device, and runs `pass`; with smaller batches as often as the device is out of memory. */
static coar_status with_smaller_batches(cuda_backend *b, coar_status (*pass)(cuda_backend *, void *), void *context) {
    coar_status status;
    TRY_CUDA(cudaSetDevice(b->device.index), "CUDA device %d", b->device.index);
    while ((status = pass(b, context)) == COAR_ERROR_MEMORY && cuda_memory_can_shrink(b)) {
        status_clear();
        TRY(cuda_memory_shrink(b));
    }
    return status;
}

typedef struct run_call {
    const mask_range *masks;
    float *outputs;
} run_call;

static coar_status run_pass(cuda_backend *b, void *context) {
    const run_call *call = context;
    return cuda_batches_run(b, call->masks, call->outputs);
}

static coar_status cuda_run(backend *base, const mask_range *masks, float *outputs) {
    cuda_backend *b = cuda_self(base);
    run_call call = {masks, outputs};
    TRY(backend_check_masks(&b->settings, masks));
    if (!masks->count || !b->examples) return COAR_OK;
    TRY(with_smaller_batches(b, run_pass, &call));
    b->passes += (double)masks->count * b->examples;
    return b->precision == PRECISION_FP32 ? COAR_OK : cuda_retry_non_finite(b, masks, outputs);
}

typedef struct reverse_call {
    reverse_kind kind;
    size_t output;
    const mask_range *masks;
    float *gradients, *outputs;
} reverse_call;

static coar_status reverse_pass(cuda_backend *b, void *context) {
    const reverse_call *call = context;
    return cuda_batches_reverse(b, call->kind, call->output, call->masks, call->gradients, call->outputs);
}

/* The outputs tell what gradients may not: an overflow behind the last thing they read leaves them finite. So they are
 * looked at even when the caller does not want them. */
static coar_status reverse_with_retry(cuda_backend *b, reverse_call *call) {
    coar_status status = COAR_OK;
    float *unwanted = NULL;
    if (!call->outputs) {
        TRY(memory_new(call->masks->count, b->examples * sizeof *unwanted, "outputs of a reverse pass", &unwanted));
        call->outputs = unwanted;
    }
    TRY_GOTO(with_smaller_batches(b, reverse_pass, call));
    status = cuda_retry_reverse(b, call->kind, call->output, call->masks, call->gradients, call->outputs);
done:
    free(unwanted);
    return status;
}

static coar_status cuda_run_reverse(backend *base, reverse_kind kind, size_t output, const mask_range *masks,
                                    float *gradients, float *outputs) {
    cuda_backend *b = cuda_self(base);
    reverse_call call = {kind, output, masks, gradients, outputs};
    TRY(backend_check_reverse(&b->settings, b->examples, kind, output, masks));
    /* A path is one batch here, so memory is planned for its length. */
    if (kind == REVERSE_CONDUCTANCE && b->examples > b->settings.path_examples)
        return status_set(COAR_ERROR_INTERNAL, "cuda: %u examples bound, not prepared for paths of more than %u",
                          b->examples, b->settings.path_examples);
    if (!masks->count || !b->examples) return COAR_OK;
    if (b->precision != PRECISION_FP32) return reverse_with_retry(b, &call);
    return with_smaller_batches(b, reverse_pass, &call);
}

static coar_status logits_pass(cuda_backend *b, void *context) {
    return cuda_batches_logits(b, context);
}

static coar_status cuda_logits(backend *base, float *logits) {
    cuda_backend *b = cuda_self(base);
    return b->examples ? with_smaller_batches(b, logits_pass, logits) : COAR_OK;
}

static coar_status sums_pass(cuda_backend *b, void *context) {
    return cuda_means_add(b, context);
}

static coar_status cuda_row_sums(backend *base, double *sums) {
    cuda_backend *b = cuda_self(base);
    return b->examples && b->settings.graph->rows ? with_smaller_batches(b, sums_pass, sums) : COAR_OK;
}

static void cuda_work(const backend *base, double *executed, double *dense) {
    const cuda_backend *b = (const cuda_backend *)base;
    const double flops = graph_flops(b->settings.graph);
    *dense = b->passes * flops;
    *executed = *dense + (b->fp32 ? b->fp32->passes * flops : 0);
}

/* bf16 first: as fast as fp16, and what fp32 can hold it can. tf32 takes twice the time. */
static const char *const *precisions(const char *device_class) {
    static const char *const all[] = {"bf16", "fp16", "tf32", NULL};
    (void)device_class;
    return all;
}

const backend_interface backend_cuda = {
    .name = "cuda",
    .precisions = precisions,
    .devices = cuda_device_count,
    .memory = cuda_memory,
    .prepare = cuda_prepare,
    .bind = cuda_bind,
    .run = cuda_run,
    .run_reverse = cuda_run_reverse,
    .logits = cuda_logits,
    .collect_row_sums = cuda_row_sums,
    .destroy = cuda_destroy,
    .work = cuda_work,
    .peak = cuda_peak,
    .time_layers = cuda_time_plan,
    .fit_device = cuda_fit_create,
    .links = &cuda_links,
};
