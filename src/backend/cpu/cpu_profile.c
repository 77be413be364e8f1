/*
 * cpu_profile.c - where the time of run and run_reverse goes: the clock around every op of every tile.
 *
 * A thread takes whole tiles and waits for nobody inside one, so what its ops took adds up to what the tile took. The
 * times of all threads over their number are then shares of the wall time; what is missing are masks, pixels, outputs
 * and threads that had no tile. Two readings of the clock for each op are some 50 ns, of tens of microseconds at least.
 */
#include <stdio.h>
#include <stdlib.h>

#include "backend/cpu/cpu.h"
#include "core/log.h"

/* What an op of one kind of pass took on one thread. */
typedef struct op_cost {
    double seconds, executed, bytes;
    uint64_t times;
} op_cost;

typedef enum pass_kind { PASS_RUN, PASS_FORWARD, PASS_REVERSE, PASSES } pass_kind;

/* The op in hand. */
typedef struct op_start {
    double seconds, flops;
} op_start;

struct cpu_profile {
    size_t ops;
    op_cost *cost;   /* [workers][PASSES][ops] */
    op_start *start; /* [workers] */
    uint64_t run_pairs, reverse_pairs;
    tile_observer group, mixed;
};

static op_cost *cost_of(const cpu_profile *p, size_t worker, pass_kind kind, size_t op) {
    return &p->cost[(worker * PASSES + kind) * p->ops + op];
}

/* ------------------------------------------------------------------------------------------ tiles of `run` */

static double tile_bytes(int value, size_t positions, uint32_t channels) {
    return value < 0 ? 0 : (double)positions * channels * LANES * sizeof(float);
}

/* Positions that an op reads of its inputs. */
static size_t positions_read(const cpu_layer *layer) {
    const bool part = layer->op->kind == OP_SUBSAMPLE || layer->op->kind == OP_SELECT;
    return shape_positions(part ? layer->out : layer->in);
}

/* What op i of the tile in hand cannot do without: its inputs, weights and output, each once. */
static double op_bytes(const cpu_backend *b, const cpu_worker *w, size_t i, bool group) {
    const cpu_layer *layer = &b->layers[i];
    const op *o = layer->op;
    const size_t written = cpu_positions(w, layer);
    const bool some = written < shape_positions(layer->out) && o->kind != OP_ATTENTION;
    const size_t read = some ? written : positions_read(layer);
    if (o->kind == OP_NEXT) /* its table of weights and one more value, of one channel */
        return tile_bytes(o->output, written, layer->out.c) + tile_bytes(o->input[0], written, layer->in.c) +
               tile_bytes(o->input[1], read, 1) + (double)o->vocabulary * layer->form.columns * sizeof(float);
    if (o->kind != OP_CONV) {
        double bytes = tile_bytes(o->output, written, layer->out.c);
        for (int k = 0; k < 3; k++) bytes += tile_bytes(o->input[k], read, layer->in.c);
        return bytes;
    }
    const cpu_form *form = &layer->form;
    const conv_args args = cpu_conv_args(b, w, i, form, group);
    const uint32_t columns = form->bf16 ? args.pairs : args.in_channels;
    return tile_bytes(o->input[0], read, args.in_channels) + tile_bytes(o->output, written, args.out_channels) +
           tile_bytes(o->residual, written, args.out_channels) +
           (double)args.rows * columns * form->points * sizeof(float);
}

static void see(cpu_profile *p, const cpu_backend *b, const cpu_worker *w, size_t i, bool finished, bool group) {
    const size_t worker = w - b->worker;
    op_start *start = &p->start[worker];
    if (!finished) {
        *start = (op_start){.seconds = clock_seconds(), .flops = w->flops};
        return;
    }
    op_cost *cost = cost_of(p, worker, PASS_RUN, i);
    cost->seconds += clock_seconds() - start->seconds;
    cost->executed += w->flops - start->flops;
    cost->bytes += op_bytes(b, w, i, group);
    cost->times++;
}

static void see_group(void *context, const cpu_backend *b, cpu_worker *w, size_t i, bool finished) {
    see(context, b, w, i, finished, true);
}

static void see_mixed(void *context, const cpu_backend *b, cpu_worker *w, size_t i, bool finished) {
    see(context, b, w, i, finished, false);
}

const tile_observer *cpu_profile_observer(const cpu_backend *b, bool group) {
    if (!b->profile) return NULL;
    return group ? &b->profile->group : &b->profile->mixed;
}

/* --------------------------------------------------------------------------------- steps of `run_reverse` */

double cpu_profile_clock(const cpu_backend *b) {
    return b->profile ? clock_seconds() : 0;
}

