/*
 * reference.c - the reference backend: one example under one mask at a time, every value in double.
 *
 * A plan of a lower precision rounds weights, values and operands as backend/precision.h says, so that a device can be
 * compared with the same rounding of the same numbers.
 *
 * It exists to be right and readable, not fast. What the ops mean is in reference_ops.c; this file binds examples,
 * turns masks into keeps and shares (mask, example) pairs out to threads. A pair's outputs depend on nothing but the
 * pair. Must not know: models, files, runs.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/reference/reference_ops.h"

/* What one thread works in. */
typedef struct workspace {
    double *values;     /* [buffers.total]: all buffers, one behind the other */
    double *scratch;    /* [reference_scratch] */
    float *keep;        /* [n] */
    float *logits;      /* [classes] */
    double *sums;       /* [rows]: collect_row_sums, for the one example in hand */
    void *mask_scratch; /* mask_range_scratch_max(n) bytes */
} workspace;

typedef struct reference_backend {
    backend base;
    backend_settings settings;
    output_spec outputs[OUTPUTS_MAX];
    precision precision;
    buffer_plan buffers;
    size_t *buffer_start; /* [buffers.buffers]: where each begins in workspace.values */
    op *ops;              /* [op_count] the graph's; with weights of its own where they are rounded */
    uint32_t classes;
    void *memory;            /* one allocation for all that follows */
    workspace *workspaces;   /* [threads] */
    uint8_t *images;         /* [examples_max][input elements] */
    int32_t *labels;         /* [examples_max] */
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
        if (g->ops[i].kind != OP_CONV) continue;
        arena_place(arena, count, sizeof *rounded, &rounded);
        if (!r->ops) continue;
        for (size_t k = 0; k < count; k++) rounded[k] = precision_operand(r->precision, g->ops[i].weight[k]);
        r->ops[i].weight = rounded;
    }
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
        arena_place(arena, reference_scratch(g), sizeof *w->scratch, &w->scratch);
        arena_place(arena, g->components, sizeof *w->keep, &w->keep);
        arena_place(arena, r->classes, sizeof *w->logits, &w->logits);
        arena_place(arena, g->rows, sizeof *w->sums, &w->sums);
        arena_place(arena, 1, mask_range_scratch_max(g->components), &w->mask_scratch);
    }
    arena_place(arena, s->examples_max, input_elements(g), &r->images);
    arena_place(arena, s->examples_max, sizeof *r->labels, &r->labels);
    arena_place(arena, g->values[0].c, sizeof *r->mean, &r->mean);
    arena_place(arena, g->values[0].c, sizeof *r->deviation, &r->deviation);
}

