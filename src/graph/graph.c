/*
 * graph.c - building and checking op lists.
 *
 * Everything that a weight file can get wrong about shapes is caught here, so that backends may multiply sizes freely.
 * Must not know: weight files, devices.
 */
#include "graph/graph.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Elements of one value for one example. A backend multiplies this by lanes and bytes; with this bound it cannot
 * overflow, and no real network comes near it. */
#define VALUE_ELEMENTS_MAX ((size_t)1 << 31)

/* Token numbers are values, which are fp32: whole numbers up to here are exact. */
#define VOCABULARY_MAX (1u << 24)

static const char *const op_kind_names[] = {
    [OP_CONV] = "conv",           [OP_MAXPOOL] = "maxpool",     [OP_AVGPOOL] = "avgpool",
    [OP_SUBSAMPLE] = "subsample", [OP_EMBED] = "embed",         [OP_SELECT] = "select",
    [OP_LAYERNORM] = "layernorm", [OP_ATTENTION] = "attention", [OP_MEAN_TOKEN] = "mean_token",
    [OP_LOOKUP] = "lookup",       [OP_NORMALISE] = "normalise", [OP_NEXT] = "next",
};

const char *op_kind_name(op_kind kind) {
    return op_kind_names[kind];
}

/* ------------------------------------------------------------------------------------------- checks */

static coar_status check_shape(const char *name, uint64_t h, uint64_t w, uint64_t c, shape *out) {
    size_t elements;
    if (!h || !w || !c) return status_set(COAR_ERROR_INPUT, "layer '%s': its result has no elements", name);
    if (!size_mul(h, w, &elements) || !size_mul(elements, c, &elements) || elements > VALUE_ELEMENTS_MAX)
        return status_set(COAR_ERROR_INPUT, "layer '%s': a result of %llu x %llu x %llu is too large", name,
                          (unsigned long long)h, (unsigned long long)w, (unsigned long long)c);
    *out = (shape){(uint32_t)h, (uint32_t)w, (uint32_t)c};
    return COAR_OK;
}

static bool same_shape(shape a, shape b) {
    return a.h == b.h && a.w == b.w && a.c == b.c;
}

static coar_status check_value(const graph *g, const op *o, int value) {
    if (value < 0 || (size_t)value >= g->value_count)
        return status_set(COAR_ERROR_INTERNAL, "layer '%s' reads value %d before it is made", o->name, value);
    return COAR_OK;
}

static int input_count(op_kind kind) {
    return kind == OP_ATTENTION ? 3 : kind == OP_NEXT ? 2 : 1;
}

static coar_status check_inputs(const graph *g, const op *o) {
    for (int i = 0; i < input_count(o->kind); i++) TRY(check_value(g, o, o->input[i]));
    for (int i = 0; o->kind == OP_ATTENTION && i < 3; i++)
        if (!same_shape(g->values[o->input[i]], g->values[o->input[0]]))
            return status_set(COAR_ERROR_INPUT, "layer '%s': query, key and value differ in shape", o->name);
    return COAR_OK;
}

/* Tables of tokens are for the graph's own vocabulary, and only they read its input. */
static coar_status check_tokens(const graph *g, const op *o) {
    const bool reads = o->kind == OP_LOOKUP || o->kind == OP_NEXT;
    const int tokens = o->input[o->kind == OP_NEXT];
    if (g->vocabulary && o->kind == OP_ATTENTION && !o->causal)
        return status_set(COAR_ERROR_INTERNAL, "layer '%s': a language model's attention is causal", o->name);
    if (reads != (g->vocabulary && tokens == 0) || (reads && o->vocabulary != g->vocabulary) ||
        (g->vocabulary && o->residual == 0) ||
        (o->kind == OP_NEXT && shape_positions(g->values[o->input[0]]) != shape_positions(g->values[0])))
        return status_set(COAR_ERROR_INTERNAL, "layer '%s': a %s does not fit the graph's tokens", o->name,
                          op_kind_name(o->kind));
    return COAR_OK;
}

/* Number of places a window takes along `size` pixels; 0 when it does not fit. */
static uint64_t window_count(uint32_t size, uint32_t kernel, uint32_t stride, uint32_t pad) {
    uint64_t padded = size + 2 * (uint64_t)pad;
    return padded < kernel ? 0 : (padded - kernel) / stride + 1;
}

