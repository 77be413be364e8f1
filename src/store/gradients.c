/*
 * gradients.c - gradients.h5: per output the sums of derivatives at each level, their squares, which blocks are done.
 *
 * Squares of components are kept for each block of examples, in f64 like the sums: these are the states that the chains of
 * a larger number of passes go on from, so that no bit tells in how many goes a run was made.
 * Must not know: how derivatives are computed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/levels.h"
#include "core/memory.h"
#include "store/internal.h"

#define GRADIENTS_FORMAT "coar.gradients"

enum { SUM, OF_COMPONENT, OF_EXAMPLE, ARRAYS };
static const char *const array_names[ARRAYS] = {"sum", "squares_of_component", "squares_of_example"};

/* ----------------------------------------------------------------------------------------------- units */

uint64_t gradient_grid_blocks(const gradient_grid *g) {
    return g->examples / LEVELS_BLOCK + (g->examples % LEVELS_BLOCK != 0);
}

uint64_t gradient_grid_units(const gradient_grid *g) {
    return gradient_grid_blocks(g) * g->outputs;
}

void gradient_grid_unit(const gradient_grid *g, uint64_t unit, uint32_t *output, uint64_t *example_first,
                        uint32_t *example_count) {
    const uint64_t blocks = gradient_grid_blocks(g), first = unit % blocks * LEVELS_BLOCK;
    *output = (uint32_t)(unit / blocks);
    *example_first = first;
    *example_count = g->examples - first < LEVELS_BLOCK ? (uint32_t)(g->examples - first) : LEVELS_BLOCK;
}

gradient_state gradient_state_of(double *payload, uint32_t examples, uint32_t components) {
    double *after_sums = payload + (size_t)LEVELS * examples * components;
    return (gradient_state){payload, after_sums, after_sums + (size_t)LEVELS * components};
}

size_t gradient_grid_payload(const void *grid, uint64_t unit) {
    const gradient_grid *g = grid;
    uint32_t output, examples;
    uint64_t first;
    gradient_grid_unit(g, unit, &output, &first, &examples);
    return LEVELS * ((size_t)examples * g->components + g->components + examples) * sizeof(double);
}

/* ------------------------------------------------------------------------------------------ parts of arrays */

/* A box of an open array of three dimensions (two: start[2] and count[2] are not looked at), to or from contiguous f64. */
typedef struct box {
    hsize_t start[3], count[3];
} box;

static coar_status move_box(hid_t array, const char *path, const char *name, int rank, box b, const double *from,
                            double *to) {
    coar_status status = COAR_OK;
    hid_t space = H5I_INVALID_HID, memory = H5I_INVALID_HID;
    H5_TRY(space = H5Dget_space(array), path, name);
    H5_TRY(H5Sselect_hyperslab(space, H5S_SELECT_SET, b.start, NULL, b.count, NULL), path, name);
    H5_TRY(memory = H5Screate_simple(rank, b.count, NULL), path, name);
    if (to)
        H5_TRY(H5Dread(array, H5T_NATIVE_DOUBLE, memory, space, H5P_DEFAULT, to), path, name);
    else
        H5_TRY(H5Dwrite(array, H5T_NATIVE_DOUBLE, memory, space, H5P_DEFAULT, from), path, name);
done:
    h5_close(&memory);
    h5_close(&space);
    return status;
}

static int rank_of(int array) {
    return array == OF_EXAMPLE ? 2 : 3;
}

/* What an array holds of examples first .. first + count - 1 (of_component: of the blocks from `first` on). */
static box box_of(int array, uint64_t first, uint64_t count, uint32_t components) {
    return array == OF_EXAMPLE ? (box){{0, first}, {LEVELS, count}} : (box){{0, first, 0}, {LEVELS, count, components}};
}

/* ---------------------------------------------------------------------------------------------- reading */

/* One output of gradients.h5, open and checked against the run. */
typedef struct gradients_reader {
    char *path;
    hid_t file, group;
    hid_t arrays[ARRAYS];
    gradients_info info;
} gradients_reader;

static void reader_close(gradients_reader *r) {
    for (int a = 0; a < ARRAYS; a++) h5_close(&r->arrays[a]);
    h5_close(&r->group);
    h5_close(&r->file);
    free(r->path);
}

