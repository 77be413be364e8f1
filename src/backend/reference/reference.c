/*
 * reference.c - the reference backend: one example under one mask at a time, every value in double.
 *
 * A plan of a lower precision rounds weights, values and operands as backend/precision.h says, so that a device can be
 * compared with the same rounding of the same numbers.
 *
 * It exists to be right and readable, not fast. What the ops mean is in reference_ops.c; this file binds examples,
 * turns masks into keeps and shares (mask, example) pairs out to threads. A pair's outputs depend on nothing but the
 * pair. A reverse pass keeps every value of the forward pass. Must not know: models, files, runs.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/reference/reference_ops.h"

/* What a reverse pass needs beside the values, each [buffers.total] and laid out like them: by the value that an op
 * makes. */
typedef struct reverse_space {
    double *argument;   /* of the op's activation */
    double *x, *before; /* what its mask acts on: in this example, and in the one before it */
    double *masked;     /* dL / d what its mask makes */
    double *gradient;   /* dL / d value */
} reverse_space;

/* What one thread works in. */
typedef struct workspace {
    double *values;        /* [buffers.total]: all buffers, one behind the other */
    reverse_space reverse; /* NULLs unless settings.reverse */
    double *scratch;       /* [reference_scratch] */
    float *keep;           /* [n] */
    float *logits;         /* [logits.count] */
    float *seed;           /* [logits.count]: dL / d logits */
    double *sums;          /* [rows]: collect_row_sums, for the one example in hand */
    void *mask_scratch;    /* mask_range_scratch_max(n) bytes */
} workspace;

typedef struct reference_backend {
    backend base;
    backend_settings settings;
    output_spec outputs[OUTPUTS_MAX];
    precision precision;
    buffer_plan buffers;
    size_t *buffer_start;    /* [buffers.buffers]: where each begins in workspace.values */
    op *ops;                 /* [op_count] the graph's; with weights of its own where they are rounded */
    logits_view logits;      /* without values and label */
    void *memory;            /* one allocation for all that follows */
    workspace *workspaces;   /* [threads] */
    void *inputs;            /* [examples_max] of graph_input_bytes each */
    int32_t *labels;         /* [examples_max] */
    float *scale;            /* [examples_max] */
    float *mean, *deviation; /* [input channels] */
    uint32_t examples;       /* bound now */
    double passes;           /* done by run */
} reference_backend;

static reference_backend *self(backend *b) {
    return (reference_backend *)b;
}

static size_t input_elements(const graph *g) {
    return shape_positions(g->values[0]) * g->values[0].c;
}

/* ------------------------------------------------------------------------------------ preparation */

/* The graph's ops. Weights that are factors of products are rounded copies; what an epilogue adds stays fp32. */
static void place_ops(reference_backend *r, arena *arena) {
    const graph *g = r->settings.graph;
    arena_place(arena, g->op_count, sizeof *r->ops, &r->ops);
    if (r->ops) memcpy(r->ops, g->ops, g->op_count * sizeof *r->ops);
    for (size_t i = 0; r->precision != PRECISION_FP32 && i < g->op_count; i++) {
        float *rounded;
        const size_t count = graph_weight_count(g, &g->ops[i]);
        if (g->ops[i].kind != OP_CONV && g->ops[i].kind != OP_NEXT) continue;
        arena_place(arena, count, sizeof *rounded, &rounded);
        if (!r->ops) continue;
        for (size_t k = 0; k < count; k++) rounded[k] = precision_operand(r->precision, g->ops[i].weight[k]);
        r->ops[i].weight = rounded;
    }
}

static void place_reverse(const reference_backend *r, arena *arena, reverse_space *w) {
    double **const arrays[] = {&w->argument, &w->x, &w->before, &w->masked, &w->gradient};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        if (r->settings.reverse) arena_place(arena, r->buffers.total, sizeof **arrays[i], arrays[i]);
}

