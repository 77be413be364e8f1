/* evaluate.c - coar_evaluate: every chosen fit of a run against fresh masks, at every alpha asked for. */
#include "evaluate/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/baselines.h"
#include "ablate/run_masks.h"
#include "ablate/truth.h"
#include "core/memory.h"
#include "core/number.h"
#include "core/options.h"

#define MASKS_DEFAULT 100

/* What is to be evaluated. */
typedef struct evaluate_plan {
    double start; /* clock_seconds */
    run_store *store;
    run_tables tables;
    uint64_t seed, masks;
    double *alphas;
    size_t alpha_count;
    fit_info *fits;
    size_t fit_count;
} evaluate_plan;

static void plan_close(evaluate_plan *p) {
    free(p->fits);
    free(p->alphas);
    run_tables_free(&p->tables);
    store_close(p->store);
}

/* Length of the piece of a comma list that `text` begins with. */
static size_t piece(const char *text) {
    return strcspn(text, ",");
}

static coar_status parse_alphas(evaluate_plan *p, const char *text) {
    size_t capacity = 0;
    for (const char *at = text;; at += piece(at) + 1) {
        char *end;
        double alpha = number_parse(at, &end);
        if (end == at || end != at + piece(at) || !(alpha > 0 && alpha < 1))
            return status_set(COAR_ERROR_USAGE,
                              "--alpha (--eval-alpha of 'coar run') '%s': '%.*s' is no number between 0 and 1", text,
                              (int)piece(at), at);
        TRY(memory_grow(&p->alphas, &capacity, p->alpha_count + 1, sizeof *p->alphas, "--alpha"));
        p->alphas[p->alpha_count++] = alpha;
        if (!at[piece(at)]) return COAR_OK;
    }
}

static const fit_info *find_fit(const fit_info *fits, size_t count, const char *name, size_t length) {
    for (size_t f = 0; f < count; f++)
        if (strlen(fits[f].name) == length && !strncmp(fits[f].name, name, length)) return &fits[f];
    return NULL;
}

/* The baselines among all fits that the list does not name already. */
static coar_status add_baselines(evaluate_plan *p, const fit_info *all, size_t count, size_t *capacity) {
    for (size_t f = 0; f < count; f++) {
        if (!store_fit_is_baseline(&all[f]) || find_fit(p->fits, p->fit_count, all[f].name, strlen(all[f].name)))
            continue;
        TRY(memory_grow(&p->fits, capacity, p->fit_count + 1, sizeof *p->fits, "--baselines"));
        p->fits[p->fit_count++] = all[f];
    }
    return COAR_OK;
}

/* The fits named, in the order named, and the baselines where they are asked for; every fit without a list. */
static coar_status choose_fits(evaluate_plan *p, const char *names, bool baselines) {
    fit_info *all = NULL;
    size_t count = 0, capacity = 0;
    coar_status status;
    TRY_GOTO(store_list_fits(p->store, &all, &count));
    if (count == 0)
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: attributions: there are none; 'coar fit' makes them",
                            store_path(p->store)));
    if (!names) {
        p->fits = all;
        p->fit_count = count;
        return COAR_OK;
    }
    for (const char *at = names;; at += piece(at) + 1) {
        const fit_info *fit = find_fit(all, count, at, piece(at));
        if (!fit)
            TRY_GOTO(status_set(COAR_ERROR_USAGE, "--fit '%.*s': %s has no such fit, see 'coar info'", (int)piece(at),
                                at, store_path(p->store)));
        TRY_GOTO(memory_grow(&p->fits, &capacity, p->fit_count + 1, sizeof *p->fits, "--fit"));
        p->fits[p->fit_count++] = *fit;
        if (!at[piece(at)]) break;
    }
    if (baselines) TRY_GOTO(add_baselines(p, all, count, &capacity));
done:
    free(all);
    return status;
}

/* A fit's output must be among those that fresh masks are run for. */
static coar_status check_outputs(const evaluate_plan *p) {
    for (size_t f = 0; f < p->fit_count; f++) {
        bool held = false;
        for (size_t k = 0; k < p->tables.output_count; k++)
            held |= !strcmp(p->tables.output_names[k], p->fits[f].output);
        if (!held)
            return status_set(COAR_ERROR_INPUT, "%s: fit '%s' is of output '%s', which the run does not hold",
                              store_path(p->store), p->fits[f].name, p->fits[f].output);
    }
    return COAR_OK;
}

