/*
 * parts.c - outputs-FIRST-LAST.h5 and truth-aALPHA-sSEED.h5: matrices [masks, N] assembled from the units of a stage.
 *
 * Rows are written in bands of one chunk's height, in order, so that equal contents give equal bytes whatever the order
 * in which units were computed, and memory stays at one band of all outputs.
 * Must not know: what an output is.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/half.h"
#include "core/memory.h"
#include "store/internal.h"

#define PART_FORMAT "coar.outputs"

/* ---------------------------------------------------------------------------------------------- unit grid */

static uint64_t ceil_divide(uint64_t a, uint64_t b) {
    return a / b + (a % b != 0);
}

static uint64_t example_blocks(const unit_grid *g) {
    return ceil_divide(g->examples, g->unit_examples);
}

uint64_t unit_grid_units(const unit_grid *g) {
    return g->masks > g->first_mask ? ceil_divide(g->masks - g->first_mask, g->unit_masks) * example_blocks(g) : 0;
}

void unit_grid_unit(const unit_grid *g, uint64_t unit, uint64_t *mask_first, uint32_t *mask_count,
                    uint64_t *example_first, uint32_t *example_count) {
    uint64_t blocks = example_blocks(g);
    uint64_t mask = g->first_mask + unit / blocks * g->unit_masks, example = unit % blocks * g->unit_examples;
    *mask_first = mask;
    *mask_count = g->masks - mask < g->unit_masks ? (uint32_t)(g->masks - mask) : g->unit_masks;
    *example_first = example;
    *example_count = g->examples - example < g->unit_examples ? (uint32_t)(g->examples - example) : g->unit_examples;
}

size_t unit_grid_payload(const void *grid, uint64_t unit) {
    const unit_grid *g = grid;
    uint64_t mask, example;
    uint32_t masks, examples;
    unit_grid_unit(g, unit, &mask, &masks, &example, &examples);
    return (size_t)g->outputs * masks * examples * sizeof(float);
}

/* --------------------------------------------------------------------------------------- reading a part */

/* Units that the part's masks touch, numbered in the whole matrix from mask 0 on: so the flags of a run that was
 * extended are those of one made in one go, whatever its stages' grids were. */
static void part_units(part_shape *s) {
    uint64_t columns = ceil_divide(s->examples, s->unit_examples);
    s->first_unit = s->first_mask / s->unit_masks * columns;
    s->units = ceil_divide(s->first_mask + s->masks, s->unit_masks) * columns - s->first_unit;
}

coar_status part_open(const char *path, hid_t *out, part_shape *out_shape) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID;
    part_shape s = {.first_mask = 0};
    uint64_t unit_masks, unit_examples, half;
    const uint64_t most = (uint64_t)1 << 40; /* far above any job; keeps products in 64 bits with 32-bit unit sizes */
    TRY_GOTO(h5_open(path, &file));
    TRY_GOTO(h5_check_format(file, path, PART_FORMAT, RUN_VERSION_MAJOR));
    TRY_GOTO(h5_read_unsigned(file, path, "first_mask", &s.first_mask));
    TRY_GOTO(h5_read_unsigned(file, path, "masks", &s.masks));
    TRY_GOTO(h5_read_unsigned(file, path, "examples", &s.examples));
    TRY_GOTO(h5_read_unsigned(file, path, "unit_masks", &unit_masks));
    TRY_GOTO(h5_read_unsigned(file, path, "unit_examples", &unit_examples));
    TRY_GOTO(h5_read_unsigned(file, path, "half", &half));
    if (!s.masks || s.masks > most || s.first_mask > most || !s.examples || s.examples > most || !unit_masks ||
        unit_masks > UINT32_MAX || !unit_examples || unit_examples > UINT32_MAX || half > 1) {
        status = status_set(COAR_ERROR_INPUT, "%s: an attribute of its shape is out of range", path);
        goto done;
    }
    s.unit_masks = (uint32_t)unit_masks;
    s.unit_examples = (uint32_t)unit_examples;
    s.half = half == 1;
    s.has_masks = h5_has(file, "/ablations/masks");
    part_units(&s);
    *out_shape = s;
    *out = file;
    file = H5I_INVALID_HID;
done:
    h5_close(&file);
    return status;
}

