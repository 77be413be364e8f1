/*
 * retry.c - non-finite outputs once more (docs/design.md, section 6): those (mask, example) pairs alone, in fp32 and
 * the direct form, by a small backend of its own that is made when the first of them appears. Its memory is left free
 * from the start.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"

/* Examples computed at a time: such pairs are few, or the network is of no use in this precision. */
#define RETRY_EXAMPLES 16

static backend_settings settings_of(const cuda_backend *b) {
    backend_settings s = b->settings;
    s.plan = &b->fp32_plan;
    s.outputs = b->outputs;
    s.examples_max = s.examples_max < RETRY_EXAMPLES ? s.examples_max : RETRY_EXAMPLES;
    s.masks_max = 1;
    s.memory = SIZE_MAX;
    return s;
}

coar_status cuda_retry_plan(cuda_backend *b) {
    cuda_backend *fp32;
    if (b->precision == PRECISION_FP32) return COAR_OK;
    TRY(cuda_plan_direct(b->settings.graph, b->device.device_class, &b->fp32_plan));
    const backend_settings s = settings_of(b);
    TRY(cuda_describe(&s, &fp32));
    b->retry_bytes = cuda_memory_bytes(fp32, s.examples_max);
    cuda_destroy(&fp32->base);
    return COAR_OK;
}

/* One mask's search: which of the bound examples have an output that is not finite. */
static uint32_t find(const cuda_backend *b, const mask_range *masks, size_t s, const float *outputs,
                     uint32_t *examples) {
    uint32_t count = 0;
    for (uint32_t e = 0; e < b->examples; e++) {
        bool finite = true;
        for (size_t k = 0; k < b->settings.output_count; k++)
            finite &= isfinite(outputs[(k * masks->count + s) * b->examples + e]) != 0;
        if (!finite) examples[count++] = e;
    }
    return count;
}

/* The fp32 backend gets the same pixels, device to device, and normalises them without rounding. */
static coar_status bind_some(cuda_backend *b, const uint32_t *examples, uint32_t count) {
    cuda_backend *to = b->fp32;
    const uint32_t channels = b->settings.graph->values[0].c;
    to->examples = count;
    memcpy(to->mul, b->mul, channels * sizeof *b->mul);
    memcpy(to->add, b->add, channels * sizeof *b->add);
    for (uint32_t i = 0; i < count; i++) {
        to->host_labels[i] = b->host_labels[examples[i]];
        TRY_CUDA(cudaMemcpyAsync(to->pixels + i * b->elements, b->pixels + examples[i] * b->elements, b->elements,
                                 cudaMemcpyDeviceToDevice, to->compute),
                 "pixels of example %u", examples[i]);
    }
    return cuda_normalise(to);
}

/* Mask s on `count` examples; results [output_count][count] go to their places. */
static coar_status retry_some(cuda_backend *b, const mask_range *masks, size_t s, const float *keep,
                              const uint32_t *examples, uint32_t count, float *outputs) {
    float results[OUTPUTS_MAX * RETRY_EXAMPLES];
    const mask_range one = {.count = 1, .n = masks->n, .keeps = keep};
    TRY(bind_some(b, examples, count));
    TRY(b->fp32->base.interface->run(&b->fp32->base, &one, results));
    for (size_t k = 0; k < b->settings.output_count; k++)
        for (uint32_t i = 0; i < count; i++)
            outputs[(k * masks->count + s) * b->examples + examples[i]] = results[k * count + i];
    return COAR_OK;
}

static coar_status retry_mask(cuda_backend *b, const mask_range *masks, size_t s, const float *keep,
                              const uint32_t *examples, uint32_t count, float *outputs) {
    if (!b->fp32) {
        const backend_settings settings = settings_of(b);
        TRY(cuda_create(&settings, &b->fp32));
    }
    for (uint32_t first = 0; first < count; first += RETRY_EXAMPLES) {
        const uint32_t some = count - first < RETRY_EXAMPLES ? count - first : RETRY_EXAMPLES;
        TRY(retry_some(b, masks, s, keep, examples + first, some, outputs));
    }
    return COAR_OK;
}

coar_status cuda_retry_non_finite(cuda_backend *b, const mask_range *masks, float *outputs) {
    coar_status status = COAR_OK;
    uint32_t *examples = NULL;
    float *keep = NULL;
    void *scratch = NULL;
    const size_t values = b->settings.output_count * masks->count * b->examples;
    size_t first = 0;
    while (first < values && isfinite(outputs[first])) first++;
    if (first == values) return COAR_OK;
    TRY_GOTO(memory_new(b->examples, sizeof *examples, "non-finite outputs", &examples));
    TRY_GOTO(memory_new(masks->n, sizeof *keep, "non-finite outputs", &keep));
    TRY_GOTO(memory_new(mask_range_scratch_max(masks->n), 1, "non-finite outputs", &scratch));
    for (size_t s = 0; s < masks->count; s++) {
        const uint32_t count = find(b, masks, s, outputs, examples);
        if (!count) continue;
        mask_range_keeps(masks, s, b->settings.ablation.gain, keep, scratch);
        TRY_GOTO(retry_mask(b, masks, s, keep, examples, count, outputs));
    }
done:
    free(scratch);
    free(keep);
    free(examples);
    return status;
}
