/*
 * outputs.c - output functions: one number per (mask, example) out of the logits (docs/design.md, section 2).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/graph.h"

/* A class number at *text, which must be below `classes`; moves *text behind it. */
static bool parse_class(const char **text, uint32_t classes, uint32_t *out) {
    char *end;
    if (**text < '0' || **text > '9') return false; /* strtoul would take signs and spaces */
    unsigned long value = strtoul(*text, &end, 10);
    if (value >= classes) return false; /* also what overflows: ULONG_MAX */
    *text = end;
    *out = (uint32_t)value;
    return true;
}

static coar_status parse_one(const char *text, uint32_t classes, output_spec *out) {
    const char *rest = text + strlen("logit:");
    *out = (output_spec){0};
    if (!strcmp(text, "margin")) {
        if (classes < 2) return status_set(COAR_ERROR_USAGE, "output 'margin' needs a model with two classes or more");
        out->kind = OUTPUT_MARGIN;
    } else if (!strcmp(text, "logit")) {
        out->kind = OUTPUT_LOGIT;
    } else if (!strcmp(text, "loss")) {
        out->kind = OUTPUT_LOSS;
    } else if (!strncmp(text, "logit:", strlen("logit:"))) {
        if (!parse_class(&rest, classes, &out->a)) goto bad_class;
        out->kind = OUTPUT_LOGIT_CLASS;
        if (*rest == '-') {
            rest++;
            if (!parse_class(&rest, classes, &out->b)) goto bad_class;
            out->kind = OUTPUT_LOGIT_DIFFERENCE;
        }
        if (*rest || (out->kind == OUTPUT_LOGIT_DIFFERENCE && out->a == out->b)) goto bad_class;
    } else {
        return status_set(COAR_ERROR_USAGE, "output '%s' is unknown: give margin, logit, logit:K, logit:K-J or loss",
                          text);
    }
    /* The canonical spelling: '%s' of what was given could name one output twice ("logit:3", "logit:03"). */
    if (out->kind == OUTPUT_LOGIT_CLASS)
        snprintf(out->name, sizeof out->name, "logit:%u", out->a);
    else if (out->kind == OUTPUT_LOGIT_DIFFERENCE)
        snprintf(out->name, sizeof out->name, "logit:%u-%u", out->a, out->b);
    else
        snprintf(out->name, sizeof out->name, "%s", text);
    return COAR_OK;
bad_class:
    return status_set(COAR_ERROR_USAGE, "output '%s': give logit:K or logit:K-J with two classes of 0 to %u", text,
                      classes - 1);
}

coar_status output_parse(const char *text, uint32_t classes, output_spec specs[OUTPUTS_MAX], size_t *count) {
    size_t found = 0;
    for (const char *p = text;; p++) {
        char item[40];
        size_t length = strcspn(p, ",");
        if (found == OUTPUTS_MAX)
            return status_set(COAR_ERROR_USAGE, "outputs '%s': more than %d of them", text, OUTPUTS_MAX);
        snprintf(item, sizeof item, "%.*s", (int)(length < sizeof item ? length : sizeof item - 1), p);
        TRY(parse_one(item, classes, &specs[found]));
        for (size_t i = 0; i < found; i++)
            if (!strcmp(specs[i].name, specs[found].name))
                return status_set(COAR_ERROR_USAGE, "outputs '%s': %s is given twice", text, specs[i].name);
        found++;
        p += length;
        if (!*p) break;
    }
    *count = found;
    return COAR_OK;
}

/* The first of the largest logits that are not the label's; a NaN counts as the largest. */
static uint32_t largest_other(const float *logits, size_t stride, uint32_t classes, uint32_t label) {
    uint32_t largest = label == 0 && classes > 1 ? 1 : 0;
    for (uint32_t c = largest + 1; c < classes && !isnan(logits[largest * stride]); c++)
        if (c != label && !(logits[c * stride] <= logits[largest * stride])) largest = c;
    return largest;
}

/* logits[label] minus the largest other; NaN when any of them is. */
static double margin(const float *logits, size_t stride, uint32_t classes, uint32_t label) {
    return (double)logits[label * stride] - logits[largest_other(logits, stride, classes, label) * stride];
}

/* -log softmax(logits)[label], shifted by the largest logit so that exp cannot overflow. */
static double loss(const float *logits, size_t stride, uint32_t classes, uint32_t label) {
    double largest = -INFINITY, sum = 0;
    for (uint32_t c = 0; c < classes; c++) largest = fmax(largest, logits[c * stride]);
    for (uint32_t c = 0; c < classes; c++) sum += exp(logits[c * stride] - largest);
    return largest + log(sum) - logits[label * stride];
}

float output_value(const output_spec *spec, const float *logits, size_t stride, uint32_t classes, uint32_t label) {
    switch (spec->kind) {
    case OUTPUT_MARGIN:
        return (float)margin(logits, stride, classes, label);
    case OUTPUT_LOGIT:
        return logits[label * stride];
    case OUTPUT_LOGIT_CLASS:
        return logits[spec->a * stride];
    case OUTPUT_LOGIT_DIFFERENCE:
        return (float)((double)logits[spec->a * stride] - logits[spec->b * stride]);
    case OUTPUT_LOSS:
        return (float)loss(logits, stride, classes, label);
    }
    return NAN;
}

/* d loss / d logit c = softmax(logits)[c] - [c is the label] */
static void loss_gradient(const float *logits, size_t stride, uint32_t classes, uint32_t label, float *gradient) {
    double largest = logits[0], sum = 0;
    for (uint32_t c = 1; c < classes; c++) largest = fmax(largest, logits[c * stride]);
    for (uint32_t c = 0; c < classes; c++) sum += exp(logits[c * stride] - largest);
    for (uint32_t c = 0; c < classes; c++)
        gradient[c * stride] = (float)(exp(logits[c * stride] - largest) / sum - (c == label));
}

void output_gradient(const output_spec *spec, const float *logits, size_t stride, uint32_t classes, uint32_t label,
                     float *gradient) {
    for (uint32_t c = 0; c < classes; c++) gradient[c * stride] = 0;
    switch (spec->kind) {
    case OUTPUT_MARGIN:
        gradient[label * stride] = 1;
        gradient[largest_other(logits, stride, classes, label) * stride] = -1;
        break;
    case OUTPUT_LOGIT:
        gradient[label * stride] = 1;
        break;
    case OUTPUT_LOGIT_CLASS:
        gradient[spec->a * stride] = 1;
        break;
    case OUTPUT_LOGIT_DIFFERENCE:
        gradient[spec->a * stride] = 1;
        gradient[spec->b * stride] = -1;
        break;
    case OUTPUT_LOSS:
        loss_gradient(logits, stride, classes, label, gradient);
        break;
    }
}
