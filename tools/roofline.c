/*
 * roofline.c - what the CUDA engine's design allows at best: flops and bytes of every layer of a network, and the time that a
 * GPU's peaks give them. Prints the tables of docs/gpu.md (Markdown):
 *
 *     make roofline && build/tools/roofline resnet50 142 && build/tools/roofline vit_b_16 24 && build/tools/roofline gpt2 4
 *
 * Arguments: an architecture (coar bench), and the pairs of a batch. bf16; one mask for every 64 pairs, as coar bench has at
 * 224 x 224. A last table is of a reverse pass (run_reverse) on the same batch. Bytes are those that a layer must move once everything that the design fuses is fused: each weight once per launch,
 * every input, output and residual once, keeps once per mask, layer norms and positions in fp32. Whatever a cache keeps from one
 * layer to the next is not counted: at batches of this size it is little.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"

enum { PAIRS_PER_MASK = 64, VALUE = 2 /* bytes of a stored value, bf16 */ };

/* NVIDIA's data sheets: dense bf16 on tensor cores, memory. */
static const struct gpu {
    const char *name;
    double flops, bandwidth;
} gpus[] = {{"A100", 312e12, 2.0e12}, {"H100", 989e12, 3.35e12}};
enum { GPUS = sizeof gpus / sizeof *gpus };

typedef struct cost {
    double flops, bytes;
    int launches;
} cost;

/* Positions whose logits a device makes at once (src/backend/cuda/next.c): for GPT-2. */
enum { NEXT_POSITIONS = 640 };

/* Channels as they are stored (kernels.h, gpu_stride). */
static double stored(uint32_t channels) {
    return channels <= 4 ? 4 : (channels + 7) / 8 * 8;
}

static double value_bytes(shape s, double pairs) {
    return pairs * (double)shape_positions(s) * stored(s.c) * VALUE;
}

static double weight_bytes(const graph *g, const op *o) {
    return stored(g->values[o->output].c) * o->kernel_h * o->kernel_w * stored(g->values[o->input[0]].c) * VALUE;
}

/* A language model's head, some positions at a time: logits in fp32, written and read; the weight once each time. */
static cost next_cost(const graph *g, const op *o, double pairs) {
    const shape in = g->values[o->input[0]];
    const double positions = pairs * (double)shape_positions(in), blocks = ceil(positions / NEXT_POSITIONS);
    return (cost){.flops = pairs * graph_op_flops(g, o),
                  .bytes = value_bytes(in, pairs) + 8 * positions * o->vocabulary +
                           blocks * stored(in.c) * o->vocabulary * VALUE,
                  .launches = 2 * (int)blocks};
}

/* Rows of the table, as if each of them came from memory, and positions. */
static cost lookup_cost(const graph *g, const op *o, double pairs) {
    const shape out = g->values[o->output];
    const double rows = (double)shape_positions(out);
    return (cost){.bytes = value_bytes(out, pairs) + 4 * (pairs + 1) * rows * out.c, .launches = 1};
}

static cost cost_of(const graph *g, const op *o, double pairs, double masks) {
    if (o->kind == OP_NEXT) return next_cost(g, o, pairs);
    if (o->kind == OP_LOOKUP) return lookup_cost(g, o, pairs);
    const shape in = g->values[o->input[0]], out = g->values[o->output];
    const bool logits = o->output == g->logits;
    const int inputs = o->kind == OP_ATTENTION ? 3 : 1;
    cost c = {.flops = pairs * graph_op_flops(g, o), .launches = 1};
    /* the images of a block lie there once, however many masks they are seen under; of an input that is only sampled, the
     * samples are read */
    const bool sampled = o->kind == OP_CONV && o->kernel_h == 1 && o->stride > 1;
    const shape read = {sampled ? out.h : in.h, sampled ? out.w : in.w, in.c};
    const double times = o->input[0] == 0 ? fmin(pairs, PAIRS_PER_MASK) : pairs;
    const double input = inputs * value_bytes(read, times);
    c.bytes = input + value_bytes(out, pairs) * (logits ? 2 : 1);
    if (o->kind == OP_SELECT) c.bytes = 2 * value_bytes(out, pairs);
    if (o->kind == OP_CONV) c.bytes += weight_bytes(g, o) + 8.0 * out.c;
    if (o->kind == OP_EMBED || o->kind == OP_MEAN_TOKEN) c.bytes += 4.0 * (double)shape_positions(out) * out.c;
    if (o->kind == OP_LAYERNORM) c.bytes += 8.0 * out.c;
    if (o->residual >= 0) c.bytes += value_bytes(out, pairs);
    if (o->mask.place != PLACE_NONE) c.bytes += 4.0 * masks * out.c;
    return c;
}

/* ------------------------------------------------------------------------------------------- reverse passes */

/* Whether the reverse pass adds this op's part of the gradient to what a later op has left. */
static bool adds_gradient(const graph *g, const op *o) {
    for (const op *later = o + 1; later < g->ops + g->op_count; later++)
        for (int k = 0; k < 3; k++)
            if (later->input[k] == o->input[0] || later->residual == o->input[0]) return true;
    return false;
}

