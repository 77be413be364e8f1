/*
 * store.h - the run file: run.h5 (a small index) and run.h5.parts/ (manifest, journals, finished HDF5 parts).
 *
 * No HDF5 file is ever written in place. Work in progress is in append-only journals; a finished stage becomes a part,
 * written whole, synced and renamed; run.h5 is rebuilt from the folder's contents and renamed over the old one, so it
 * opens at every moment (docs/design.md, section 4).
 * Must not know: models, devices, what a unit computes.
 */
#ifndef COAR_STORE_STORE_H
#define COAR_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/log.h"

/* --------------------------------------------------------------------------------------------- settings */

typedef enum setting_type { SETTING_TEXT, SETTING_INTEGER, SETTING_REAL } setting_type;

/* One setting of a run or a stage. All values travel as text (a 64-bit seed does not fit a JSON number); `type` is
 * the type of the attribute in run.h5. */
typedef struct setting {
    const char *key;      /* attribute name: "alpha" */
    const char *flag;     /* what the user typed: "--alpha" */
    const char *value;
    setting_type type;
    bool compared;        /* false: information only (created, command, paths) */
} setting;

/* -------------------------------------------------------------------------------------------------- run */

typedef struct run_store run_store;

/* Opens or creates `path` for work. A run that exists must have the same compared settings, else COAR_ERROR_MISMATCH
 * names the first that differs, both values and the flag. force: everything there is removed first. A path that
 * exists but is no run is COAR_ERROR_EXISTS. Nothing is left behind when creation fails. *created says whether the
 * run is new. */
coar_status store_create(const char *path, const setting *settings, size_t count, bool force, bool *created,
                         run_store **out);

/* Opens an existing run (for fit, evaluate, report). A merged file has no parts: COAR_ERROR_INPUT says what to do. */
coar_status store_open(const char *path, run_store **out);
void store_close(run_store *store);

const char *store_path(const run_store *store);
/* Value of a setting of the manifest, or of the first ablate stage (sampler, store, ...); NULL when absent. */
const char *store_setting(const run_store *store, const char *key);
/* The same as a number; COAR_ERROR_INPUT naming the run and the key when it is missing or no number. */
coar_status store_setting_real(const run_store *store, const char *key, double *out);
coar_status store_setting_integer(const run_store *store, const char *key, uint64_t *out);

/* ------------------------------------------------------------------------------------------------ tables */

typedef struct store_group { /* one row of /components */
    char name[96], kind[16], layer[96];
    uint32_t first, count;
} store_group;

typedef struct run_tables {
    store_group *groups; size_t group_count;
    uint32_t components;            /* n */
    uint64_t examples;              /* N */
    uint64_t *example_rows;         /* [N] rows of the data file */
    int32_t *labels;                /* [N] used for the outputs */
    int32_t *subgroups;             /* [N] or NULL */
    size_t output_count;
    char (*output_names)[40];
    float *baseline;                /* [output_count][N] */
    float *fill;                    /* [rows] means of `mean` ablation, or NULL */
    size_t fill_count;
    uint8_t *given_masks;           /* packed masks of --sampler file: [m][ceil(n/8)], or NULL */
    uint64_t given_count;
} run_tables;

/* tables.h5: written whole; a second writer with the same content is harmless. Written once, but that given masks are
 * added when a run gets ablations with --sampler file: after it was begun by gradients. */
coar_status store_write_tables(run_store *store, const run_tables *tables);
/* COAR_ERROR_INPUT when the run was interrupted before they were written; *present false then and OK with present !=
 * NULL. */
coar_status store_read_tables(run_store *store, run_tables *tables, bool *present);
void run_tables_free(run_tables *tables);

/* ------------------------------------------------------------------------------------------------ stages */

/* A stage is a list of units; each yields one payload of bytes. */
typedef struct store_stage store_stage;

