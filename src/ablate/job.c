/* job.c - opens and checks everything a masked forward pass needs. See job.h. */
#include "ablate/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/auto_precision.h"
#include "ablate/job_passes.h"
#include "ablate/memory_plan.h"

/* What a process comes to have besides while results are stored: pages of code and buffers, HDF5's for the most part. */
#define STORING ((size_t)3 << 20)

void unit_size(double flops, uint64_t examples, uint32_t *unit_masks, uint32_t *unit_examples) {
    const double most = 1e13;        /* a minute or so of one core: what a kill may lose */
    const uint32_t fewest = 64 * 32; /* pairs: few examples would leave most threads without a lane tile */
    uint32_t B = 64, E = examples < 1024 ? (uint32_t)examples : 1024;
    while (E && B * E < fewest && 2.0 * B * E * flops <= most) B *= 2;
    while (B > 1 && (double)B * E * flops > most) B /= 2;
    while (E > 32 && (double)B * E * flops > most) E = (E / 2 + 31) / 32 * 32; /* units begin at whole lane tiles */
    *unit_masks = B;
    *unit_examples = E;
}

/* Mean and standard deviation of pixels/255: the model's own, else the data file's. Texts have none. */
static coar_status choose_normalisation(job *j) {
    const model *m = j->model;
    const dataset *d = j->data;
    if (d->tokens) return COAR_OK;
    if (!m->has_normalisation && !d->has_normalisation)
        return status_set(COAR_ERROR_INPUT,
                          "%s: mean, std: neither the weights nor the data say how pixels are normalised; pack with "
                          "--mean and --std, or give --arch NAME,mean=A,B,C,std=A,B,C",
                          d->path);
    const float *mean = m->has_normalisation ? m->mean : d->mean, *std = m->has_normalisation ? m->std : d->std;
    bool differs = false;
    for (uint32_t c = 0; c < d->channels; c++) {
        j->mean[c] = mean[c];
        j->std[c] = std[c];
        if (d->has_normalisation) differs |= fabsf(d->mean[c] - mean[c]) > 1e-4f || fabsf(d->std[c] - std[c]) > 1e-4f;
    }
    if (differs) log_warning(j->callbacks, "%s: mean, std: differ from those of %s, which are used", d->path, m->path);
    return COAR_OK;
}

static coar_status check_fit_together(const job *j) {
    const dataset *d = j->data;
    const shape input = j->model->graph->values[0];
    const uint32_t vocabulary = j->model->graph->vocabulary;
    if (!vocabulary != !d->tokens)
        return status_set(COAR_ERROR_INPUT, "%s: holds %s, but %s takes %s", d->path, dataset_kind(d), j->model->path,
                          vocabulary ? "texts" : "images");
    if (d->vocabulary && d->vocabulary != vocabulary)
        return status_set(COAR_ERROR_INPUT,
                          "%s: its tokens are of a vocabulary of %u, but %s has one of %u: pack the texts with the "
                          "model's own vocabulary",
                          d->path, d->vocabulary, j->model->path, vocabulary);
    if (d->tokens) return COAR_OK; /* the graph was made for them */
    if (input.h != d->height || input.w != d->width || input.c != d->channels)
        return status_set(
            COAR_ERROR_INPUT, "%s: images are %u x %u x %u but %s takes %u x %u x %u; pack them again with --size %u",
            d->path, d->height, d->width, d->channels, j->model->path, input.h, input.w, input.c, input.h);
    return COAR_OK;
}

static coar_status bad_label(const job *j, size_t i) {
    const unsigned long long row = j->rows[i];
    if (j->data->tokens)
        return status_set(COAR_ERROR_INPUT, "%s: /lengths: row %llu has %d tokens, but texts have 2 to %u",
                          j->data->path, row, j->labels[i], j->data->tokens);
    return status_set(COAR_ERROR_INPUT,
                      "%s: /labels: row %llu has label %d but %s has classes 0 to %u; give --label predicted for data "
                      "without labels of this model",
                      j->data->path, row, j->labels[i], j->model->path, j->model->classes - 1);
}