coar_status part_read_done(hid_t file, const char *path, const char *name, const part_shape *shape, uint8_t *done) {
    coar_status status = COAR_OK;
    hid_t id = H5I_INVALID_HID;
    hsize_t units;
    TRY_GOTO(h5_open_dataset(file, path, name, 1, H5T_INTEGER, &units, &id));
    if (units != shape->units) {
        status = status_set(COAR_ERROR_INPUT, "%s: '%s' has the wrong length", path, name);
        goto done;
    }
    TRY_GOTO(part_read(id, path, name, H5T_NATIVE_UINT8, 0, units, 0, 0, done));
done:
    h5_close(&id);
    return status;
}

/* ------------------------------------------------------------------------------------------- writing a part */

typedef struct part_writer {
    store_stage *stage;
    const unit_grid *grid;
    const run_tables *tables;
    part_shape shape;      /* of the part being written */
    const char *temporary; /* its path now */
    const char *group;     /* of a truth part, NULL for outputs */
    const uint8_t *masks;  /* packed [shape.masks][ceil(n/8)], or NULL */
    hid_t file, half;
    hid_t *outputs;       /* [grid->outputs] data sets */
    float *band;          /* [outputs][CHUNK_MASKS][N] */
    uint16_t *half_band;  /* [CHUNK_MASKS][N] for f16 */
    float *payload;       /* of one unit */
    uint8_t *done;        /* [shape.units] */
    const char *old_path; /* truth part that is extended, NULL without */
    hid_t old;
    part_shape old_shape;
} part_writer;

static void object_name(const part_writer *w, size_t output, const char *leaf, char out[256]) {
    const char *name = w->tables->output_names[output];
    if (w->group)
        snprintf(out, 256, "%s/%s/%s", w->group, name, leaf);
    else
        snprintf(out, 256, "/ablations/%s", strcmp(leaf, "truth") ? leaf : name);
}

/* Rows from mask `from` on of one unit that lie in the band [first, first + count). */
static coar_status take_unit(part_writer *w, uint64_t unit, uint64_t from, uint64_t first, uint64_t count) {
    uint64_t mask, example;
    uint32_t masks, examples;
    const size_t N = w->shape.examples;
    unit_mark mark;
    unit_grid_unit(w->grid, unit, &mask, &masks, &example, &examples);
    TRY(stage_read(w->stage, unit, &mark, w->payload, unit_grid_payload(w->grid, unit)));
    for (size_t o = 0; o < w->grid->outputs; o++)
        for (uint64_t i = 0; i < masks; i++) {
            if (mask + i < from || mask + i >= first + count) continue;
            float *row = w->band + (o * CHUNK_MASKS + (mask + i - first)) * N;
            memcpy(row + example, w->payload + (o * masks + i) * examples, examples * sizeof *row);
        }
    return COAR_OK;
}

/* Rows that the truth part had already. */
static coar_status take_old(part_writer *w, uint64_t first, uint64_t count) {
    coar_status status = COAR_OK;
    hid_t id = H5I_INVALID_HID;
    char name[256];
    hsize_t dims[2];
    for (size_t o = 0; o < w->grid->outputs; o++) {
        object_name(w, o, "truth", name);
        TRY_GOTO(h5_open_dataset(w->old, w->old_path, name, 2, H5T_FLOAT, dims, &id));
        if (dims[0] != w->old_shape.masks || dims[1] != w->shape.examples) {
            status = status_set(COAR_ERROR_INPUT, "%s: '%s' has the wrong shape", w->old_path, name);
            goto done;
        }
        TRY_GOTO(part_read(id, w->old_path, name, H5T_NATIVE_FLOAT, first, count, 0, dims[1],
                           w->band + o * CHUNK_MASKS * w->shape.examples));
        h5_close(&id);
    }
done:
    h5_close(&id);
    return status;
}

/* Flags of the units that a band touches. */
static void mark_done(part_writer *w, uint64_t first, uint64_t count) {
    const size_t N = w->shape.examples;
    const uint64_t columns = ceil_divide(N, w->shape.unit_examples);
    for (size_t o = 0; o < w->grid->outputs; o++)
        for (uint64_t i = 0; i < count; i++) {
            const float *row = w->band + (o * CHUNK_MASKS + i) * N;
            uint8_t *done = w->done + ((first + i) / w->shape.unit_masks * columns - w->shape.first_unit);
            for (size_t z = 0; z < N; z++) {
                uint8_t *flag = &done[z / w->shape.unit_examples];
                if (*flag < UNIT_NON_FINITE) *flag = isfinite(row[z]) ? UNIT_DONE : UNIT_NON_FINITE;
            }
        }
}

