/*
 * selftest.c - coar_selftest: a backend against the reference, case by case. See selftest.h for what the cases are.
 *
 * Both sides get the same examples and the same masks: from the generator, as packed bits or as real numbers, in turn.
 */
#include "selftest/selftest.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/options.h"
#include "core/philox.h"

enum { PRECISIONS = 4, CHANNELS_SHOWN = 3, PARTS = 1 + SELFTEST_KINDS };
static const char *const precisions[PRECISIONS] = {"fp32", "tf32", "bf16", "fp16"};

#define FP32_LIMIT 1e-4 /* of the largest value */
#define ALPHA 0.3       /* more than usual, so that few components lose some */

typedef struct selftest {
    const coar_selftest_options *o;
    const backend_interface *tested;
    thread_pool *pool;
    progress progress;
    uint64_t done; /* cases */
    coar_selftest_result result;
} selftest;

/* What both sides get, and what they make of it. */
typedef struct trial {
    const selftest *test;
    const selftest_item *item;
    const char *precision;
    output_spec outputs[OUTPUTS_MAX];
    size_t output_count;
    size_t parts[PARTS]; /* numbers of each part of the results, which has a scale of its own; 0 behind the last */
    size_t count;        /* of all */
    ablation ablation;
    float *fill;
    void *inputs; /* pixels or tokens */
    int32_t *labels;
    float *mean, *deviation;
    sampler sampler;
    uint8_t *bits;
    float *keeps;
    mask_range masks;
    float *expected, *actual; /* [count] */
    double seconds;
    char device_class[PLAN_CLASS_SIZE];
} trial;

/* -------------------------------------------------------------------------------------------------- inputs */

static void fill_words(void *bytes, size_t size, uint64_t row) {
    for (size_t i = 0; i < size; i += 16) {
        uint32_t words[4];
        philox_words(2, PHILOX_STREAM_CALIBRATION, row, (uint32_t)(i / 16), words);
        memcpy((char *)bytes + i, words, size - i < 16 ? size - i : 16);
    }
}

/* Texts of random tokens, of two of them and more. */
static void make_texts(trial *t) {
    const graph *g = t->item->graph;
    const size_t length = g->values[0].w;
    int32_t *tokens = t->inputs;
    for (size_t i = 0; i < t->item->examples * length; i++) tokens[i] = (int32_t)((uint32_t)tokens[i] % g->vocabulary);
    for (uint32_t e = 0; e < t->item->examples; e++) t->labels[e] = (int32_t)(length - e * 5 % (length - 1));
}

static coar_status make_examples(trial *t) {
    const selftest_item *item = t->item;
    const shape in = item->graph->values[0];
    const uint32_t classes = item->graph->values[item->graph->logits].c;
    const size_t bytes = item->examples * graph_input_bytes(item->graph);
    TRY(memory_new(bytes, 1, "selftest examples", &t->inputs));
    TRY(memory_new(item->examples, sizeof *t->labels, "selftest labels", &t->labels));
    TRY(memory_new(in.c, sizeof *t->mean, "selftest images", &t->mean));
    TRY(memory_new(in.c, sizeof *t->deviation, "selftest images", &t->deviation));
    fill_words(t->inputs, bytes, 0);
    for (uint32_t e = 0; e < item->examples; e++) t->labels[e] = (int32_t)(e * 5 % classes);
    for (uint32_t c = 0; c < in.c; c++) {
        t->mean[c] = 0.5f + 0.02f * (float)(c % CHANNELS_SHOWN);
        t->deviation[c] = 0.25f + 0.02f * (float)(c % CHANNELS_SHOWN);
    }
    if (item->graph->vocabulary) make_texts(t);
    return COAR_OK;
}

static coar_status make_ablation(trial *t) {
    const uint32_t rows = t->item->graph->rows;
    t->ablation = (ablation){.kind = t->item->kind, .gain = t->item->kind == ABLATION_SCALE ? 0.5f : 0};
    if (t->item->kind != ABLATION_MEAN) return COAR_OK;
    TRY(memory_new(rows, sizeof *t->fill, "selftest means", &t->fill));
    for (uint32_t r = 0; r < rows; r++) t->fill[r] = 0.1f * (float)(r % 7) - 0.3f;
    t->ablation.fill = t->fill;
    return COAR_OK;
}

