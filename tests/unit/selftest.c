/*
 * selftest.c - the self-test passes where the backend is right, and names the case where it is not.
 */
#include "test.h"

#include <fnmatch.h>

#include "core/status.h"
#include "selftest/selftest.h"

/* ----------------------------------------------------------------------- a backend that is wrong in one number */

enum { WRONG_OUTPUT = SELFTEST_KINDS };

static int wrong_output = -1; /* which output of run is off, -1 = none */
static bool wrong_logit, breaks;
static backend_interface planted;

static coar_status planted_prepare(const backend_settings *s, backend **out) {
    TRY(backend_cpu.prepare(s, out));
    (*out)->interface = &planted;
    return COAR_OK;
}

static coar_status planted_run(backend *b, const mask_range *masks, float *outputs) {
    if (breaks) return status_set(COAR_ERROR_IO, "planted: the device is gone");
    TRY(backend_cpu.run(b, masks, outputs));
    if (wrong_output >= 0) outputs[wrong_output] += 0.01f; /* of numbers up to about 3 */
    return COAR_OK;
}

static coar_status planted_logits(backend *b, float *logits) {
    TRY(backend_cpu.logits(b, logits));
    if (wrong_logit) logits[2] = NAN;
    return COAR_OK;
}

/* The reference, whose derivatives of one kind are off. */
static int wrong_kind = -1;
static backend_interface planted_reverse;

static coar_status planted_reverse_prepare(const backend_settings *s, backend **out) {
    TRY(backend_reference.prepare(s, out));
    (*out)->interface = &planted_reverse;
    return COAR_OK;
}

static coar_status planted_run_reverse(backend *b, reverse_kind kind, size_t output, const mask_range *masks,
                                       float *gradients, float *outputs) {
    TRY(backend_reference.run_reverse(b, kind, output, masks, gradients, outputs));
    if ((int)kind == wrong_kind) gradients[masks->n - 1] += 0.01f; /* of the first pair's numbers up to about 10 */
    if (wrong_kind == WRONG_OUTPUT && outputs) outputs[0] += 0.01f;
    return COAR_OK;
}

/* -------------------------------------------------------------------------------------------------- what it says */

static const char *const kinds[] = {"conv*",      "linear*", "maxpool*",   "avgpool*", "subsample*", "embed*",
                                    "layernorm*", "select*", "attention*", "resnet*",  "vit*",       "reverse *"};
enum { KINDS = sizeof kinds / sizeof *kinds };

typedef struct seen {
    bool of[KINDS]; /* a case of this kind */
    int cases, failed, not_computed;
    uint64_t compared, wrong;
    double largest;
    char first_failed[128], message[256];
    int stop_after; /* cases; 0 = never */
} seen;

static void on_case(void *user, const coar_selftest_case *c) {
    seen *s = user;
    s->cases++;
    s->failed += !c->passed;
    s->not_computed += c->status != COAR_OK;
    s->compared += c->compared;
    s->wrong += c->wrong;
    s->largest = fmax(s->largest, c->largest);
    for (size_t k = 0; k < KINDS; k++) s->of[k] |= fnmatch(kinds[k], c->name, 0) == 0;
    if (c->passed || s->first_failed[0]) return;
    snprintf(s->first_failed, sizeof s->first_failed, "%s", c->name);
    snprintf(s->message, sizeof s->message, "%s", c->message);
}

static int on_progress(void *user, const coar_progress *p) {
    const seen *s = user;
    return s->stop_after && p->done >= (uint64_t)s->stop_after;
}

static coar_selftest_options options_for(seen *s, const char *only) {
    coar_selftest_options o = COAR_SELFTEST_INIT;
    *s = (seen){0};
    o.backend = "cpu";
    o.quick = 1;
    o.only = only;
    o.threads = 2;
    o.report = on_case;
    o.user = s;
    planted = backend_cpu;
    planted.prepare = planted_prepare;
    planted.run = planted_run;
    planted.logits = planted_logits;
    planted_reverse = backend_reference;
    planted_reverse.prepare = planted_reverse_prepare;
    planted_reverse.run_reverse = planted_run_reverse;
    wrong_output = wrong_kind = -1;
    wrong_logit = breaks = false;
    return o;
}

static void test_right(void) {
    test_begin("every case passes on the cpu backend, and every kind of op and of network is among them");
    seen s;
    coar_selftest_result r;
    coar_selftest_options o = options_for(&s, NULL);
    CHECK_OK(coar_selftest(&o, &r));
    CHECK_INT(r.cases, s.cases);
    CHECK_INT(r.failed, 0);
    CHECK_TEXT(r.backend, "cpu");
    CHECK(!strncmp(r.device_class, "cpu/", 4));
    CHECK_INT(s.wrong, 0);
    CHECK(s.compared > 5000);
    CHECK(s.largest > 0 && s.largest < 0.1); /* not compared with itself; in fp32 the limit is 1e-4 */
    for (size_t k = 0; k < KINDS; k++)
        if (!s.of[k]) test_fail(__FILE__, __LINE__, "no case is a %s", kinds[k]);
}