/* Convolutions and pools. Padding below the kernel: no window lies in the padding alone. */
static coar_status window_shape(const op *o, shape in, uint32_t channels, shape *out) {
    if (!o->kernel_h || !o->kernel_w || !o->stride || o->pad >= o->kernel_h || o->pad >= o->kernel_w)
        return status_set(COAR_ERROR_INPUT, "layer '%s': kernel %u x %u with stride %u and padding %u is not possible",
                          o->name, o->kernel_h, o->kernel_w, o->stride, o->pad);
    return check_shape(o->name, window_count(in.h, o->kernel_h, o->stride, o->pad),
                       window_count(in.w, o->kernel_w, o->stride, o->pad), channels, out);
}

static coar_status conv_shape(const op *o, shape in, uint32_t channels, shape *out) {
    size_t weights;
    if (!o->weight) return status_set(COAR_ERROR_INTERNAL, "layer '%s' has no weights", o->name);
    if (!size_mul(channels, in.c, &weights) || !size_mul(weights, o->kernel_h, &weights) ||
        !size_mul(weights, o->kernel_w, &weights))
        return status_set(COAR_ERROR_INPUT, "layer '%s' has too many weights", o->name);
    return window_shape(o, in, channels, out);
}

static coar_status output_shape(const graph *g, const op *o, uint32_t channels, shape *out) {
    shape in = g->values[o->input[0]];
    switch (o->kind) {
    case OP_CONV:
        return conv_shape(o, in, channels, out);
    case OP_MAXPOOL:
        return window_shape(o, in, in.c, out);
    case OP_AVGPOOL:
        if (o->pad) return status_set(COAR_ERROR_INPUT, "layer '%s': padded average pooling is not known", o->name);
        return window_shape(o, in, in.c, out);
    case OP_SUBSAMPLE:
        if (!o->stride || (uint64_t)in.c + o->pad > channels)
            return status_set(COAR_ERROR_INPUT, "layer '%s': %u channels after %u zero channels do not fit %u", o->name,
                              in.c, o->pad, channels);
        return check_shape(o->name, (in.h - 1) / o->stride + 1, (in.w - 1) / o->stride + 1, channels, out);
    case OP_EMBED:
    case OP_MEAN_TOKEN:
        if (!o->weight) return status_set(COAR_ERROR_INTERNAL, "layer '%s' has no weights", o->name);
        return check_shape(o->name, 1, shape_positions(in) + 1, in.c, out);
    case OP_LAYERNORM:
        if (!(o->eps >= 0) || isinf(o->eps))
            return status_set(COAR_ERROR_INPUT, "layer '%s': epsilon %g is not a number >= 0", o->name, o->eps);
        *out = in;
        return COAR_OK;
    case OP_ATTENTION:
        if (!o->heads || in.c % o->heads)
            return status_set(COAR_ERROR_INPUT, "layer '%s': %u heads do not divide a width of %u", o->name, o->heads,
                              in.c);
        *out = in;
        return COAR_OK;
    case OP_SELECT:
        *out = (shape){1, 1, in.c};
        return COAR_OK;
    case OP_NORMALISE:
        *out = in;
        return COAR_OK;
    case OP_LOOKUP:
        if (!o->weight || !o->shift) return status_set(COAR_ERROR_INTERNAL, "layer '%s' has no weights", o->name);
        return check_shape(o->name, in.h, in.w, channels, out);
    case OP_NEXT:
        if (!o->weight) return status_set(COAR_ERROR_INTERNAL, "layer '%s' has no weights", o->name);
        return check_shape(o->name, in.h, in.w, NEXT_CHANNELS, out);
    }
    return status_set(COAR_ERROR_INTERNAL, "layer '%s' is of unknown kind %d", o->name, (int)o->kind);
}

static bool place_fits(op_kind kind, mask_place place) {
    switch (place) {
    case PLACE_NONE:
        return true;
    case PLACE_PRE:
    case PLACE_POST:
        return kind == OP_CONV;
    case PLACE_OUT:
        return kind == OP_CONV || kind == OP_LAYERNORM || kind == OP_ATTENTION;
    }
    return false;
}