/* name: "ablate-FIRST", "gradients-FIRST" or "truth-a0.1-s0", alpha in the fewest digits that read back equal.
 * Settings (with the plan's hash) are compared with STAGE.json. Reads every
 * journal of the stage: torn tails are dropped, a record with a wrong CRC is dropped with a warning through callbacks
 * (its unit is computed again), equal units must be equal byte for byte or it is an error. Registers this process: a
 * heartbeat, its own journal, flock. Another live process on the same stage and shard is COAR_ERROR_BUSY unless
 * force_resume. payload_bytes(context, unit): exact size of a unit's record. plan_json is stored in STAGE.json. */
typedef struct stage_options {
    const char *name;
    const setting *settings; size_t setting_count;
    const char *plan_json;
    uint64_t units;               /* of this stage at its present m; may grow from one call to the next */
    /* 0: a unit's record is final. Else a unit is a chain of so many steps and a record the state after some of them:
     * the furthest one counts, those of more steps are left out, and the unit is done at `steps`. May differ from
     * call to call. */
    uint32_t steps;
    /* unit_grid_payload with a unit_grid. Borrowed with its context, as the callbacks, until stage_close. */
    size_t (*payload_bytes)(const void *context, uint64_t unit);
    const void *context;
    uint32_t shard, shards;       /* 0, 1 = no shards */
    uint32_t rank, ranks;         /* of an MPI job, for the heartbeat; ranks 0: of none */
    uint64_t masks;               /* m, which journals remember; 0 in stages of passes */
    bool force_resume;
    const coar_callbacks *callbacks;
} stage_options;

coar_status stage_open(run_store *store, const stage_options *options, store_stage **out);
void stage_close(store_stage *stage);

/* The plan that STAGE.json holds (NULL when the stage is new); malloc'ed. */
coar_status store_stage_plan(run_store *store, const char *name, char **plan_json);
/* COAR_ERROR_MISMATCH naming the first setting that differs from those the stage began with; OK when it has not
 * begun. */
coar_status store_stage_compare(run_store *store, const char *name, const setting *settings, size_t count);
/* The plan of the run at `path` (of its first stage); NULL and OK when there is no such run yet. malloc'ed. */
coar_status store_existing_plan(const char *path, char **plan_json);
/* The plan to take over for --plan: `path` is a run file or a plan's JSON itself. malloc'ed. */
coar_status store_plan_file(const char *path, char **plan_json);

/* Bytes of memory that a stage of that many units holds while it is open and while its part is written. A double, as
 * no count can overflow it. */
double stage_memory(uint64_t units);
/* Bytes free on the file system of the run at `path`; infinity where that cannot be told. */
double store_space(const char *path);

/* Masks (gradients: passes) in finished parts when the stage was opened: where units that go on must begin. */
uint64_t stage_first_mask(const store_stage *stage);

/* Takes in what other processes have saved since the stage was opened. Not while units are appended. */
coar_status stage_take_in(store_stage *stage);

/* Whether the unit is done. */
bool stage_has(const store_stage *stage, uint64_t unit);
/* The steps of its record (0: none; 1: done, in a stage without steps). From any thread, as stage_append and
 * stage_read. */
uint32_t stage_steps(store_stage *stage, uint64_t unit);
uint64_t stage_done_count(const store_stage *stage);
/* A unit's flag in journals and in the data sets `done` of parts, where 0 is a unit not computed. The larger one
 * wins. */
enum { UNIT_DONE = 1, UNIT_NON_FINITE = 2 /* done, and at least one value is not finite */ };

/* What a record says beside its payload. */
typedef struct unit_mark {
    uint32_t steps; /* stages with steps */
    uint8_t flag;
} unit_mark;

/* Appends and syncs one record: after it returns, a kill does not lose the unit. */
coar_status stage_append(store_stage *stage, uint64_t unit, unit_mark mark, const void *payload, size_t bytes);
/* For this process's heartbeat: so many masked images so far, in so many seconds. From any thread. */
void stage_tell(store_stage *stage, uint64_t images, double seconds);
/* The payload of a unit that has a record (CRC checked again). */
coar_status stage_read(store_stage *stage, uint64_t unit, unit_mark *mark, void *payload, size_t bytes);