/* The three forms of a mask_range take turns. The first mask is not mask 0 of its stream. */
static coar_status make_masks(trial *t) {
    const uint32_t n = t->item->graph->components, slots = t->item->slots;
    const size_t row = mask_bytes(n);
    t->sampler = (sampler){.kind = SAMPLER_BERNOULLI, .alpha = ALPHA, .seed = 11, .n = n};
    t->masks = (mask_range){.count = slots, .n = n};
    switch (t->test->done % 3) {
    case 0:
        t->masks.sampler = &t->sampler;
        t->masks.first = 5;
        return COAR_OK;
    case 1:
        TRY(memory_new(slots, row, "selftest masks", &t->bits));
        for (uint32_t s = 0; s < slots; s++) sampler_mask(&t->sampler, s, t->bits + s * row, NULL);
        t->masks.bits = t->bits;
        return COAR_OK;
    default:
        TRY(memory_new((size_t)slots * n, sizeof *t->keeps, "selftest masks", &t->keeps));
        for (size_t i = 0; i < (size_t)slots * n; i++) t->keeps[i] = 0.25f * (float)(i * 7 % 5);
        t->masks.keeps = t->keeps;
        return COAR_OK;
    }
}

static void free_trial(trial *t) {
    free(t->fill);
    free(t->inputs);
    free(t->labels);
    free(t->mean);
    free(t->deviation);
    free(t->bits);
    free(t->keeps);
    free(t->expected);
    free(t->actual);
}

/* ------------------------------------------------------------------------------------------------ both sides */

static size_t pairs_of(const trial *t) {
    return (size_t)t->item->slots * t->item->examples;
}

/* One part: logits of the unablated network and outputs under the masks. In reverse the output of each kind of pass,
 * then the gradients of each; a single example has no conductance. */
static void size_parts(trial *t) {
    const selftest_item *item = t->item;
    const size_t logits = graph_logits(item->graph, 1).count;
    const size_t gradients = pairs_of(t) * item->graph->components;
    if (item->reverse) {
        const size_t kinds = item->examples > 1 ? SELFTEST_KINDS : SELFTEST_KINDS - 1;
        t->parts[0] = kinds * pairs_of(t);
        for (size_t kind = 0; kind < kinds; kind++) t->parts[1 + kind] = gradients;
    } else {
        t->parts[0] = item->examples * logits + t->output_count * pairs_of(t);
    }
    for (size_t p = 0; p < PARTS; p++) t->count += t->parts[p];
}

/* Which token is the likeliest other one may hang on a rounding; what its logit is does not. */
static coar_status run_forward(trial *t, backend *b, float *results) {
    const size_t count = t->item->graph->vocabulary ? t->item->examples * graph_logits(t->item->graph, 1).count : 0;
    float *outputs = results + t->count - t->output_count * pairs_of(t);
    TRY(b->interface->logits(b, results));
    for (size_t i = NEXT_OTHER; i < count; i += NEXT_CHANNELS) results[i] = 0;
    return b->interface->run(b, &t->masks, outputs);
}

static coar_status run_reverse(trial *t, backend *b, float *results) {
    float *outputs = results, *gradients = results + t->parts[0];
    for (int kind = 0; kind < SELFTEST_KINDS && t->parts[1 + kind]; kind++) {
        TRY(b->interface->run_reverse(b, (reverse_kind)kind, t->item->derived[kind], &t->masks, gradients, outputs));
        outputs += pairs_of(t);
        gradients += t->parts[1 + kind];
    }
    return COAR_OK;
}

/* One call under masks, as it is timed. */
static coar_status run_once(trial *t, backend *b, float *results) {
    const selftest_item *item = t->item;
    float *last = results + t->count;
    if (!item->reverse) return b->interface->run(b, &t->masks, last - t->output_count * pairs_of(t));
    return b->interface->run_reverse(b, REVERSE_MASK, item->derived[REVERSE_MASK], &t->masks, results + t->parts[0],
                                     results);
}

static coar_status compute(trial *t, const backend_interface *interface, float *results, double *seconds) {
    coar_status status;
    const selftest_item *item = t->item;
    const coar_selftest_options *o = t->test->o;
    const bool tested = interface == t->test->tested;
    numerics_plan plan = {0};
    backend *b = NULL;
    /* ops are to be computed by the project's own kernels, networks by whatever a run would take, which is measured */
    const int device = tested ? o->device : 0;
    const plan_timing timing = {.pool = t->test->pool, .memory = (size_t)o->memory, .callbacks = o->callbacks};
    TRY_GOTO(plan_create_timed(item->graph, interface->name, t->precision, item->model == NULL, device,
                               tested && !o->quick ? &timing : NULL, &plan));
    if (tested) snprintf(t->device_class, sizeof t->device_class, "%s", plan.device_class);
    const backend_settings settings = {.graph = item->graph,
                                       .plan = &plan,
                                       .ablation = t->ablation,
                                       .outputs = t->outputs,
                                       .output_count = t->output_count,
                                       .pool = t->test->pool,
                                       .device = device,
                                       .memory = tested && (o->memory || interface->devices) ? (size_t)o->memory
                                                                                             : memory_default(),
                                       .examples_max = item->examples,
                                       .masks_max = item->slots,
                                       .reverse = item->reverse,
                                       /* without paths data gradients may be libraries', as in a run */
                                       .path_examples = item->reverse && item->examples > 1 ? item->examples : 0};
    TRY_GOTO(interface->prepare(&settings, &b));
    const example_batch batch = {
        .inputs = t->inputs, .labels = t->labels, .count = item->examples, .mean = t->mean, .std = t->deviation};
    TRY_GOTO(interface->bind(b, &batch));
    TRY_GOTO(item->reverse ? run_reverse(t, b, results) : run_forward(t, b, results));
    if (tested && !o->quick) { /* the first call may have measured, compiled or captured */
        const double start = clock_seconds();
        TRY_GOTO(run_once(t, b, results));
        *seconds = clock_seconds() - start;
    }
done:
    if (b) interface->destroy(b);
    plan_free(&plan);
    return status;
}