/* Sizes everything (arena without a base) or places it. */
static void lay_out(reference_backend *r, arena *arena) {
    const backend_settings *s = &r->settings;
    const graph *g = s->graph;
    const size_t threads = (size_t)thread_pool_size(s->pool);
    arena_place(arena, r->buffers.buffers, sizeof *r->buffer_start, &r->buffer_start);
    place_ops(r, arena);
    arena_place(arena, threads, sizeof *r->workspaces, &r->workspaces);
    for (size_t t = 0; t < threads; t++) {
        workspace unplaced, *w = r->workspaces ? &r->workspaces[t] : &unplaced;
        arena_place(arena, r->buffers.total, sizeof *w->values, &w->values);
        place_reverse(r, arena, &w->reverse);
        arena_place(arena, reference_scratch(g), sizeof *w->scratch, &w->scratch);
        arena_place(arena, g->components, sizeof *w->keep, &w->keep);
        arena_place(arena, r->logits.count, sizeof *w->logits, &w->logits);
        arena_place(arena, r->logits.count, sizeof *w->seed, &w->seed);
        arena_place(arena, g->rows, sizeof *w->sums, &w->sums);
        arena_place(arena, 1, mask_range_scratch_max(g->components), &w->mask_scratch);
    }
    arena_place(arena, s->examples_max, graph_input_bytes(g), &r->inputs);
    arena_place(arena, s->examples_max, sizeof *r->labels, &r->labels);
    arena_place(arena, s->examples_max, sizeof *r->scale, &r->scale);
    arena_place(arena, g->values[0].c, sizeof *r->mean, &r->mean);
    arena_place(arena, g->values[0].c, sizeof *r->deviation, &r->deviation);
}

/* The parts of a backend that are known before any memory is taken, and the bytes it will take. */
static coar_status plan_memory(const backend_settings *s, reference_backend *r, size_t *bytes) {
    arena measure = {0};
    *r = (reference_backend){.base.interface = &backend_reference, .settings = *s};
    r->logits = graph_logits(s->graph, 1);
    if (!precision_parse(s->plan->precision, &r->precision))
        return status_set(COAR_ERROR_MISMATCH, "reference: no precision '%s'", s->plan->precision);
    if (s->output_count > OUTPUTS_MAX)
        return status_set(COAR_ERROR_INTERNAL, "reference: more than %d outputs", OUTPUTS_MAX);
    memcpy(r->outputs, s->outputs, s->output_count * sizeof *s->outputs);
    TRY(buffer_plan_create(s->graph, s->reverse, &r->buffers));
    lay_out(r, &measure);
    *bytes = measure.used;
    return COAR_OK;
}

static coar_status reference_memory(const backend_settings *s, size_t *least, size_t *best) {
    reference_backend r;
    size_t bytes = 0;
    TRY(plan_memory(s, &r, &bytes));
    buffer_plan_free(&r.buffers);
    *least = *best = bytes;
    return COAR_OK;
}

static void reference_destroy(backend *b) {
    if (!b) return;
    reference_backend *r = self(b);
    buffer_plan_free(&r->buffers);
    free(r->memory);
    free(r);
}

static coar_status reference_prepare(const backend_settings *s, backend **out) {
    coar_status status = COAR_OK;
    reference_backend *r = NULL;
    arena place = {0};
    *out = NULL;
    if (strcmp(s->plan->device_class, "reference"))
        return status_set(COAR_ERROR_MISMATCH, "the reference backend cannot execute a plan for %s",
                          s->plan->device_class);
    TRY(memory_new(1, sizeof *r, "reference backend", &r));
    TRY_GOTO(plan_memory(s, r, &place.size));
    if (place.size > s->memory) {
        status = status_set(COAR_ERROR_MEMORY,
                            "the reference backend needs %zu MiB, %zu MiB are allowed: raise --memory or "
                            "lower --threads",
                            (place.size >> 20) + 1, s->memory >> 20);
        goto done;
    }
    TRY_GOTO(memory_new(place.size, 1, "reference backend", &r->memory));
    place.base = r->memory;
    lay_out(r, &place);
    for (size_t b = 0, start = 0; b < r->buffers.buffers; start += r->buffers.size[b++]) r->buffer_start[b] = start;
    *out = &r->base;
    r = NULL;
done:
    if (r) reference_destroy(&r->base);
    return status;
}

