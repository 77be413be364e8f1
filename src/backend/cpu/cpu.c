/*
 * cpu.c - the cpu backend's interface: prepare, bind, run, logits.
 *
 * A thread takes whole tiles, so nothing inside a run waits for another thread. Tasks are runs of full groups of one
 * mask (its rows, columns and epilogues are listed once per task), then the mixed tiles. Which task a worker gets
 * decides no bits.
 */
#include "backend/cpu/cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_isa.h"

static cpu_backend *self(backend *b) {
    return (cpu_backend *)b;
}

/* ------------------------------------------------------------------------------------ preparation */

coar_status cpu_find_kernels(const numerics_plan *plan, const cpu_kernels **out) {
    const char *class = plan->device_class;
    TRY(plan_check_executable(plan, 0));
    const cpu_isa *isa = strncmp(class, "cpu/", 4) ? NULL : cpu_isa_find(class + 4);
    if (!isa) return status_set(COAR_ERROR_MISMATCH, "the cpu backend cannot execute a plan for %s", class);
    *out = cpu_isa_kernels(isa);
    return COAR_OK;
}

/* What is known before the large allocation. */
static coar_status describe(const backend_settings *s, cpu_backend *b) {
    *b = (cpu_backend){.base.interface = &backend_cpu, .settings = *s};
    if (s->output_count > OUTPUTS_MAX || s->plan->layers != s->graph->op_count)
        return status_set(COAR_ERROR_INTERNAL, "cpu: %zu outputs, a plan of %zu layers for a model of %zu",
                          s->output_count, s->plan->layers, s->graph->op_count);
    TRY(cpu_find_kernels(s->plan, &b->kernels));
    const shape input = s->graph->values[0];
    b->logits = graph_logits(s->graph, LANES);
    if (!size_mul(shape_positions(input), input.c, &b->elements))
        return status_set(COAR_ERROR_MEMORY, "the model's input is more than this machine can address");
    b->element_bytes = s->graph->vocabulary ? sizeof(int32_t) : 1;
    memcpy(b->outputs, s->outputs, s->output_count * sizeof *s->outputs);
    TRY(buffer_plan_create(s->graph, false, &b->buffers));
    TRY(memory_new(s->graph->op_count, sizeof *b->layers, "cpu backend", &b->layers));
    cpu_layers_describe(b);
    return s->reverse ? cpu_schedule_choices(s->graph, &b->choices, &b->choice_count) : COAR_OK;
}

static void cpu_destroy(backend *base) {
    if (!base) return;
    cpu_backend *b = self(base);
    buffer_plan_free(&b->buffers);
    cpu_schedule_free(&b->schedule);
    cpu_profile_free(b->profile);
    free(b->choices);
    free(b->layers);
    free(b->memory);
    free(b);
}

static coar_status create(const backend_settings *s, cpu_backend **out) {
    cpu_backend *b;
    *out = NULL;
    TRY(memory_new(1, sizeof *b, "cpu backend", &b));
    coar_status status = describe(s, b);
    if (status == COAR_OK)
        *out = b;
    else
        cpu_destroy(&b->base);
    return status;
}

static coar_status cpu_memory(const backend_settings *s, size_t *least, size_t *best) {
    cpu_backend *b;
    TRY(create(s, &b));
    *least = cpu_memory_plan(b, cpu_memory_least(b), NULL);
    *best = cpu_memory_plan(b, cpu_memory_choose(b, s->memory), NULL);
    cpu_destroy(&b->base);
    return COAR_OK;
}

static coar_status cpu_prepare(const backend_settings *s, backend **out) {
    cpu_backend *b;
    *out = NULL;
    TRY(create(s, &b));
    coar_status status = cpu_memory_allocate(b);
    if (status != COAR_OK) {
        cpu_destroy(&b->base);
        return status;
    }
    for (size_t i = 0, start = 0; i < b->buffers.buffers; start += lanes_room(b->buffers.size[i++] * LANES))
        b->buffer_start[i] = start;
    status = cpu_layers_fill(b);
    if (status == COAR_OK)
        *out = &b->base;
    else
        cpu_destroy(&b->base);
    return status;
}

/* --------------------------------------------------------------------------------------- examples */