static coar_status read_design(gradients_reader *r) {
    char *design = NULL;
    TRY(h5_read_text(r->group, r->path, "design", &design));
    const bool same = !strcmp(design, LEVELS_DESIGN);
    free(design);
    memcpy(r->info.design, LEVELS_DESIGN, sizeof LEVELS_DESIGN);
    if (same) return COAR_OK;
    return status_set(COAR_ERROR_INPUT,
                      "%s: attribute 'design' is not " LEVELS_DESIGN ": masks of another version of coar; "
                      "remove the file and run `coar gradients` again",
                      r->path);
}

/* Attributes of an output; masks that are not the run's would be averaged wrongly without a word. */
static coar_status read_attributes(const run_store *store, gradients_reader *r) {
    uint64_t passes, seed;
    double alpha;
    TRY(read_design(r));
    TRY(h5_read_unsigned(r->group, r->path, "passes", &passes));
    TRY(h5_read_unsigned(r->group, r->path, "seed", &r->info.seed));
    TRY(h5_read_real(r->group, r->path, "alpha", &r->info.alpha));
    TRY(store_setting_integer(store, "seed", &seed));
    TRY(store_setting_real(store, "alpha", &alpha));
    if (!passes || passes > UINT32_MAX)
        return status_set(COAR_ERROR_INPUT, "%s: attribute 'passes' is out of range", r->path);
    if (seed != r->info.seed || alpha != r->info.alpha)
        return status_set(COAR_ERROR_INPUT,
                          "%s: attribute '%s' is not the run's: put the run's own file back, or remove it", r->path,
                          seed != r->info.seed ? "seed" : "alpha");
    r->info.passes = (uint32_t)passes;
    return COAR_OK;
}

static coar_status open_array(gradients_reader *r, int array) {
    const uint64_t blocks = gradient_grid_blocks(&(gradient_grid){.examples = r->info.examples});
    const hsize_t want[3] = {LEVELS, array == OF_COMPONENT ? blocks : r->info.examples, r->info.components};
    hsize_t dims[3];
    TRY(h5_open_dataset(r->group, r->path, array_names[array], rank_of(array), H5T_FLOAT, dims, &r->arrays[array]));
    if (!memcmp(dims, want, (size_t)rank_of(array) * sizeof *dims)) return COAR_OK;
    return status_set(COAR_ERROR_INPUT,
                      "%s: '/gradients/%s/%s' is not of the run's %" PRIu64 " examples and %u components: "
                      "put the run's own file back, or remove it",
                      r->path, r->info.output, array_names[array], r->info.examples, r->info.components);
}

/* *present false and nothing open when there is no such file or output. The caller holds h5_lock. */
static coar_status reader_open(const run_store *store, const char *output, gradients_reader *r, bool *present) {
    coar_status status = COAR_OK;
    char name[64];
    *r = (gradients_reader){.file = H5I_INVALID_HID, .group = H5I_INVALID_HID};
    for (int a = 0; a < ARRAYS; a++) r->arrays[a] = H5I_INVALID_HID;
    *present = false;
    TRY(output_name_check(output));
    if (strlen(output) >= sizeof r->info.output) return COAR_OK; /* longer than any that is stored */
    snprintf(name, sizeof name, "/gradients/%s", output);
    snprintf(r->info.output, sizeof r->info.output, "%s", output);
    if (!(r->path = folder_path(store, GRADIENTS_FILE))) return COAR_ERROR_MEMORY;
    if (!file_exists(r->path)) goto done;
    TRY_GOTO(h5_open(r->path, &r->file));
    TRY_GOTO(h5_check_format(r->file, r->path, GRADIENTS_FORMAT, RUN_VERSION_MAJOR));
    if (!h5_has(r->file, name)) goto done;
    H5_TRY(r->group = H5Gopen2(r->file, name, H5P_DEFAULT), r->path, name);
    TRY_GOTO(read_attributes(store, r));
    TRY_GOTO(tables_sizes(store, &r->info.examples, &r->info.components));
    for (int a = 0; a < ARRAYS; a++) TRY_GOTO(open_array(r, a));
    *present = true;
done:
    if (!*present) reader_close(r);
    return status;
}

/* As reader_open, for gradients that must be there. */
static coar_status reader_require(const run_store *store, const char *output, gradients_reader *r) {
    bool present;
    TRY(reader_open(store, output, r, &present));
    if (present) return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "%s: has no gradients of output '%s': run `coar gradients` first", store->path,
                      output);
}

static coar_status read_array(const gradients_reader *r, int array, uint64_t first, uint64_t count, double *out) {
    if (!count) return COAR_OK;
    return move_box(r->arrays[array], r->path, array_names[array], rank_of(array),
                    box_of(array, first, count, r->info.components), NULL, out);
}

