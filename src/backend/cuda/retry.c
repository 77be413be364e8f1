/*
 * retry.c - pairs with a non-finite output or gradient once more (docs/design.md, section 6): they alone, in fp32 and
 * the direct form, by a small backend of its own that is made when the first of them appears. Its memory is left free from
 * the start.
 * Must not know: kernels, streams, what a batch is.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"

/* Examples computed at a time: such pairs are few, or the network is of no use in this precision. A reverse pass takes
 * many times the memory. */
#define RETRY_EXAMPLES 16
#define RETRY_EXAMPLES_REVERSE 4

static uint32_t examples_at_once(const cuda_backend *b) {
    const uint32_t most = b->settings.reverse ? RETRY_EXAMPLES_REVERSE : RETRY_EXAMPLES;
    return b->settings.examples_max < most ? b->settings.examples_max : most;
}

static backend_settings settings_of(const cuda_backend *b) {
    backend_settings s = b->settings;
    s.plan = &b->fp32_plan;
    s.outputs = b->outputs;
    s.examples_max = examples_at_once(b);
    if (s.path_examples > 2) s.path_examples = 2; /* an example, and the one before it */
    s.masks_max = 1;
    s.memory = SIZE_MAX;
    return s;
}

coar_status cuda_retry_plan(cuda_backend *b) {
    cuda_backend *fp32;
    size_t least;
    if (b->precision == PRECISION_FP32) return COAR_OK;
    TRY(cuda_plan_direct(b->settings.graph, b->device.device_class, &b->fp32_plan));
    const backend_settings s = settings_of(b);
    TRY(cuda_describe(&s, &fp32));
    cuda_memory_sizes(fp32, &least, &b->retry_bytes);
    cuda_destroy(&fp32->base);
    return COAR_OK;
}

/* What run or run_reverse have found for bound examples, and what is put in its place. */
typedef struct retry {
    cuda_backend *b;
    const mask_range *masks;
    size_t output_count; /* 1 of a reverse pass */
    float *outputs;      /* [output_count][S][E] */
    float *gradients;    /* [S][E][n]; NULL but for a reverse pass of this kind and output: */
    reverse_kind kind;
    size_t output;
    float *found; /* [examples at once][n] gradients of the retry */
} retry;

static float *output_of(const retry *r, size_t k, size_t s, uint32_t example) {
    return &r->outputs[(k * r->masks->count + s) * r->b->examples + example];
}

static float *gradients_of(const retry *r, size_t s, uint32_t example) {
    return &r->gradients[(s * r->b->examples + example) * r->masks->n];
}

/* As integers, because a loop over floats that may end early is not made of vectors: gradients are many. */
static bool all_finite(const float *values, size_t count) {
    const uint32_t exponent = 0x7f800000;
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        bad |= (bits & exponent) == exponent;
    }
    return !bad;
}

static bool pair_is_finite(const retry *r, size_t s, uint32_t example) {
    for (size_t k = 0; k < r->output_count; k++)
        if (!isfinite(*output_of(r, k, s, example))) return false;
    return !r->gradients || all_finite(gradients_of(r, s, example), r->masks->n);
}

/* One mask's search: the bound examples with something that is not finite. */
static uint32_t find(const retry *r, size_t s, uint32_t *examples) {
    uint32_t count = 0;
    for (uint32_t e = 0; e < r->b->examples; e++)
        if (!pair_is_finite(r, s, e)) examples[count++] = e;
    return count;
}

/* The fp32 backend gets the same pixels or tokens, device to device, and normalises the former without rounding. */
static coar_status bind_some(cuda_backend *b, const uint32_t *examples, uint32_t count) {
    cuda_backend *to = b->fp32;
    const uint32_t channels = b->settings.graph->values[0].c;
    to->examples = count;
    memcpy(to->mul, b->mul, channels * sizeof *b->mul);
    memcpy(to->add, b->add, channels * sizeof *b->add);
    for (uint32_t i = 0; i < count; i++) {
        to->host_labels[i] = b->host_labels[examples[i]];
        to->host_scale[i] = b->host_scale[examples[i]];
        TRY_CUDA(cudaMemcpyAsync((char *)to->inputs + i * b->input_bytes,
                                 (const char *)b->inputs + examples[i] * b->input_bytes, b->input_bytes,
                                 cudaMemcpyDeviceToDevice, to->compute),
                 "input of example %u", examples[i]);
    }
    return cuda_finish_bind(to);
}