/* One example's elements into a lane: [elements] -> [elements][LANES]. */
static void put_lane(const cpu_backend *b, const uint8_t *example, uint8_t *lanes, size_t lane) {
    if (b->element_bytes == 1)
        for (size_t i = 0; i < b->elements; i++) lanes[i * LANES + lane] = example[i];
    else
        for (size_t i = 0; i < b->elements; i++)
            memcpy(lanes + (i * LANES + lane) * sizeof(int32_t), example + i * sizeof(int32_t), sizeof(int32_t));
}

static coar_status cpu_bind(backend *base, const example_batch *batch) {
    cpu_backend *b = self(base);
    const size_t groups = batch->count / LANES, bytes = b->elements * b->element_bytes;
    const uint8_t *inputs = batch->inputs;
    TRY(backend_check_batch(&b->settings, batch));
    b->examples = batch->count;
    for (size_t t = 0; t < b->workers; t++)
        for (size_t lane = 0; lane < LANES; lane++) b->worker[t].shown[lane] = SHOWN_NONE;
    for (size_t e = 0; e < groups * LANES; e++)
        put_lane(b, inputs + e * bytes, b->groups + e / LANES * LANES * bytes, e % LANES);
    memcpy(b->rest, inputs + groups * LANES * bytes, batch->count % LANES * bytes);
    if (batch->labels)
        memcpy(b->labels, batch->labels, batch->count * sizeof *b->labels);
    else
        memset(b->labels, 0, batch->count * sizeof *b->labels);
    if (b->settings.graph->vocabulary) return COAR_OK; /* the rest is for pixels */
    b->scaled = batch->scale != NULL;
    if (b->scaled) memcpy(b->scale, batch->scale, batch->count * sizeof *b->scale);
    for (uint32_t c = 0; c < b->settings.graph->values[0].c; c++) { /* (pixel / 255 - mean) / std */
        b->pixel_mul[c] = (float)(1 / (255.0 * batch->std[c]));
        b->pixel_add[c] = (float)(-(double)batch->mean[c] / batch->std[c]);
    }
    return COAR_OK;
}

/* Positions that the outputs of a text depend on: those before its last token. Of an image, and of a text whose length does
 * not count, all there are. */
static size_t positions_of(const cpu_backend *b, size_t example) {
    const int32_t length = b->labels[example];
    return b->settings.graph->vocabulary && length ? (size_t)length - 1 : SIZE_MAX;
}

tile_images cpu_group_images(const cpu_backend *b, size_t g) {
    size_t positions = 0;
    for (size_t lane = 0; lane < LANES; lane++) positions = cpu_larger(positions, positions_of(b, g * LANES + lane));
    return (tile_images){b->groups + g * b->elements * b->element_bytes * LANES,
                         b->scaled ? b->scale + g * LANES : NULL, positions};
}

tile_images cpu_rest_images(const cpu_backend *b, cpu_worker *w, const uint32_t *example) {
    const size_t first = b->examples / LANES * LANES;
    size_t positions = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        positions = cpu_larger(positions, positions_of(b, first + example[lane]));
        if (w->shown[lane] == example[lane]) continue; /* few examples: tile after tile shows the same */
        w->shown[lane] = example[lane];
        put_lane(b, b->rest + example[lane] * b->elements * b->element_bytes, w->pixels, lane);
        w->scale[lane] = b->scale[first + example[lane]];
    }
    return (tile_images){w->pixels, b->scaled ? w->scale : NULL, positions};
}

/* ------------------------------------------------------------------------------------------ keeps */

void cpu_keep_all(const cpu_backend *b, cpu_worker *w) {
    const size_t count = (size_t)b->settings.graph->components * LANES;
    for (size_t i = 0; i < count; i++) w->keep[i] = 1;
}

/* Mask s of the run into w->mask. */
static void load_mask(const cpu_backend *b, cpu_worker *w, const mask_range *masks, size_t s) {
    if (masks) {
        mask_range_keeps(masks, s, b->settings.ablation.gain, w->mask, w->mask_scratch);
    } else {
        for (uint32_t j = 0; j < b->settings.graph->components; j++) w->mask[j] = 1;
    }
}

