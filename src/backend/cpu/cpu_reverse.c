/*
 * cpu_reverse.c - run_reverse: which lanes of which tiles are which (mask, example) pairs.
 *
 * Tiles are those of `run`: 32 examples of one mask, or pairs of the remaining examples and several masks. Both are
 * computed in mixed form, since every row's own output is needed, so a pair's gradients do not depend on its tile.
 * Neuron conductance compares neighbouring examples: there a tile is all bound examples under one mask.
 * Must not know: ops, what is kept for them.
 */
#include <string.h>

#include "backend/cpu/cpu.h"

_Static_assert(PATH_EXAMPLES_MAX <= LANES, "a path is one tile");

typedef struct reverse_job {
    cpu_backend *b;
    reverse_kind kind;
    size_t output;
    const mask_range *masks;
    size_t groups, rest; /* of the bound examples */
    uint32_t rest_lanes; /* in use in a tile of the rest */
    float *gradients;    /* [S][E][n] */
    float *outputs;      /* [S][E], or NULL */
} reverse_job;

/* Lane `lane` is example e under mask s. */
static void assign_lane(const reverse_job *job, reverse_tile *t, uint32_t lane, size_t s, size_t e) {
    const size_t pair = s * job->b->examples + e, n = job->b->settings.graph->components;
    t->label[lane] = (uint32_t)job->b->labels[e];
    t->gradients[lane] = job->gradients + pair * n;
    t->output[lane] = job->outputs ? job->outputs + pair : NULL;
    memset(t->gradients[lane], 0, n * sizeof *t->gradients[lane]); /* components that no op of the graph has */
}

static void reverse_group(const reverse_job *job, reverse_tile *t, size_t s, size_t g) {
    cpu_keep_mask(job->b, t->w, job->masks, s);
    t->images = cpu_group_images(job->b, g);
    for (uint32_t lane = 0; lane < LANES; lane++) assign_lane(job, t, lane, s, g * LANES + lane);
    cpu_step_all(t);
}

static void reverse_rest(const reverse_job *job, reverse_tile *t, size_t first) {
    const size_t left = job->masks->count * job->rest - first;
    const uint32_t lanes = left < job->rest_lanes ? (uint32_t)left : job->rest_lanes;
    uint32_t example[LANES];
    cpu_keep_pairs(job->b, t->w, job->masks, first, lanes, example);
    t->images = cpu_rest_images(job->b, t->w, example);
    for (uint32_t lane = 0; lane < lanes; lane++)
        assign_lane(job, t, lane, (first + lane) / job->rest, job->groups * LANES + example[lane]);
    cpu_step_all(t);
}

static coar_status reverse_task(void *context, size_t task, int worker) {
    const reverse_job *job = context;
    const size_t group_tasks = job->masks->count * job->groups;
    reverse_tile t = {
        .b = job->b,
        .w = &job->b->worker[worker],
        .kind = job->kind,
        .spec = &job->b->outputs[job->output],
    };
    if (task < group_tasks)
        reverse_group(job, &t, task / job->groups, task % job->groups);
    else
        reverse_rest(job, &t, (task - group_tasks) * job->rest_lanes);
    return COAR_OK;
}

coar_status cpu_run_reverse(backend *base, reverse_kind kind, size_t output, const mask_range *masks, float *gradients,
                            float *outputs) {
    cpu_backend *b = (cpu_backend *)base;
    reverse_job job = {b, kind, output, masks, b->examples / LANES, b->examples % LANES, LANES, gradients, outputs};
    TRY(backend_check_reverse(&b->settings, b->examples, kind, output, masks));
    if (kind == REVERSE_CONDUCTANCE && job.rest) job.rest_lanes = (uint32_t)job.rest;
    cpu_profile_count(b, true, (uint64_t)masks->count * b->examples);
    const size_t rest_tiles = (masks->count * job.rest + job.rest_lanes - 1) / job.rest_lanes;
    return cpu_each_worker(b, masks->count * job.groups + rest_tiles, reverse_task, &job);
}
