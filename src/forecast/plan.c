/* plan.c - coar_plan: from options to what the job will take. See forecast.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/options.h"
#include "forecast/forecast.h"
#include "store/store.h"

enum {
    ROWS_MOST = 33,
    DEVICES_MOST = 1 << 20,
    GIVEN_THREADS = 16, /* of a process on another machine, whose fit has buffers for each */
};

/* The result and what its pointers lead to. */
typedef struct planned {
    coar_plan_result result; /* first: the caller frees it */
    coar_plan_row rows[ROWS_MOST];
    char arch[64], device_class[PLAN_CLASS_SIZE], precision[8];
} planned;

static coar_status check_rates(const coar_plan_options *o) {
    const struct {
        const char *name;
        double value;
    } rates[] = {{"--rate", o->rate}, {"--reverse-rate", o->reverse_rate}, {"--fit-rate", o->fit_rate}};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        if (!(rates[i].value >= 0 && rates[i].value <= 1e18))
            return status_set(COAR_ERROR_USAGE, "%s %g: give a rate a second above 0", rates[i].name, rates[i].value);
    if (o->reverse_rate > 0 && !(o->rate > 0)) return status_set(COAR_ERROR_USAGE, "--reverse-rate: goes with --rate");
    if (!(o->seconds >= 0)) return status_set(COAR_ERROR_USAGE, "--time %g: must not be negative", o->seconds);
    return COAR_OK;
}

static coar_status check(const coar_plan_options *o) {
    if (!o->ablate.model)
        return status_set(COAR_ERROR_USAGE, "--model: name weights or an architecture, which the plan is for");
    if (!o->ablate.data && !o->count)
        return status_set(COAR_ERROR_USAGE, "--data: name a data set file, or give --count N for so many examples");
    if (o->ablate.data && o->count)
        return status_set(COAR_ERROR_USAGE, "--count: stands in for a data set; leave it or --data out");
    if (o->tokens && !o->count)
        return status_set(COAR_ERROR_USAGE, "--tokens: goes with --count; a data set has texts of its own length");
    if (o->count > (uint64_t)1 << 32)
        return status_set(COAR_ERROR_USAGE, "--count %llu: too many", (unsigned long long)o->count);
    if (o->devices > DEVICES_MOST)
        return status_set(COAR_ERROR_USAGE, "--devices %u: give at most %d", o->devices, DEVICES_MOST);
    return check_rates(o);
}

/* On the first device: others are like it. Given rates need no trial of precisions, and no device. */
static coar_status open_job(const coar_plan_options *o, job **out) {
    const coar_ablate_options *a = &o->ablate;
    char *plan_json = NULL;
    if (a->plan) TRY(store_plan_file(a->plan, &plan_json));
    const bool given = o->rate > 0, loo = a->sampler && !strcmp(a->sampler, "loo");
    const job_options options = {.model = a->model,
                                 .data = a->data,
                                 .arch = a->arch,
                                 .classes = a->classes,
                                 .examples = a->examples,
                                 .outputs = a->outputs,
                                 .label = a->label,
                                 .ablation = a->ablation,
                                 .calibration = a->calibration,
                                 .components = a->components,
                                 .only = a->only,
                                 .except = a->except,
                                 .backend = given ? "cpu" : a->backend,
                                 .precision = given ? "fp32" : a->precision,
                                 .plan_given = a->plan != NULL,
                                 .plan_json = plan_json,
                                 .plan_origin = a->plan,
                                 .alpha = given || loo    ? 0
                                          : a->alpha == 0 ? DEFAULT_ALPHA
                                                          : a->alpha,
                                 .seed = a->seed,
                                 .exact = a->exact,
                                 .threads = given && !a->threads ? GIVEN_THREADS : a->threads,
                                 .memory = given ? 0 : a->memory,
                                 .callbacks = o->callbacks,
                                 .stand_ins = true,
                                 .stand_in_examples = o->count,
                                 .stand_in_tokens = o->tokens};
    const coar_status status = job_open(&options, out);
    free(plan_json);
    return status;
}

/* 1, 2, 4 ... and the number asked for. */
static size_t list_devices(uint32_t most, coar_plan_row *rows) {
    size_t count = 0;
    for (uint32_t d = 1; d < most; d *= 2) rows[count++].devices = d;
    rows[count++].devices = most;
    return count;
}

static void describe(const forecast_job *f, const forecast_rates *r, const job *j, planned *p) {
    coar_plan_result *out = &p->result;
    snprintf(p->arch, sizeof p->arch, "%s", j->model->arch);
    if (r->measured) {
        snprintf(p->device_class, sizeof p->device_class, "%s", j->plan.device_class);
        snprintf(p->precision, sizeof p->precision, "%s", j->plan.precision);
    }
    *out = (coar_plan_result){.arch = p->arch,
                              .device_class = p->device_class,
                              .precision = p->precision,
                              .examples = f->examples,
                              .masks = f->masks,
                              .components = f->components,
                              .outputs = f->outputs,
                              .passes = f->passes,
                              .unit_masks = f->unit_masks,
                              .unit_examples = f->unit_examples,
                              .flops_per_image = f->flops,
                              .weight_bytes = f->weight_bytes,
                              .example_bytes = f->example_bytes,
                              .measured = r->measured,
                              .rate = 1 / r->image,
                              .reverse_rate = f->passes ? 1 / r->reverse : 0,
                              .fit_rate = 1 / r->operation[f->fits[f->fit_count - 1].estimator],
                              .rows = p->rows};
    out->row_count = list_devices(f->o->devices ? f->o->devices : 1, p->rows);
}

coar_status coar_plan(const coar_plan_options *options, coar_plan_result **result) {
    status_clear();
    coar_plan_options o;
    coar_ablate_options ablate;
    forecast_job f;
    forecast_rates rates;
    job *j = NULL;
    planned *p = NULL;
    coar_status status;
    TRY(options_take(&o, sizeof o, options, "COAR_PLAN_INIT"));
    TRY(options_take(&ablate, sizeof ablate, &o.ablate, "COAR_PLAN_INIT"));
    o.ablate = ablate;
    TRY_GOTO(check(&o));
    const double start = clock_seconds();
    TRY_GOTO(open_job(&o, &j));
    const double opened = clock_seconds() - start;
    TRY_GOTO(forecast_job_make(&o, j, &f));
    TRY_GOTO(forecast_rates_make(&f, j, &rates));
    if (rates.measured) rates.open = opened;
    TRY_GOTO(memory_new(1, sizeof *p, "the plan", &p));
    describe(&f, &rates, j, p);
    TRY_GOTO(forecast_result(&f, &rates, j, p->rows, &p->result));
    *result = &p->result;
    p = NULL;
done:
    free(p);
    job_close(j);
    return status;
}
