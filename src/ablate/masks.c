/* masks.c - coar_masks: the training masks of a run as bool .npy, made again from its settings. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ablate/run_masks.h"
#include "core/memory.h"
#include "core/npy.h"

static coar_status write_rows(FILE *file, const char *path, const sampler *s, uint64_t m) {
    coar_status status = COAR_OK;
    uint8_t *bits = NULL, *row = NULL, *scratch = NULL;
    TRY_GOTO(memory_new(mask_bytes(s->n), 1, "mask", &bits));
    TRY_GOTO(memory_new(s->n, 1, "mask", &row));
    TRY_GOTO(memory_new(sampler_scratch(s) + 1, 1, "mask", &scratch));
    for (uint64_t i = 0; i < m; i++) {
        sampler_mask(s, i, bits, scratch);
        for (uint32_t k = 0; k < s->n; k++) row[k] = bits[k >> 3] >> (k & 7) & 1;
        if (fwrite(row, 1, s->n, file) != s->n)
            TRY_GOTO(status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write", path));
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
    FILE *file = NULL;
    char *temporary = file_temporary(path);
    if (!temporary) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path));
    if (!(file = fopen(temporary, "wb"))) TRY_GOTO(status_set_errno(COAR_ERROR_IO, errno, "%s: cannot create", path));
    TRY_GOTO(npy_header(NPY_BOOL, 2, shape, &header, &header_size));
    if (fwrite(header, 1, header_size, file) != header_size)
        TRY_GOTO(status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write", path));
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
    TRY_GOTO(file_check_distinct(output, run));
    TRY_GOTO(store_open(run, &store));
    TRY_GOTO(store_read_tables(store, &tables, NULL));
    TRY_GOTO(store_output_shape(store, &m, &examples));
    TRY_GOTO(run_masks_training(store, &tables, &group_first, &s));
    TRY_GOTO(write_masks(output, &s, m));
done:
    free(group_first);
    run_tables_free(&tables);
    store_close(store);
    return status;
}
