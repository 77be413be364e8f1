/* job_passes.c - a job's unablated passes (outputs, predictions, means of rows), and its backends ready for others.
 * See job.h. */
#include "ablate/job_passes.h"

#include <stdlib.h>
#include <string.h>

#include "ablate/memory_plan.h"

/* The data file need not say what vocabulary its tokens are of. */
static coar_status check_tokens(const job *j, uint64_t first, uint32_t count, const int32_t *tokens) {
    const uint32_t T = j->data->tokens, vocabulary = j->model->graph->vocabulary;
    for (size_t i = 0; i < (size_t)count * T; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocabulary)
            return status_set(COAR_ERROR_INPUT, "%s: /tokens: row %llu has token %d at %zu, but %s has tokens 0 to %u",
                              j->data->path, (unsigned long long)j->rows[first + i / T], tokens[i], i % T,
                              j->model->path, vocabulary - 1);
    return COAR_OK;
}

coar_status job_read(const job *j, uint64_t first, uint32_t count, void *images) {
    TRY(dataset_read(j->data, j->rows + first, count, images));
    return j->data->tokens ? check_tokens(j, first, count, images) : COAR_OK;
}

static coar_status bind_with(const job *j, backend *b, uint64_t first, uint32_t count, const void *images,
                             const int32_t *labels) {
    const example_batch batch = {
        .inputs = images, .labels = labels, .count = count, .first = first, .mean = j->mean, .std = j->std};
    return b->interface->bind(b, &batch);
}

coar_status job_bind(const job *j, backend *b, uint64_t first, uint32_t count, const void *images) {
    return bind_with(j, b, first, count, images, j->labels + first);
}

job_pass job_forward_pass(const job *j) {
    /* one block of images, outputs of one unit in hand and one on its way to the journal */
    return (job_pass){.examples = j->unit_examples,
                      .masks = j->unit_masks,
                      .own = (size_t)j->unit_examples *
                             (dataset_example_bytes(j->data) + 2 * j->output_count * j->unit_masks * sizeof(float))};
}

backend_settings job_settings(const job *j, const job_pass *pass, int device, thread_pool *pool) {
    return (backend_settings){.graph = j->model->graph,
                              .plan = &j->plan,
                              .ablation = j->ablation,
                              .outputs = j->outputs,
                              .output_count = j->output_count,
                              .pool = pool,
                              .device = device,
                              .memory = j->memory,
                              .examples_max = pass->examples,
                              .masks_max = pass->masks,
                              .reverse = pass->reverse,
                              .path_examples = pass->path_examples};
}

static coar_status plan_memory(const job *j, const job_pass *pass, backend_settings *s, memory_plan *plan) {
    return memory_plan_make(j->interface, j->process, pass->own, s, plan);
}

bool job_pass_fits(const job *j, const job_pass *pass) {
    backend_settings s = job_settings(j, pass, j->devices[0], j->pool);
    memory_plan plan;
    const bool fits = plan_memory(j, pass, &s, &plan) == COAR_OK;
    if (!fits) status_clear();
    return fits;
}

coar_status job_tell_memory(job *j, const job_pass *pass) {
    backend_settings s = job_settings(j, pass, j->devices[0], j->pool);
    memory_plan plan;
    TRY(plan_memory(j, pass, &s, &plan));
    if (j->memory_told) return COAR_OK; /* the same figures hold for the baseline, the calibration and the units */
    j->memory_told = true;
    memory_plan_tell(&plan, &s, j->interface->devices ? j->device_count : 0, j->callbacks);
    return COAR_OK;
}

coar_status job_prepare(const job *j, const job_pass *pass, int device, thread_pool *pool, backend **out) {
    backend_settings s = job_settings(j, pass, device, pool);
    memory_plan plan;
    TRY(plan_memory(j, pass, &s, &plan));
    return j->interface->prepare(&s, out);
}

/* ------------------------------------------------------------------------------------- over all examples */

/* What a pass over all blocks does with each; begins again with first == 0 where another device takes over. Labels do
 * not count here: they may be unknown, or about to be replaced by predictions. */
typedef coar_status (*block_use)(void *context, backend *b, uint64_t first, uint32_t count);

/* *device_failed: the failure is not one of reading the examples. */
static coar_status pass_on_device(job *j, int device, block_use use, void *context, bool *device_failed) {
    coar_status status;
    backend *b = NULL;
    void *images = NULL;
    const job_pass pass = job_forward_pass(j);
    *device_failed = true;
    TRY_GOTO(memory_new(j->unit_examples, dataset_example_bytes(j->data), "images", &images));
    TRY_GOTO(job_prepare(j, &pass, device, j->pool, &b));
    for (uint64_t first = 0; first < j->count; first += j->unit_examples) {
        uint64_t left = j->count - first;
        uint32_t count = left < j->unit_examples ? (uint32_t)left : j->unit_examples;
        *device_failed = false;
        TRY_GOTO(job_read(j, first, count, images));
        *device_failed = true;
        TRY_GOTO(bind_with(j, b, first, count, images, NULL));
        TRY_GOTO(use(context, b, first, count));
    }
done:
    if (b) b->interface->destroy(b);
    free(images);
    return status;
}

