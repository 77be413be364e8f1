/*
 * probe.c - what storing costs here: a temporary array stored as parts store theirs, and a temporary file synced as
 * journals are. For forecasts.
 * Must not know: what is stored.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "store/internal.h"

static coar_status write_probe(const char *path, hid_t type, hid_t memory_type, const hsize_t *dims, const void *data,
                               double *stored) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID, id = H5I_INVALID_HID;
    TRY_GOTO(h5_create(path, &file));
    TRY_GOTO(part_write_array(file, path, "/probe", type, memory_type, 2, dims, data));
    H5_TRY(id = H5Dopen2(file, "/probe", H5P_DEFAULT), path, "/probe");
    H5_TRY(H5Fflush(file, H5F_SCOPE_LOCAL), path, "");
    *stored = (double)H5Dget_storage_size(id);
done:
    h5_close(&id);
    if (status == COAR_OK) return h5_finish(&file, path);
    h5_close(&file);
    return status;
}

static coar_status read_probe(const char *path, hid_t memory_type, const hsize_t *dims, void *data) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID, id = H5I_INVALID_HID;
    TRY_GOTO(h5_open(path, &file));
    H5_TRY(id = H5Dopen2(file, "/probe", H5P_DEFAULT), path, "/probe");
    TRY_GOTO(part_read(id, path, "/probe", memory_type, 0, dims[0], 0, dims[1], data));
done:
    h5_close(&id);
    h5_close(&file);
    return status;
}

coar_status store_probe_array(const char *beside, bool doubles, uint64_t rows, uint64_t columns, const void *data,
                              store_probe *out) {
    coar_status status;
    const hsize_t dims[2] = {rows, columns};
    void *back = NULL;
    char *path = file_temporary(beside);
    if (!path) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", beside);
    h5_lock();
    const hid_t type = doubles ? H5T_IEEE_F64LE : H5T_IEEE_F32LE,
                native = doubles ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT;
    const double start = clock_seconds();
    TRY_GOTO(write_probe(path, type, native, dims, data, &out->stored));
    const double written = clock_seconds();
    TRY_GOTO(memory_new((size_t)(rows * columns), doubles ? sizeof(double) : sizeof(float), "a probe", &back));
    TRY_GOTO(read_probe(path, native, dims, back));
    out->write_seconds = written - start;
    out->read_seconds = clock_seconds() - written;
done:
    h5_unlock();
    unlink(path);
    free(back);
    free(path);
    return status;
}

coar_status store_probe_journal(const char *beside, const void *data, size_t bytes, double *seconds) {
    coar_status status = COAR_OK;
    journal_record record;
    uint64_t end = 0;
    char *path = file_temporary(beside);
    if (!path) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", beside);
    const int file = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (file < 0) TRY_GOTO(status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write", path));
    const double start = clock_seconds();
    TRY_GOTO(journal_append(file, path, &end, 0, UNIT_DONE, data, bytes, &record));
    *seconds = clock_seconds() - start;
done:
    if (file >= 0) {
        close(file);
        unlink(path);
    }
    free(path);
    return status;
}
