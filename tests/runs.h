/*
 * runs.h - run files with planted outputs, for the tests of the store: every value is a function of (output, mask, example).
 */
#ifndef COAR_TEST_RUNS_H
#define COAR_TEST_RUNS_H

#include "store/store.h"

/* Odd on purpose: examples fill no unit, components no byte, masks of the tests no chunk. */
enum { RUN_EXAMPLES = 37, RUN_COMPONENTS = 13, RUN_OUTPUTS = 2, RUN_UNIT_MASKS = 16, RUN_UNIT_EXAMPLES = 16 };

extern const char *const run_outputs[RUN_OUTPUTS]; /* margin, loss */

float run_value(size_t output, uint64_t mask, uint64_t example);

/* store_create with a set of settings; alpha is one of them. */
coar_status run_create(const char *path, const char *alpha, bool force, bool *created, run_store **out);
void run_tables_fill(run_tables *tables); /* free with run_tables_free */

/* A new run with its tables. */
run_store *run_new(const char *path);

unit_grid run_grid(uint64_t first_mask, uint64_t masks);

/* "ablate-FIRST" of shard K of S. The grid must live as long as the stage. */
coar_status run_open_stage(run_store *store, const unit_grid *grid, uint32_t shard, uint32_t shards, bool force_resume,
                      store_stage **out);
coar_status run_named_stage(run_store *store, const char *name, const unit_grid *grid, uint32_t shard, uint32_t shards,
                            bool force_resume, store_stage **out);

/* Appends one unit, or all units that are not done, in an order that `seed` shuffles. */
coar_status run_unit(store_stage *stage, const unit_grid *grid, uint64_t unit);
coar_status run_units(store_stage *stage, const unit_grid *grid, uint64_t seed);

/* From an open run to finished outputs of masks first .. masks - 1. */
coar_status run_ablate(run_store *store, uint64_t first_mask, uint64_t masks, uint64_t seed);

/* Values that differ from run_value in the finished outputs of masks 0 .. masks - 1. */
uint64_t run_wrong_outputs(run_store *store, uint64_t masks);

/* Warnings that stages opened here gave since the last call, and the last of them. */
int run_warnings(const char **last);

/* Fit NAME of output margin in blocks: weight i = scale i, the other arrays of example i = scale + i. */
void run_fit(run_store *store, const char *name, float scale, bool force);

/* coar_merge of one run. */
coar_status run_merge(const char *run, const char *output, int force, const coar_callbacks *callbacks);

/* NAME in this program's folder, kept in `buffer`. */
const char *run_path(char buffer[512], const char *name);
/* PATH.parts/NAME; static buffers, two deep. */
const char *run_file(const char *path, const char *name);
void run_write_text(const char *path, const char *text);

#endif
