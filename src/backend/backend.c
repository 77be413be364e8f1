/*
 * backend.c - the table of backends, and what every backend needs to read a mask.
 */
#include "backend/backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/number.h"

/* The fastest first: it is the default. */
static const backend_interface *const backends[] = {
#ifdef COAR_CUDA
    &backend_cuda,
#endif
    &backend_cpu,
    &backend_reference,
};
enum { BACKENDS = sizeof backends / sizeof *backends };

static coar_status check_devices(const backend_interface *b, int *count) {
    return b->devices ? b->devices(count) : COAR_OK;
}

/* The last ones need no device. A device that may be there and is not used is worth a line, none at all is not. */
static const backend_interface *fastest(const coar_callbacks *callbacks) {
    size_t i = 0;
    int count = 0;
    while (i + 1 < BACKENDS && check_devices(backends[i], &count) != COAR_OK) {
        char message[1024];
        status_copy(message, sizeof message);
        status_clear();
        i++;
        if (count) log_warning(callbacks, "the %s backend is used: %s", backends[i]->name, message);
    }
    return backends[i];
}

coar_status backend_find(const char *name, const coar_callbacks *callbacks, const backend_interface **out) {
    int count;
    *out = NULL;
    if (!name) {
        *out = fastest(callbacks);
        return COAR_OK;
    }
    for (size_t i = 0; i < BACKENDS; i++) {
        if (strcmp(name, backends[i]->name)) continue;
        TRY(check_devices(backends[i], &count));
        *out = backends[i];
        return COAR_OK;
    }
    if (!strcmp(name, "cuda"))
        return status_set(COAR_ERROR_UNSUPPORTED,
                          "--backend cuda: this build has no CUDA: install the CUDA toolkit and build "
                          "with make CUDA=1, or give --backend cpu");
    return status_set(COAR_ERROR_USAGE, "--backend '%s' is unknown: give cpu, cuda or reference", name);
}

coar_status backend_check_batch(const backend_settings *s, const example_batch *batch) {
    const graph *g = s->graph;
    const int32_t *tokens = batch->inputs;
    if (batch->count > s->examples_max)
        return status_set(COAR_ERROR_INTERNAL, "backend: %u examples, prepared for %u", batch->count, s->examples_max);
    for (uint32_t e = 0; batch->labels && e < batch->count; e++)
        if (!graph_label_fits(g, batch->labels[e]))
            return status_set(COAR_ERROR_INPUT,
                              g->vocabulary ? "example %llu has %d tokens, but the model takes 2 to %u"
                                            : "example %llu has label %d, but the model has %u classes",
                              (unsigned long long)(batch->first + e), batch->labels[e],
                              g->vocabulary ? g->values[0].w : g->values[g->logits].c);
    for (size_t i = 0; g->vocabulary && i < (size_t)batch->count * g->values[0].w; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= g->vocabulary)
            return status_set(COAR_ERROR_INPUT, "example %llu has token %d, but the model's vocabulary has %u",
                              (unsigned long long)(batch->first + i / g->values[0].w), tokens[i], g->vocabulary);
    return COAR_OK;
}

coar_status backend_check_masks(const backend_settings *s, const mask_range *masks) {
    if (masks->n == s->graph->components) return COAR_OK;
    return status_set(COAR_ERROR_INTERNAL, "backend: masks of %u components for a model of %u", masks->n,
                      s->graph->components);
}

coar_status backend_check_reverse(const backend_settings *s, uint32_t examples, reverse_kind kind, size_t output,
                                  const mask_range *masks) {
    TRY(backend_check_masks(s, masks));
    if (!s->reverse) return status_set(COAR_ERROR_INTERNAL, "backend: a reverse pass, which was not planned for");
    if (output >= s->output_count)
        return status_set(COAR_ERROR_INTERNAL, "backend: gradients of output %zu of %zu", output, s->output_count);
    if (kind == REVERSE_CONDUCTANCE && examples > PATH_EXAMPLES_MAX)
        return status_set(COAR_ERROR_INTERNAL, "backend: conductance along %u examples, %d at most", examples,
                          PATH_EXAMPLES_MAX);
    return COAR_OK;
}

coar_status ablation_parse(const char *text, ablation *out) {
    ablation found = {.kind = ABLATION_ZERO};
    if (!text) text = "zero";
    if (!strcmp(text, "mean")) {
        found.kind = ABLATION_MEAN;
    } else if (!strncmp(text, "scale:", strlen("scale:"))) {
        const char *number = text + strlen("scale:");
        char *end;
        found.kind = ABLATION_SCALE;
        found.gain = (float)number_parse(number, &end);
        if (end == number || *end || !isfinite(found.gain))
            return status_set(COAR_ERROR_USAGE, "--ablation '%s': give scale:G with a finite number G", text);
    } else if (strcmp(text, "zero")) {
        return status_set(COAR_ERROR_USAGE, "--ablation '%s' is unknown: give zero, mean or scale:G", text);
    }
    *out = found;
    return COAR_OK;
}

void backend_row_positions(const graph *g, uint32_t *positions) {
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        if (o->mask.place == PLACE_NONE) continue;
        shape s = g->values[o->output];
        for (uint32_t c = 0; c < s.c; c++) positions[o->mask.row_first + c] = (uint32_t)shape_positions(s);
    }
}

size_t mask_range_scratch_max(uint32_t n) {
    const sampler sorting = {.kind = SAMPLER_FIXED, .n = n}; /* the samplers that sort need the most */
    return sampler_scratch(&sorting) + mask_bytes(n);
}

void mask_range_keeps(const mask_range *range, size_t s, float gain, float *keep, void *scratch) {
    if (range->keeps) {
        memcpy(keep, range->keeps + s * range->n, range->n * sizeof *keep);
        return;
    }
    const uint8_t *bits;
    if (range->sampler) {
        /* The sampler's words come first in the scratch: they need its alignment, the bits do not. */
        uint8_t *made = (uint8_t *)scratch + sampler_scratch(range->sampler);
        sampler_mask(range->sampler, range->first + s, made, scratch);
        bits = made;
    } else {
        bits = range->bits + s * mask_bytes(range->n);
    }
    for (uint32_t j = 0; j < range->n; j++) keep[j] = bits[j / 8] >> (j % 8) & 1 ? 1 : gain;
}