static coar_status half_overflow(const part_writer *w, size_t output, uint64_t mask, size_t example, float value) {
    return status_set(COAR_ERROR_INPUT,
                      "%s: output %s of mask %" PRIu64 ", example %zu is %g, above f16's range: use --store f32",
                      w->stage->store->path, w->tables->output_names[output], mask, example, (double)value);
}

static coar_status write_band(part_writer *w, uint64_t first, uint64_t count) {
    coar_status status = COAR_OK;
    const size_t N = w->shape.examples;
    hid_t space = H5I_INVALID_HID, memory = H5I_INVALID_HID;
    hsize_t start[2] = {first - w->shape.first_mask, 0}, size[2] = {count, N};
    H5_TRY(memory = H5Screate_simple(2, size, NULL), w->temporary, "");
    for (size_t o = 0; o < w->grid->outputs; o++) {
        const float *rows = w->band + o * CHUNK_MASKS * N;
        for (size_t i = 0; w->shape.half && i < count * N; i++)
            if (!half_from_float(rows[i], &w->half_band[i])) {
                status = half_overflow(w, o, first + i / N, i % N, rows[i]);
                goto done;
            }
        H5_TRY(space = H5Dget_space(w->outputs[o]), w->temporary, "");
        H5_TRY(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, size, NULL), w->temporary, "");
        H5_TRY(H5Dwrite(w->outputs[o], w->shape.half ? w->half : H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT,
                        w->shape.half ? (const void *)w->half_band : rows),
               w->temporary, w->tables->output_names[o]);
        h5_close(&space);
    }
done:
    h5_close(&space);
    h5_close(&memory);
    return status;
}

static coar_status write_bands(part_writer *w) {
    const uint64_t blocks = example_blocks(w->grid), end = w->shape.first_mask + w->shape.masks;
    const uint64_t old = w->old_path ? w->old_shape.masks : 0; /* rows that come from the old part */
    for (uint64_t first = w->shape.first_mask, count; first < end; first += count) {
        count = end - first < CHUNK_MASKS ? end - first : CHUNK_MASKS;
        if (first < old) TRY(take_old(w, first, old - first < count ? old - first : count));
        uint64_t from = first < old ? old : first;
        if (from < first + count) {
            uint64_t unit = (from - w->grid->first_mask) / w->grid->unit_masks * blocks;
            uint64_t last = (first + count - 1 - w->grid->first_mask) / w->grid->unit_masks;
            for (; unit < (last + 1) * blocks; unit++) TRY(take_unit(w, unit, from, first, count));
        }
        mark_done(w, first, count);
        TRY(write_band(w, first, count));
        TRY(h5_check_writes(w->file, w->temporary));
    }
    return COAR_OK;
}

static coar_status write_attributes(const part_writer *w) {
    const char *path = w->temporary;
    TRY(h5_write_format(w->file, path, PART_FORMAT, RUN_VERSION_MAJOR, RUN_VERSION_MINOR));
    TRY(h5_write_unsigned(w->file, path, "first_mask", w->shape.first_mask));
    TRY(h5_write_unsigned(w->file, path, "masks", w->shape.masks));
    TRY(h5_write_unsigned(w->file, path, "examples", w->shape.examples));
    TRY(h5_write_unsigned(w->file, path, "unit_masks", w->shape.unit_masks));
    TRY(h5_write_unsigned(w->file, path, "unit_examples", w->shape.unit_examples));
    TRY(h5_write_unsigned(w->file, path, "first_unit", w->shape.first_unit));
    return h5_write_unsigned(w->file, path, "half", w->shape.half);
}

static coar_status create_outputs(part_writer *w) {
    hsize_t dims[2] = {w->shape.masks, w->shape.examples};
    hsize_t chunk[2] = {dims[0] < CHUNK_MASKS ? dims[0] : CHUNK_MASKS,
                        dims[1] < CHUNK_EXAMPLES ? dims[1] : CHUNK_EXAMPLES};
    for (size_t o = 0; o < w->grid->outputs; o++) {
        char name[256];
        object_name(w, o, "truth", name);
        TRY(part_create_dataset(w->file, w->temporary, name, w->shape.half ? w->half : H5T_IEEE_F32LE, 2, dims, chunk,
                                &w->outputs[o]));
    }
    return COAR_OK;
}