/* What the forward pass stores for the reverse pass and would not store otherwise: W x; an attention's result before its
 * mask, and its sums of exponentials. */
static double saved_bytes(const graph *g, const op *o, double pairs) {
    const shape out = g->values[o->output];
    const bool site = o->mask.place != PLACE_NONE, curved = o->act != ACT_NONE && o->act != ACT_RELU;
    if (o->kind == OP_CONV) return site || curved ? value_bytes(out, pairs) : 0;
    if (o->kind == OP_ATTENTION)
        return (site ? value_bytes(out, pairs) : 0) + sizeof(float) * pairs * o->heads * (double)shape_positions(out);
    return 0;
}

/* Everything behind W x, backwards: dL/dy, W x and a ReLU's result are read, dL/d(W x) and what becomes of the residual's
 * gradient are written. */
static cost epilogue_reverse(const graph *g, const op *o, double pairs) {
    const double out = value_bytes(g->values[o->output], pairs);
    const bool plain = o->mask.place == PLACE_NONE && !o->scale && o->act == ACT_NONE;
    cost c = {0};
    if (plain) return c;
    c.launches = o->mask.place != PLACE_NONE ? 2 : 1; /* sums are added up in two stages */
    c.bytes = out * (1 + (o->act == ACT_RELU) + (o->input[0] != 0) + (o->residual >= 0 && o->act != ACT_NONE));
    if (saved_bytes(g, o, pairs) > 0) c.bytes += out;
    return c;
}

/* From dL/dy to dL/dx; nothing for an op that reads the images, whose gradient nobody wants. */
static cost data_reverse(const graph *g, const op *o, double pairs) {
    const double in = value_bytes(g->values[o->input[0]], pairs), out = value_bytes(g->values[o->output], pairs);
    cost c = {0};
    if (o->input[0] == 0) return c;
    c.launches = 1;
    if (o->kind == OP_NEXT) { /* of a margin: two rows of the weight a position, from a cache perhaps */
        c.bytes = in + 2 * in;
        return c;
    }
    c.bytes = out + in * (adds_gradient(g, o) ? 2 : 1);
    if (o->kind == OP_CONV) {
        c.flops = pairs * graph_op_flops(g, o);
        c.bytes += weight_bytes(g, o);
    } else if (o->kind == OP_ATTENTION) {
        /* delta; queries' blocks with three products; keys' blocks with four (kernels/cuda/attention_reverse.cu). Each of
         * the latter two reads q, k, v and the result's gradient */
        c.launches = 3;
        c.flops = 3.5 * pairs * graph_op_flops(g, o);
        c.bytes = 13 * out;
    } else if (o->kind == OP_LAYERNORM || o->kind == OP_NORMALISE) {
        c.bytes += in;
    } else if (o->kind == OP_MAXPOOL) {
        c.bytes += in + out;
    }
    return c;
}

static double seconds(cost c, const struct gpu *gpu) {
    return fmax(c.flops / gpu->flops, c.bytes / gpu->bandwidth);
}

static bool same_cost(const graph *g, const op *a, const op *b) {
    const shape ia = g->values[a->input[0]], ib = g->values[b->input[0]];
    const shape oa = g->values[a->output], ob = g->values[b->output];
    return a->kind == b->kind && !memcmp(&ia, &ib, sizeof ia) && !memcmp(&oa, &ob, sizeof oa) &&
           a->kernel_h == b->kernel_h && (a->residual < 0) == (b->residual < 0) &&
           (a->mask.place == PLACE_NONE) == (b->mask.place == PLACE_NONE);
}

static void print_layer(const graph *g, const op *o, int times, cost c) {
    const shape in = g->values[o->input[0]], out = g->values[o->output];
    const bool linear = o->kind == OP_CONV && in.h == 1;
    char window[32] = "";
    if (o->kernel_h > 1 || (o->kind == OP_CONV && !linear))
        snprintf(window, sizeof window, " %ux%u%s", o->kernel_h, o->kernel_w, o->stride > 1 ? "/2" : "");
    if (o->stride > 2) snprintf(window, sizeof window, " %ux%u/%u", o->kernel_h, o->kernel_w, o->stride);
    printf("| %s | %d | %s%s %ux%ux%u to %ux%ux%u%s | %.2f | %.1f |", o->name, times,
           linear ? "linear" : op_kind_name(o->kind), window, in.h, in.w, in.c, out.h, out.w, out.c,
           o->residual >= 0 ? " + residual" : "", c.flops * 1e-9, c.bytes * 1e-6);
    for (int i = 0; i < GPUS; i++) {
        const bool memory = c.bytes / gpus[i].bandwidth > c.flops / gpus[i].flops;
        printf(" %.1f%s |", 1e6 * seconds(c, &gpus[i]), memory ? " m" : "");
    }
    printf("\n");
}