/* For stages that make no part, once what they computed is kept in fits: removes their files. Nothing to remove is no
 * error; COAR_ERROR_BUSY when another process works on it. */
coar_status store_discard_stage(run_store *store, const char *name);

/* ---------------------------------------------------------------------------------- outputs and their parts */

/* How units tile the masks first_mask .. masks - 1 of an [m, N] matrix: unit = mask_block * example_blocks +
 * example_block; B masks x E examples; payload is f32 [outputs][masks of the block][examples of the block]. An
 * extension's grid begins at the masks already finished, and its stage is called "ablate-FIRST", so that no record is
 * ever read under another grid. A record whose length is not payload_bytes of its unit belongs to an earlier, smaller
 * m (last block): it is dropped and computed again. */
typedef struct unit_grid {
    uint64_t first_mask;               /* 0 but for extensions */
    uint64_t masks;                    /* m: one past the last mask */
    uint64_t examples;                 /* N */
    uint32_t unit_masks, unit_examples; /* B, E */
    uint32_t outputs;
} unit_grid;

uint64_t unit_grid_units(const unit_grid *g);
size_t unit_grid_payload(const void *grid, uint64_t unit); /* payload_bytes for stage_options, context = the grid */
/* Numbers of masks and examples are those of the whole matrix. */
void unit_grid_unit(const unit_grid *g, uint64_t unit, uint64_t *mask_first, uint32_t *mask_count,
                    uint64_t *example_first, uint32_t *example_count);

/* Masks of the ablate stage that are in finished parts (they need no journal). 0 for a new run. */
coar_status store_masks_finished(run_store *store, uint64_t *masks);

/* When all units of the stage's grid are done (by any process): takes the lock file, writes outputs-FIRST-LAST.h5 for
 * the grid's masks, rebuilds run.h5, removes the journals; the stage can only be closed then. Needs the tables. Units
 * that other shards still owe: returns OK and does nothing (store_masks_finished tells). Deterministic bytes in the
 * data sets. f16: --store f16, a finite value above its range is COAR_ERROR_INPUT. store_masks: packed masks
 * [masks - first_mask][ceil(n/8)] to store beside, or NULL. A second caller that finds it done returns OK. */
coar_status store_finish_outputs(run_store *store, store_stage *stage, const unit_grid *grid, bool f16,
                                 const uint8_t *store_masks);
/* The same for truth-aALPHA-sSEED.h5: one part, replaced when the stage grows. The grid may begin at the masks that
 * the part has already (store_truth_finished), or at 0. */
coar_status store_finish_truth(run_store *store, store_stage *stage, const unit_grid *grid);
/* Masks in the finished part of a truth stage, 0 without one. */
coar_status store_truth_finished(run_store *store, const char *stage_name, uint64_t *masks);
/* Whether at least `masks` are there. */
bool store_has_truth(run_store *store, const char *stage_name, uint64_t masks);

/* m of the finished ablation outputs; COAR_ERROR_INPUT naming what is missing when none is finished. */
coar_status store_output_shape(run_store *store, uint64_t *masks, uint64_t *examples);

/* f32 [mask_count][example_count] of one output. Every source of the virtual data set is checked first. */
coar_status store_read_outputs(run_store *store, const char *output, uint64_t mask_first, uint64_t mask_count,
                               uint64_t example_first, uint64_t example_count, float *out);
coar_status store_read_truth(run_store *store, const char *stage_name, const char *output, uint64_t mask_count,
                             float *out /* [mask_count][N] */);

/* ------------------------------------------------------------------------------------------------ gradients */

/* The units of a stage "gradients-FIRST": one chain of passes for each output and block of LEVELS_BLOCK examples;
 * unit = output * blocks + block. Its record is the state after some of the passes, counted from pass 0
 * (gradient_state), so a stage's steps are passes. */
typedef struct gradient_grid {
    uint64_t examples;              /* N */
    uint32_t components, outputs;   /* n */
    uint32_t first_pass, passes;    /* passes that are in gradients.h5; that there will be in all */
} gradient_grid;