/* The parts of a backend that are known before any memory is taken, and the bytes it will take. */
static coar_status plan_memory(const backend_settings *s, reference_backend *r, size_t *bytes) {
    arena measure = {0};
    *r = (reference_backend){.base.interface = &backend_reference, .settings = *s};
    r->classes = s->graph->values[s->graph->logits].c;
    if (!precision_parse(s->plan->precision, &r->precision))
        return status_set(COAR_ERROR_MISMATCH, "reference: no precision '%s'", s->plan->precision);
    if (s->output_count > OUTPUTS_MAX)
        return status_set(COAR_ERROR_INTERNAL, "reference: more than %d outputs", OUTPUTS_MAX);
    memcpy(r->outputs, s->outputs, s->output_count * sizeof *s->outputs);
    TRY(buffer_plan_create(s->graph, false, &r->buffers));
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
    memcpy(r->images, batch->images, batch->count * input_elements(r->settings.graph));
    if (batch->labels)
        memcpy(r->labels, batch->labels, batch->count * sizeof *r->labels);
    else
        memset(r->labels, 0, batch->count * sizeof *r->labels);
    memcpy(r->mean, batch->mean, channels * sizeof *r->mean);
    memcpy(r->deviation, batch->std, channels * sizeof *r->deviation);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------ forward pass */

/* x = (pixel / 255 - mean) / std */
static void load_example(const reference_backend *r, uint32_t example, double *x) {
    const size_t elements = input_elements(r->settings.graph), channels = r->settings.graph->values[0].c;
    const uint8_t *pixels = r->images + example * elements;
    for (size_t i = 0; i < elements; i++) {
        x[i] = (pixels[i] / 255.0 - r->mean[i % channels]) / r->deviation[i % channels];
        if (precision_is_narrow(r->precision)) x[i] = precision_stored(r->precision, (float)x[i]);
    }
}

/* Where a value lives; NULL for "none" (-1). */
static double *value_at(const reference_backend *r, const workspace *w, int value) {
    return value < 0 ? NULL : w->values + r->buffer_start[r->buffers.buffer[value]];
}

/* One example under w->keep; leaves the logits in w->logits. `sums` [rows] as in reference_site, or NULL. */
static void forward(const reference_backend *r, workspace *w, uint32_t example, double *sums) {
    const graph *g = r->settings.graph;
    const float *fill = r->settings.ablation.fill;
    load_example(r, example, value_at(r, w, 0));
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &r->ops[i];
        const mask_site *m = &o->mask;
        reference_operands v = {
            .in = g->values[o->input[0]],
            .out = g->values[o->output],
            .x = {value_at(r, w, o->input[0]), value_at(r, w, o->input[1]), value_at(r, w, o->input[2])},
            .residual = value_at(r, w, o->residual),
            .precision = r->precision,
            .wide = o->output == g->logits,
            .scratch = w->scratch,
            .y = value_at(r, w, o->output),
        };
        if (m->place != PLACE_NONE)
            v.site = (reference_site){
                .place = m->place,
                .width = m->width,
                .keep = w->keep + m->first,
                .fill = fill ? fill + m->row_first : NULL,
                .sums = sums ? sums + m->row_first : NULL,
            };
        reference_op(o, &v);
    }
    const double *logits = value_at(r, w, g->logits);
    for (uint32_t c = 0; c < r->classes; c++) w->logits[c] = (float)logits[c];
}

static void keep_all(const reference_backend *r, workspace *w) {
    for (uint32_t j = 0; j < r->settings.graph->components; j++) w->keep[j] = 1;
}

/* ------------------------------------------------------------------------------------------- tasks */

typedef struct run_job {
    reference_backend *r;
    const mask_range *masks;
    float *outputs; /* [output_count][S][E] */
} run_job;

/* Task = mask * E + example. */
static coar_status run_pair(void *context, size_t task, int worker) {
    const run_job *job = context;
    reference_backend *r = job->r;
    workspace *w = &r->workspaces[worker];
    const size_t mask = task / r->examples, pairs = job->masks->count * r->examples;
    const uint32_t example = (uint32_t)(task % r->examples);
    mask_range_keeps(job->masks, mask, r->settings.ablation.gain, w->keep, w->mask_scratch);
    forward(r, w, example, NULL);
    for (size_t k = 0; k < r->settings.output_count; k++)
        job->outputs[k * pairs + task] =
            output_value(&r->outputs[k], w->logits, 1, r->classes, (uint32_t)r->labels[example]);
    return COAR_OK;
}

static coar_status reference_run(backend *b, const mask_range *masks, float *outputs) {
    reference_backend *r = self(b);
    run_job job = {r, masks, outputs};
    if (masks->n != r->settings.graph->components)
        return status_set(COAR_ERROR_INTERNAL, "reference: masks of %u components for a model of %u", masks->n,
                          r->settings.graph->components);
    TRY(thread_pool_run(r->settings.pool, masks->count * r->examples, run_pair, &job));
    r->passes += (double)masks->count * r->examples;
    return COAR_OK;
}

typedef struct logits_job {
    reference_backend *r;
    float *logits; /* [E][classes] */
} logits_job;

static coar_status logits_of_example(void *context, size_t task, int worker) {
    const logits_job *job = context;
    workspace *w = &job->r->workspaces[worker];
    keep_all(job->r, w);
    forward(job->r, w, (uint32_t)task, NULL);
    memcpy(job->logits + task * job->r->classes, w->logits, job->r->classes * sizeof *w->logits);
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
    forward(r, &r->workspaces[worker], job->first + (uint32_t)task, sums);
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
    .logits = reference_logits,
    .collect_row_sums = reference_row_sums,
    .destroy = reference_destroy,
    .work = reference_work,
};
