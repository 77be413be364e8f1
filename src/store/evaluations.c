/*
 * evaluations.c - predicted-aALPHA-sSEED-FIT.h5: what a fit predicts for the masks of a truth stage, and how well.
 * Must not know: how predictions or correlations are computed.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "store/internal.h"

#define PREDICTED_FORMAT "coar.predicted"
#define PREDICTED "predicted"
#define TRUTH "truth"

/* --------------------------------------------------------------------------------------------------- names */

void predicted_name(const char *truth_stage, const char *fit, char out[256]) {
    snprintf(out, 256, PREDICTED "%s-%s.h5", truth_stage + strlen(TRUTH), fit);
}

bool predicted_parse(const char *name, char truth_stage[NAME_SIZE], char fit[NAME_SIZE]) {
    const char *stage = name + strlen(PREDICTED), *end = name + strlen(name) - strlen(".h5");
    const char *seed = strstr(stage, "-s"); /* the first: no number has an s, a fit's name may */
    if (!seed) return false;
    const char *dash = seed + 2;
    while (isdigit((unsigned char)*dash)) dash++;
    size_t stage_length = strlen(TRUTH) + (size_t)(dash - stage);
    if (*dash != '-' || dash + 1 >= end || stage_length >= NAME_SIZE || end - dash > NAME_SIZE) return false;
    snprintf(truth_stage, NAME_SIZE, TRUTH "%.*s", (int)(dash - stage), stage);
    snprintf(fit, NAME_SIZE, "%.*s", (int)(end - dash - 1), dash + 1);
    char group[128];
    double alpha;
    uint64_t number;
    bool good = truth_group(truth_stage, group, &alpha, &number) == COAR_OK && name_check("fit", fit) == COAR_OK;
    if (!good) status_clear(); /* not one of ours */
    return good;
}

coar_status predicted_remove(const run_store *store, const char *fit) {
    coar_status status = COAR_OK;
    name_list list;
    char stage[NAME_SIZE], owner[NAME_SIZE];
    TRY(folder_list(store, PREDICTED "-a", ".h5", &list));
    for (size_t i = 0; i < list.count && status == COAR_OK; i++) {
        if (!predicted_parse(list.names[i], stage, owner) || strcmp(owner, fit)) continue;
        status = folder_remove(store, list.names[i]);
    }
    name_list_free(&list);
    return status;
}

/* ------------------------------------------------------------------------------------------------- writing */

/* What store_write_predicted is given. */
typedef struct predictions {
    char group[128];
    evaluation_info info;
    uint64_t examples;
    const float *predicted;           /* [masks][examples] */
    const double *pearson, *spearman; /* [examples] */
} predictions;

static coar_status write_file(const char *path, const void *context) {
    coar_status status = COAR_OK;
    const predictions *p = context;
    const evaluation_info *info = &p->info;
    const hsize_t dims[2] = {info->masks, p->examples};
    hid_t file = H5I_INVALID_HID;
    char name[256];
    TRY_GOTO(h5_create(path, &file));
    TRY_GOTO(h5_write_format(file, path, PREDICTED_FORMAT, RUN_VERSION_MAJOR, RUN_VERSION_MINOR));
    TRY_GOTO(h5_write_text(file, path, "output", info->output));
    TRY_GOTO(h5_write_unsigned(file, path, "masks", info->masks));
    snprintf(name, sizeof name, "%s/%s/%s/predicted", p->group, info->output, info->fit);
    TRY_GOTO(part_write_array(file, path, name, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 2, dims, p->predicted));
    snprintf(name, sizeof name, "%s/%s/%s/pearson", p->group, info->output, info->fit);
    TRY_GOTO(part_write_array(file, path, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 1, dims + 1, p->pearson));
    snprintf(name, sizeof name, "%s/%s/%s/spearman", p->group, info->output, info->fit);
    TRY_GOTO(part_write_array(file, path, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 1, dims + 1, p->spearman));
    TRY_GOTO(h5_finish(&file, path));
done:
    h5_close(&file);
    return status;
}

coar_status store_write_predicted(run_store *store, const char *truth_stage, const char *fit, const char *output,
                                  uint64_t masks, uint64_t examples, const float *predicted, const double *pearson,
                                  const double *spearman) {
    predictions p = {.info = {.masks = masks},
                     .examples = examples,
                     .predicted = predicted,
                     .pearson = pearson,
                     .spearman = spearman};
    char part[256];
    TRY(truth_group(truth_stage, p.group, &p.info.alpha, &p.info.seed));
    TRY(name_check("fit", fit));
    TRY(output_name_check(output));
    if (!masks || !examples || strlen(output) >= sizeof p.info.output)
        return status_set(COAR_ERROR_INTERNAL, "%s: predictions of %s are out of range", store->path, fit);
    snprintf(p.info.fit, sizeof p.info.fit, "%s", fit);
    snprintf(p.info.output, sizeof p.info.output, "%s", output);
    predicted_name(truth_stage, fit, part);
    TRY(folder_lock(store));
    const coar_status status = folder_put(store, part, write_file, &p);
    folder_unlock(store);
    return status;
}