uint64_t gradient_grid_blocks(const gradient_grid *g);
uint64_t gradient_grid_units(const gradient_grid *g);
size_t gradient_grid_payload(const void *grid, uint64_t unit); /* payload_bytes for stage_options, context = the grid */
void gradient_grid_unit(const gradient_grid *g, uint64_t unit, uint32_t *output, uint64_t *example_first,
                        uint32_t *example_count);

/* A payload's arrays, of a unit of `examples` examples. */
typedef struct gradient_state {
    double *sums;                 /* [LEVELS][examples][n] */
    double *squares_of_component; /* [LEVELS][n] over the block's examples */
    double *squares_of_example;   /* [LEVELS][examples] over components; NaN, as sums: something was not finite */
} gradient_state;

gradient_state gradient_state_of(double *payload, uint32_t examples, uint32_t components);

/* Passes in gradients.h5; 0 without one. COAR_ERROR_INPUT when it is not of this run, or its masks are of another
 * design. */
coar_status store_passes_finished(run_store *store, uint32_t *passes);

/* The state of a unit, whose output has that name, after the grid's first_pass passes, into its payload, from
 * gradients.h5. COAR_ERROR_BUSY when that holds another number of passes by now. */
coar_status store_read_gradient_state(run_store *store, const char *output, const gradient_grid *grid, uint64_t unit,
                                      double *payload);

/* As store_finish_outputs: when all units of the stage are done, writes gradients.h5 anew, over the one with fewer
 * passes. */
coar_status store_finish_gradients(run_store *store, store_stage *stage, const gradient_grid *grid);

/* Finished mask gradients of one output (gradients.h5): sums over passes 0 .. passes - 1, per level (core/levels.h). */
typedef struct gradients_info {
    char output[40];
    uint64_t seed, examples;
    uint32_t passes, components;
    double alpha;
} gradients_info;

/* *present = false without error when the run has none of this output; what is there is of the run's examples, components,
 * seed, alpha and keeps, of masks of this version's design, and of one pass or more: everything else is COAR_ERROR_INPUT. */
coar_status store_gradients_info(run_store *store, const char *output, gradients_info *info, bool *present);

/* sums[LEVELS][count][n] of examples first .. first + count - 1. */
coar_status store_read_gradients(run_store *store, const char *output, uint64_t first, uint64_t count, double *sums);

/* Sums of squares of single derivatives, which the noise of the averages is estimated from: of_example[LEVELS][N] over
 * components and passes, NaN for an example with a derivative that was not finite; of_component[LEVELS][n] over
 * passes and examples, without blocks that have such an example: its squares before it broke, large as a rule, are in
 * them. */
coar_status store_read_gradient_squares(run_store *store, const char *output, double *of_component, double *of_example);

/* --------------------------------------------------------------------------------------- fits, predictions */

typedef struct fit_header {
    const char *name, *estimator, *output;
    uint64_t examples; uint32_t components; uint64_t masks;
    uint32_t passes;            /* of gradients; 0 = made without any */
    bool standard_errors;
    const char *command;
} fit_header;

typedef struct fit_block {      /* examples first .. first + count - 1 */
    uint64_t first, count;
    const float *weight;        /* [count][n] */
    const float *bias;          /* [count] */
    const double *penalty, *r2, *heldout; /* [count] */
    const float *standard_error; /* [count][n] or NULL */
} fit_block;

typedef struct fit_writer fit_writer;

/* COAR_ERROR_USAGE for what no fit can be called: a name becomes part of a file's name and an HDF5 group. */
coar_status fit_name_check(const char *name);

/* store != NULL: part fit-NAME.h5 of that run (an existing name needs force; its predictions and edits go with it). store ==
 * NULL: a file of its own at `path` with /attributions/NAME. */
coar_status fit_writer_create(run_store *store, const char *path, const fit_header *header, bool force,
                              fit_writer **out);