static coar_status reference_bind(backend *b, const example_batch *batch) {
    reference_backend *r = self(b);
    const uint32_t channels = r->settings.graph->values[0].c;
    TRY(backend_check_batch(&r->settings, batch));
    r->examples = batch->count;
    memcpy(r->inputs, batch->inputs, batch->count * graph_input_bytes(r->settings.graph));
    if (batch->labels)
        memcpy(r->labels, batch->labels, batch->count * sizeof *r->labels);
    else
        memset(r->labels, 0, batch->count * sizeof *r->labels);
    if (r->settings.graph->vocabulary) return COAR_OK; /* tokens are not normalised */
    for (uint32_t e = 0; e < batch->count; e++) r->scale[e] = batch->scale ? batch->scale[e] : 1;
    memcpy(r->mean, batch->mean, channels * sizeof *r->mean);
    memcpy(r->deviation, batch->std, channels * sizeof *r->deviation);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------ forward pass */

/* x = (pixel / 255 - mean) / std * scale, or the tokens themselves */
static void load_example(const reference_backend *r, uint32_t example, double *x) {
    const size_t elements = input_elements(r->settings.graph), channels = r->settings.graph->values[0].c;
    const uint8_t *pixels = (const uint8_t *)r->inputs + example * elements;
    const int32_t *tokens = (const int32_t *)r->inputs + example * elements;
    if (r->settings.graph->vocabulary) {
        for (size_t i = 0; i < elements; i++) x[i] = tokens[i];
        return;
    }
    for (size_t i = 0; i < elements; i++) {
        x[i] = (pixels[i] / 255.0 - r->mean[i % channels]) / r->deviation[i % channels] * r->scale[example];
        if (precision_is_narrow(r->precision)) x[i] = precision_stored(r->precision, (float)x[i]);
    }
}

/* Where a value's part of an array begins that is laid out like workspace.values; NULL for no value (-1), or no
 * array. */
static double *part_of(const reference_backend *r, double *array, int value) {
    return value < 0 || !array ? NULL : array + r->buffer_start[r->buffers.buffer[value]];
}

/* Op `i` of the graph in a workspace. */
static reference_operands operands_of(const reference_backend *r, const workspace *w, size_t i) {
    const graph *g = r->settings.graph;
    const float *fill = r->settings.ablation.fill;
    const op *o = &r->ops[i];
    reference_operands v = {
        .in = g->values[o->input[0]],
        .out = g->values[o->output],
        .residual = part_of(r, w->values, o->residual),
        .precision = r->precision,
        .wide = o->output == g->logits,
        .scratch = w->scratch,
        .argument = part_of(r, w->reverse.argument, o->output),
        .y = part_of(r, w->values, o->output),
    };
    for (int k = 0; k < 3; k++) v.x[k] = part_of(r, w->values, o->input[k]);
    if (o->mask.place != PLACE_NONE)
        v.site = (reference_site){
            .place = o->mask.place,
            .width = o->mask.width,
            .keep = w->keep + o->mask.first,
            .fill = fill ? fill + o->mask.row_first : NULL,
        };
    return v;
}

/* One example under w->keep; leaves the logits in w->logits. `sums` [rows] as in reference_site, `x` [buffers.total];
 * or NULL. */
static void forward(const reference_backend *r, workspace *w, uint32_t example, double *sums, double *x) {
    const graph *g = r->settings.graph;
    load_example(r, example, part_of(r, w->values, 0));
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &r->ops[i];
        reference_operands v = operands_of(r, w, i);
        if (sums) v.site.sums = sums + o->mask.row_first;
        v.site.x = part_of(r, x, o->output);
        reference_op(o, &v);
    }
    const double *logits = part_of(r, w->values, g->logits);
    for (uint32_t c = 0; c < r->logits.count; c++) w->logits[c] = (float)logits[c];
}

static void keep_all(const reference_backend *r, workspace *w) {
    for (uint32_t j = 0; j < r->settings.graph->components; j++) w->keep[j] = 1;
}

/* ------------------------------------------------------------------------------------ reverse pass */