/* One precision of those that the backend has. */
static coar_selftest_options fp32_options(seen *s, const char *only) {
    coar_selftest_options o = options_for(s, only);
    o.precision = "fp32";
    return o;
}

static void test_wrong(void) {
    seen s;
    coar_selftest_result r = {0};
    test_begin("one number off by a hundredth is found, and its case is named");
    coar_selftest_options o = fp32_options(&s, "linear 17x40*");
    wrong_output = 7; /* the last mask of the second output, of three masks and two examples */
    CHECK_OK(selftest_run(&o, &planted, &r));
    CHECK_INT(r.failed, 1);
    CHECK_INT(s.wrong, 1);
    CHECK(!strncmp(s.first_failed, "linear 17x40", 12));

    test_begin("a NaN on one side alone is wrong");
    o = fp32_options(&s, "conv 1x1 7x5*");
    wrong_logit = true;
    CHECK_OK(selftest_run(&o, &planted, &r));
    CHECK_INT(r.failed, 1);
    CHECK_INT(s.wrong, 1);

    test_begin("a case that cannot be computed fails with its message, and the others go on");
    o = fp32_options(&s, "conv*");
    breaks = true;
    CHECK_OK(selftest_run(&o, &planted, &r));
    CHECK_INT(r.failed, r.cases);
    CHECK_INT(s.not_computed, s.cases);
    CHECK(s.cases > 3);
    CHECK_TEXT(s.message, "planted: the device is gone");
}

static void test_reverse(void) {
    static const char *const items[] = {"reverse conv 3x3 9x7x13*", "reverse attention 7x20*", "reverse resnet8,*"};
    seen s;
    coar_selftest_result r;
    coar_selftest_options o;
    test_begin("a backend with a reverse pass has each case twice, one without has not");
    o = fp32_options(&s, "*select*");
    CHECK_OK(selftest_run(&o, &planted_reverse, &r));
    CHECK_INT(r.cases, 2);
    CHECK_INT(r.failed, 0);
    o = fp32_options(&s, "*select*");
    planted_reverse.run_reverse = NULL;
    CHECK_OK(selftest_run(&o, &planted_reverse, &r));
    CHECK_INT(r.cases, 1);
    for (int kind = REVERSE_MASK; kind <= WRONG_OUTPUT; kind++) {
        test_begin("one derivative, or output, of kind %d off by a hundredth is found, and its case is named", kind);
        for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
            o = fp32_options(&s, items[i]);
            CHECK_OK(selftest_run(&o, &planted_reverse, &r));
            CHECK_INT(r.cases, 1);
            CHECK_INT(r.failed, 0);
            o = fp32_options(&s, items[i]);
            wrong_kind = kind;
            CHECK_OK(selftest_run(&o, &planted_reverse, &r));
            CHECK_INT(r.failed, 1);
            CHECK(!strncmp(s.first_failed, items[i], strlen(items[i]) - 1));
        }
    }
}

static void test_refused(void) {
    seen s;
    coar_selftest_result r;
    test_begin("what cannot be tested is refused");
    coar_selftest_options o = options_for(&s, "nothing");
    CHECK_ERROR(coar_selftest(&o, &r), COAR_ERROR_USAGE, "--only");
    o = options_for(&s, NULL);
    o.precision = "fp32,fp4";
    CHECK_ERROR(coar_selftest(&o, &r), COAR_ERROR_USAGE, "fp4");
    o.precision = "fp16"; /* the cpu backend has fp32 and bf16 */
    CHECK_ERROR(coar_selftest(&o, &r), COAR_ERROR_UNSUPPORTED, "fp16");
    o = options_for(&s, NULL);
    o.device = 1;
    CHECK_ERROR(coar_selftest(&o, &r), COAR_ERROR_USAGE, "--device 1");
    o = options_for(&s, NULL);
    o.backend = "abacus";
    CHECK_ERROR(coar_selftest(&o, &r), COAR_ERROR_USAGE, "abacus");
    CHECK_INT(s.cases, 0);

    test_begin("it stops when it is asked to");
    const coar_callbacks callbacks = {.progress = on_progress, .user = &s};
    o = options_for(&s, NULL);
    s.stop_after = 2;
    o.callbacks = &callbacks;
    CHECK_ERROR(coar_selftest(&o, &r), COAR_STOPPED, "after 2 cases");
    CHECK_INT(s.cases, 2);
}

int main(void) {
    test_right();
    test_wrong();
    if (!getenv("TEST_REDUCED")) test_reverse(); /* minutes; cpu_gradients has reverse passes */
    test_refused();
    return test_end();
}