coar_status fit_writer_block(fit_writer *w, const fit_block *block);
/* Before it is finished: the mean correlation to expect on fresh masks, and its interval (NaN = not known). */
coar_status fit_writer_predicted(fit_writer *w, double predicted, double low, double high);
coar_status fit_writer_finish(fit_writer *w);
void fit_writer_destroy(fit_writer *w); /* without finish: nothing remains */

typedef struct fit_info {
    char name[64], estimator[16], output[40];
    uint64_t masks, passes;
    bool standard_errors;
    double predicted, predicted_low, predicted_high; /* NaN where it is not known, and for fits of older versions */
} fit_info;
/* Fits of a run in name order; malloc'ed. */
coar_status store_list_fits(run_store *store, fit_info **fits, size_t *count);
/* Of one of the baselines' estimators, loo, gp, nc, ii (docs/design.md, section 7): never what a user means by "the
 * fit". */
bool store_fit_is_baseline(const fit_info *fit);
/* Any of the arrays may be NULL. weight [count][n]. */
coar_status store_read_fit(run_store *store, const char *name, uint64_t first, uint64_t count, float *weight,
                           float *bias, double *penalty, double *r2, double *heldout);

/* predicted-aALPHA-sSEED-FIT.h5 beside a truth stage: predicted f32 [k, N], pearson and spearman f64 [N]. */
coar_status store_write_predicted(run_store *store, const char *truth_stage, const char *fit, const char *output,
                                  uint64_t masks, uint64_t examples, const float *predicted, const double *pearson,
                                  const double *spearman);
typedef struct evaluation_info {
    char truth_stage[64], fit[64], output[40];
    double alpha;
    uint64_t seed, masks;
} evaluation_info;
coar_status store_list_evaluations(run_store *store, evaluation_info **list, size_t *count);
coar_status store_read_evaluation(run_store *store, const evaluation_info *info, float *truth, float *predicted,
                                  double *pearson, double *spearman);

/* ----------------------------------------------------------------------------------------------- whole file */

/* Rebuilds run.h5 from what is in the parts folder and renames it over the old one. */
coar_status store_rebuild_index(run_store *store);

/* One plain file from a run: index.c's contents with the data in place of links. It appears whole or not at all. */
coar_status store_merge(run_store *store, const char *output, const coar_callbacks *callbacks);

/* One run from several that were computed in separate folders. */
typedef struct join_options {
    const char *const *runs; /* [count] run files; only read */
    size_t count;
    const char *path; /* of the run to make, where there is none */
    bool partial;     /* units that none of them has are left for later; false: they are COAR_ERROR_INPUT */
    /* Masks first .. first + count - 1 of the run as packed rows, malloc'ed: parts of some runs have them. */
    coar_status (*pack_masks)(run_store *store, uint64_t first, uint64_t count, uint8_t **rows);
    const coar_callbacks *callbacks;
} join_options;

typedef struct join_result {
    uint64_t units, missing; /* of unfinished stages */
} join_result;

/* The ablations and gradients that they have together (join.c). On failure nothing is left at `path`. */
coar_status store_join(const join_options *options, join_result *result, run_store **out);
/* Removes a run that store_join made, and closes it. Accepts NULL. */
void store_discard(run_store *store);
/* Gives it another name, where there is nothing. */
coar_status store_rename(run_store *store, const char *path);

/* What `coar run` decided (src/budget): the one text that is not the store's own. */
#define STORE_STEPS "budget.steps"

/* A small text beside the parts, replaced whole; *text NULL when there is none, else malloc'ed. Parts and run.h5 do not
 * know of it. */
coar_status store_write_text(run_store *store, const char *name, const char *text);
coar_status store_read_text(run_store *store, const char *name, char **text);

/* What is in a run file (also a merged one): {kind, path, merged, settings, components, examples, outputs, masks, fits,
 * evaluations, edits, stages}. Texts in it are the file's own: whoever shows them cleans them. cJSON_Delete frees it. */
struct cJSON;
coar_status store_describe(const char *path, struct cJSON **root);

#endif
