/*
 * engines.h - a backend prepared for a graph, with all it borrows, for tests that compare backends.
 * Failures to open one are counted as failed checks; engine_close accepts what is left.
 */
#ifndef COAR_TEST_ENGINES_H
#define COAR_TEST_ENGINES_H

#include "backend/backend.h"

/* Under a sanitizer everything takes many times as long: tests of many combinations then take one of each kind. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { REDUCED = 1 };
#else
enum { REDUCED = 0 };
#endif

typedef struct engine_options {
    const char *backend, *precision; /* NULL: fp32 */
    bool exact;                      /* direct forms alone */
    const char *outputs;             /* NULL: margin,loss,logit:2,logit:1-3; margin,loss,logit of a language model */
    ablation ablation;
    size_t memory; /* 0 = enough; for a device what is free */
    uint32_t examples, masks;
    int device;
    bool reverse; /* engine_reverse will be called */
    bool paths;   /* and asked for conductance */
    int threads;  /* 0: 1 */
} engine_options;

typedef struct engine {
    const graph *g;
    numerics_plan plan;
    thread_pool *pool;
    output_spec outputs[OUTPUTS_MAX];
    size_t output_count;
    const backend_interface *interface;
    backend_settings settings;
    backend *b; /* NULL after a failure */
} engine;

/* How many outputs an engine has whose options name none. */
static inline size_t engine_outputs(const graph *g) {
    return g->vocabulary ? 3 : 4;
}

void engine_open(engine *e, const graph *g, engine_options o);
/* As engine_open, but for the last step: e->settings are there, nothing is prepared. */
void engine_plan(engine *e, const graph *g, engine_options o);
void engine_close(engine *e);

/* outputs[output_count][S][E] of the masks on the batch; malloc'ed, NaN where the backend failed. */
float *engine_run(engine *e, const example_batch *batch, const mask_range *masks);

/* gradients[S][E][n] of output `output` (index into e->outputs); malloc'ed, NaN where the backend failed. `outputs`
 * [S][E] or NULL. */
float *engine_reverse(engine *e, const example_batch *batch, reverse_kind kind, size_t output, const mask_range *masks,
                      float *outputs);

/* Memory that allows `share` of the way from the least that these options need to the most that is of use. */
size_t engine_memory(const graph *g, engine_options o, double share);

/* Fails at the first value that differs in a bit. */
void engine_same_bits(const float *actual, const float *expected, size_t count);

/* Largest difference as a fraction of the largest magnitude expected; rms of the differences as a fraction of the
 * rms. */
double largest_difference(const float *actual, const float *expected, size_t count);
double rms_difference(const float *actual, const float *expected, size_t count);

#endif