/* One part of the results against the reference's, `count` numbers, none of them further off than `limit`; what it says
 * is added to the case. */
static void compare_part(const float *actual, const float *expected, size_t count, bool exact, double limit,
                         coar_selftest_case *c) {
    double largest = 0, squares = 0, error_squares = 0, worst = 0;
    for (size_t i = 0; i < count; i++) {
        const double value = isfinite(expected[i]) ? fabs((double)expected[i]) : 0;
        largest = fmax(largest, value);
        squares += value * value;
    }
    const double rms = sqrt(squares / (double)count), unit = exact ? largest : rms;
    for (size_t i = 0; i < count; i++) {
        const double error = fabs((double)actual[i] - expected[i]);
        if (!isfinite(expected[i]) && !isfinite(actual[i])) continue;
        c->wrong += !(error <= limit * unit);
        if (!isfinite(error)) continue;
        worst = fmax(worst, error);
        error_squares += error * error;
    }
    const double rms_error = sqrt(error_squares / (double)count);
    c->largest = fmax(c->largest, unit > 0 ? worst / unit : worst);
    c->rms = fmax(c->rms, rms > 0 ? rms_error / rms : rms_error);
    c->passed = c->passed && unit > 0;
}

/* The limits are those of include/coar.h. A single number at reduced precision may be off by eight times the rms that
 * is allowed on average: roundings that fall on the other side are rare and small. Where a network is differentiated
 * fp32 has limits of that kind too: a ReLU whose argument is zero but for rounding may be open on one side alone, which
 * shifts the derivatives of all that lies before it (ResNet-20: one pair of 100, by 3e-4 to 7e-3 of the largest). */
static void compare(const trial *t, coar_selftest_case *c) {
    const bool exact = !strcmp(t->precision, "fp32");
    const bool kinks = t->item->reverse && t->item->model;
    c->rms_limit = !exact ? t->item->rms_most : kinks ? 5e-3 : FP32_LIMIT;
    c->largest_limit = !exact || kinks ? 8 * c->rms_limit : FP32_LIMIT;
    c->compared = t->count;
    c->passed = true;
    for (size_t p = 0, first = 0; p < PARTS && t->parts[p]; first += t->parts[p++])
        compare_part(t->actual + first, t->expected + first, t->parts[p], exact,
                     p == 0 && exact ? FP32_LIMIT : c->largest_limit, c); /* outputs have no kinks */
    c->passed = c->passed && c->wrong == 0 && c->rms <= c->rms_limit;
}

