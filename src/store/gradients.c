/*
 * gradients.c - gradients.h5 as it is read: per output the sums of derivatives at each level and their squares. And
 * the grid of the units that it is made of. See gradients_file.h.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/memory.h"
#include "core/number.h"
#include "store/gradients_file.h"

const char *const gradients_array_names[GRADIENTS_ARRAYS] = {"sum", "squares_of_component", "squares_of_example"};

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

coar_status gradients_move(hid_t dataset, const char *path, int array, gradients_box box, const double *from,
                           double *to) {
    coar_status status = COAR_OK;
    const char *name = gradients_array_names[array];
    hid_t space = H5I_INVALID_HID, memory = H5I_INVALID_HID;
    H5_TRY(space = H5Dget_space(dataset), path, name);
    H5_TRY(H5Sselect_hyperslab(space, H5S_SELECT_SET, box.start, NULL, box.count, NULL), path, name);
    H5_TRY(memory = H5Screate_simple(gradients_rank(array), box.count, NULL), path, name);
    if (to)
        H5_TRY(H5Dread(dataset, H5T_NATIVE_DOUBLE, memory, space, H5P_DEFAULT, to), path, name);
    else
        H5_TRY(H5Dwrite(dataset, H5T_NATIVE_DOUBLE, memory, space, H5P_DEFAULT, from), path, name);
done:
    h5_close(&memory);
    h5_close(&space);
    return status;
}

int gradients_rank(int array) {
    return array == GRADIENTS_OF_EXAMPLE ? 2 : 3;
}

gradients_box gradients_box_of(int array, uint64_t first, uint64_t count, uint32_t components) {
    if (array == GRADIENTS_OF_EXAMPLE) return (gradients_box){{0, first}, {LEVELS, count}};
    return (gradients_box){{0, first, 0}, {LEVELS, count, components}};
}

/* ---------------------------------------------------------------------------------------------- reading */

/* One output of gradients.h5, open and checked against the run. */
typedef struct gradients_reader {
    char *path;
    hid_t file, group;
    hid_t arrays[GRADIENTS_ARRAYS];
    gradients_info info;
} gradients_reader;

static void reader_close(gradients_reader *r) {
    for (int a = 0; a < GRADIENTS_ARRAYS; a++) h5_close(&r->arrays[a]);
    h5_close(&r->group);
    h5_close(&r->file);
    free(r->path);
}

static coar_status read_design(gradients_reader *r) {
    char *design = NULL;
    TRY(h5_read_text(r->group, r->path, "design", &design));
    const bool same = !strcmp(design, LEVELS_DESIGN);
    free(design);
    if (same) return COAR_OK;
    return status_set(COAR_ERROR_INPUT,
                      "%s: attribute 'design' is not " LEVELS_DESIGN ": masks of another version of coar; "
                      "remove the file and run `coar gradients` again",
                      r->path);
}

/* An attribute of three numbers. */
static coar_status read_triple(hid_t group, const char *path, const char *name, double values[LEVELS]) {
    coar_status status = COAR_OK;
    hid_t attribute = H5I_INVALID_HID, space = H5I_INVALID_HID;
    hsize_t count = 0;
    if (!h5_has_attribute(group, name))
        return status_set(COAR_ERROR_INPUT, "%s: attribute '%s' is missing", path, name);
    H5_TRY(attribute = H5Aopen(group, name, H5P_DEFAULT), path, name);
    H5_TRY(space = H5Aget_space(attribute), path, name);
    if (H5Sget_simple_extent_ndims(space) == 1) H5Sget_simple_extent_dims(space, &count, NULL);
    if (count != LEVELS)
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: attribute '%s' does not have %d numbers", path, name, LEVELS));
    H5_TRY(H5Aread(attribute, H5T_NATIVE_DOUBLE, values), path, name);
done:
    h5_close(&space);
    h5_close(&attribute);
    return status;
}

void gradients_levels(const run_store *store, double levels[LEVELS]) {
    static const char scale[] = "scale:";
    const char *ablation = store_setting(store, "ablation");
    const bool scaled = ablation && !strncmp(ablation, scale, sizeof scale - 1);
    const float gain = scaled ? (float)number_parse(ablation + sizeof scale - 1, NULL) : 0;
    for (size_t l = 0; l < LEVELS; l++) levels[l] = level_keep_with(l, gain);
}

/* Derivatives at other keeps than the run's ablation has are of another network. */
static coar_status check_levels(const run_store *store, const gradients_reader *r) {
    double levels[LEVELS], expected[LEVELS];
    TRY(read_triple(r->group, r->path, "levels", levels));
    gradients_levels(store, expected);
    for (size_t l = 0; l < LEVELS; l++)
        if (levels[l] != expected[l])
            return status_set(
                COAR_ERROR_INPUT,
                "%s: attribute 'levels' has a keep %g where the run's ablation has %g: remove the file and "
                "run `coar gradients` again",
                r->path, levels[l], expected[l]);
    return COAR_OK;
}