static coar_status check_site(const op *o, uint32_t channels) {
    const mask_site *m = &o->mask;
    if (!place_fits(o->kind, m->place))
        return status_set(COAR_ERROR_INTERNAL, "layer '%s': a mask cannot act at place %d of a %s", o->name,
                          (int)m->place, op_kind_name(o->kind));
    if (m->place != PLACE_NONE && (!m->width || (uint64_t)m->count * m->width != channels))
        return status_set(COAR_ERROR_INTERNAL, "layer '%s': %u components of width %u do not make %u channels", o->name,
                          m->count, m->width, channels);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------ building */

coar_status graph_create(shape input, uint32_t vocabulary, graph **out) {
    *out = NULL;
    TRY(check_shape("input", input.h, input.w, input.c, &input));
    if (vocabulary && (vocabulary < 2 || vocabulary > VOCABULARY_MAX || input.h != 1 || input.w < 2 || input.c != 1))
        return status_set(COAR_ERROR_INPUT, "a vocabulary of %u tokens and texts of %u are not possible", vocabulary,
                          input.w);
    graph *g = calloc(1, sizeof *g);
    if (!g) return status_set(COAR_ERROR_MEMORY, "graph: not enough memory");
    g->logits = -1;
    g->vocabulary = vocabulary;
    coar_status status = memory_grow(&g->values, &g->value_capacity, 1, sizeof *g->values, "graph values");
    if (status != COAR_OK) {
        graph_destroy(g);
        return status;
    }
    g->values[g->value_count++] = input;
    *out = g;
    return COAR_OK;
}

void graph_destroy(graph *g) {
    if (!g) return;
    for (size_t i = 0; i < g->owned_count; i++) free(g->owned[i]);
    free(g->owned);
    free(g->values);
    free(g->ops);
    free(g);
}

coar_status graph_own(graph *g, void *array) {
    coar_status status =
        memory_grow(&g->owned, &g->owned_capacity, g->owned_count + 1, sizeof *g->owned, "graph weights");
    if (status != COAR_OK) {
        free(array);
        return status;
    }
    g->owned[g->owned_count++] = array;
    return COAR_OK;
}

coar_status graph_add(graph *g, const op *given, uint32_t out_channels, int *value) {
    op o = *given;
    shape out = {0};
    o.name[sizeof o.name - 1] = '\0';
    /* Fields that the kind does not use get one value, so that readers need not ask for the kind first. */
    if (o.kind != OP_CONV) o.residual = -1;
    if (o.kind != OP_CONV) o.act = ACT_NONE;
    for (int k = input_count(o.kind); k < 3; k++) o.input[k] = -1;
    if (o.kind != OP_ATTENTION) o.causal = false;
    if (o.kind != OP_LOOKUP && o.kind != OP_NEXT) o.vocabulary = 0;

    TRY(check_inputs(g, &o));
    TRY(check_tokens(g, &o));
    TRY(output_shape(g, &o, out_channels, &out));
    if (o.residual >= 0) {
        TRY(check_value(g, &o, o.residual));
        if (!same_shape(g->values[o.residual], out))
            return status_set(COAR_ERROR_INPUT, "layer '%s': the value added to it has another shape", o.name);
    }
    TRY(check_site(&o, out.c));
    if (o.mask.place != PLACE_NONE) {
        if (out.c > UINT32_MAX - g->rows)
            return status_set(COAR_ERROR_INPUT, "layer '%s': more than 2^32 masked channels", o.name);
        o.mask.row_first = g->rows;
    }
    TRY(memory_grow(&g->ops, &g->op_capacity, g->op_count + 1, sizeof *g->ops, "graph ops"));
    TRY(memory_grow(&g->values, &g->value_capacity, g->value_count + 1, sizeof *g->values, "graph values"));

    if (o.mask.place != PLACE_NONE) g->rows += out.c;
    o.output = (int)g->value_count;
    g->values[g->value_count++] = out;
    g->ops[g->op_count++] = o;
    *value = o.output;
    return COAR_OK;
}

static int compare_sites(const void *a, const void *b) {
    uint32_t x = (*(const mask_site *const *)a)->first, y = (*(const mask_site *const *)b)->first;
    return (x > y) - (x < y);
}

/* Every site below n, and no component in two sites. */
static coar_status check_sites(const graph *g, uint32_t components) {
    coar_status status = COAR_OK;
    const mask_site **sites = NULL;
    size_t count = 0;
    TRY(memory_new(g->op_count, sizeof *sites, "mask sites", &sites));
    for (size_t i = 0; i < g->op_count; i++)
        if (g->ops[i].mask.place != PLACE_NONE) sites[count++] = &g->ops[i].mask;
    qsort(sites, count, sizeof *sites, compare_sites);
    uint64_t next = 0;
    for (size_t i = 0; i < count; i++) {
        if (sites[i]->first < next || (uint64_t)sites[i]->first + sites[i]->count > components) {
            status = status_set(COAR_ERROR_INTERNAL, "components %u + %u: beyond the model's %u, or part of two layers",
                                sites[i]->first, sites[i]->count, components);
            goto done;
        }
        next = (uint64_t)sites[i]->first + sites[i]->count;
    }
done:
    free(sites);
    return status;
}

coar_status graph_finish(graph *g, int logits, uint32_t components) {
    if (logits <= 0 || (size_t)logits >= g->value_count)
        return status_set(COAR_ERROR_INTERNAL, "graph: value %d cannot be the logits", logits);
    shape s = g->values[logits];
    if (g->vocabulary && g->ops[graph_maker(logits)].kind != OP_NEXT)
        return status_set(COAR_ERROR_INTERNAL, "graph: a language model's last layer must say what comes next");
    if (!g->vocabulary && (s.h != 1 || s.w != 1))
        return status_set(COAR_ERROR_INPUT, "layer '%s': logits must be one vector, not %u x %u positions",
                          g->ops[logits - 1].name, s.h, s.w);
    TRY(check_sites(g, components));
    g->logits = logits;
    g->components = components;
    return COAR_OK;
}

/* ---------------------------------------------------------------------------------------- properties */

double graph_op_flops(const graph *g, const op *o) {
    shape in = g->values[o->input[0]], out = g->values[o->output];
    double positions = (double)shape_positions(out);
    switch (o->kind) {
    case OP_CONV:
        return 2.0 * positions * out.c * in.c * o->kernel_h * o->kernel_w;
    case OP_ATTENTION: /* q k^T, then probabilities times v; a causal token sees half of the others in the mean */
        return 4.0 * positions * (o->causal ? (positions + 1) / 2 : positions) * out.c;
    case OP_NEXT:
        return 2.0 * positions * in.c * o->vocabulary;
    default:
        return 0; /* no multiply-adds worth counting: the peak that figures are compared with is one of products */
    }
}

double graph_flops(const graph *g) {
    double sum = 0;
    for (size_t i = 0; i < g->op_count; i++) sum += graph_op_flops(g, &g->ops[i]);
    return sum;
}

size_t graph_weight_count(const graph *g, const op *o) {
    shape in = g->values[o->input[0]], out = g->values[o->output];
    switch (o->kind) {
    case OP_CONV:
        return (size_t)out.c * in.c * o->kernel_h * o->kernel_w;
    case OP_EMBED:
    case OP_MEAN_TOKEN:
        return shape_positions(out) * out.c;
    case OP_LOOKUP:
        return (size_t)o->vocabulary * out.c;
    case OP_NEXT:
        return (size_t)o->vocabulary * in.c;
    case OP_LAYERNORM:
        return o->weight ? out.c : 0;
    default:
        return 0;
    }
}

size_t graph_weight_bytes(const graph *g) {
    size_t count = 0;
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        const shape out = g->values[o->output];
        const size_t shifts = o->kind == OP_LOOKUP ? shape_positions(out) * out.c : out.c;
        bool shared = false; /* a tied head */
        for (size_t k = 0; k < i; k++) shared |= g->ops[k].weight && g->ops[k].weight == o->weight;
        count += (shared ? 0 : graph_weight_count(g, o)) + (o->scale ? out.c : 0) + (o->shift ? shifts : 0);
    }
    return count * sizeof(float);
}

void graph_count_reads(const graph *g, uint32_t *reads) {
    memset(reads, 0, g->value_count * sizeof *reads);
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        for (int k = 0; k < 3; k++)
            if (o->input[k] >= 0) reads[o->input[k]]++;
        if (o->residual >= 0) reads[o->residual]++;
    }
}

void graph_find_wanted(const graph *g, bool *wanted) {
    wanted[0] = false;
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        bool any = o->mask.place != PLACE_NONE || (o->residual >= 0 && wanted[o->residual]);
        for (int k = 0; k < 3; k++) any |= o->input[k] >= 0 && wanted[o->input[k]];
        wanted[o->output] = any;
    }
}

size_t graph_input_bytes(const graph *g) {
    const size_t elements = shape_positions(g->values[0]) * g->values[0].c;
    return elements * (g->vocabulary ? sizeof(int32_t) : 1);
}

bool graph_label_fits(const graph *g, int32_t label) {
    if (g->vocabulary) return label >= 2 && (uint32_t)label <= g->values[0].w;
    return label >= 0 && (uint32_t)label < g->values[g->logits].c;
}
