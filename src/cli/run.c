/* run.c - coar run: gradients and ablations, fits, evaluation and report in one go. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/ablate_options.h"
#include "cli/cli.h"
#include "cli/results.h"

/* Forward passes beside gradients when nobody says how many: enough to calibrate them, and to predict how good they are. */
#define CALIBRATION_MASKS 256

/* Reverse passes of a fit that takes gradients when nobody says how many, and no budget does. */
#define GRADIENT_PASSES 64

typedef struct run_options {
    coar_ablate_options ablate;
    uint32_t passes;        /* --passes: so many gradients; 0 = not given */
    const char *budget;     /* --budget */
    bool spends;            /* a budget decides how many passes */
    const char *estimators; /* --estimator; NULL = what the run has most from */
    coar_fit_result *fits;  /* [fit_count] made; the first is the report's */
    size_t fit_count;
    coar_fit_options fit;
    coar_evaluate_options evaluate;
    coar_report_options report;
    int json;
} run_options;

/* A rerun keeps fits of the same masks and makes again those that a longer run has left behind. */
static coar_status fit_one(run_options *o, const char *estimator) {
    coar_fit_result r = {0};
    o->fit.estimator = estimator;
    coar_status status = coar_fit(&o->fit, &r);
    o->fit.estimator = NULL;
    if (status != COAR_OK || o->fit.check_only) return status;
    coar_fit_result *fits = realloc(o->fits, (o->fit_count + 1) * sizeof *fits);
    if (!fits) return COAR_ERROR_MEMORY;
    o->fits = fits;
    o->fits[o->fit_count++] = r;
    if (!o->json)
        printf("fit %s: R^2 %s, held-out correlation %s, %s%.1f s\n", r.name, CLI_MEAN(r.r2_mean),
               CLI_MEAN(r.heldout_mean), r.already_complete ? "there already, " : "", r.seconds);
    return status;
}

/* `estimators`: a comma list, NULL for the default one. */
static coar_status fit_all(run_options *o, const char *estimators) {
    if (!estimators) return fit_one(o, NULL);
    char *list = strdup(estimators), *rest = list;
    coar_status status = list ? COAR_OK : COAR_ERROR_MEMORY;
    for (char *name; status == COAR_OK && (name = strsep(&rest, ",")) != NULL;) status = fit_one(o, name);
    free(list);
    return status;
}

