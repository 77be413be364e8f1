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

static bool names_class(const output_spec *spec) {
    return spec->kind == OUTPUT_LOGIT_CLASS || spec->kind == OUTPUT_LOGIT_DIFFERENCE;
}

coar_status output_parse(const char *text, const graph *g, output_spec specs[OUTPUTS_MAX], size_t *count) {
    const uint32_t classes = g->vocabulary ? g->vocabulary : g->values[g->logits].c;
    size_t found = 0;
    for (const char *p = text;; p++) {
        char item[40];
        size_t length = strcspn(p, ",");
        if (found == OUTPUTS_MAX)
            return status_set(COAR_ERROR_USAGE, "outputs '%s': more than %d of them", text, OUTPUTS_MAX);
        snprintf(item, sizeof item, "%.*s", (int)(length < sizeof item ? length : sizeof item - 1), p);
        TRY(parse_one(item, classes, &specs[found]));
        if (g->vocabulary && names_class(&specs[found]))
            return status_set(COAR_ERROR_USAGE,
                              "output '%s': a language model has no classes: give margin, logit or loss", item);
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

void output_names_join(const output_spec *specs, size_t count, char out[OUTPUT_NAMES_SIZE]) {
    out[0] = '\0';
    for (size_t o = 0; o < count; o++) {
        if (o) strcat(out, ",");
        strcat(out, specs[o].name);
    }
}

logits_view graph_logits(const graph *g, size_t stride) {
    const shape s = g->values[g->logits];
    return (logits_view){.stride = stride, .count = (uint32_t)(shape_positions(s) * s.c), .next = g->vocabulary > 0};
}

/* ------------------------------------------------------------------------------------------ classifiers */

/* The first of the largest logits that are not the label's; a NaN counts as the largest. */
static uint32_t largest_other(const logits_view *l) {
    uint32_t largest = l->label == 0 && l->count > 1 ? 1 : 0;
    for (uint32_t c = largest + 1; c < l->count && !isnan(l->values[largest * l->stride]); c++)
        if (c != l->label && !(l->values[c * l->stride] <= l->values[largest * l->stride])) largest = c;
    return largest;
}

/* logits[label] minus the largest other; NaN when any of them is. */
static double margin(const logits_view *l) {
    return (double)l->values[l->label * l->stride] - l->values[largest_other(l) * l->stride];
}

/* -log softmax(logits)[label], shifted by the largest logit so that exp cannot overflow. */
static double loss(const logits_view *l) {
    double largest = -INFINITY, sum = 0;
    for (uint32_t c = 0; c < l->count; c++) largest = fmax(largest, l->values[c * l->stride]);
    for (uint32_t c = 0; c < l->count; c++) sum += exp(l->values[c * l->stride] - largest);
    return largest + log(sum) - l->values[l->label * l->stride];
}

static float class_value(const output_spec *spec, const logits_view *l) {
    switch (spec->kind) {
    case OUTPUT_MARGIN:
        return (float)margin(l);
    case OUTPUT_LOGIT:
        return l->values[l->label * l->stride];
    case OUTPUT_LOGIT_CLASS:
        return l->values[spec->a * l->stride];
    case OUTPUT_LOGIT_DIFFERENCE:
        return (float)((double)l->values[spec->a * l->stride] - l->values[spec->b * l->stride]);
    case OUTPUT_LOSS:
        return (float)loss(l);
    }
    return NAN;
}

/* d loss / d logit c = softmax(logits)[c] - [c is the label] */
static void loss_gradient(const logits_view *l, float *gradient) {
    double largest = l->values[0], sum = 0;
    for (uint32_t c = 1; c < l->count; c++) largest = fmax(largest, l->values[c * l->stride]);
    for (uint32_t c = 0; c < l->count; c++) sum += exp(l->values[c * l->stride] - largest);
    for (uint32_t c = 0; c < l->count; c++)
        gradient[c * l->stride] = (float)(exp(l->values[c * l->stride] - largest) / sum - (c == l->label));
}

static void class_gradient(const output_spec *spec, const logits_view *l, float *gradient) {
    switch (spec->kind) {
    case OUTPUT_MARGIN:
        gradient[l->label * l->stride] = 1;
        gradient[largest_other(l) * l->stride] = -1;
        break;
    case OUTPUT_LOGIT:
        gradient[l->label * l->stride] = 1;
        break;
    case OUTPUT_LOGIT_CLASS:
        gradient[spec->a * l->stride] = 1;
        break;
    case OUTPUT_LOGIT_DIFFERENCE:
        gradient[spec->a * l->stride] = 1;
        gradient[spec->b * l->stride] = -1;
        break;
    case OUTPUT_LOSS:
        loss_gradient(l, gradient);
        break;
    }
}

/* -------------------------------------------------------------------------------------- language models */

/* What each next_channel of a position counts for in an output: all of them are linear in these. */
static const double *next_weights(output_kind kind) {
    static const double logit[NEXT_CHANNELS] = {[NEXT_LOGIT] = 1},
                        margin[NEXT_CHANNELS] = {[NEXT_LOGIT] = 1, [NEXT_LARGEST] = -1},
                        loss[NEXT_CHANNELS] = {[NEXT_LOGIT] = -1, [NEXT_LOGSUM] = 1};
    return kind == OUTPUT_MARGIN ? margin : kind == OUTPUT_LOSS ? loss : logit;
}

/* The mean over the positions that have a next token. */
static float next_value(const output_spec *spec, const logits_view *l) {
    const double *weight = next_weights(spec->kind);
    double sum = 0;
    for (size_t t = 0; t + 1 < l->label; t++)
        for (size_t c = 0; c < NEXT_CHANNELS; c++)
            if (weight[c] != 0) sum += weight[c] * l->values[(t * NEXT_CHANNELS + c) * l->stride];
    return (float)(sum / (l->label - 1));
}

static void next_gradient(const output_spec *spec, const logits_view *l, float *gradient) {
    const double *weight = next_weights(spec->kind);
    for (size_t t = 0; t + 1 < l->label; t++)
        for (size_t c = 0; c < NEXT_CHANNELS; c++)
            gradient[(t * NEXT_CHANNELS + c) * l->stride] = (float)(weight[c] / (l->label - 1));
}

float output_value(const output_spec *spec, const logits_view *logits) {
    return logits->next ? next_value(spec, logits) : class_value(spec, logits);
}

void output_gradient(const output_spec *spec, const logits_view *logits, float *gradient) {
    for (uint32_t c = 0; c < logits->count; c++) gradient[c * logits->stride] = 0;
    (logits->next ? next_gradient : class_gradient)(spec, logits, gradient);
}
