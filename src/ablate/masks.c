/* masks.c - coar_masks: the training masks of a run as bool .npy, made again from its settings. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ablate/job.h"
#include "core/npy.h"

coar_status run_training_sampler(run_store *store, const run_tables *tables, uint32_t **group_first, sampler *out) {
    const char *name = store_setting(store, "sampler");
    *out = (sampler){.n = tables->components, .rows = tables->given_masks, .rows_count = tables->given_count};
    TRY(setting_integer(store, "seed", &out->seed));
    TRY(setting_real(store, "alpha", &out->alpha));
    TRY(sampler_from_name(name ? name : "", &out->kind));
    TRY(group_starts(tables->groups, tables->group_count, tables->components, group_first));
    out->group_first = *group_first;
    out->groups = (uint32_t)tables->group_count;
    return COAR_OK;
}

static coar_status write_rows(FILE *file, const char *path, const sampler *s, uint64_t m) {
    coar_status status = COAR_OK;
    uint8_t *bits = NULL, *row = NULL, *scratch = NULL;
    TRY_GOTO(memory_new(mask_bytes(s->n), 1, "mask", &bits));
    TRY_GOTO(memory_new(s->n, 1, "mask", &row));
    TRY_GOTO(memory_new(sampler_scratch(s) + 1, 1, "mask", &scratch));
    for (uint64_t i = 0; i < m; i++) {
        sampler_mask(s, i, bits, scratch);
        for (uint32_t k = 0; k < s->n; k++) row[k] = bits[k >> 3] >> (k & 7) & 1;
        if (fwrite(row, 1, s->n, file) != s->n) {
            status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write", path);
            goto done;
        }
    }
done:
    free(scratch);
    free(row);
    free(bits);
    return status;
}

static coar_status write_masks(const char *path, const sampler *s, uint64_t m) {
    coar_status status = COAR_OK;
    uint8_t *header = NULL;
    size_t header_size;
    const size_t shape[2] = {(size_t)m, s->n};
    char *temporary = file_temporary(path);
    FILE *file = temporary ? fopen(temporary, "wb") : NULL;
    if (!file) {
        status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot create", path);
        goto done;
    }
    TRY_GOTO(npy_header(NPY_BOOL, 2, shape, &header, &header_size));
    if (fwrite(header, 1, header_size, file) != header_size) {
        status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write", path);
        goto done;
    }
    TRY_GOTO(write_rows(file, path, s, m));
done:
    if (file && fclose(file) && status == COAR_OK)
        status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write", path);
    if (status == COAR_OK)
        status = file_commit(temporary, path);
    else if (file)
        unlink(temporary);
    free(header);
    free(temporary);
    return status;
}

coar_status coar_masks(const char *run, const char *output, int force) {
    status_clear();
    coar_status status;
    run_store *store = NULL;
    run_tables tables = {0};
    uint32_t *group_first = NULL;
    sampler s;
    uint64_t m, examples;
    if (!run || !output) TRY_GOTO(status_set(COAR_ERROR_USAGE, "masks: give a run file and -o"));
    TRY_GOTO(file_check_output(output, force));
    TRY_GOTO(store_open(run, &store));
    TRY_GOTO(store_read_tables(store, &tables, NULL));
    TRY_GOTO(store_output_shape(store, &m, &examples));
    TRY_GOTO(run_training_sampler(store, &tables, &group_first, &s));
    TRY_GOTO(write_masks(output, &s, m));
done:
    free(group_first);
    run_tables_free(&tables);
    store_close(store);
    return status;
}
