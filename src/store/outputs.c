/*
 * outputs.c - reading outputs and truth back from their parts, and how much of them is finished.
 * Parts are read one by one rather than through run.h5's virtual data sets: a missing one is an error here.
 * Must not know: how parts are written.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/memory.h"
#include "core/number.h"
#include "store/internal.h"

/* --------------------------------------------------------------------------------------- how much is there */

coar_status store_masks_finished(run_store *store, uint64_t *masks) {
    mask_part *parts = NULL;
    size_t count = 0;
    TRY(folder_mask_parts(store, &parts, &count));
    *masks = count ? parts[count - 1].first + parts[count - 1].count : 0;
    free(parts);
    return COAR_OK;
}

coar_status truth_group(const char *stage_name, char group[128], double *alpha, uint64_t *seed) {
    /* alpha may be 1e-05: the seed is behind the last "-s" */
    const char *tail = NULL;
    char *end_alpha = NULL, *end_seed = NULL;
    for (const char *p = stage_name; (p = strstr(p, "-s")); p += 2) tail = p;
    bool good = !strncmp(stage_name, "truth-a", 7) && tail && strlen(stage_name) < NAME_SIZE;
    if (good) {
        *alpha = number_parse(stage_name + 7, &end_alpha);
        *seed = strtoull(tail + 2, &end_seed, 10);
        good = end_alpha == tail && end_alpha > stage_name + 7 && tail[2] >= '0' && tail[2] <= '9' && !*end_seed;
    }
    if (!good)
        return status_set(COAR_ERROR_INTERNAL, "'%s' is not the name of a truth stage (truth-aALPHA-sSEED)",
                          stage_name);
    snprintf(group, 128, "/evaluation/%.*s_%s", (int)(tail - stage_name - 6), stage_name + 6, tail + 1);
    return COAR_OK;
}

coar_status store_truth_finished(run_store *store, const char *stage_name, uint64_t *masks) {
    coar_status status = COAR_OK;
    part_shape shape = {.masks = 0};
    hid_t file = H5I_INVALID_HID;
    char *path = NULL, name[NAME_SIZE + 8];
    TRY(name_check("stage", stage_name));
    snprintf(name, sizeof name, "%s.h5", stage_name);
    if (!(path = folder_path(store, name))) return COAR_ERROR_MEMORY;
    if (file_exists(path)) {
        h5_lock();
        status = part_open(path, &file, &shape);
        h5_close(&file);
        h5_unlock();
    }
    if (status == COAR_OK) *masks = shape.masks;
    free(path);
    return status;
}

bool store_has_truth(run_store *store, const char *stage_name, uint64_t masks) {
    uint64_t finished;
    if (store_truth_finished(store, stage_name, &finished) == COAR_OK) return finished >= masks && finished > 0;
    status_clear(); /* whoever goes on to make it meets the same error */
    return false;
}

coar_status stage_masks_finished(run_store *store, const char *name, uint64_t *masks) {
    if (!strncmp(name, ABLATE_STAGE, strlen(ABLATE_STAGE))) return store_masks_finished(store, masks);
    if (!strncmp(name, GRADIENTS_STAGE, strlen(GRADIENTS_STAGE))) {
        uint32_t passes;
        TRY(store_passes_finished(store, &passes));
        *masks = passes;
        return COAR_OK;
    }
    return store_truth_finished(store, name, masks);
}

/* --------------------------------------------------------------------------------------------- reading */

/* Opens /ablations/OUTPUT or .../truth of a part and checks its shape. */
static coar_status open_matrix(hid_t file, const char *path, const char *name, uint64_t masks, uint64_t examples,
                               hid_t *out) {
    hsize_t dims[2];
    hid_t id = H5I_INVALID_HID;
    TRY(h5_open_dataset(file, path, name, 2, H5T_FLOAT, dims, &id));
    if (dims[0] == masks && dims[1] == examples) {
        *out = id;
        return COAR_OK;
    }
    h5_close(&id);
    return status_set(COAR_ERROR_INPUT,
                      "%s: '%s' is [%" PRIu64 ", %" PRIu64 "], not the [%" PRIu64 ", %" PRIu64 "] it should be", path,
                      name, (uint64_t)dims[0], (uint64_t)dims[1], masks, examples);
}