/* After `forward`: dL / d what the masks make, in w->reverse.masked, for the output whose derivative is w->seed. */
static void reverse(const reference_backend *r, workspace *w) {
    const graph *g = r->settings.graph;
    double *logits = part_of(r, w->reverse.gradient, g->logits);
    memset(w->reverse.gradient, 0, r->buffers.total * sizeof *w->reverse.gradient);
    for (uint32_t c = 0; c < r->logits.count; c++) logits[c] = w->seed[c];
    for (size_t i = g->op_count; i-- > 0;) {
        const op *o = &r->ops[i];
        const reference_operands v = operands_of(r, w, i);
        reference_gradients d = {
            .dy = part_of(r, w->reverse.gradient, o->output),
            .dresidual = o->residual ? part_of(r, w->reverse.gradient, o->residual) : NULL,
            .dmasked = part_of(r, w->reverse.masked, o->output),
        };
        for (int k = 0; k < 3; k++) d.dx[k] = o->input[k] ? part_of(r, w->reverse.gradient, o->input[k]) : NULL;
        reference_op_reverse(o, &v, &d);
    }
}

/* What one position of op o's channel c contributes to its component (reverse_kind). */
static double contribution(reverse_kind kind, double masked, double keep, double fill, double x, double before) {
    switch (kind) {
    case REVERSE_MASK:
        return masked * (x - fill);
    case REVERSE_INFLUENCE:
        return keep * masked;
    case REVERSE_CONDUCTANCE:
        return keep * masked * (x - before);
    }
    return NAN;
}

/* Sums over positions and channels of every component: gradients[n]. Components without a site have none. */
static void sum_components(const reference_backend *r, const workspace *w, reverse_kind kind, float *gradients) {
    const graph *g = r->settings.graph;
    memset(gradients, 0, g->components * sizeof *gradients);
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &r->ops[i];
        const reference_operands v = operands_of(r, w, i);
        const size_t elements = shape_positions(v.out) * v.out.c;
        const double *masked = part_of(r, w->reverse.masked, o->output), *x = part_of(r, w->reverse.x, o->output),
                     *before = part_of(r, w->reverse.before, o->output);
        for (uint32_t j = 0; o->mask.place != PLACE_NONE && j < o->mask.count; j++) {
            double sum = 0;
            for (size_t at = (size_t)j * v.site.width; at < elements; at += v.out.c)
                for (size_t c = at; c < at + v.site.width; c++)
                    sum += contribution(kind, masked[c], v.site.keep[j], v.site.fill ? v.site.fill[c % v.out.c] : 0,
                                        x[c], before[c]);
            gradients[o->mask.first + j] = (float)sum;
        }
    }
}

/* ------------------------------------------------------------------------------------------- tasks */

typedef struct run_job {
    reference_backend *r;
    const mask_range *masks;
    float *outputs; /* [output_count][S][E] */
} run_job;

static logits_view logits_of(const reference_backend *r, const workspace *w, uint32_t example) {
    logits_view view = r->logits;
    view.values = w->logits;
    view.label = (uint32_t)r->labels[example];
    return view;
}

/* Task = mask * E + example. */
static coar_status run_pair(void *context, size_t task, int worker) {
    const run_job *job = context;
    reference_backend *r = job->r;
    workspace *w = &r->workspaces[worker];
    const size_t mask = task / r->examples, pairs = job->masks->count * r->examples;
    const uint32_t example = (uint32_t)(task % r->examples);
    mask_range_keeps(job->masks, mask, r->settings.ablation.gain, w->keep, w->mask_scratch);
    forward(r, w, example, NULL, NULL);
    const logits_view logits = logits_of(r, w, example);
    for (size_t k = 0; k < r->settings.output_count; k++)
        job->outputs[k * pairs + task] = output_value(&r->outputs[k], &logits);
    return COAR_OK;
}

static coar_status reference_run(backend *b, const mask_range *masks, float *outputs) {
    reference_backend *r = self(b);
    run_job job = {r, masks, outputs};
    TRY(backend_check_masks(&r->settings, masks));
    TRY(thread_pool_run(r->settings.pool, masks->count * r->examples, run_pair, &job));
    r->passes += (double)masks->count * r->examples;
    return COAR_OK;
}

typedef struct reverse_job {
    reference_backend *r;
    reverse_kind kind;
    size_t output;
    const mask_range *masks;
    float *gradients; /* [S][E][n] */
    float *outputs;   /* [S][E] or NULL */
} reverse_job;