static coar_status write_rest(const part_writer *w) {
    const char *path = w->temporary;
    char name[256];
    for (size_t o = 0; o < (w->group ? w->grid->outputs : 1); o++) {
        object_name(w, o, "done", name);
        TRY(part_write_array(w->file, path, name, H5T_STD_U8LE, H5T_NATIVE_UINT8, 1, &(hsize_t){w->shape.units},
                             w->done));
    }
    if (!w->masks) return COAR_OK;
    return part_write_array(w->file, path, "/ablations/masks", H5T_STD_U8LE, H5T_NATIVE_UINT8, 2,
                            (hsize_t[]){w->shape.masks, (w->tables->components + 7) / 8}, w->masks);
}

static coar_status allocate(part_writer *w) {
    size_t row, band;
    uint64_t unit = (uint64_t)w->grid->unit_masks * w->grid->unit_examples; /* an upper bound, from 32-bit numbers */
    if (!size_mul(w->shape.examples, CHUNK_MASKS, &row) || !size_mul(row, w->grid->outputs, &band) ||
        !size_mul(unit, w->grid->outputs, &unit))
        return status_set(COAR_ERROR_MEMORY, "%s: outputs of %" PRIu64 " examples are too many", w->stage->store->path,
                          w->shape.examples);
    TRY(memory_new(band, sizeof *w->band, "band of outputs", &w->band));
    if (w->shape.half) TRY(memory_new(row, sizeof *w->half_band, "band of outputs", &w->half_band));
    TRY(memory_new(unit, sizeof *w->payload, "work unit", &w->payload));
    TRY(memory_new(w->shape.units, 1, "flags of units", &w->done));
    TRY(memory_new(w->grid->outputs, sizeof *w->outputs, "outputs", &w->outputs));
    for (size_t o = 0; o < w->grid->outputs; o++) w->outputs[o] = H5I_INVALID_HID;
    return COAR_OK;
}

static coar_status read_old(part_writer *w) {
    if (!w->old_path) return COAR_OK;
    TRY(part_open(w->old_path, &w->old, &w->old_shape));
    if (!w->old_shape.first_mask && w->old_shape.examples == w->shape.examples && w->old_shape.masks < w->shape.masks)
        return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "%s: is not of this run's examples; remove it to compute it again",
                      w->old_path);
}

/* Writes the whole part under its final name, or nothing. */
static coar_status write_part(part_writer *w, const char *path) {
    coar_status status = COAR_OK;
    char *temporary = file_temporary(path);
    w->file = w->old = w->half = H5I_INVALID_HID;
    if (!temporary) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
    w->temporary = temporary;
    h5_lock();
    part_units(&w->shape);
    TRY_GOTO(allocate(w));
    TRY_GOTO(read_old(w));
    H5_TRY(w->half = part_half_type(), temporary, "");
    TRY_GOTO(h5_create(temporary, &w->file));
    TRY_GOTO(write_attributes(w));
    TRY_GOTO(create_outputs(w));
    TRY_GOTO(write_bands(w));
    TRY_GOTO(write_rest(w));
    for (size_t o = 0; o < w->grid->outputs; o++) h5_close(&w->outputs[o]);
    TRY_GOTO(h5_finish(&w->file, temporary));
    TRY_GOTO(file_commit(temporary, path));
done:
    for (size_t o = 0; w->outputs && o < w->grid->outputs; o++) h5_close(&w->outputs[o]);
    h5_close(&w->half);
    h5_close(&w->old);
    h5_close(&w->file);
    h5_unlock();
    if (status != COAR_OK) unlink(temporary);
    free(w->outputs);
    free(w->done);
    free(w->payload);
    free(w->half_band);
    free(w->band);
    free(temporary);
    return status;
}

/* --------------------------------------------------------------------------------------------- finishing */

/* The new part's shape and everything the stage, the tables and the folder must agree on. */
static coar_status check_grid(const part_writer *w) {
    const unit_grid *g = w->grid;
    const char *run = w->stage->store->path;
    if (!g->unit_masks || !g->unit_examples || !g->outputs || unit_grid_units(g) != w->stage->options.units)
        return status_set(COAR_ERROR_INTERNAL, "%s: stage %s and its unit grid disagree", run, w->stage->name);
    if (g->outputs != w->tables->output_count || g->examples != w->tables->examples)
        return status_set(COAR_ERROR_INTERNAL, "%s: stage %s and the tables disagree", run, w->stage->name);
    return COAR_OK;
}