void cpu_profile_step(const cpu_backend *b, const cpu_worker *w, const step *s, double start) {
    if (!b->profile || s->kind == STEP_INPUT || s->kind == STEP_OUTPUT) return;
    op_cost *cost = cost_of(b->profile, w - b->worker, s->kind == STEP_FORWARD ? PASS_FORWARD : PASS_REVERSE, s->op);
    cost->seconds += clock_seconds() - start;
    if (s->kind != STEP_EPILOGUE) cost->times++;
}

void cpu_profile_count(const cpu_backend *b, bool reverse, uint64_t pairs) {
    if (b->profile) *(reverse ? &b->profile->reverse_pairs : &b->profile->run_pairs) += pairs;
}

/* ------------------------------------------------------------------------------------------------ the sums */

void cpu_profile_free(cpu_profile *p) {
    if (!p) return;
    free(p->cost);
    free(p->start);
    free(p);
}

coar_status cpu_profile_begin(backend *base) {
    cpu_backend *b = (cpu_backend *)base;
    coar_status status = COAR_OK;
    cpu_profile *p;
    TRY(memory_new(1, sizeof *p, "profile", &p));
    *p = (cpu_profile){.ops = b->settings.graph->op_count, .group = {see_group, p}, .mixed = {see_mixed, p}};
    TRY_GOTO(memory_new(b->workers * PASSES * p->ops, sizeof *p->cost, "profile", &p->cost));
    TRY_GOTO(memory_new(b->workers, sizeof *p->start, "profile", &p->start));
    cpu_profile_free(b->profile);
    b->profile = p;
    p = NULL;
done:
    cpu_profile_free(p);
    return status;
}

/* Products of the op, or of its reverse, for one example: dense, direct form. */
static double dense_flops(const cpu_backend *b, pass_kind kind, size_t i) {
    const op *o = b->layers[i].op;
    const double forward = graph_op_flops(b->settings.graph, o);
    if (kind == PASS_REVERSE && o->kind == OP_NEXT) return 0; /* a margin's: two rows of the table for each position */
    /* Attention backwards: the scores once more, and the gradients of values, probabilities, queries and keys. */
    return kind == PASS_REVERSE && o->kind == OP_ATTENTION ? 2.5 * forward : forward;
}

static void tell_shape(const cpu_layer *layer, pass_kind kind, char *text, size_t size) {
    const op *o = layer->op;
    const uint32_t made = o->kind == OP_NEXT ? o->vocabulary : layer->out.c; /* logits, however few numbers are kept */
    char window[64] = "";
    if (o->kernel_h) snprintf(window, sizeof window, " %ux%u/%u+%u", o->kernel_h, o->kernel_w, o->stride, o->pad);
    snprintf(text, size, "%s %ux%ux%u > %ux%ux%u%s%s", op_kind_name(o->kind), layer->in.h, layer->in.w, layer->in.c,
             layer->out.h, layer->out.w, made, window, kind == PASS_REVERSE ? " transposed" : "");
}

static layer_time layer_sum(const cpu_backend *b, pass_kind kind, size_t i) {
    const cpu_profile *p = b->profile;
    layer_time t = {.op = i, .pairs = kind == PASS_RUN ? p->run_pairs : p->reverse_pairs, .splits = 1};
    uint64_t times = 0;
    for (size_t worker = 0; worker < b->workers; worker++) {
        const op_cost *cost = cost_of(p, worker, kind, i);
        t.seconds += cost->seconds / (double)b->workers;
        t.executed += cost->executed;
        t.bytes += cost->bytes;
        times += cost->times;
    }
    if (times) t.flops = (double)t.pairs * dense_flops(b, kind, i);
    tell_shape(&b->layers[i], kind, t.shape, sizeof t.shape);
    snprintf(t.form, sizeof t.form, "%s", plan_form_name(b->settings.plan, i));
    return t;
}

coar_status cpu_profile_sums(const backend *base, bool reverse, layer_time **times, size_t *count) {
    const cpu_backend *b = (const cpu_backend *)base;
    const size_t ops = b->settings.graph->op_count;
    layer_time *list;
    *times = NULL;
    *count = 0;
    if (!b->profile) return status_set(COAR_ERROR_INTERNAL, "cpu: nothing was profiled");
    TRY(memory_new(2 * ops, sizeof *list, "layers", &list));
    for (pass_kind kind = reverse ? PASS_FORWARD : PASS_RUN; kind <= (reverse ? PASS_REVERSE : PASS_RUN); kind++)
        for (size_t i = 0; i < ops; i++) {
            list[*count] = layer_sum(b, kind, i);
            *count += list[*count].seconds > 0;
        }
    *times = list;
    return COAR_OK;
}
