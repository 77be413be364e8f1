/*
 * gradients_file.h - what reading (gradients.c) and writing (gradients_write.c) gradients.h5 share: its arrays and
 * the levels that its attributes must name.
 *
 * Squares of components are kept for each block of examples, in f64 like the sums: these are the states that the
 * chains of a larger number of passes go on from, so that no bit tells in how many goes a run was made.
 * Must not know: how derivatives are computed.
 */
#ifndef COAR_STORE_GRADIENTS_FILE_H
#define COAR_STORE_GRADIENTS_FILE_H

#include "core/levels.h"
#include "store/internal.h"

#define GRADIENTS_FORMAT "coar.gradients"

/* Of the group of one output, all f64. */
enum { GRADIENTS_SUM, GRADIENTS_OF_COMPONENT, GRADIENTS_OF_EXAMPLE, GRADIENTS_ARRAYS };

/* Names in the group, and dimensions: 3, or 2 for GRADIENTS_OF_EXAMPLE. */
extern const char *const gradients_array_names[GRADIENTS_ARRAYS];
int gradients_rank(int array);

/* What an array holds of examples first .. first + count - 1 (GRADIENTS_OF_COMPONENT: of blocks from `first` on). */
typedef struct gradients_box {
    hsize_t start[3], count[3]; /* of two dimensions the third is not looked at */
} gradients_box;

gradients_box gradients_box_of(int array, uint64_t first, uint64_t count, uint32_t components);

/* A box of an open array, written from or (`to` not NULL) read to contiguous f64. The caller holds h5_lock. */
coar_status gradients_move(hid_t dataset, const char *path, int array, gradients_box box, const double *from,
                           double *to);

/* The keeps of the levels under the run's ablation: what gradients were taken at. */
void gradients_levels(const run_store *store, double levels[LEVELS]);

/* COAR_ERROR_BUSY: passes that others have finished meanwhile cannot be gone on from. */
coar_status gradients_check_passes(const run_store *store, uint32_t there, uint32_t expected);

#endif