coar_status store_gradients_info(run_store *store, const char *output, gradients_info *info, bool *present) {
    gradients_reader r;
    *present = false;
    h5_lock();
    coar_status status = reader_open(store, output, &r, present);
    if (status == COAR_OK && *present) {
        *info = r.info;
        reader_close(&r);
    }
    h5_unlock();
    return status;
}

coar_status store_passes_finished(run_store *store, uint32_t *passes) {
    coar_status status = COAR_OK;
    run_tables tables = {.groups = NULL};
    gradients_info info;
    bool present;
    char *path = folder_path(store, GRADIENTS_FILE);
    *passes = 0;
    if (!path) return COAR_ERROR_MEMORY;
    if (!file_exists(path)) goto done;
    TRY_GOTO(store_read_tables(store, &tables, NULL));
    for (size_t o = 0; o < tables.output_count; o++) {
        TRY_GOTO(store_gradients_info(store, tables.output_names[o], &info, &present));
        if (present && (o == 0 || info.passes == *passes)) {
            *passes = info.passes;
            continue;
        }
        status = status_set(COAR_ERROR_INPUT,
                            "%s: '/gradients/%s' is missing or of another number of passes: remove the file", path,
                            tables.output_names[o]);
        goto done;
    }
done:
    run_tables_free(&tables);
    free(path);
    return status;
}

static coar_status check_range(const gradients_reader *r, uint64_t first, uint64_t count) {
    if (first <= r->info.examples && count <= r->info.examples - first) return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "%s: holds %" PRIu64 " examples, more were asked for", r->path,
                      r->info.examples);
}

coar_status store_read_gradients(run_store *store, const char *output, uint64_t first, uint64_t count, double *sums) {
    gradients_reader r;
    h5_lock();
    coar_status status = reader_require(store, output, &r);
    if (status == COAR_OK) {
        status = check_range(&r, first, count);
        if (status == COAR_OK) status = read_array(&r, SUM, first, count, sums);
        reader_close(&r);
    }
    h5_unlock();
    return status;
}

/* Over blocks, in order. */
static coar_status add_blocks(const gradients_reader *r, double *of_component) {
    coar_status status = COAR_OK;
    double *one = NULL;
    const size_t count = (size_t)LEVELS * r->info.components;
    const uint64_t blocks = gradient_grid_blocks(&(gradient_grid){.examples = r->info.examples});
    TRY(memory_new(count, sizeof *one, "squares of gradients", &one));
    memset(of_component, 0, count * sizeof *of_component);
    for (uint64_t b = 0; b < blocks; b++) {
        TRY_GOTO(read_array(r, OF_COMPONENT, b, 1, one));
        for (size_t i = 0; i < count; i++) of_component[i] += one[i];
    }
done:
    free(one);
    return status;
}

coar_status store_read_gradient_squares(run_store *store, const char *output, double *of_component,
                                        double *of_example) {
    gradients_reader r;
    h5_lock();
    coar_status status = reader_require(store, output, &r);
    if (status == COAR_OK) {
        status = add_blocks(&r, of_component);
        if (status == COAR_OK) status = read_array(&r, OF_EXAMPLE, 0, r.info.examples, of_example);
        reader_close(&r);
    }
    h5_unlock();
    return status;
}

/* Passes that others have finished meanwhile cannot be gone on from. */
static coar_status check_passes(const run_store *store, uint32_t there, uint32_t expected) {
    if (there == expected) return COAR_OK;
    return status_set(COAR_ERROR_BUSY,
                      "%s: another process has finished passes up to %u meanwhile: give the same command again",
                      store->path, there);
}

coar_status store_read_gradient_state(run_store *store, const char *output, const gradient_grid *grid, uint64_t unit,
                                      double *payload) {
    gradients_reader r;
    uint32_t number, count;
    uint64_t first;
    gradient_grid_unit(grid, unit, &number, &first, &count);
    const gradient_state state = gradient_state_of(payload, count, grid->components);
    h5_lock();
    coar_status status = reader_require(store, output, &r);
    if (status == COAR_OK) {
        status = check_passes(store, r.info.passes, grid->first_pass);
        if (status == COAR_OK) status = read_array(&r, SUM, first, count, state.sums);
        if (status == COAR_OK)
            status = read_array(&r, OF_COMPONENT, first / LEVELS_BLOCK, 1, state.squares_of_component);
        if (status == COAR_OK) status = read_array(&r, OF_EXAMPLE, first, count, state.squares_of_example);
        reader_close(&r);
    }
    h5_unlock();
    return status;
}

