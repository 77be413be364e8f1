/* edit.c - coar_edit: from options to an edit that is chosen, measured, stored and written. See edit.h. */
#include "edit/edit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/passes.h"
#include "core/files.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/options.h"
#include "model/norms.h"
#include "model/weight_edit.h"

#define SELECT_POINTS 2.0 /* of accuracy */
#define SELECT_OUTPUT 0.1 /* of a language model's mean output, which is per token */
#define MAX_K_DEFAULT 100u
/* A root mean square loss of one logit at the references for this many at the target. Between 1 and 4 the edits of ResNet-20
 * in docs/edit.md are much alike. */
#define HARM_WEIGHT 2.0

/* ------------------------------------------------------------------------------------------------------- options */

static coar_status check_options(const coar_edit_options *o, const edit_method *method) {
    if (!o->run) return status_set(COAR_ERROR_USAGE, "name a run file");
    if (!o->target) return status_set(COAR_ERROR_USAGE, "--target: name the examples whose outputs are to change");
    if (!o->reference) return status_set(COAR_ERROR_USAGE, "--reference: name examples whose outputs are to stay");
    if (!o->raise == !o->lower)
        return status_set(COAR_ERROR_USAGE, "give --raise or --lower: what is to become of the target's outputs");
    if (o->has_select && !(o->select >= 0 && isfinite(o->select)))
        return status_set(COAR_ERROR_USAGE, "--select: give points of validation accuracy, from 0");
    if (o->has_until && !(o->until >= 0 && o->until <= 100))
        return status_set(COAR_ERROR_USAGE, "--until: give a percentage, 0 to 100");
    if (o->has_harm_weight && !(o->harm_weight >= 0 && isfinite(o->harm_weight)))
        return status_set(COAR_ERROR_USAGE, "--harm-weight: give a number from 0");
    if (!o->attributions != !o->rows)
        return status_set(COAR_ERROR_USAGE, "--attributions and --rows go together: W.npy and the rows that it is of");
    if (o->attributions && o->fit)
        return status_set(COAR_ERROR_USAGE, "--attributions: they take the place of a fit: leave --fit out");
    if (o->attributions && (method->source == EDIT_OF_LOO || method->source == EDIT_OF_GRADIENT))
        return status_set(COAR_ERROR_USAGE, "--method %s: takes the run's own scores, not --attributions",
                          method->name);
    return COAR_OK;
}

/* What can be known before anything large is opened: names that are taken. */
static coar_status check_outputs(const coar_edit_options *o, const char *name) {
    run_store *store = NULL;
    TRY(store_open(o->run, &store));
    const coar_status status = store_check_edit(store, name, o->force != 0);
    store_close(store);
    TRY(status);
    if (!o->output) return COAR_OK;
    TRY(file_check_output(o->output, o->force));
    return file_check_distinct(o->output, o->run);
}

/* -o must not replace what the edit, or its run, is made from. */
static coar_status check_inputs(const edit_run *e) {
    const coar_edit_options *o = e->o;
    const char *const files[] = {o->classes, o->attributions, o->rows};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) TRY(file_check_distinct(o->output, files[i]));
    for (size_t i = 0; i < e->sets.side_count; i++) {
        const edit_side *side = &e->sets.sides[i];
        TRY(file_check_distinct(o->output, side->path));
        TRY(file_check_distinct(o->output, side->job->model->path));
        TRY(file_check_distinct(o->output, side->job->data->path));
    }
    return COAR_OK;
}