static coar_status check_parts(run_store *store, bool half) {
    coar_status status = COAR_OK;
    mask_part *parts = NULL;
    size_t count = 0;
    part_shape shape;
    hid_t file = H5I_INVALID_HID;
    char *path = NULL;
    TRY_GOTO(folder_mask_parts(store, &parts, &count));
    if (count >= PARTS_MAX)
        status = status_set(COAR_ERROR_INPUT, "%s: has been extended %d times; merge it, or begin a new run",
                            store->path, PARTS_MAX);
    if (status != COAR_OK || !count) goto done;
    if (!(path = folder_path(store, parts[0].name))) {
        status = COAR_ERROR_MEMORY;
        goto done;
    }
    h5_lock();
    status = part_open(path, &file, &shape);
    h5_close(&file);
    h5_unlock();
    if (status == COAR_OK && shape.half != half)
        status = status_set(COAR_ERROR_MISMATCH, "%s: --store is %s, the run began with %s", store->path,
                            half ? "f16" : "f32", half ? "f32" : "f16");
done:
    free(path);
    free(parts);
    return status;
}

/* A part goes on where the finished masks end; a truth part may also be made again from mask 0. */
static coar_status check_beginning(const part_writer *w, uint64_t finished) {
    const uint64_t first = w->grid->first_mask;
    if (first == finished || (w->group && first == 0)) return COAR_OK;
    return status_set(COAR_ERROR_BUSY,
                      "%s: another process has finished masks up to %" PRIu64 " meanwhile: give the same command again",
                      w->stage->store->path, finished);
}

/* Name and shape of the part that takes in the stage's units. */
static coar_status begin_part(part_writer *w, uint64_t finished, bool half, char name[128]) {
    const unit_grid *g = w->grid;
    TRY(check_grid(w));
    w->shape = (part_shape){.first_mask = w->group ? 0 : finished,
                            .masks = w->group ? g->masks : g->masks - finished,
                            .examples = g->examples,
                            .unit_masks = g->unit_masks,
                            .unit_examples = g->unit_examples,
                            .half = half};
    if (w->group) {
        snprintf(name, 128, "%s.h5", w->stage->name);
        return COAR_OK;
    }
    snprintf(name, 128, "outputs-%" PRIu64 "-%" PRIu64 ".h5", finished, g->masks - 1);
    return check_parts(w->stage->store, half);
}

static coar_status write_units(part_writer *w, uint64_t finished, bool half) {
    coar_status status = COAR_OK;
    run_tables tables = {.groups = NULL};
    char name[128], *path = NULL;
    TRY_GOTO(store_read_tables(w->stage->store, &tables, NULL));
    w->tables = &tables;
    TRY_GOTO(begin_part(w, finished, half, name));
    path = folder_path(w->stage->store, name);
    if (!path) TRY_GOTO(COAR_ERROR_MEMORY);
    if (w->group && finished) w->old_path = path;
    TRY_GOTO(write_part(w, path));
done:
    free(path);
    run_tables_free(&tables);
    return status;
}

/* What both kinds of part have in common, under the folder's lock. Of *w: stage, grid, group and masks. */
static coar_status finish(part_writer *w, bool half) {
    store_stage *stage = w->stage;
    uint64_t finished;
    TRY(stage_masks_finished(stage->store, stage->name, &finished));
    if (finished < w->grid->masks) {
        TRY(check_beginning(w, finished));
        TRY(stage_refresh(stage));
        if (stage->done < stage->options.units) return COAR_OK; /* other shards owe some */
        TRY(write_units(w, finished, half));
    }
    TRY(index_refresh(stage->store));
    stage_remove_journals(stage);
    return COAR_OK;
}

coar_status store_finish_outputs(run_store *store, store_stage *stage, const unit_grid *grid, bool f16,
                                 const uint8_t *store_masks) {
    part_writer w = {.stage = stage, .grid = grid, .masks = store_masks};
    TRY(folder_lock(store));
    coar_status status = finish(&w, f16);
    folder_unlock(store);
    return status;
}

coar_status store_finish_truth(run_store *store, store_stage *stage, const unit_grid *grid) {
    char group[128];
    double alpha;
    uint64_t seed;
    part_writer w = {.stage = stage, .grid = grid, .group = group};
    TRY(truth_group(stage->name, group, &alpha, &seed));
    TRY(folder_lock(store));
    coar_status status = finish(&w, false);
    folder_unlock(store);
    return status;
}
