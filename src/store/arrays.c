/*
 * arrays.c - how arrays are stored in every part: chunks, filters, IEEE binary16, reading a block of one.
 * Must not know: which arrays there are.
 */
#include <stdio.h>
#include <string.h>

#include "store/internal.h"

#define DEFLATE_LEVEL 4        /* higher ones gain under 1 % on outputs and take twice as long */
#define CHUNK_BYTES (1u << 20) /* HDF5's default chunk cache holds one */

coar_status part_filters(hid_t properties, const char *path, int rank, const hsize_t *chunk) {
    coar_status status = COAR_OK;
    H5_TRY(H5Pset_chunk(properties, rank, chunk), path, "");
    H5_TRY(H5Pset_shuffle(properties), path, "");
    H5_TRY(H5Pset_deflate(properties, DEFLATE_LEVEL), path, "");
    H5_TRY(H5Pset_fletcher32(properties), path, "");
    H5_TRY(H5Pset_obj_track_times(properties, false), path, "");
done:
    return status;
}

coar_status part_create_groups(hid_t file, const char *path, const char *name) {
    coar_status status = COAR_OK;
    char group[256];
    hid_t creation = H5I_INVALID_HID, id = H5I_INVALID_HID;
    H5_TRY(creation = H5Pcreate(H5P_GROUP_CREATE), path, name);
    H5_TRY(H5Pset_obj_track_times(creation, false), path, name);
    for (const char *slash = strchr(name + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(group, sizeof group, "%.*s", (int)(slash - name), name);
        if (h5_has(file, group)) continue;
        H5_TRY(id = H5Gcreate2(file, group, H5P_DEFAULT, creation, H5P_DEFAULT), path, group);
        h5_close(&id);
    }
done:
    h5_close(&id);
    h5_close(&creation);
    return status;
}

coar_status part_create_dataset(hid_t file, const char *path, const char *name, hid_t type, int rank,
                                const hsize_t *dims, const hsize_t *chunk, hid_t *dataset) {
    coar_status status = COAR_OK;
    hid_t space = H5I_INVALID_HID, creation = H5I_INVALID_HID, id = H5I_INVALID_HID;
    TRY_GOTO(part_create_groups(file, path, name));
    H5_TRY(space = H5Screate_simple(rank, dims, NULL), path, name);
    H5_TRY(creation = H5Pcreate(H5P_DATASET_CREATE), path, name);
    TRY_GOTO(part_filters(creation, path, rank, chunk));
    H5_TRY(id = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT), path, name);
    *dataset = id;
done:
    h5_close(&creation);
    h5_close(&space);
    return status;
}

coar_status part_write_array(hid_t file, const char *path, const char *name, hid_t type, hid_t memory_type, int rank,
                             const hsize_t *dims, const void *data) {
    coar_status status = COAR_OK;
    hid_t id = H5I_INVALID_HID;
    hsize_t chunk[2] = {dims[0], rank > 1 ? dims[1] : 1};
    hsize_t room = CHUNK_BYTES / H5Tget_size(type); /* elements */
    if (chunk[1] > room) chunk[1] = room;
    if (chunk[0] > room / chunk[1]) chunk[0] = room / chunk[1];
    TRY_GOTO(part_create_dataset(file, path, name, type, rank, dims, chunk, &id));
    H5_TRY(H5Dwrite(id, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), path, name);
done:
    h5_close(&id);
    return status;
}

coar_status part_read(hid_t dataset, const char *path, const char *name, hid_t memory_type, uint64_t row,
                      uint64_t row_count, uint64_t column, uint64_t column_count, void *out) {
    coar_status status = COAR_OK;
    hid_t space = H5I_INVALID_HID, memory = H5I_INVALID_HID;
    int rank = column_count ? 2 : 1;
    hsize_t start[2] = {row, column}, count[2] = {row_count, column_count};
    if (!row_count) return COAR_OK;
    H5_TRY(space = H5Dget_space(dataset), path, name);
    H5_TRY(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL), path, name);
    H5_TRY(memory = H5Screate_simple(rank, count, NULL), path, name);
    H5_TRY(H5Dread(dataset, memory_type, memory, space, H5P_DEFAULT, out), path, name);
done:
    h5_close(&memory);
    h5_close(&space);
    return status;
}

hid_t part_half_type(void) {
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    /* sign bit 15, 5 exponent bits from 10, 10 mantissa bits from 0 */
    if (type >= 0 &&
        (H5Tset_fields(type, 15, 10, 5, 0, 10) < 0 || H5Tset_size(type, 2) < 0 || H5Tset_ebias(type, 15) < 0))
        h5_close(&type);
    return type;
}
