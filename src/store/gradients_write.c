/* gradients_write.c - gradients.h5 made of the records of a stage's units. See gradients_file.h. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "store/gradients_file.h"

typedef struct gradients_writer {
    store_stage *stage;
    const gradient_grid *grid;
    const run_tables *tables;
    uint64_t seed;
    double alpha;
    const char *path; /* where it is written */
    hid_t file;
    hid_t arrays[GRADIENTS_ARRAYS]; /* of the output in hand */
    double *payload;                /* of one unit */
    uint8_t *done;                  /* [blocks] of the output in hand */
} gradients_writer;

/* A block of examples is one row of chunks: each is written once, and a chunk of 1 MiB fits HDF5's cache. */
static coar_status create_array(gradients_writer *w, const char *group, int array) {
    const gradient_grid *g = w->grid;
    const hsize_t elements = (1u << 20) / sizeof(double), rows = array == GRADIENTS_OF_COMPONENT ? 1 : LEVELS_BLOCK;
    const hsize_t columns = elements / rows < g->components ? elements / rows : g->components;
    const hsize_t dims[3] = {LEVELS, array == GRADIENTS_OF_COMPONENT ? gradient_grid_blocks(g) : g->examples,
                             g->components};
    const hsize_t matrix[3] = {1, rows < dims[1] ? rows : dims[1], columns};
    const hsize_t vector[2] = {LEVELS, dims[1] < elements / LEVELS ? dims[1] : elements / LEVELS};
    char name[128];
    snprintf(name, sizeof name, "%s/%s", group, gradients_array_names[array]);
    return part_create_dataset(w->file, w->path, name, H5T_IEEE_F64LE, gradients_rank(array), dims,
                               array == GRADIENTS_OF_EXAMPLE ? vector : matrix, &w->arrays[array]);
}

static coar_status write_block(gradients_writer *w, uint64_t unit, uint64_t block) {
    uint32_t output, count;
    uint64_t first;
    unit_mark mark;
    gradient_grid_unit(w->grid, unit, &output, &first, &count);
    TRY(stage_read(w->stage, unit, &mark, w->payload, gradient_grid_payload(w->grid, unit)));
    const gradient_state state = gradient_state_of(w->payload, count, w->grid->components);
    const double *const from[GRADIENTS_ARRAYS] = {state.sums, state.squares_of_component, state.squares_of_example};
    for (int a = 0; a < GRADIENTS_ARRAYS; a++) {
        const bool by_block = a == GRADIENTS_OF_COMPONENT;
        const gradients_box box =
            gradients_box_of(a, by_block ? block : first, by_block ? 1 : count, w->grid->components);
        TRY(gradients_move(w->arrays[a], w->path, a, box, from[a], NULL));
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
    double levels[LEVELS], probabilities[LEVELS];
    gradients_levels(w->stage->store, levels);
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
    for (int a = 0; a < GRADIENTS_ARRAYS; a++) TRY(create_array(w, group, a));
    for (uint64_t b = 0; b < blocks; b++) TRY(write_block(w, output * blocks + b, b));
    for (int a = 0; a < GRADIENTS_ARRAYS; a++) h5_close(&w->arrays[a]);
    TRY(part_write_array(w->file, w->path, done, H5T_STD_U8LE, H5T_NATIVE_UINT8, 1, &(hsize_t){blocks}, w->done));
    return write_attributes(w, group);
}

/* The whole file at w->path. */
static coar_status write_file(gradients_writer *w) {
    coar_status status;
    w->file = H5I_INVALID_HID;
    for (int a = 0; a < GRADIENTS_ARRAYS; a++) w->arrays[a] = H5I_INVALID_HID;
    h5_lock();
    TRY_GOTO(memory_new(gradient_grid_payload(w->grid, 0), 1, "sums of gradients", &w->payload)); /* none is larger */
    TRY_GOTO(memory_new(gradient_grid_blocks(w->grid), 1, "flags of blocks", &w->done));
    TRY_GOTO(h5_create(w->path, &w->file));
    TRY_GOTO(h5_write_format(w->file, w->path, GRADIENTS_FORMAT, RUN_VERSION_MAJOR, RUN_VERSION_MINOR));
    for (uint32_t o = 0; o < w->grid->outputs; o++) TRY_GOTO(write_output(w, o));
    TRY_GOTO(h5_finish(&w->file, w->path));
done:
    for (int a = 0; a < GRADIENTS_ARRAYS; a++) h5_close(&w->arrays[a]);
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
        TRY(gradients_check_passes(stage->store, finished, grid->first_pass));
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