static coar_status read_block(const char *path, const char *name, uint64_t first_mask, uint64_t masks, uint64_t row,
                              uint64_t row_count, uint64_t column, uint64_t column_count, float *out) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID, id = H5I_INVALID_HID;
    part_shape shape;
    h5_lock();
    TRY_GOTO(part_open(path, &file, &shape));
    if (shape.first_mask != first_mask || (masks && shape.masks != masks)) {
        status = status_set(COAR_ERROR_INPUT, "%s: holds other masks than its name says", path);
        goto done;
    }
    TRY_GOTO(open_matrix(file, path, name, shape.masks, shape.examples, &id));
    if (row + row_count > shape.masks || column + column_count > shape.examples) {
        status = status_set(COAR_ERROR_INPUT, "%s: holds [%" PRIu64 ", %" PRIu64 "] outputs, more were asked for", path,
                            shape.masks, shape.examples);
        goto done;
    }
    TRY_GOTO(part_read(id, path, name, H5T_NATIVE_FLOAT, row, row_count, column, column_count, out));
done:
    h5_close(&id);
    h5_close(&file);
    h5_unlock();
    return status;
}

coar_status store_output_shape(run_store *store, uint64_t *masks, uint64_t *examples) {
    coar_status status = COAR_OK;
    mask_part *parts = NULL;
    size_t count = 0;
    char *path = NULL;
    part_shape shape;
    hid_t file = H5I_INVALID_HID;
    TRY_GOTO(folder_mask_parts(store, &parts, &count));
    if (!count) {
        status = status_set(COAR_ERROR_INPUT,
                            "%s: its ablations are not finished: run `coar ablate` again with the same options",
                            store->path);
        goto done;
    }
    if (!(path = folder_path(store, parts[0].name))) {
        status = COAR_ERROR_MEMORY;
        goto done;
    }
    h5_lock();
    status = part_open(path, &file, &shape);
    h5_close(&file);
    h5_unlock();
    TRY_GOTO(status);
    *masks = parts[count - 1].first + parts[count - 1].count;
    *examples = shape.examples;
done:
    free(path);
    free(parts);
    return status;
}

coar_status store_read_outputs(run_store *store, const char *output, uint64_t mask_first, uint64_t mask_count,
                               uint64_t example_first, uint64_t example_count, float *out) {
    coar_status status = COAR_OK;
    mask_part *parts = NULL;
    size_t count = 0;
    char *path = NULL, name[128];
    TRY(output_name_check(output));
    snprintf(name, sizeof name, "/ablations/%s", output);
    TRY_GOTO(folder_mask_parts(store, &parts, &count));
    uint64_t end = mask_first + mask_count, there = count ? parts[count - 1].first + parts[count - 1].count : 0;
    if (end > there) {
        status = status_set(COAR_ERROR_INPUT,
                            "%s: %" PRIu64 " masks are finished, %" PRIu64 " are needed: run `coar ablate` again",
                            store->path, there, end);
        goto done;
    }
    for (size_t i = 0; i < count && example_count; i++) {
        const mask_part *p = &parts[i];
        uint64_t from = p->first > mask_first ? p->first : mask_first;
        uint64_t to = p->first + p->count < end ? p->first + p->count : end;
        if (from >= to) continue;
        free(path);
        if (!(path = folder_path(store, p->name))) {
            status = COAR_ERROR_MEMORY;
            goto done;
        }
        TRY_GOTO(read_block(path, name, p->first, p->count, from - p->first, to - from, example_first, example_count,
                            out + (from - mask_first) * example_count));
    }
done:
    free(path);
    free(parts);
    return status;
}

coar_status store_read_truth(run_store *store, const char *stage_name, const char *output, uint64_t mask_count,
                             float *out) {
    char group[128], name[256], file_name[NAME_SIZE + 8];
    double alpha;
    uint64_t seed, finished;
    part_shape shape;
    hid_t file = H5I_INVALID_HID;
    TRY(truth_group(stage_name, group, &alpha, &seed));
    TRY(output_name_check(output));
    TRY(store_truth_finished(store, stage_name, &finished));
    if (!finished || finished < mask_count)
        return status_set(COAR_ERROR_INPUT,
                          "%s: stage %s has %" PRIu64 " finished masks, %" PRIu64
                          " are needed: run `coar evaluate` again",
                          store->path, stage_name, finished, mask_count);
    snprintf(file_name, sizeof file_name, "%s.h5", stage_name);
    snprintf(name, sizeof name, "%s/%s/truth", group, output);
    char *path = folder_path(store, file_name);
    if (!path) return COAR_ERROR_MEMORY;
    h5_lock();
    coar_status status = part_open(path, &file, &shape);
    h5_close(&file);
    h5_unlock();
    if (status == COAR_OK) status = read_block(path, name, 0, 0, 0, mask_count, 0, shape.examples, out);
    free(path);
    return status;
}
