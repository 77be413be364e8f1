/*
 * plan.h - the numerics plan: everything that decides bits, fixed when a stage of a run is created.
 *
 * CPU plans come from a committed rule (never from timing), a function of the graph, N, the device class and the
 * precision; never of m, memory or threads (docs/design.md, section 3).
 */
#ifndef COAR_BACKEND_PLAN_H
#define COAR_BACKEND_PLAN_H

#include "graph/graph.h"

/* How an op is computed. */
typedef enum plan_form {
    FORM_PLAIN,      /* the backend's only form of this op */
    FORM_DIRECT,     /* direct convolution; ablated rows skipped, their columns stay */
    FORM_COMPACTED,  /* direct; ablated rows skipped, and left out of the one op that reads them (border constants) */
} plan_form;

typedef struct numerics_plan {
    char device_class[64];  /* "reference", "cpu/portable", "cpu/avx2", ... */
    char precision[8];      /* fp32 */
    char remainder[8];      /* the last N mod 32 examples: "mixed" */
    size_t layers;          /* graph->op_count */
    uint8_t *form;          /* [layers] plan_form */
    char (*name)[96];       /* [layers] op names, for messages */
    char hash[65];          /* SHA-256 of the JSON below */
} numerics_plan;

/* The rule. `backend`: "cpu" (with the instruction set of this machine, unless COAR_ISA in the environment forces one) or
 * "reference". precision: "auto" or "fp32" (the only one so far: auto resolves to it). exact: no transformed kernels. */
coar_status plan_create(const graph *g, const char *backend, const char *precision, int exact, numerics_plan *out);
void plan_free(numerics_plan *plan);

/* Canonical JSON (no spaces, layers in order), malloc'ed; and back, checked against the graph layer by layer. */
char *plan_to_json(const numerics_plan *plan);
coar_status plan_from_json(const graph *g, const char *json, const char *origin, numerics_plan *out);

/* COAR_ERROR_MISMATCH naming the layer when this machine cannot execute it. */
coar_status plan_check_executable(const numerics_plan *plan);

#endif