/* ---------------------------------------------------------------------------------------------- writing */

typedef struct gradients_writer {
    store_stage *stage;
    const gradient_grid *grid;
    const run_tables *tables;
    uint64_t seed;
    double alpha;
    const char *path; /* where it is written */
    hid_t file;
    hid_t arrays[ARRAYS]; /* of the output in hand */
    double *payload;      /* of one unit */
    uint8_t *done;        /* [blocks] of the output in hand */
} gradients_writer;

/* A block of examples is one row of chunks: each is written once, and a chunk of 1 MiB fits HDF5's cache. */
static coar_status create_array(gradients_writer *w, const char *group, int array) {
    const gradient_grid *g = w->grid;
    const hsize_t elements = (1u << 20) / sizeof(double), rows = array == OF_COMPONENT ? 1 : LEVELS_BLOCK;
    const hsize_t columns = elements / rows < g->components ? elements / rows : g->components;
    const hsize_t dims[3] = {LEVELS, array == OF_COMPONENT ? gradient_grid_blocks(g) : g->examples, g->components};
    const hsize_t matrix[3] = {1, rows < dims[1] ? rows : dims[1], columns};
    const hsize_t vector[2] = {LEVELS, dims[1] < elements / LEVELS ? dims[1] : elements / LEVELS};
    char name[128];
    snprintf(name, sizeof name, "%s/%s", group, array_names[array]);
    return part_create_dataset(w->file, w->path, name, H5T_IEEE_F64LE, rank_of(array), dims,
                               array == OF_EXAMPLE ? vector : matrix, &w->arrays[array]);
}

static coar_status write_block(gradients_writer *w, uint64_t unit, uint64_t block) {
    uint32_t output, count;
    uint64_t first;
    unit_mark mark;
    gradient_grid_unit(w->grid, unit, &output, &first, &count);
    TRY(stage_read(w->stage, unit, &mark, w->payload, gradient_grid_payload(w->grid, unit)));
    const gradient_state state = gradient_state_of(w->payload, count, w->grid->components);
    const double *const from[ARRAYS] = {state.sums, state.squares_of_component, state.squares_of_example};
    for (int a = 0; a < ARRAYS; a++) {
        const box b =
            a == OF_COMPONENT ? box_of(a, block, 1, w->grid->components) : box_of(a, first, count, w->grid->components);
        TRY(move_box(w->arrays[a], w->path, array_names[a], rank_of(a), b, from[a], NULL));
    }
    w->done[block] = mark.flag;
    return h5_check_writes(w->file, w->path);
}

static coar_status write_triple(hid_t group, const char *path, const char *name, const double values[LEVELS]) {
    coar_status status = COAR_OK;
    hid_t space = H5I_INVALID_HID, attribute = H5I_INVALID_HID;
    H5_TRY(space = H5Screate_simple(1, &(hsize_t){LEVELS}, NULL), path, name);
    H5_TRY(attribute = H5Acreate2(group, name, H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT), path, name);
    H5_TRY(H5Awrite(attribute, H5T_NATIVE_DOUBLE, values), path, name);
done:
    h5_close(&attribute);
    h5_close(&space);
    return status;
}

static coar_status write_attributes(const gradients_writer *w, const char *name) {
    coar_status status = COAR_OK;
    hid_t group = H5I_INVALID_HID;
    const double levels[LEVELS] = {level_keep[0], level_keep[1], level_keep[2]};
    double probabilities[LEVELS];
    level_probabilities(w->alpha, probabilities);
    H5_TRY(group = H5Gopen2(w->file, name, H5P_DEFAULT), w->path, name);
    TRY_GOTO(write_triple(group, w->path, "levels", levels));
    TRY_GOTO(write_triple(group, w->path, "probabilities", probabilities));
    TRY_GOTO(h5_write_text(group, w->path, "design", LEVELS_DESIGN));
    TRY_GOTO(h5_write_unsigned(group, w->path, "passes", w->grid->passes));
    TRY_GOTO(h5_write_unsigned(group, w->path, "seed", w->seed));
    TRY_GOTO(h5_write_real(group, w->path, "alpha", w->alpha));
done:
    h5_close(&group);
    return status;
}