/* Whether a fit is to be made that takes gradients, or (false) one that does not. */
static bool wants(const run_options *o, bool gradients) {
    if (!o->estimators) return gradients;
    for (const char *at = o->estimators; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (!strncmp(at, "grad", strlen("grad")) == gradients) return true;
    return false;
}

/* Masks that are given one by one: a part of them would be another job. */
static bool masks_are_given(const run_options *o) {
    const char *sampler = o->ablate.sampler;
    return sampler && (!strcmp(sampler, "loo") || !strncmp(sampler, "file:", strlen("file:")));
}

/* Forward passes of every example that evaluation takes. */
static uint64_t evaluation_passes(const run_options *o) {
    uint64_t alphas = 1;
    for (const char *at = o->evaluate.alphas; at && *at; at++) alphas += *at == ',';
    return alphas * (o->evaluate.masks ? o->evaluate.masks : 100);
}

static coar_status spend_budget(run_options *o, coar_budget_result *result) {
    coar_budget_options budget = COAR_BUDGET_INIT;
    budget.budget = o->budget;
    budget.reserved = o->budget ? evaluation_passes(o) : 0;
    budget.ablate = o->ablate;
    budget.fit = o->fit;
    budget.check_only = o->fit.check_only;
    char *first = NULL; /* without gradients the first fit tells when it has settled */
    if (!wants(o, true)) {
        first = strdup(o->estimators);
        if (!first) return COAR_ERROR_MEMORY;
        first[strcspn(first, ",")] = '\0';
        budget.fit.estimator = first;
    }
    const coar_status status = coar_budget(&budget, result);
    free(first);
    return status;
}

/* A wrong option of a later stage must not come out after hours of the first. */
static coar_status check_later_stages(run_options *o) {
    o->fit.check_only = o->evaluate.check_only = o->report.check_only = 1;
    o->fit.force = o->ablate.force; /* which removes the fits that are there */
    coar_status status = fit_all(o, o->estimators);
    if (status == COAR_OK && o->spends) status = spend_budget(o, NULL);
    if (status == COAR_OK) status = coar_evaluate(&o->evaluate, NULL, NULL);
    if (status == COAR_OK) status = coar_report(&o->report);
    o->fit.check_only = o->evaluate.check_only = o->report.check_only = o->fit.force = 0;
    return status;
}

/* RUN without its .h5, and .html after it. */
static char *report_name(const char *run) {
    size_t length = strlen(run);
    if (length > 3 && !strcmp(run + length - 3, ".h5")) length -= 3;
    char *name = malloc(length + 6);
    if (name) sprintf(name, "%.*s.html", (int)length, run);
    return name;
}

/* Seconds of the time limit that are left; at least one unit is done in every call. */
static double time_left(double limit, time_t start) {
    if (limit <= 0) return 0;
    const double left = limit - difftime(time(NULL), start);
    return left > 0 ? left : 1e-3;
}

/* The passes that the options name: gradients first, where there are to be any. */
static coar_status make_passes(run_options *o, time_t start) {
    coar_ablate_options ablate = o->ablate;
    coar_ablate_result ablated = {0};
    if (o->passes) {
        coar_gradients_options gradients = COAR_GRADIENTS_INIT;
        coar_gradients_result made = {0};
        gradients.passes = o->passes;
        gradients.ablate = ablate;
        const coar_status status = coar_gradients(&gradients, &made);
        if (status != COAR_OK) return status;
        if (!o->json) gradients_print(&gradients, &made);
        ablate.force = 0;
        ablate.time_limit = time_left(o->ablate.time_limit, start);
        if (ablate.masks == 0 && !wants(o, false) && !masks_are_given(o)) ablate.masks = CALIBRATION_MASKS;
    }
    const coar_status status = coar_ablate(&ablate, &ablated);
    if (status == COAR_OK && !o->json) ablate_print(&ablate, &ablated);
    return status;
}

static coar_status make_fits(run_options *o, time_t start) {
    coar_budget_result spent = {0};
    coar_status status = o->spends ? spend_budget(o, &spent) : make_passes(o, start);
    if (status != COAR_OK) return status;
    if (o->spends && !o->json)
        printf("%s: %u reverse and %llu forward passes in %u steps, %.1f s: %s\n", o->ablate.output, spent.passes,
               (unsigned long long)spent.masks, spent.steps, spent.seconds,
               spent.settled ? "the predicted correlation has settled" : "the budget is spent");
    return fit_all(o, o->estimators || !o->spends ? o->estimators : spent.estimator);
}

static coar_status run_stages(run_options *o) {
    const time_t start = time(NULL);
    coar_status status = check_later_stages(o);
    if (status == COAR_OK) status = make_fits(o, start);
    if (status != COAR_OK) return status;

    coar_evaluation *list = NULL;
    size_t count = 0;
    o->evaluate.time_limit = time_left(o->ablate.time_limit, start);
    status = coar_evaluate(&o->evaluate, &list, &count);
    if (status == COAR_OK) evaluations_print(list, count, o->fits, o->fit_count, o->json);
    coar_free(list);
    if (status != COAR_OK) return status;

    o->report.fit = o->fits[0].name;
    status = coar_report(&o->report);
    if (status == COAR_OK && !o->json) printf("report: %s\n", o->report.output);
    return status;
}

/* A budget decides where nothing else does, and where gradients are possible and wanted: not for a shard, which others
 * must complete. */
static bool budget_decides(const run_options *o) {
    if (o->budget) return true;
    if (o->ablate.masks || o->passes || o->ablate.shard || o->ablate.alpha >= .5) return false;
    if (wants(o, false)) return false; /* such a fit wants 2n masks */
    return !masks_are_given(o);
}

/* What later stages take from the options of the first. */
static void share_options(run_options *o) {
    o->fit.keep = 1;
    o->fit.run = o->evaluate.run = o->report.run = o->ablate.output;
    o->fit.backend = o->ablate.backend;
    o->fit.devices = o->evaluate.devices = o->ablate.devices;
    o->fit.threads = o->evaluate.threads = o->ablate.threads;
    o->fit.memory = o->evaluate.memory = o->ablate.memory;
    o->evaluate.model = o->ablate.model;
    o->evaluate.data = o->report.data = o->ablate.data;
    o->evaluate.force_resume = o->ablate.force_resume;
    o->fit.command = o->evaluate.command = o->ablate.command;
    o->fit.callbacks = o->evaluate.callbacks = o->report.callbacks = o->ablate.callbacks;
    o->report.force = o->ablate.force;
    o->report.replace_own = 1;
}

static int run(int count, char **arguments) {
    run_options o = {
        .ablate = COAR_ABLATE_INIT, .fit = COAR_FIT_INIT, .evaluate = COAR_EVALUATE_INIT, .report = COAR_REPORT_INIT};
    ablate_texts texts = {0};
    const cli_option options[] = {
        ABLATE_OPTIONS(o.ablate, texts),
        {"--passes", OPTION_U32, &o.passes, "K", "reverse passes of every example; then --masks is 256 if not given"},
        {"--budget", OPTION_TEXT, &o.budget, "T",
         "as many passes as are worth it in 90s, 30m, 2h, or 5000p (2n passes, unless --masks or --passes is given)"},
        {"--estimator", OPTION_TEXT, &o.estimators, "LIST",
         "fits to make: grad+eb, grad, eb, ridge, ols, lasso (what the run has most from)"},
        {"--name", OPTION_TEXT, &o.fit.name, "NAME", "of the fit (the estimator's); with one estimator only"},
        {"--standard-errors", OPTION_FLAG, &o.fit.standard_errors, NULL, "store a standard error for every weight"},
        {"--eval-alpha", OPTION_TEXT, &o.evaluate.alphas, "LIST",
         "ablated fractions to evaluate at (the training one)"},
        {"--eval-masks", OPTION_COUNT, &o.evaluate.masks, "K", "fresh masks (100)"},
        {"--eval-seed", OPTION_SEED, &o.evaluate.seed, "S", "of the fresh masks (the run's)", &o.evaluate.has_seed},
        {"--json", OPTION_FLAG, &o.json, NULL, "fits and evaluations as JSON"},
        {NULL},
    };
    if (!cli_parse(&command_run, count, arguments, options, NULL, 0, NULL)) return 2;
    if (!ablate_options_finish(&command_run, &o.ablate, &texts)) return 2;
    if (!o.ablate.output) return cli_usage_error(&command_run, "-o: name the run file to write");
    if (o.budget && (o.ablate.masks || o.passes || o.ablate.shard || masks_are_given(&o)))
        return cli_usage_error(&command_run, "--budget decides how many passes are made: leave out --masks, --passes, "
                                             "--shard, and masks of loo or a file");
    o.spends = budget_decides(&o);
    if (!o.spends && o.estimators && wants(&o, true) && !o.passes) o.passes = GRADIENT_PASSES;
    if (o.fit.name && o.estimators && strchr(o.estimators, ','))
        return cli_usage_error(&command_run, "--name: one name for several estimators");
    if (cli_follows()) return ablate_follow(&o.ablate);
    share_options(&o);
    char *page = report_name(o.ablate.output);
    o.report.output = page;
    coar_status status = page ? run_stages(&o) : COAR_ERROR_MEMORY;
    free(page);
    free(o.fits);
    return cli_finish(status);
}

const cli_command command_run = {"run", "--model W.safetensors --data data.h5 -o run.h5 [options]",
                                 "gradients, ablations, fits, evaluation and report in one go", run, true};
