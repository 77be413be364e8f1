/* passes.c - see passes.h. */
#include "ablate/passes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/job_passes.h"
#include "ablate/mask_units.h"
#include "ablate/run.h"

/* What of a job gives way to a request for a while. */
typedef struct job_state {
    job_examples examples;
    output_spec outputs[OUTPUTS_MAX];
    size_t output_count;
    uint32_t unit_masks, unit_examples;
} job_state;

static void swap_state(job *j, job_state *other) {
    job_state mine = {.output_count = j->output_count, .unit_masks = j->unit_masks, .unit_examples = j->unit_examples};
    memcpy(mine.outputs, j->outputs, sizeof mine.outputs);
    memcpy(j->outputs, other->outputs, sizeof j->outputs);
    j->output_count = other->output_count;
    j->unit_masks = other->unit_masks;
    j->unit_examples = other->unit_examples;
    job_swap_examples(j, &other->examples);
    mine.examples = other->examples;
    *other = mine;
}

/* "passes-" and the beginning of the SHA-256 of all that decides the outputs within one run file. */
static coar_status stage_name(const passes *p, char name[64]) {
    char rows[65], labels[65], masks[65], all[65];
    const job *j = p->job;
    sha256_hex(p->rows, p->count * sizeof *p->rows, rows);
    sha256_hex(p->labels, p->count * sizeof *p->labels, labels);
    sha256_hex(p->masks, p->mask_count * mask_bytes(j->model->graph->components), masks);
    char *text = string_format("%s %s %s %s %s %s %s", j->model->sha256, j->data->sha256, j->plan.hash, p->outputs,
                               rows, labels, masks);
    if (!text) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", store_path(p->store));
    sha256_hex(text, strlen(text), all);
    free(text);
    snprintf(name, 64, PASSES_STAGE "%.24s", all);
    return COAR_OK;
}

/* The outputs of all units, from their records to their places. */
static coar_status collect(store_stage *stage, const unit_grid *g, float *out) {
    coar_status status = COAR_OK;
    float *payload = NULL;
    unit_mark mark;
    TRY(memory_new(unit_grid_payload(g, 0), 1, "outputs", &payload));
    for (uint64_t unit = 0; unit < unit_grid_units(g); unit++) {
        uint64_t mask_first, example_first;
        uint32_t masks, examples;
        unit_grid_unit(g, unit, &mask_first, &masks, &example_first, &examples);
        TRY_GOTO(stage_read(stage, unit, &mark, payload, unit_grid_payload(g, unit)));
        for (uint32_t o = 0; o < g->outputs; o++)
            for (uint32_t i = 0; i < masks; i++)
                memcpy(out + ((size_t)o * g->masks + mask_first + i) * g->examples + example_first,
                       payload + ((size_t)o * masks + i) * examples, examples * sizeof *out);
    }
done:
    free(payload);
    return status;
}

/* With the job's examples and outputs being the request's. */
static coar_status run(passes *p, float *out) {
    coar_status status;
    job *j = p->job;
    store_stage *stage = NULL;
    char name[64];
    const sampler given = {
        .kind = SAMPLER_FILE, .n = j->model->graph->components, .rows = p->masks, .rows_count = p->mask_count};
    const mask_units units = {.progress = "edit", .grid = mask_units_grid(j, 0, p->mask_count), .sampler = &given};
    const setting settings[] = {{"plan_hash", "--plan", j->plan.hash, SETTING_TEXT, true}};
    TRY(job_check_labels(j));
    TRY(stage_name(p, name));
    stage_run stage_of_run = {.name = name,
                              .settings = settings,
                              .setting_count = sizeof settings / sizeof *settings,
                              .work = mask_units_work(j, &units),
                              .force_resume = p->force_resume};
    stage_of_run.work.time_limit = p->time_limit;
    TRY_GOTO(run_stage(j, p->store, &stage_of_run, &stage));
    p->images = stage_of_run.work.images;
    TRY_GOTO(collect(stage, &units.grid, out));
done:
    stage_close(stage);
    return status;
}

coar_status passes_run(passes *p, float *out) {
    job *j = p->job;
    job_state other = {.examples = {p->rows, p->labels, p->count}};
    TRY(output_parse(p->outputs, j->model->graph, other.outputs, &other.output_count));
    unit_size(graph_flops(j->model->graph), p->count, &other.unit_masks, &other.unit_examples);
    swap_state(j, &other);
    const coar_status status = run(p, out);
    swap_state(j, &other);
    return status;
}