/* ------------------------------------------------------------------------------------------------- reading */

static coar_status open_part(const run_store *store, const char *part, char **path, hid_t *file) {
    if (!(*path = folder_path(store, part))) return COAR_ERROR_MEMORY;
    TRY(h5_open(*path, file));
    return h5_check_format(*file, *path, PREDICTED_FORMAT, RUN_VERSION_MAJOR);
}

static coar_status read_info(const run_store *store, const char *part, evaluation_info *info) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID;
    char group[128], *path = NULL, *output = NULL;
    TRY(truth_group(info->truth_stage, group, &info->alpha, &info->seed));
    h5_lock();
    TRY_GOTO(open_part(store, part, &path, &file));
    TRY_GOTO(h5_read_text(file, path, "output", &output));
    TRY_GOTO(h5_read_unsigned(file, path, "masks", &info->masks));
    if (strlen(output) >= sizeof info->output || output_name_check(output) != COAR_OK) {
        status_clear();
        status = status_set(COAR_ERROR_INPUT, "%s: attribute 'output' names no output", path);
        goto done;
    }
    snprintf(info->output, sizeof info->output, "%s", output);
done:
    free(output);
    h5_close(&file);
    h5_unlock();
    free(path);
    return status;
}

coar_status store_list_evaluations(run_store *store, evaluation_info **out, size_t *out_count) {
    coar_status status = COAR_OK;
    name_list names;
    evaluation_info *list = NULL;
    size_t count = 0;
    TRY(folder_list(store, PREDICTED "-a", ".h5", &names));
    TRY_GOTO(memory_new(names.count, sizeof *list, "list of evaluations", &list));
    for (size_t i = 0; i < names.count; i++) {
        if (!predicted_parse(names.names[i], list[count].truth_stage, list[count].fit)) continue;
        TRY_GOTO(read_info(store, names.names[i], &list[count]));
        count++;
    }
    *out = list;
    *out_count = count;
    list = NULL;
done:
    free(list);
    name_list_free(&names);
    return status;
}

static coar_status read_object(hid_t file, const char *path, const char *group, const evaluation_info *info,
                               const char *leaf, uint64_t examples, hid_t memory_type, void *out) {
    coar_status status = COAR_OK;
    hid_t id = H5I_INVALID_HID;
    hsize_t dims[2] = {0, 0};
    char name[256];
    bool matrix = !strcmp(leaf, "predicted");
    snprintf(name, sizeof name, "%s/%s/%s/%s", group, info->output, info->fit, leaf);
    TRY_GOTO(h5_open_dataset(file, path, name, matrix ? 2 : 1, H5T_FLOAT, dims, &id));
    if (dims[matrix] != examples || (matrix && dims[0] != info->masks)) {
        status = status_set(COAR_ERROR_INPUT, "%s: '%s' has the wrong shape", path, name);
        goto done;
    }
    TRY_GOTO(part_read(id, path, name, memory_type, 0, dims[0], 0, dims[1], out));
done:
    h5_close(&id);
    return status;
}

coar_status store_read_evaluation(run_store *store, const evaluation_info *info, float *truth, float *predicted,
                                  double *pearson, double *spearman) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID;
    run_tables tables = {.groups = NULL};
    char group[128], part[256], *path = NULL;
    double alpha;
    uint64_t seed;
    TRY(truth_group(info->truth_stage, group, &alpha, &seed));
    TRY(store_read_tables(store, &tables, NULL));
    uint64_t N = tables.examples;
    run_tables_free(&tables);
    if (truth) TRY(store_read_truth(store, info->truth_stage, info->output, info->masks, truth));
    predicted_name(info->truth_stage, info->fit, part);
    h5_lock();
    TRY_GOTO(open_part(store, part, &path, &file));
    if (predicted) TRY_GOTO(read_object(file, path, group, info, "predicted", N, H5T_NATIVE_FLOAT, predicted));
    if (pearson) TRY_GOTO(read_object(file, path, group, info, "pearson", N, H5T_NATIVE_DOUBLE, pearson));
    if (spearman) TRY_GOTO(read_object(file, path, group, info, "spearman", N, H5T_NATIVE_DOUBLE, spearman));
done:
    h5_close(&file);
    h5_unlock();
    free(path);
    return status;
}