/* What the run and its model say about options. */
static coar_status check_with_model(const edit_run *e) {
    const coar_edit_options *o = e->o;
    const edit_side *own = &e->sets.sides[0];
    if (o->output) TRY(check_inputs(e));
    if (o->output && own->job->ablation.kind == ABLATION_MEAN)
        return status_set(
            COAR_ERROR_UNSUPPORTED,
            "%s: -o: its components are ablated to means, which no weight file can hold: leave -o out, or "
            "make a run with --ablation zero",
            own->path);
    if (o->max_k > e->n)
        return status_set(COAR_ERROR_USAGE, "--max-k %u: %s has %u components", o->max_k, own->path, e->n);
    if (o->has_until && !e->has_classes)
        return status_set(COAR_ERROR_USAGE, "--until: a language model has no accuracy");
    if (e->given.rows && e->given.weight.shape[1] != e->n)
        return status_set(COAR_ERROR_INPUT, "%s: attributions of %zu components, but %s has %u", o->attributions,
                          e->given.weight.shape[1], own->path, e->n);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------------- opening */

/* The fit of target and reference: one name in both their runs. */
static coar_status find_fit(edit_run *e) {
    const edit_set *target = &e->sets.set[COAR_EDIT_TARGET], *reference = &e->sets.set[COAR_EDIT_REFERENCE];
    fit_info other;
    TRY(edit_fit_choose(target->side, e->o->fit, &e->fit));
    if (reference->side == target->side) return COAR_OK;
    TRY(edit_fit_choose(reference->side, e->fit.name, &other));
    if (!strcmp(other.output, e->fit.output)) return COAR_OK;
    return status_set(COAR_ERROR_MISMATCH, "%s: its fit '%s' is of output %s, but of %s in %s", reference->side->path,
                      other.name, other.output, e->fit.output, target->side->path);
}

/* A method that takes no fit is of the run's first output, or of the output of the fit that is named all the same. A fit is
 * then only for methods to compare with, which are left out where there is none. */
static coar_status choose_fit(edit_run *e) {
    const bool needed = e->method->source == EDIT_OF_FIT || e->o->fit;
    if (!e->given.rows && (needed || e->o->compare)) {
        const coar_status status = find_fit(e);
        if (status == COAR_OK || needed) return status;
        status_clear();
    }
    e->fit = (fit_info){.name = ""};
    snprintf(e->fit.output, sizeof e->fit.output, "%s", e->sets.sides[0].tables.output_names[0]);
    return COAR_OK;
}

static void set_rules(edit_run *e) {
    const coar_edit_options *o = e->o;
    e->rules = (sweep_rules){.direction = o->raise ? 1 : -1,
                             .output_direction = strcmp(e->fit.output, "loss") ? 1 : -1,
                             .select = o->has_select    ? o->select
                                       : e->has_classes ? SELECT_POINTS
                                                        : SELECT_OUTPUT,
                             .has_classes = e->has_classes,
                             .has_until = o->has_until != 0,
                             .until = o->until};
}

static coar_status open_all(edit_run *e) {
    const coar_edit_options *o = e->o;
    const edit_side *own = &e->sets.sides[0];
    if (o->attributions) TRY(given_weights_open(o->attributions, o->rows, &e->given));
    TRY(edit_sets_open(o, e->given.rows, e->given.rows ? e->given.weight.shape[0] : 0, &e->sets));
    e->n = own->tables.components;
    e->has_classes = own->job->model->graph->vocabulary == 0;
    TRY(check_with_model(e));
    TRY(store_setting_integer(own->store, "seed", &e->seed));
    TRY(choose_fit(e));
    set_rules(e);
    e->harm_weight = o->has_harm_weight ? o->harm_weight : HARM_WEIGHT;
    TRY(edit_sets_complete(&e->sets, e->rules.direction * e->rules.output_direction < 0));
    TRY(memory_new(e->n, sizeof *e->norms, "norms", &e->norms));
    model_row_norms(own->job->model->graph, e->norms);
    return e->has_classes ? edit_pairs_make(&e->sets, &e->pairs) : COAR_OK;
}

/* ----------------------------------------------------------------------------------------------------- the record */

static coar_status choose_components(edit_run *e) {
    edit_record *r = &e->record;
    bool there;
    uint32_t count = e->o->max_k ? e->o->max_k : e->n < MAX_K_DEFAULT ? e->n : MAX_K_DEFAULT;
    TRY(memory_new(e->n, sizeof *r->scores, "scores", &r->scores));
    TRY(memory_new(e->n, sizeof *r->order, "scores", &r->order));
    if (e->sets.set[COAR_EDIT_TARGET].count == 1 && e->method->variances)
        log_info(e->o->callbacks, "--target: one example has no variance: 0 stands for it in tau");
    TRY(edit_choose(e, e->method, r->scores, r->order, &count, &there));
    if (!there)
        return status_set(COAR_ERROR_INPUT,
                          "%s: --method %s needs baselines: 'coar evaluate %s --baselines' makes them",
                          e->sets.sides[0].path, e->method->name, e->sets.sides[0].path);
    r->order_count = r->max_k = count;
    return COAR_OK;
}

/* Where the examples of a set come from. */
static coar_status describe_set(edit_run *e, size_t k) {
    edit_set *set = &e->sets.set[k];
    edit_examples *x = &e->record.sets[k];
    const dataset *data = set->side->job->data;
    memcpy(x->data_sha256, data->sha256, sizeof x->data_sha256);
    x->spec = strdup(set->spec);
    x->data_path = path_relative(data->path, e->sets.sides[0].path);
    if (!x->spec || !x->data_path) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", e->o->run);
    TRY(memory_new(set->count, sizeof *x->rows, "examples", &x->rows));
    TRY(memory_new(set->count, sizeof *x->labels, "examples", &x->labels));
    memcpy(x->rows, set->rows, set->count * sizeof *x->rows);
    memcpy(x->labels, set->labels, set->count * sizeof *x->labels);
    if (!set->groups) return COAR_OK;
    TRY(memory_new(set->count, sizeof *x->groups, "examples", &x->groups));
    memcpy(x->groups, set->groups, set->count * sizeof *x->groups);
    return COAR_OK;
}

static coar_status describe_pairs(edit_run *e) {
    edit_record *r = &e->record;
    const edit_pairs *p = &e->pairs;
    r->pairs = p->count;
    TRY(memory_new(p->count, sizeof *r->pair_label, "groups", &r->pair_label));
    TRY(memory_new(p->count, sizeof *r->pair_group, "groups", &r->pair_group));
    TRY(memory_new(p->count, 2 * sizeof *r->pair_count, "groups", &r->pair_count));
    if (!p->count) return COAR_OK;
    memcpy(r->pair_label, p->label, p->count * sizeof *r->pair_label);
    memcpy(r->pair_group, p->group, p->count * sizeof *r->pair_group);
    memcpy(r->pair_count, p->examples, 2 * p->count * sizeof *r->pair_count);
    return COAR_OK;
}

static coar_status describe(edit_run *e, const char *name) {
    edit_record *r = &e->record;
    snprintf(r->name, sizeof r->name, "%s", name);
    snprintf(r->method, sizeof r->method, "%s", e->method->name);
    snprintf(r->direction, sizeof r->direction, "%s", e->o->raise ? "raise" : "lower");
    memcpy(r->output, e->fit.output, sizeof r->output);
    TRY(edit_evidence_name(e, r->fit));
    r->command = strdup(e->o->command ? e->o->command : "");
    if (!r->command) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", e->o->run);
    r->components = e->n;
    r->select = e->rules.select;
    r->until = e->rules.has_until ? e->rules.until : NAN;
    r->harm_weight = e->method->harm ? e->harm_weight : NAN;
    r->has_classes = e->has_classes;
    for (size_t k = 0; k < EDIT_SETS; k++)
        if (e->sets.set[k].side) TRY(describe_set(e, k));
    return describe_pairs(e);
}

/* -o. Before the edit is stored: where it cannot be written, the same command tries again and finds its passes done. */
static coar_status write_weights(const edit_run *e) {
    const edit_record *r = &e->record;
    const job *j = e->sets.sides[0].job;
    if (!e->o->output) return COAR_OK;
    if (r->k) return weight_edit_write(j->model, r->order, r->k, j->ablation.gain, e->o->output, e->o->force);
    log_warning(e->o->callbacks, "%s: not written: %s (k = 0)%s", e->o->output,
                e->o->has_until ? "none is needed for --until, or no edit helps within what it may cost"
                                : "no edit helps within what it may cost",
                file_exists(e->o->output) ? "; the file that is there is an older one" : "");
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------------ the whole */

static void close_all(edit_run *e) {
    edit_record_free(&e->record);
    free(e->points);
    free(e->norms);
    edit_pairs_free(&e->pairs);
    edit_sets_close(&e->sets);
    given_weights_close(&e->given);
}

coar_status coar_edit(const coar_edit_options *options, coar_edit_result **result) {
    status_clear();
    coar_status status;
    coar_edit_options taken;
    TRY(options_take(&taken, sizeof taken, options, "COAR_EDIT_INIT"));
    edit_run e = {.o = &taken, .start = clock_seconds()};
    const char *name = taken.name ? taken.name : "edit";
    coar_edit_result *made = NULL;
    TRY_GOTO(edit_method_find(taken.method ? taken.method : "tau", &e.method));
    TRY_GOTO(check_options(&taken, e.method));
    TRY_GOTO(check_outputs(&taken, name));
    TRY_GOTO(open_all(&e));
    TRY_GOTO(describe(&e, name));
    TRY_GOTO(choose_components(&e));
    TRY_GOTO(edit_sweep(&e));
    TRY_GOTO(edit_outcome(&e));
    TRY_GOTO(edit_result_make(&e, &made));
    TRY_GOTO(write_weights(&e));
    TRY_GOTO(store_write_edit(e.sets.sides[0].store, &e.record, taken.force != 0));
    TRY_GOTO(store_discard_stages(e.sets.sides[0].store, PASSES_STAGE)); /* what they computed is in the edit */
    if (result) {
        *result = made;
        made = NULL;
    }
done:
    free(made);
    close_all(&e);
    return status;
}