coar_status job_check_labels(const job *j) {
    for (size_t i = 0; i < j->count; i++)
        if (!graph_label_fits(j->model->graph, j->labels[i])) return bad_label(j, i);
    return COAR_OK;
}

/* Whether any conjunct of a SPEC asks for the model's predictions. */
static bool spec_needs_predictions(const char *spec) {
    return spec_has(spec, "wrong") || spec_has(spec, "correct");
}

static bool predicts(const job_options *o) {
    return spec_needs_predictions(o->calibration) ||
           (!o->rows && (spec_needs_predictions(o->examples) || (o->label && !strcmp(o->label, "predicted"))));
}

/* Texts have no labels that a prediction could replace or be compared with. */
static coar_status check_text_options(const job *j, const job_options *o) {
    if (!j->data->tokens || !predicts(o)) return COAR_OK;
    return status_set(COAR_ERROR_USAGE,
                      "%s: holds texts: a language model's predictions are no labels, so that --label predicted and "
                      "examples that are 'wrong' or 'correct' are not possible",
                      j->data->path);
}

/* What lies behind a text's last token is none of its own: no mean may be taken over it. */
static coar_status check_text_means(const job *j) {
    const uint64_t *rows = j->calibration_rows ? j->calibration_rows : j->rows;
    const size_t count = j->calibration_rows ? j->calibration_count : j->count;
    for (size_t i = 0; j->data->tokens && j->ablation.kind == ABLATION_MEAN && i < count; i++)
        if ((uint32_t)j->data->labels[rows[i]] < j->data->tokens)
            return status_set(COAR_ERROR_UNSUPPORTED,
                              "%s: row %llu has %d of %u tokens: --ablation mean needs texts of one length, as `coar "
                              "pack --length` cuts them, in --examples or --calibration",
                              j->data->path, (unsigned long long)rows[i], j->data->labels[rows[i]], j->data->tokens);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------- examples */

static coar_status labels_of(const job *j, const uint64_t *rows, size_t count, int32_t **out) {
    int32_t *labels;
    TRY(memory_new(count, sizeof *labels, "labels", &labels));
    for (size_t i = 0; i < count; i++) labels[i] = j->data->labels[rows[i]];
    *out = labels;
    return COAR_OK;
}

/* [rows of the data file]: 1 = the unablated model is right. The job's own examples stay what they are. */
static coar_status find_correct(job *j, uint8_t **out) {
    coar_status status = COAR_OK;
    job_examples all = {.count = (size_t)j->data->count};
    int32_t *predicted = NULL;
    uint8_t *correct = NULL;
    TRY_GOTO(memory_new(all.count, sizeof *all.rows, "rows", &all.rows));
    TRY_GOTO(memory_new(all.count, sizeof *predicted, "predictions", &predicted));
    TRY_GOTO(memory_new(all.count, 1, "predictions", &correct));
    for (size_t i = 0; i < all.count; i++) all.rows[i] = i;
    if (!j->unit_examples) unit_size(graph_flops(j->model->graph), all.count, &j->unit_masks, &j->unit_examples);
    job_swap_examples(j, &all);
    status = job_forward_all(j, predicted, NULL);
    job_swap_examples(j, &all);
    for (size_t i = 0; status == COAR_OK && i < all.count; i++) correct[i] = predicted[i] == j->data->labels[i];
    if (status != COAR_OK) goto done;
    *out = correct;
    correct = NULL;
done:
    free(correct);
    free(predicted);
    free(all.rows);
    return status;
}

/* The examples of an existing run, as its tables say. */
static coar_status take_examples(job *j, const job_options *o) {
    TRY(memory_new(o->row_count, sizeof *j->rows, "rows", &j->rows));
    TRY(memory_new(o->row_count, sizeof *j->labels, "labels", &j->labels));
    for (size_t i = 0; i < o->row_count; i++)
        if (o->rows[i] >= j->data->count)
            return status_set(COAR_ERROR_INPUT, "%s: row %llu of the run is not in it (%llu examples)", j->data->path,
                              (unsigned long long)o->rows[i], (unsigned long long)j->data->count);
    memcpy(j->rows, o->rows, o->row_count * sizeof *j->rows);
    memcpy(j->labels, o->row_labels, o->row_count * sizeof *j->labels);
    j->count = o->row_count;
    unit_size(graph_flops(j->model->graph), j->count, &j->unit_masks, &j->unit_examples);
    return COAR_OK;
}

static coar_status choose_examples(job *j, const job_options *o) {
    if (o->rows) return take_examples(j, o);
    coar_status status = COAR_OK;
    uint8_t *correct = NULL;
    if (spec_needs_predictions(o->examples)) TRY_GOTO(find_correct(j, &correct));
    TRY_GOTO(dataset_select(j->data, o->examples, correct, NULL, &j->rows, &j->count));
    TRY_GOTO(labels_of(j, j->rows, j->count, &j->labels));
    unit_size(graph_flops(j->model->graph), j->count, &j->unit_masks, &j->unit_examples);
    if (o->label && !strcmp(o->label, "predicted")) {
        TRY_GOTO(job_forward_all(j, j->labels, NULL));
    } else if (o->label) {
        status = status_set(COAR_ERROR_USAGE, "--label '%s': the only choice is predicted", o->label);
    }
done:
    free(correct);
    return status;
}

static coar_status choose_calibration(job *j, const char *spec) {
    coar_status status = COAR_OK;
    uint8_t *correct = NULL;
    if (j->ablation.kind != ABLATION_MEAN || !spec) return COAR_OK;
    if (spec_needs_predictions(spec)) TRY_GOTO(find_correct(j, &correct));
    TRY_GOTO(dataset_select(j->data, spec, correct, NULL, &j->calibration_rows, &j->calibration_count));
done:
    free(correct);
    return status;
}

/* Predictions that choose examples or labels are made in fp32 by own direct forms, whatever the job's plan is: a run that
 * is resumed, or joined by another shard, has its plan already and must find the same ones. *own: the job's plan. */
static coar_status plan_for_predictions(job *j, numerics_plan *own) {
    numerics_plan direct;
    TRY(plan_create_timed(j->model->graph, j->interface->name, "fp32", 1, j->devices[0], NULL, &direct));
    *own = j->plan;
    j->plan = direct;
    return COAR_OK;
}

static void plan_back(job *j, const numerics_plan *own) {
    plan_free(&j->plan);
    j->plan = *own;
    j->memory_told = false; /* what was told was for predictions */
}

static coar_status choose_all(job *j, const job_options *o) {
    coar_status status;
    numerics_plan own;
    const bool swap = predicts(o);
    if (swap) TRY(plan_for_predictions(j, &own));
    TRY_GOTO(choose_examples(j, o));
    TRY_GOTO(choose_calibration(j, o->calibration));
done:
    if (swap) plan_back(j, &own);
    return status;
}

coar_status job_predict(job *j, const uint64_t *rows, size_t count, int32_t *predicted) {
    coar_status status;
    numerics_plan own;
    job_examples other = {.count = count};
    TRY(memory_new(count, sizeof *other.rows, "rows", &other.rows));
    memcpy(other.rows, rows, count * sizeof *rows);
    TRY_GOTO(plan_for_predictions(j, &own));
    job_swap_examples(j, &other);
    status = job_forward_all(j, predicted, NULL);
    job_swap_examples(j, &other);
    plan_back(j, &own);
done:
    free(other.rows);
    return status;
}

coar_status job_labels(job *j, bool predicted, const uint64_t *rows, size_t count, int32_t **labels) {
    int32_t *own;
    TRY(labels_of(j, rows, count, &own));
    const coar_status status = predicted ? job_predict(j, rows, count, own) : COAR_OK;
    if (status == COAR_OK)
        *labels = own;
    else
        free(own);
    return status;
}

/* ----------------------------------------------------------------------------------------------- open, close */

/* A stored plan, as long as it is one of this backend. */
static coar_status take_plan(job *j, const job_options *o) {
    TRY(plan_from_json(j->model->graph, o->plan_json, o->plan_origin, &j->plan));
    const char *backend = plan_backend(j->plan.device_class);
    if (backend && !strcmp(backend, j->interface->name)) return COAR_OK;
    const coar_status status =
        status_set(COAR_ERROR_MISMATCH, "%s: its plan is for device class %s, not for --backend %s", o->plan_origin,
                   j->plan.device_class, j->interface->name);
    plan_free(&j->plan);
    return status;
}

static plan_timing timing_of(const job *j) {
    return (plan_timing){.pool = j->pool, .memory = j->memory, .callbacks = j->callbacks};
}

/* Whether the precision is to be found by trying. */
static bool tries_precisions(const job *j, const job_options *o) {
    return (!o->precision || !strcmp(o->precision, "auto")) && o->alpha > 0 && j->interface->precisions;
}

/* *fresh: the plan was made here, not stored. */
static coar_status settle_plan(job *j, const job_options *o, bool *fresh) {
    if (o->plan_json) {
        const coar_status status = take_plan(j, o);
        if (status == COAR_OK && o->precision && strcmp(o->precision, "auto") &&
            strcmp(o->precision, j->plan.precision))
            return status_set(COAR_ERROR_MISMATCH,
                              "--precision: %s was begun with %s, now %s; leave --precision out or give --force",
                              o->plan_origin, j->plan.precision, o->precision);
        if (status == COAR_OK && o->exact) TRY(plan_check_exact(&j->plan, o->plan_origin));
        if (status == COAR_OK) return plan_check_executable(&j->plan, j->devices[0]);
        if (o->plan_given || status == COAR_ERROR_MEMORY) return status;
        status_clear();
    }
    *fresh = true;
    const plan_timing timing = timing_of(j);
    return plan_create_timed(j->model->graph, j->interface->name, o->precision ? o->precision : "auto", o->exact,
                             j->devices[0], tries_precisions(j, o) ? NULL : &timing, &j->plan);
}

/* The backend that was named; else the one of the stored plan, if there is one; else the fastest. */
static coar_status find_backend(job *j, const job_options *o) {
    char class[PLAN_CLASS_SIZE];
    const char *name = o->backend;
    if (!name && o->plan_json && plan_class_of(o->plan_json, class)) name = plan_backend(class);
    return backend_find(name, o->callbacks, &j->interface);
}

/* `auto` is settled with the first examples, once they are known; for them the plan was fp32, by rule. */
static coar_status settle_precision(job *j, const job_options *o) {
    coar_status status;
    const plan_timing timing = timing_of(j);
    const uint32_t count = j->count < AUTO_EXAMPLES ? (uint32_t)j->count : AUTO_EXAMPLES;
    uint8_t *images = NULL;
    if (!tries_precisions(j, o) || !*j->interface->precisions(j->plan.device_class)) return COAR_OK;
    TRY_GOTO(memory_new(count, dataset_example_bytes(j->data), "images", &images));
    TRY_GOTO(job_read(j, 0, count, images));
    if (j->ablation.kind == ABLATION_MEAN) TRY_GOTO(job_collect_means(j));
    const job_pass pass = job_forward_pass(j);
    const backend_settings s = job_settings(j, &pass, j->devices[0], j->pool);
    const example_batch batch = {.inputs = images, .labels = j->labels, .count = count, .mean = j->mean, .std = j->std};
    TRY_GOTO(auto_precision(j->interface, &s, &batch, o->seed, o->alpha, o->exact, &timing, &j->plan));
    if (!strcmp(j->plan.precision, "fp32")) {
        plan_free(&j->plan);
        TRY_GOTO(
            plan_create_timed(j->model->graph, j->interface->name, "fp32", o->exact, j->devices[0], &timing, &j->plan));
    }
    j->memory_told = false; /* what was told was for fp32 */
done:
    job_forget_means(j); /* they are the baseline's to make, in the precision that was chosen */
    free(images);
    return status;
}

static coar_status keep_text(const char *text, char **out) {
    *out = text ? strdup(text) : NULL;
    return *out || !text ? COAR_OK : status_set(COAR_ERROR_MEMORY, "not enough memory for the options");
}

static coar_status keep_texts(const job_options *o, job_texts *texts) {
    TRY(keep_text(o->arch, &texts->arch));
    TRY(keep_text(o->classes, &texts->classes));
    TRY(keep_text(o->ablation, &texts->ablation));
    TRY(keep_text(o->only, &texts->only));
    return keep_text(o->except, &texts->except);
}

static void texts_free(job_texts *texts) {
    free(texts->arch);
    free(texts->classes);
    free(texts->ablation);
    free(texts->only);
    free(texts->except);
}

static coar_status open_parts(job *j, const job_options *o, bool *fresh_plan) {
    if (!o->model) return status_set(COAR_ERROR_USAGE, "--model: name a weight file (W.safetensors)");
    if (!o->data) return status_set(COAR_ERROR_USAGE, "--data: name a data set file (see coar pack)");
    j->callbacks = o->callbacks;
    TRY(keep_texts(o, &j->texts));
    TRY(ablation_parse(o->ablation, &j->ablation));
    TRY(find_backend(j, o));
    TRY(job_choose_devices(j, o->devices));
    j->memory = o->memory || j->interface->devices ? (size_t)o->memory : memory_default();
    TRY(dataset_open(o->data, &j->data));
    model_options options = {.arch = o->arch,
                             .classes = o->classes,
                             .only = o->only,
                             .except = o->except,
                             .image_height = j->data->height,
                             .image_width = j->data->width,
                             .tokens = j->data->tokens};
    TRY(component_set_parse(o->components, &options.set));
    TRY(model_open(o->model, &options, &j->model));
    if (j->model->assumed) log_warning(j->callbacks, "%s: its activation is taken for %s", o->model, j->model->assumed);
    TRY(check_fit_together(j));
    TRY(check_text_options(j, o));
    TRY(choose_normalisation(j));
    TRY(output_parse(o->outputs ? o->outputs : "margin", j->model->graph, j->outputs, &j->output_count));
    TRY(thread_pool_create(o->threads, &j->pool));
    j->process = memory_plan_process(j->model->graph) + STORING;
    return settle_plan(j, o, fresh_plan);
}

coar_status job_open(const job_options *options, job **out) {
    job *j;
    bool fresh_plan = false;
    TRY(memory_new(1, sizeof *j, "job", &j));
    coar_status status;
    TRY_GOTO(open_parts(j, options, &fresh_plan));
    TRY_GOTO(choose_all(j, options));
    TRY_GOTO(job_check_labels(j));
    if (!options->rows) TRY_GOTO(check_text_means(j)); /* else the run has its means already */
    if (fresh_plan) TRY_GOTO(settle_precision(j, options));
    TRY_GOTO(dataset_hash(j->data));
    *out = j;
    j = NULL;
done:
    job_close(j);
    return status;
}

void job_close(job *j) {
    if (!j) return;
    texts_free(&j->texts);
    thread_pool_destroy(j->pool);
    plan_free(&j->plan);
    model_destroy(j->model);
    dataset_close(j->data);
    free(j->devices);
    free(j->rows);
    free(j->labels);
    free(j->calibration_rows);
    free(j->fill);
    free(j->baseline);
    free(j);
}