/* What the options alone say. */
static coar_status plan_options(evaluate_plan *p, const coar_evaluate_options *o) {
    if (!o->run) return status_set(COAR_ERROR_USAGE, "name a run file");
    p->masks = o->masks ? o->masks : MASKS_DEFAULT;
    if (p->masks < 2)
        return status_set(COAR_ERROR_USAGE, "--masks (--eval-masks of 'coar run'): a correlation needs at least 2");
    return o->alphas ? parse_alphas(p, o->alphas) : COAR_OK;
}

/* --time-limit is that of the whole call. */
static coar_evaluate_options with_time_left(const evaluate_plan *p, const coar_evaluate_options *o) {
    coar_evaluate_options left = *o;
    left.time_limit = clock_left(o->time_limit, p->start);
    return left;
}

static coar_status plan_open(evaluate_plan *p, const coar_evaluate_options *o) {
    double training;
    TRY(store_open(o->run, &p->store));
    TRY(store_read_tables(p->store, &p->tables, NULL));
    if (o->baselines) {
        const coar_evaluate_options left = with_time_left(p, o);
        TRY(baselines_complete(p->store, &left));
    }
    TRY(choose_fits(p, o->fits, o->baselines));
    TRY(check_outputs(p));
    p->seed = o->seed;
    if (!o->has_seed) TRY(store_setting_integer(p->store, "seed", &p->seed));
    if (o->alphas) return COAR_OK;
    TRY(store_setting_real(p->store, "alpha", &training));
    TRY(memory_new(1, sizeof *p->alphas, "--alpha", &p->alphas));
    p->alphas[p->alpha_count++] = training;
    return COAR_OK;
}

/* All fits at one alpha; the fresh outputs are computed once for all of them. */
static coar_status evaluate_alpha(const evaluate_plan *p, const coar_evaluate_options *o, double alpha,
                                  thread_pool *pool, coar_evaluation *list) {
    char stage[64];
    uint32_t *group_first = NULL;
    sampler sampler;
    coar_status status;
    const coar_evaluate_options left = with_time_left(p, o);
    TRY_GOTO(truth_complete(p->store, &left, alpha, p->seed, p->masks, stage));
    TRY_GOTO(run_masks_fresh(p->store, &p->tables, alpha, p->seed, &group_first, &sampler));
    const evaluate_truth truth = {
        .store = p->store,
        .stage = stage,
        .sampler = &sampler,
        .masks = p->masks,
        .examples = p->tables.examples,
        .seed = p->seed,
        .alpha = alpha,
        .pool = pool,
        .memory = (size_t)o->memory,
    };
    progress progress;
    progress_begin(&progress, o->callbacks, "evaluate", "fits", 0, p->fit_count);
    for (size_t f = 0; f < p->fit_count; f++) {
        TRY_GOTO(evaluate_fit(&truth, &p->fits[f], &list[f]));
        if (progress_update(&progress, f + 1) && f + 1 < p->fit_count)
            TRY_GOTO(status_set(COAR_STOPPED, "%s: evaluation stopped; the same command goes on", o->run));
    }
done:
    free(group_first);
    return status;
}

coar_status coar_evaluate(const coar_evaluate_options *options, coar_evaluation **evaluations, size_t *count) {
    status_clear();
    coar_evaluate_options taken;
    TRY(options_take(&taken, sizeof taken, options, "COAR_EVALUATE_INIT"));
    const coar_evaluate_options *o = &taken;
    evaluate_plan plan = {.start = clock_seconds()};
    thread_pool *pool = NULL;
    coar_evaluation *list = NULL;
    coar_status status;
    TRY_GOTO(plan_options(&plan, o));
    if (o->check_only) goto done;
    TRY_GOTO(plan_open(&plan, o));
    TRY_GOTO(thread_pool_create(o->threads, &pool));
    TRY_GOTO(memory_new(plan.alpha_count, plan.fit_count * sizeof *list, "evaluations", &list));
    for (size_t a = 0; a < plan.alpha_count; a++)
        TRY_GOTO(evaluate_alpha(&plan, o, plan.alphas[a], pool, list + a * plan.fit_count));
    if (count) *count = plan.alpha_count * plan.fit_count;
    if (evaluations) {
        *evaluations = list;
        list = NULL;
    }
done:
    free(list);
    thread_pool_destroy(pool);
    plan_close(&plan);
    return status;
}