/* Calls `use` with the bound backend for every block of the job's examples, on the first device that does it. */
static coar_status for_each_block(job *j, block_use use, void *context) {
    bool device_failed;
    const job_pass pass = job_forward_pass(j);
    TRY(job_tell_memory(j, &pass));
    for (;;) {
        const coar_status status = pass_on_device(j, j->devices[0], use, context, &device_failed);
        if (status == COAR_OK || !device_failed || j->device_count == 1) return status;
        job_drop_device(j);
    }
}

typedef struct logits_use {
    job *job;
    float *logits;      /* [unit_examples][graph_logits count] */
    int32_t *predicted; /* [N] or NULL */
    float *baseline;    /* [output_count][N] or NULL */
} logits_use;

static int32_t largest(const float *logits, uint32_t classes) {
    uint32_t best = 0;
    for (uint32_t k = 1; k < classes; k++)
        if (logits[k] > logits[best]) best = k;
    return (int32_t)best;
}

static coar_status use_logits(void *context, backend *b, uint64_t first, uint32_t count) {
    logits_use *u = context;
    const job *j = u->job;
    logits_view view = graph_logits(j->model->graph, 1);
    TRY(b->interface->logits(b, u->logits));
    for (uint32_t i = 0; i < count; i++) {
        view.values = u->logits + (size_t)i * view.count;
        if (u->baseline) view.label = (uint32_t)j->labels[first + i];
        if (u->predicted) u->predicted[first + i] = largest(view.values, view.count);
        for (size_t o = 0; u->baseline && o < j->output_count; o++)
            u->baseline[o * j->count + first + i] = output_value(&j->outputs[o], &view);
    }
    return COAR_OK;
}

coar_status job_forward_all(job *j, int32_t *predicted, float *baseline) {
    coar_status status;
    logits_use use = {.job = j, .predicted = predicted, .baseline = baseline};
    const size_t count = graph_logits(j->model->graph, 1).count;
    TRY_GOTO(memory_new(j->unit_examples * count, sizeof(float), "logits", &use.logits));
    TRY_GOTO(for_each_block(j, use_logits, &use));
done:
    free(use.logits);
    return status;
}

typedef struct sums_use {
    double *sums; /* [rows] */
    size_t rows;
} sums_use;

static coar_status use_sums(void *context, backend *b, uint64_t first, uint32_t count) {
    const sums_use *u = context;
    (void)count;
    if (first == 0) memset(u->sums, 0, u->rows * sizeof *u->sums);
    return b->interface->collect_row_sums(b, u->sums);
}

void job_swap_examples(job *j, job_examples *other) {
    job_examples mine = {j->rows, j->labels, j->count};
    j->rows = other->rows, j->labels = other->labels, j->count = other->count;
    *other = mine;
}

coar_status job_collect_means(job *j) {
    coar_status status = COAR_OK;
    const size_t rows = j->model->graph->rows;
    sums_use use = {.rows = rows};
    uint32_t *positions = NULL;
    job_examples other = {.rows = j->calibration_rows, .count = j->calibration_count};
    const bool others = j->calibration_rows != NULL;
    TRY_GOTO(memory_new(rows, sizeof *use.sums, "row sums", &use.sums));
    TRY_GOTO(memory_new(rows, sizeof *positions, "row positions", &positions));
    TRY_GOTO(memory_new(rows, sizeof *j->fill, "row means", &j->fill));
    if (others) job_swap_examples(j, &other);
    status = for_each_block(j, use_sums, &use);
    const size_t count = j->count;
    if (others) job_swap_examples(j, &other);
    if (status != COAR_OK) goto done;
    backend_row_positions(j->model->graph, positions);
    for (size_t r = 0; r < rows; r++) j->fill[r] = (float)(use.sums[r] / ((double)count * positions[r]));
    j->ablation.fill = j->fill;
done:
    free(positions);
    free(use.sums);
    return status;
}

void job_forget_means(job *j) {
    free(j->fill);
    j->fill = NULL;
    j->ablation.fill = NULL;
}

coar_status job_take_means(job *j, float **means, uint64_t count, const char *run) {
    if (j->ablation.kind != ABLATION_MEAN) return COAR_OK;
    if (!*means || count != j->model->graph->rows)
        return status_set(COAR_ERROR_INPUT, "%s: fill: holds %llu means of ablated rows, but the model has %zu rows",
                          run, (unsigned long long)count, (size_t)j->model->graph->rows);
    job_forget_means(j);
    j->fill = *means;
    j->ablation.fill = j->fill;
    *means = NULL;
    return COAR_OK;
}

coar_status job_baseline(job *j) {
    if (j->ablation.kind == ABLATION_MEAN) TRY(job_collect_means(j));
    TRY(memory_new(j->output_count * j->count, sizeof(float), "baseline", &j->baseline));
    return job_forward_all(j, NULL, j->baseline);
}