static void spread_mask(const cpu_backend *b, cpu_worker *w, uint32_t first_lane, uint32_t lanes) {
    for (size_t j = 0; j < b->settings.graph->components; j++)
        for (uint32_t lane = first_lane; lane < first_lane + lanes; lane++) w->keep[j * LANES + lane] = w->mask[j];
}

void cpu_keep_mask(const cpu_backend *b, cpu_worker *w, const mask_range *masks, size_t s) {
    load_mask(b, w, masks, s);
    spread_mask(b, w, 0, LANES);
}

void cpu_keep_pairs(const cpu_backend *b, cpu_worker *w, const mask_range *masks, size_t first, uint32_t lanes,
                    uint32_t *example) {
    const uint32_t rest = b->examples % LANES;
    for (uint32_t lane = 0; lane < LANES; lane++) {
        const size_t pair = first + (lane < lanes ? lane : lanes - 1);
        example[lane] = (uint32_t)(pair % rest);
        if (lane == 0 || example[lane] == 0) load_mask(b, w, masks, pair / rest);
        spread_mask(b, w, lane, 1);
    }
}

/* ------------------------------------------------------------------------------------------ tasks */

/* One call of run or logits. Pair = (mask, example). */
typedef struct run_job {
    cpu_backend *b;
    const mask_range *masks; /* NULL: the unablated model */
    size_t count;            /* S */
    size_t groups, rest;     /* of the bound examples */
    size_t parts;            /* tasks that share the groups of one mask */
    float *outputs;          /* [output_count][S][E], or */
    float *logits;           /* [E][logits.count] */
    bool log_sums;           /* an output is made of them, or the logits are wanted */
} run_job;

/* For logits all positions of a text, whatever its length. */
static tile_images shown(const run_job *job, tile_images images) {
    if (job->logits) images.positions = SIZE_MAX;
    return images;
}

/* The outputs of one lane of the tile in hand. */
static void store_lane(const run_job *job, const cpu_worker *w, uint32_t lane, size_t s, size_t example) {
    const cpu_backend *b = job->b;
    logits_view logits = b->logits;
    logits.values = cpu_value(w, b->settings.graph->logits) + lane;
    logits.label = (uint32_t)b->labels[example];
    if (job->logits)
        for (size_t c = 0; c < logits.count; c++) job->logits[example * logits.count + c] = logits.values[c * LANES];
    else
        for (size_t k = 0; k < b->settings.output_count; k++)
            job->outputs[(k * job->count + s) * b->examples + example] = output_value(&b->outputs[k], &logits);
}

static void run_groups(const run_job *job, cpu_worker *w, size_t s, size_t first, size_t end) {
    cpu_keep_mask(job->b, w, job->masks, s);
    for (size_t g = first; g < end; g++) {
        cpu_tile_run(job->b, w, shown(job, cpu_group_images(job->b, g)), true, g == first,
                     cpu_profile_observer(job->b, true));
        for (uint32_t lane = 0; lane < LANES; lane++) store_lane(job, w, lane, s, g * LANES + lane);
    }
}

static void run_mixed(const run_job *job, cpu_worker *w, size_t first) {
    const size_t left = job->count * job->rest - first;
    const uint32_t lanes = left < LANES ? (uint32_t)left : LANES;
    uint32_t example[LANES];
    cpu_keep_pairs(job->b, w, job->masks, first, lanes, example);
    cpu_tile_run(job->b, w, shown(job, cpu_rest_images(job->b, w, example)), false, true,
                 cpu_profile_observer(job->b, false));
    for (uint32_t lane = 0; lane < lanes; lane++)
        store_lane(job, w, lane, (first + lane) / job->rest, job->groups * LANES + example[lane]);
}

static coar_status run_task(void *context, size_t task, int worker) {
    const run_job *job = context;
    cpu_worker *w = &job->b->worker[worker];
    const size_t group_tasks = job->groups ? job->count * job->parts : 0;
    w->all_positions = false;
    w->log_sums = job->log_sums;
    if (task < group_tasks) {
        const size_t part = task % job->parts;
        run_groups(job, w, task / job->parts, job->groups * part / job->parts, job->groups * (part + 1) / job->parts);
    } else {
        run_mixed(job, w, (task - group_tasks) * LANES);
    }
    return COAR_OK;
}