static coar_status write_output(gradients_writer *w, uint32_t output) {
    const uint64_t blocks = gradient_grid_blocks(w->grid);
    char group[64], done[72];
    snprintf(group, sizeof group, "/gradients/%s", w->tables->output_names[output]);
    snprintf(done, sizeof done, "%s/done", group);
    for (int a = 0; a < ARRAYS; a++) TRY(create_array(w, group, a));
    for (uint64_t b = 0; b < blocks; b++) TRY(write_block(w, output * blocks + b, b));
    for (int a = 0; a < ARRAYS; a++) h5_close(&w->arrays[a]);
    TRY(part_write_array(w->file, w->path, done, H5T_STD_U8LE, H5T_NATIVE_UINT8, 1, &(hsize_t){blocks}, w->done));
    return write_attributes(w, group);
}

/* The whole file at w->path. */
static coar_status write_file(gradients_writer *w) {
    coar_status status;
    w->file = H5I_INVALID_HID;
    for (int a = 0; a < ARRAYS; a++) w->arrays[a] = H5I_INVALID_HID;
    h5_lock();
    TRY_GOTO(memory_new(gradient_grid_payload(w->grid, 0), 1, "sums of gradients", &w->payload)); /* none is larger */
    TRY_GOTO(memory_new(gradient_grid_blocks(w->grid), 1, "flags of blocks", &w->done));
    TRY_GOTO(h5_create(w->path, &w->file));
    TRY_GOTO(h5_write_format(w->file, w->path, GRADIENTS_FORMAT, RUN_VERSION_MAJOR, RUN_VERSION_MINOR));
    for (uint32_t o = 0; o < w->grid->outputs; o++) TRY_GOTO(write_output(w, o));
    TRY_GOTO(h5_finish(&w->file, w->path));
done:
    for (int a = 0; a < ARRAYS; a++) h5_close(&w->arrays[a]);
    h5_close(&w->file);
    h5_unlock();
    free(w->done);
    free(w->payload);
    return status;
}

static coar_status write_part(store_stage *stage, const gradient_grid *grid) {
    coar_status status;
    run_store *store = stage->store;
    run_tables tables = {.groups = NULL};
    gradients_writer w = {.stage = stage, .grid = grid, .tables = &tables};
    char *path = folder_path(store, GRADIENTS_FILE), *temporary = path ? file_temporary(path) : NULL;
    if (!temporary) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", store->path));
    w.path = temporary;
    TRY_GOTO(store_setting_integer(store, "seed", &w.seed));
    TRY_GOTO(store_setting_real(store, "alpha", &w.alpha));
    TRY_GOTO(store_read_tables(store, &tables, NULL));
    if (grid->outputs != tables.output_count || grid->examples != tables.examples ||
        grid->components != tables.components)
        TRY_GOTO(status_set(COAR_ERROR_INTERNAL, "%s: stage %s and the tables disagree", store->path, stage->name));
    status = write_file(&w);
    if (status == COAR_OK)
        status = file_commit(temporary, path);
    else
        unlink(temporary);
done:
    run_tables_free(&tables);
    free(temporary);
    free(path);
    return status;
}

static coar_status finish(store_stage *stage, const gradient_grid *grid) {
    uint32_t finished;
    TRY(store_passes_finished(stage->store, &finished));
    if (finished < grid->passes) {
        TRY(check_passes(stage->store, finished, grid->first_pass));
        TRY(stage_refresh(stage));
        if (stage->done < stage->options.units) return COAR_OK; /* other shards owe some */
        TRY(write_part(stage, grid));
    }
    TRY(index_refresh(stage->store));
    stage_remove_journals(stage);
    return COAR_OK;
}

coar_status store_finish_gradients(run_store *store, store_stage *stage, const gradient_grid *grid) {
    TRY(folder_lock(store));
    const coar_status status = finish(stage, grid);
    folder_unlock(store);
    return status;
}

/* ------------------------------------------------------------------------------------------------- index */

coar_status gradients_index(index_sink *sink) {
    coar_status status = COAR_OK;
    run_tables tables = {.groups = NULL};
    char name[64], *path = folder_path(sink->store, GRADIENTS_FILE);
    if (!path) return COAR_ERROR_MEMORY;
    if (!file_exists(path)) goto done;
    TRY_GOTO(store_read_tables(sink->store, &tables, NULL));
    for (size_t o = 0; o < tables.output_count; o++) {
        snprintf(name, sizeof name, "/gradients/%s", tables.output_names[o]);
        TRY_GOTO(sink->object(sink, GRADIENTS_FILE, name));
    }
done:
    run_tables_free(&tables);
    free(path);
    return status;
}