/* Mask s on `count` examples. All but the first `skip` of them take their places. */
static coar_status retry_some(const retry *r, size_t s, const float *keep, const uint32_t *examples, uint32_t count,
                              uint32_t skip) {
    float results[OUTPUTS_MAX * RETRY_EXAMPLES]; /* [output_count][count] */
    cuda_backend *fp32 = r->b->fp32;
    const mask_range one = {.count = 1, .n = r->masks->n, .keeps = keep};
    TRY(bind_some(r->b, examples, count));
    if (r->gradients)
        TRY(fp32->base.interface->run_reverse(&fp32->base, r->kind, r->output, &one, r->found, results));
    else
        TRY(fp32->base.interface->run(&fp32->base, &one, results));
    for (uint32_t i = skip; i < count; i++) {
        for (size_t k = 0; k < r->output_count; k++) *output_of(r, k, s, examples[i]) = results[k * count + i];
        if (r->gradients)
            memcpy(gradients_of(r, s, examples[i]), r->found + (size_t)i * one.n, one.n * sizeof *r->found);
    }
    return COAR_OK;
}

/* Conductance looks at the example before: each with its own. */
static coar_status retry_after_another(const retry *r, size_t s, const float *keep, uint32_t example) {
    const uint32_t both[] = {example - 1, example};
    return example ? retry_some(r, s, keep, both, 2, 1) : retry_some(r, s, keep, &example, 1, 0);
}

static coar_status retry_mask(const retry *r, size_t s, const float *keep, const uint32_t *examples, uint32_t count) {
    const uint32_t most = examples_at_once(r->b);
    if (!r->b->fp32) {
        const backend_settings settings = settings_of(r->b);
        TRY(cuda_create(&settings, &r->b->fp32));
    }
    if (r->gradients && r->kind == REVERSE_CONDUCTANCE) {
        for (uint32_t i = 0; i < count; i++) TRY(retry_after_another(r, s, keep, examples[i]));
        return COAR_OK;
    }
    for (uint32_t first = 0; first < count; first += most)
        TRY(retry_some(r, s, keep, examples + first, count - first < most ? count - first : most, 0));
    return COAR_OK;
}

static coar_status retry_all(retry *r) {
    coar_status status = COAR_OK;
    const cuda_backend *b = r->b;
    uint32_t *examples = NULL;
    float *keep = NULL;
    void *scratch = NULL;
    TRY_GOTO(memory_new(b->examples, sizeof *examples, "non-finite outputs", &examples));
    TRY_GOTO(memory_new(r->masks->n, sizeof *keep, "non-finite outputs", &keep));
    TRY_GOTO(memory_new(mask_range_scratch_max(r->masks->n), 1, "non-finite outputs", &scratch));
    if (r->gradients)
        TRY_GOTO(memory_new(examples_at_once(b), r->masks->n * sizeof *r->found, "non-finite gradients", &r->found));
    for (size_t s = 0; s < r->masks->count; s++) {
        const uint32_t count = find(r, s, examples);
        if (!count) continue;
        mask_range_keeps(r->masks, s, b->settings.ablation.gain, keep, scratch);
        TRY_GOTO(retry_mask(r, s, keep, examples, count));
    }
done:
    free(r->found);
    free(scratch);
    free(keep);
    free(examples);
    return status;
}

coar_status cuda_retry_non_finite(cuda_backend *b, const mask_range *masks, float *outputs) {
    retry r = {.b = b, .masks = masks, .output_count = b->settings.output_count, .outputs = outputs};
    return all_finite(outputs, r.output_count * masks->count * b->examples) ? COAR_OK : retry_all(&r);
}

coar_status cuda_retry_reverse(cuda_backend *b, reverse_kind kind, size_t output, const mask_range *masks,
                               float *gradients, float *outputs) {
    retry r = {.b = b,
               .masks = masks,
               .output_count = 1,
               .outputs = outputs,
               .gradients = gradients,
               .kind = kind,
               .output = output};
    return retry_all(&r);
}