static void print_layers(const graph *g, double pairs, double masks) {
    printf("| layer (first of its kind) | times | shape | Gflop | MB |");
    for (int i = 0; i < GPUS; i++) printf(" %s, us |", gpus[i].name);
    printf("\n|---|---|---|---|---|");
    for (int i = 0; i < GPUS; i++) printf("---|");
    printf("\n");
    for (size_t i = 0; i < g->op_count; i++) {
        bool seen = false;
        int times = 0;
        for (size_t k = 0; k < g->op_count; k++)
            if (same_cost(g, &g->ops[i], &g->ops[k])) {
                seen |= k < i;
                times++;
            }
        if (!seen) print_layer(g, &g->ops[i], times, cost_of(g, &g->ops[i], pairs, masks));
    }
}

static void print_whole(const graph *g, double pairs, double masks) {
    double flops = 0, bytes = 0, bound[GPUS] = {0};
    int launches = 2; /* keeps from masks; one output */
    for (size_t i = 0; i < g->op_count; i++) {
        const cost c = cost_of(g, &g->ops[i], pairs, masks);
        flops += c.flops;
        bytes += c.bytes;
        launches += c.launches;
        for (int k = 0; k < GPUS; k++) bound[k] += seconds(c, &gpus[k]);
    }
    printf("\n%.0f pairs: %.0f Gflop, %.2f GB, %d launches in one graph; up %.0f bytes (slot and example of each pair, "
           "the index "
           "of the\nfirst mask; %u bytes a mask where masks are not bernoulli), down %.0f bytes (one output).\n\n",
           pairs, flops * 1e-9, bytes * 1e-9, launches, 8 * pairs + 8, (g->components + 7) / 8, 4 * pairs);
    printf("| whole pass |");
    for (int i = 0; i < GPUS; i++) printf(" %s |", gpus[i].name);
    printf("\n|---|");
    for (int i = 0; i < GPUS; i++) printf("---|");
    printf("\n| the sum of the layers' bounds, examples/s |");
    for (int i = 0; i < GPUS; i++) printf(" %.0f |", pairs / bound[i]);
    printf("\n| all flops at peak, nothing moved, examples/s |");
    for (int i = 0; i < GPUS; i++) printf(" %.0f |", pairs * gpus[i].flops / flops);
    printf("\n| what is lost to memory |");
    for (int i = 0; i < GPUS; i++) printf(" %.0f %% |", 100 * (1 - flops / gpus[i].flops / bound[i]));
    printf("\n");
}

static void add_cost(cost c, cost *sum, double bound[GPUS]) {
    sum->flops += c.flops;
    sum->bytes += c.bytes;
    sum->launches += c.launches;
    for (int k = 0; k < GPUS; k++) bound[k] += seconds(c, &gpus[k]);
}

static void print_reverse(const graph *g, double pairs, double masks) {
    double forward[GPUS] = {0}, bound[GPUS] = {0};
    cost pass = {0}, sum = {.launches = 3}; /* keeps from masks; the output, and its derivative */
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        cost saving = cost_of(g, o, pairs, masks);
        add_cost(saving, &pass, forward);
        saving.bytes += saved_bytes(g, o, pairs);
        add_cost(saving, &sum, bound);
        add_cost(epilogue_reverse(g, o, pairs), &sum, bound);
        add_cost(data_reverse(g, o, pairs), &sum, bound);
    }
    printf(
        "\nA reverse pass of %.0f pairs, its forward pass included: %.0f Gflop, %.2f GB, %d launches in one graph; up "
        "%u bytes a\nmask, down %.1f MB (gradients).\n\n",
        pairs, sum.flops * 1e-9, sum.bytes * 1e-9, sum.launches, 4 * g->components,
        1e-6 * 4 * pairs * (g->components + 1.0));
    printf("| forward and reverse pass |");
    for (int i = 0; i < GPUS; i++) printf(" %s |", gpus[i].name);
    printf("\n|---|");
    for (int i = 0; i < GPUS; i++) printf("---|");
    printf("\n| the sum of the launches' bounds, examples/s |");
    for (int i = 0; i < GPUS; i++) printf(" %.0f |", pairs / bound[i]);
    printf("\n| in forward passes alone |");
    for (int i = 0; i < GPUS; i++) printf(" %.2f |", bound[i] / forward[i]);
    printf("\n");
}

int main(int count, char **arguments) {
    model *m = NULL;
    const double pairs = count == 3 ? strtod(arguments[2], NULL) : 0;
    const model_options options = {0};
    if (!(pairs >= 1)) {
        fprintf(stderr, "usage: roofline ARCH PAIRS\n");
        return 2;
    }
    if (model_random(arguments[1], &options, &m) != COAR_OK) {
        fprintf(stderr, "roofline: %s\n", coar_last_error());
        return 1;
    }
    const double masks = ceil(pairs / PAIRS_PER_MASK);
    print_layers(m->graph, pairs, masks);
    print_whole(m->graph, pairs, masks);
    print_reverse(m->graph, pairs, masks);
    model_destroy(m);
    return 0;
}
