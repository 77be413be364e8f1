/*
 * plan.h - the numerics plan: everything that decides bits, fixed when a stage of a run is created.
 *
 * CPU plans come from a committed rule, never from timing, memory, threads or m (docs/design.md, section 3). It is one
 * for all instruction sets and precisions and looks at the graph alone. A device folder adds its own by plan_device.
 */
#ifndef COAR_BACKEND_PLAN_H
#define COAR_BACKEND_PLAN_H

#include "backend/precision.h"
#include "core/threads.h"
#include "graph/graph.h"

enum {
    PLAN_CLASS_SIZE = 128,
    PLAN_FORM_SIZE = 256,
    PLAN_SPLITS_MAX = 64, /* partial sums of one convolution */
};

/* How an op is computed. */
typedef enum plan_form {
    FORM_PLAIN,  /* the backend's only form of this op */
    FORM_DIRECT, /* direct convolution; ablated rows skipped, their columns stay */
    FORM_COMPACTED, /* direct; ablated rows (attention: heads, or channels of its values; layer norm: channels) skipped, and
                     * left out of the convolutions that read them (border constants): of the one, be it through an
                     * attention that has them for values, or of a layer norm all */
    FORM_WINOGRAD,           /* Winograd's F(4x4, 3x3); rows and columns as FORM_DIRECT */
    FORM_WINOGRAD_COMPACTED, /* as FORM_COMPACTED */
    FORM_NAMED,              /* a device's kernel, named by `kernel`, with `splits` partial sums */
} plan_form;

static inline bool plan_is_winograd(int form) {
    return form == FORM_WINOGRAD || form == FORM_WINOGRAD_COMPACTED;
}
static inline bool plan_is_compacted(int form) {
    return form == FORM_COMPACTED || form == FORM_WINOGRAD_COMPACTED;
}

/* Whether the components of an attention's site are whole heads (or several): compacted, these are not computed at all, single
 * channels are left out of the values. */
bool plan_ablates_heads(const graph *g, const op *attention);

typedef struct numerics_plan {
    char device_class[PLAN_CLASS_SIZE]; /* "reference", "cpu/portable", "cuda/GPU/driver/cuDNN/cuBLAS", ... */
    char precision[8];                  /* fp32, bf16, fp16, tf32 */
    char remainder[8];                  /* the last N mod 32 examples: "mixed" */
    uint32_t pairs;                     /* every batch has exactly so many (mask, example) pairs; 0 = any number.
                                         * A library's kernels may sum in another order for another number */
    uint32_t reverse_pairs;             /* the same for batches of reverse passes, and `data` */
    size_t layers;                      /* graph->op_count */
    uint8_t *form;                      /* [layers] plan_form */
    char (*kernel)[PLAN_FORM_SIZE];     /* [layers] FORM_NAMED: "128x128x32 s4 w8", "cudnn:...", "cublaslt:..." */
    uint32_t *splits;                   /* [layers] FORM_NAMED: 1 to PLAN_SPLITS_MAX */
    char (*data)[PLAN_FORM_SIZE];       /* [layers] FORM_NAMED: the kernel of the data gradient, as `kernel`; "" = the
                                         * device's own, by its rule */
    char (*name)[96];                   /* [layers] op names, for messages */
    char hash[65];                      /* SHA-256 of the JSON below */
} numerics_plan;

/* What a choice by timing may take. */
typedef struct plan_timing {
    thread_pool *pool;
    size_t memory; /* of the device, in bytes; 0 = what is free */
    const coar_callbacks *callbacks;
} plan_timing;

/* What a device folder adds: plans whose class begins with `prefix` are its own. */
typedef struct plan_device {
    const char *prefix; /* "cuda/" */
    coar_status (*device_class)(int device, char out[PLAN_CLASS_SIZE]);
    /* Chooses kernel and splits of every OP_CONV, by a rule where `timing` is NULL; else also the data gradients'
     * kernels, since one plan serves all stages of a run. plan->precision is known. */
    coar_status (*choose)(const graph *g, int device, const plan_timing *timing, numerics_plan *plan);
    /* COAR_ERROR_MISMATCH naming the layer when the device cannot execute the plan. */
    coar_status (*check)(const numerics_plan *plan, int device);
} plan_device;

/* The rule. `backend`: "cpu" (with the instruction set of this machine, unless COAR_ISA in the environment forces one),
 * "reference" or "cuda". precision: fp32, bf16, fp16 or tf32 ("cpu": fp32 and bf16); "auto" is fp32 here, and whoever has
 * examples chooses (ablate/auto_precision.h). exact: no transformed kernels; on a device our own kernels without
 * partial sums. */
coar_status plan_create(const graph *g, const char *backend, const char *precision, int exact, numerics_plan *out);

/* The same for one of the backend's devices (no other is touched), which times its kernels and the libraries', and
 * takes the fastest (unless `exact`, or timing is NULL). */
coar_status plan_create_timed(const graph *g, const char *backend, const char *precision, int exact, int device,
                              const plan_timing *timing, numerics_plan *out);

/* Every layer FORM_PLAIN, fp32, no class, no hash: for device folders to fill. Free it also after a failure. */
coar_status plan_blank(const graph *g, numerics_plan *out);
void plan_free(numerics_plan *plan);

/* The backend that executes plans of this class: "cpu", "cuda", "reference"; NULL = none that is known. */
const char *plan_backend(const char *device_class);

/* The class of a plan as JSON, unchecked otherwise; false when it has none. */
bool plan_class_of(const char *json, char out[PLAN_CLASS_SIZE]);

/* How a layer is computed, as in the JSON: "winograd compacted", or a device's kernel. */
const char *plan_form_name(const numerics_plan *plan, size_t layer);

/* Canonical JSON (no spaces, layers in order), malloc'ed; and back, checked against the graph layer by layer. */
char *plan_to_json(const numerics_plan *plan);
coar_status plan_from_json(const graph *g, const char *json, const char *origin, numerics_plan *out);

/* COAR_ERROR_MISMATCH naming the first layer that `exact` would not have: in a transformed form, a library's, or of partial
 * sums. `origin` is where the plan was found; the message ends in what to do. */
coar_status plan_check_exact(const numerics_plan *plan, const char *origin);

/* COAR_ERROR_MISMATCH naming the layer when this machine, or this one of its backend's devices, cannot execute it. */
coar_status plan_check_executable(const numerics_plan *plan, int device);

#endif