/* Task = mask * E + example. */
static coar_status reverse_pair(void *context, size_t task, int worker) {
    const reverse_job *job = context;
    reference_backend *r = job->r;
    workspace *w = &r->workspaces[worker];
    const output_spec *output = &r->outputs[job->output];
    const uint32_t example = (uint32_t)(task % r->examples);
    float *gradients = job->gradients + task * r->settings.graph->components;
    mask_range_keeps(job->masks, task / r->examples, r->settings.ablation.gain, w->keep, w->mask_scratch);
    /* Conductance looks at the change since the example before; the first has none, and is its own. */
    if (job->kind == REVERSE_CONDUCTANCE) forward(r, w, example ? example - 1 : 0, NULL, w->reverse.before);
    forward(r, w, example, NULL, w->reverse.x);
    const logits_view logits = logits_of(r, w, example);
    output_gradient(output, &logits, w->seed);
    reverse(r, w);
    sum_components(r, w, job->kind, gradients);
    if (job->outputs) job->outputs[task] = output_value(output, &logits);
    return COAR_OK;
}

static coar_status reference_run_reverse(backend *b, reverse_kind kind, size_t output, const mask_range *masks,
                                         float *gradients, float *outputs) {
    reference_backend *r = self(b);
    reverse_job job = {r, kind, output, masks, gradients, outputs};
    TRY(backend_check_reverse(&r->settings, r->examples, kind, output, masks));
    return thread_pool_run(r->settings.pool, masks->count * r->examples, reverse_pair, &job);
}

typedef struct logits_job {
    reference_backend *r;
    float *logits; /* [E][logits.count] */
} logits_job;

static coar_status logits_of_example(void *context, size_t task, int worker) {
    const logits_job *job = context;
    workspace *w = &job->r->workspaces[worker];
    keep_all(job->r, w);
    forward(job->r, w, (uint32_t)task, NULL, NULL);
    const size_t count = job->r->logits.count;
    memcpy(job->logits + task * count, w->logits, count * sizeof *w->logits);
    return COAR_OK;
}

static coar_status reference_logits(backend *b, float *logits) {
    logits_job job = {self(b), logits};
    return thread_pool_run(job.r->settings.pool, job.r->examples, logits_of_example, &job);
}

typedef struct sums_job {
    reference_backend *r;
    uint32_t first;
} sums_job;

/* Example first + task, into the sums of workspace `task` (not `worker`): they are added up by example. */
static coar_status sums_of_example(void *context, size_t task, int worker) {
    const sums_job *job = context;
    reference_backend *r = job->r;
    double *sums = r->workspaces[task].sums;
    keep_all(r, &r->workspaces[worker]);
    memset(sums, 0, r->settings.graph->rows * sizeof *sums);
    forward(r, &r->workspaces[worker], job->first + (uint32_t)task, sums, NULL);
    return COAR_OK;
}

/* As many examples at a time as there are workspaces, added in example order whoever computed them. */
static coar_status reference_row_sums(backend *b, double *sums) {
    reference_backend *r = self(b);
    const uint32_t threads = (uint32_t)thread_pool_size(r->settings.pool);
    for (uint32_t first = 0; first < r->examples; first += threads) {
        const uint32_t count = r->examples - first < threads ? r->examples - first : threads;
        sums_job job = {r, first};
        TRY(thread_pool_run(r->settings.pool, count, sums_of_example, &job));
        for (uint32_t e = 0; e < count; e++)
            for (uint32_t row = 0; row < r->settings.graph->rows; row++) sums[row] += r->workspaces[e].sums[row];
    }
    return COAR_OK;
}

static void reference_work(const backend *b, double *executed, double *dense) {
    const reference_backend *r = (const reference_backend *)b;
    *executed = *dense = r->passes * graph_flops(r->settings.graph);
}

const backend_interface backend_reference = {
    .name = "reference",
    .memory = reference_memory,
    .prepare = reference_prepare,
    .bind = reference_bind,
    .run = reference_run,
    .run_reverse = reference_run_reverse,
    .logits = reference_logits,
    .collect_row_sums = reference_row_sums,
    .destroy = reference_destroy,
    .work = reference_work,
};