/* Attributes of an output; masks that are not the run's would be averaged wrongly without a word. */
static coar_status read_attributes(const run_store *store, gradients_reader *r) {
    uint64_t passes, seed;
    double alpha;
    TRY(read_design(r));
    TRY(check_levels(store, r));
    TRY(h5_read_unsigned(r->group, r->path, "passes", &passes));
    TRY(h5_read_unsigned(r->group, r->path, "seed", &r->info.seed));
    TRY(h5_read_real(r->group, r->path, "alpha", &r->info.alpha));
    TRY(store_setting_integer(store, "seed", &seed));
    TRY(store_setting_real(store, "alpha", &alpha));
    if (!passes || passes > LEVELS_PASSES_MOST)
        return status_set(COAR_ERROR_INPUT, "%s: attribute 'passes' is %" PRIu64 ", not from 1 to %d: remove the file",
                          r->path, passes, LEVELS_PASSES_MOST);
    if (seed != r->info.seed || alpha != r->info.alpha)
        return status_set(COAR_ERROR_INPUT,
                          "%s: attribute '%s' is not the run's: put the run's own file back, or remove it", r->path,
                          seed != r->info.seed ? "seed" : "alpha");
    r->info.passes = (uint32_t)passes;
    return COAR_OK;
}

static coar_status open_array(gradients_reader *r, int array) {
    const uint64_t blocks = gradient_grid_blocks(&(gradient_grid){.examples = r->info.examples});
    const hsize_t want[3] = {LEVELS, array == GRADIENTS_OF_COMPONENT ? blocks : r->info.examples, r->info.components};
    hsize_t dims[3];
    TRY(h5_open_dataset(r->group, r->path, gradients_array_names[array], gradients_rank(array), H5T_FLOAT, dims,
                        &r->arrays[array]));
    if (!memcmp(dims, want, (size_t)gradients_rank(array) * sizeof *dims)) return COAR_OK;
    return status_set(COAR_ERROR_INPUT,
                      "%s: '/gradients/%s/%s' is not of the run's %" PRIu64 " examples and %u components: "
                      "put the run's own file back, or remove it",
                      r->path, r->info.output, gradients_array_names[array], r->info.examples, r->info.components);
}

/* *present false and nothing open when there is no such file or output. The caller holds h5_lock. */
static coar_status reader_open(const run_store *store, const char *output, gradients_reader *r, bool *present) {
    coar_status status = COAR_OK;
    char name[64];
    *r = (gradients_reader){.file = H5I_INVALID_HID, .group = H5I_INVALID_HID};
    for (int a = 0; a < GRADIENTS_ARRAYS; a++) r->arrays[a] = H5I_INVALID_HID;
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
    for (int a = 0; a < GRADIENTS_ARRAYS; a++) TRY_GOTO(open_array(r, a));
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
    return gradients_move(r->arrays[array], r->path, array, gradients_box_of(array, first, count, r->info.components),
                          NULL, out);
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
        if (status == COAR_OK) status = read_array(&r, GRADIENTS_SUM, first, count, sums);
        reader_close(&r);
    }
    h5_unlock();
    return status;
}

/* Whether one of a block's examples had a derivative that is not finite. */
static bool is_broken(const gradients_reader *r, uint64_t block, const double *of_example) {
    const uint64_t N = r->info.examples, first = block * LEVELS_BLOCK;
    for (uint64_t e = first; e < N && e < first + LEVELS_BLOCK; e++)
        for (size_t l = 0; l < LEVELS; l++)
            if (isnan(of_example[l * N + e])) return true;
    return false;
}

/* Over whole blocks, in order. */
static coar_status add_blocks(const gradients_reader *r, const double *of_example, double *of_component) {
    coar_status status = COAR_OK;
    double *one = NULL;
    const size_t count = (size_t)LEVELS * r->info.components;
    const uint64_t blocks = gradient_grid_blocks(&(gradient_grid){.examples = r->info.examples});
    TRY(memory_new(count, sizeof *one, "squares of gradients", &one));
    memset(of_component, 0, count * sizeof *of_component);
    for (uint64_t b = 0; b < blocks; b++) {
        if (is_broken(r, b, of_example)) continue;
        TRY_GOTO(read_array(r, GRADIENTS_OF_COMPONENT, b, 1, one));
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
        status = read_array(&r, GRADIENTS_OF_EXAMPLE, 0, r.info.examples, of_example);
        if (status == COAR_OK) status = add_blocks(&r, of_example, of_component);
        reader_close(&r);
    }
    h5_unlock();
    return status;
}

coar_status gradients_check_passes(const run_store *store, uint32_t there, uint32_t expected) {
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
        status = gradients_check_passes(store, r.info.passes, grid->first_pass);
        if (status == COAR_OK) status = read_array(&r, GRADIENTS_SUM, first, count, state.sums);
        if (status == COAR_OK)
            status = read_array(&r, GRADIENTS_OF_COMPONENT, first / LEVELS_BLOCK, 1, state.squares_of_component);
        if (status == COAR_OK) status = read_array(&r, GRADIENTS_OF_EXAMPLE, first, count, state.squares_of_example);
        reader_close(&r);
    }
    h5_unlock();
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