static coar_status run_trial(trial *t, coar_selftest_case *c) {
    TRY(output_parse(t->item->outputs, t->item->graph, t->outputs, &t->output_count));
    TRY(make_examples(t));
    TRY(make_ablation(t));
    TRY(make_masks(t));
    size_parts(t);
    TRY(memory_new(t->count, sizeof *t->expected, "selftest", &t->expected));
    TRY(memory_new(t->count, sizeof *t->actual, "selftest", &t->actual));
    TRY(compute(t, t->test->tested, t->actual, &c->seconds));
    TRY(compute(t, &backend_reference, t->expected, &c->seconds));
    compare(t, c);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------- the tables */

/* One case: whatever goes wrong in it is its result. COAR_STOPPED when the caller wants no more. */
static coar_status run_case(selftest *s, const selftest_item *item, const char *precision) {
    char message[1024];
    coar_selftest_case c = {
        .name = item->name, .precision = precision, .slots = item->slots, .examples = item->examples};
    trial t = {.test = s, .item = item, .precision = precision};
    c.status = run_trial(&t, &c);
    status_copy(message, sizeof message);
    status_clear();
    c.message = message;
    if (t.device_class[0]) snprintf(s->result.device_class, sizeof s->result.device_class, "%s", t.device_class);
    s->result.cases++;
    s->result.failed += !c.passed;
    if (s->o->report) s->o->report(s->o->user, &c);
    free_trial(&t);
    if (progress_update(&s->progress, ++s->done))
        return status_set(COAR_STOPPED, "selftest: stopped after %llu cases", (unsigned long long)s->done);
    return COAR_OK;
}

typedef coar_status (*item_table)(size_t index, bool quick, bool reverse, selftest_item *out);

static bool wanted(const coar_selftest_options *o, const selftest_item *item) {
    return !o->only || !fnmatch(o->only, item->name, 0);
}

static coar_status run_table(selftest *s, item_table table, bool reverse, const char *precision) {
    for (size_t i = 0;; i++) {
        selftest_item item;
        TRY(table(i, s->o->quick, reverse, &item));
        if (!item.graph) return COAR_OK;
        const coar_status status = wanted(s->o, &item) ? run_case(s, &item, precision) : COAR_OK;
        selftest_item_free(&item);
        TRY(status);
    }
}

/* Whether the backend has a precision; an error for one that the caller named. */
static coar_status has_precision(const selftest *s, const char *precision, bool *has) {
    selftest_item smallest;
    numerics_plan plan = {0};
    TRY(selftest_op(0, true, false, &smallest));
    coar_status status = plan_create_timed(smallest.graph, s->tested->name, precision, 1, s->o->device, NULL, &plan);
    plan_free(&plan);
    selftest_item_free(&smallest);
    *has = status == COAR_OK;
    if (status != COAR_ERROR_UNSUPPORTED || s->o->precision) return status;
    status_clear();
    return COAR_OK;
}

/* Whether a comma list (NULL = everything) has the name. */
static bool listed(const char *list, const char *name) {
    const size_t length = strlen(name);
    for (const char *at = list; at; at = strchr(at, ','), at += at != NULL)
        if (!strncmp(at, name, length) && (!at[length] || at[length] == ',')) return true;
    return !list;
}

static coar_status check_precisions(const char *list) {
    for (const char *at = list; at; at = strchr(at, ','), at += at != NULL) {
        bool known = false;
        for (int p = 0; p < PRECISIONS; p++) {
            const size_t length = strlen(precisions[p]);
            known |= !strncmp(at, precisions[p], length) && (!at[length] || at[length] == ',');
        }
        if (!known) return status_set(COAR_ERROR_USAGE, "--precision '%s': give fp32, tf32, bf16, fp16", list);
    }
    return COAR_OK;
}

/* Reverse passes that are in fp32 under any plan are the cases of fp32. */
static bool has_reverse(const backend_interface *tested, const char *precision) {
    return tested->run_reverse && (!tested->reverse_in_fp32 || !strcmp(precision, "fp32"));
}

static coar_status check_device(const selftest *s) {
    int count = 1;
    if (s->tested->devices) TRY(s->tested->devices(&count));
    if (s->o->device >= 0 && s->o->device < count) return COAR_OK;
    return status_set(COAR_ERROR_USAGE, "--device %d: %s has devices 0 to %d here", s->o->device, s->tested->name,
                      count - 1);
}

static coar_status run_all(selftest *s) {
    TRY(check_precisions(s->o->precision));
    TRY(check_device(s));
    TRY(thread_pool_create(s->o->threads, &s->pool));
    snprintf(s->result.backend, sizeof s->result.backend, "%s", s->tested->name);
    progress_begin(&s->progress, s->o->callbacks, "selftest", "cases", 0, 0);
    for (int p = 0; p < PRECISIONS; p++) {
        bool has = listed(s->o->precision, precisions[p]);
        if (has) TRY(has_precision(s, precisions[p], &has));
        if (!has) continue;
        for (int reverse = 0; reverse <= has_reverse(s->tested, precisions[p]); reverse++) {
            TRY(run_table(s, selftest_op, reverse, precisions[p]));
            TRY(run_table(s, selftest_net, reverse, precisions[p]));
        }
    }
    if (s->result.cases) return COAR_OK;
    return status_set(COAR_ERROR_USAGE, "--only '%s': no case has such a name", s->o->only);
}

coar_status selftest_run(const coar_selftest_options *options, const backend_interface *tested,
                         coar_selftest_result *result) {
    selftest s = {.o = options, .tested = tested};
    const double start = clock_seconds();
    coar_status status = run_all(&s);
    s.result.seconds = clock_seconds() - start;
    if (result && status == COAR_OK) *result = s.result;
    thread_pool_destroy(s.pool);
    return status;
}

coar_status coar_selftest(const coar_selftest_options *options, coar_selftest_result *result) {
    status_clear();
    const backend_interface *tested;
    coar_selftest_options o;
    TRY(options_take(&o, sizeof o, options, "COAR_SELFTEST_INIT"));
    TRY(backend_find(o.backend, o.callbacks, &tested));
    return selftest_run(&o, tested, result);
}