/* A pool has as many threads as it has; memory may allow fewer workers. Each of them takes tasks until none is left. */
typedef struct worker_loop {
    thread_task task;
    void *context;
    size_t count;
    atomic_size_t next;
} worker_loop;

static coar_status worker_main(void *context, size_t worker, int thread) {
    worker_loop *loop = context;
    (void)thread;
    for (;;) {
        const size_t task = atomic_fetch_add(&loop->next, 1);
        if (task >= loop->count) return COAR_OK;
        TRY(loop->task(loop->context, task, (int)worker));
    }
}

coar_status cpu_each_worker(const cpu_backend *b, size_t count, thread_task task, void *context) {
    worker_loop loop = {.task = task, .context = context, .count = count};
    return thread_pool_run(b->settings.pool, b->workers, worker_main, &loop);
}

/* Into how many tasks the groups of a mask are cut: each takes up to so many tiles that listing what its mask keeps costs
 * next to nothing, but fewer where a worker that has run out of tasks would wait long for the others' last ones. */
static size_t parts_per_mask(const cpu_backend *b, size_t masks, size_t groups) {
    enum { TILES_MOST = 4, TASKS_LEAST = 32 };
    const size_t each = masks * groups / (TASKS_LEAST * b->workers);
    const size_t tiles = each < 1 ? 1 : each < TILES_MOST ? each : TILES_MOST;
    return (groups + tiles - 1) / tiles;
}

static coar_status run_all(cpu_backend *b, run_job *job) {
    job->b = b;
    job->groups = b->examples / LANES;
    job->rest = b->examples % LANES;
    job->log_sums = job->logits != NULL;
    for (size_t k = 0; k < b->settings.output_count; k++) job->log_sums |= b->outputs[k].kind == OUTPUT_LOSS;
    job->parts = parts_per_mask(b, job->count, job->groups);
    const size_t mixed = (job->count * job->rest + LANES - 1) / LANES;
    for (size_t t = 0; t < b->workers; t++) b->worker[t].flops = 0;
    cpu_profile_count(b, false, (uint64_t)job->count * b->examples);
    return cpu_each_worker(b, (job->groups ? job->count * job->parts : 0) + mixed, run_task, job);
}

static coar_status cpu_run(backend *base, const mask_range *masks, float *outputs) {
    cpu_backend *b = self(base);
    run_job job = {.masks = masks, .count = masks->count, .outputs = outputs};
    TRY(backend_check_masks(&b->settings, masks));
    TRY(run_all(b, &job));
    for (size_t t = 0; t < b->workers; t++) b->executed += b->worker[t].flops;
    b->dense += (double)masks->count * b->examples * graph_flops(b->settings.graph);
    return COAR_OK;
}

static coar_status cpu_logits(backend *base, float *logits) {
    cpu_backend *b = self(base);
    run_job job = {.count = 1, .logits = logits};
    return run_all(b, &job);
}

static void cpu_work(const backend *base, double *executed, double *dense) {
    const cpu_backend *b = (const cpu_backend *)base;
    *executed = b->executed;
    *dense = b->dense;
}

/* Emulated instructions are slower than fp32. */
static const char *const *cpu_precisions(const char *device_class) {
    static const char *const native[] = {"bf16", NULL}, *const none[] = {NULL};
    return strcmp(device_class, "cpu/avx512bf16") ? none : native;
}

const backend_interface backend_cpu = {
    .name = "cpu",
    .precisions = cpu_precisions,
    .reverse_in_fp32 = true,
    .memory = cpu_memory,
    .prepare = cpu_prepare,
    .bind = cpu_bind,
    .run = cpu_run,
    .run_reverse = cpu_run_reverse,
    .logits = cpu_logits,
    .collect_row_sums = cpu_row_sums,
    .destroy = cpu_destroy,
    .work = cpu_work,
    .peak = cpu_peak,
    .bandwidth = cpu_bandwidth,
    .bandwidth_memory = cpu_bandwidth_memory,
    .profile = cpu_profile_begin,
    .profiled = cpu_profile_sums,
};
