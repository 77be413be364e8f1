/*
 * merge.c - one plain file from a run (`coar merge`): the index's contents with every link replaced by the data.
 *
 * Chunks are copied as they are stored, compressed, where a chunk of the merged matrix is one chunk of a part; only
 * where parts meet inside a chunk are rows decoded and written again. Raw copies bypass HDF5's filters, so their
 * checksums are checked here: a damaged chunk must not travel on in silence.
 * Must not know: what the objects mean.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "store/internal.h"

/* -------------------------------------------------------------------------------------------- raw chunks */

typedef struct chunk_buffer {
    uint8_t *bytes;
    size_t capacity;
    hsize_t size; /* of the chunk in it */
    uint32_t filter_mask;
} chunk_buffer;

/* Fletcher's checksum as HDF5 stores it: 16-bit big-endian words, sums modulo 65535, an odd byte is a high byte. */
static uint32_t fletcher32(const uint8_t *data, size_t size) {
    uint64_t a = 0, b = 0;
    for (size_t i = 0; i < size; i += 2) {
        a = (a + (uint64_t)data[i] * 256 + (i + 1 < size ? data[i + 1] : 0)) % 65535;
        b = (b + a) % 65535;
    }
    return (uint32_t)(b << 16 | a);
}

/* HDF5 folds its sums into 16 bits and may end at 65535 where a remainder is 0: both stand for the same class. */
static bool same_checksum(uint32_t a, uint32_t b) {
    return (a & 0xFFFF) % 65535 == (b & 0xFFFF) % 65535 && (a >> 16) % 65535 == (b >> 16) % 65535;
}

/* Reads the stored bytes of one chunk and checks the checksum behind them (always the last filter, arrays.c). */
static coar_status read_chunk(hid_t id, const char *path, const char *name, const hsize_t *offset,
                              chunk_buffer *chunk) {
    coar_status status = COAR_OK;
    H5_TRY(H5Dget_chunk_storage_size(id, offset, &chunk->size), path, name);
    if (chunk->size > (hsize_t)1 << 32) {
        status = status_set(COAR_ERROR_INPUT, "%s: '%s' has a chunk of impossible size", path, name);
        goto done;
    }
    TRY_GOTO(memory_grow(&chunk->bytes, &chunk->capacity, chunk->size, 1, "chunk"));
    H5_TRY(H5Dread_chunk(id, H5P_DEFAULT, offset, &chunk->filter_mask, chunk->bytes), path, name);
    uint32_t stored = 0;
    for (int i = 0; i < 4 && chunk->size >= 4; i++) stored |= (uint32_t)chunk->bytes[chunk->size - 4 + i] << (8 * i);
    if (chunk->size < 4 || !same_checksum(stored, fletcher32(chunk->bytes, chunk->size - 4)))
        status = status_set(COAR_ERROR_INPUT,
                            "%s: '%s' has a damaged chunk (wrong checksum): put a copy of the file back", path, name);
done:
    return status;
}

/* The chunk shape; false when the data set is not chunked with a checksum as its last filter. */
static bool checked_chunks(hid_t id, int rank, hsize_t *chunk) {
    hid_t creation = H5Dget_create_plist(id);
    int filters = creation >= 0 && H5Pget_layout(creation) == H5D_CHUNKED ? H5Pget_nfilters(creation) : 0;
    unsigned flags;
    size_t values = 0;
    bool checked =
        filters > 0 && H5Pget_chunk(creation, rank, chunk) == rank &&
        H5Pget_filter2(creation, (unsigned)filters - 1, &flags, &values, NULL, 0, NULL, NULL) == H5Z_FILTER_FLETCHER32;
    h5_close(&creation);
    return checked;
}

/* --------------------------------------------------------------------------------------------- matrices */

typedef struct matrix_copy {
    index_sink *sink;
    const char *name;
    const mask_part *parts;
    size_t count;
    hid_t type, out;
    hsize_t dims[2], chunk[2];
    size_t open; /* index of the part that is open; count = none */
    hid_t file, in;
    char *path;
    hsize_t in_chunk[2];
    bool in_checked;
    chunk_buffer buffer;
    void *rows; /* [chunk[0]][dims[1]] in the file's type */
} matrix_copy;

static coar_status open_part(matrix_copy *c, size_t index) {
    coar_status status = COAR_OK;
    hsize_t dims[2];
    hid_t type = H5I_INVALID_HID;
    bool masks = !strcmp(c->name, "/ablations/masks");
    if (c->open == index) return COAR_OK;
    h5_close(&c->in);
    h5_close(&c->file);
    free(c->path);
    c->open = c->count;
    if (!(c->path = folder_path(c->sink->store, c->parts[index].name))) return COAR_ERROR_MEMORY;
    TRY_GOTO(h5_open(c->path, &c->file));
    TRY_GOTO(h5_open_dataset(c->file, c->path, c->name, 2, masks ? H5T_INTEGER : H5T_FLOAT, dims, &c->in));
    H5_TRY(type = H5Dget_type(c->in), c->path, c->name);
    if (c->type < 0) { /* the first part decides */
        c->type = type;
        type = H5I_INVALID_HID;
        c->dims[1] = dims[1];
    }
    if (dims[0] != c->parts[index].count || dims[1] != c->dims[1] || (type >= 0 && H5Tequal(type, c->type) <= 0)) {
        status = status_set(COAR_ERROR_INPUT, "%s: '%s' does not fit the parts before it", c->path, c->name);
        goto done;
    }
    c->in_checked = checked_chunks(c->in, 2, c->in_chunk);
    c->open = index;
done:
    h5_close(&type);
    return status;
}

/* One band of the merged matrix that is a row of chunks of the open part. */
static coar_status copy_chunks(matrix_copy *c, hsize_t first) {
    coar_status status = COAR_OK;
    for (hsize_t column = 0; column < c->dims[1]; column += c->chunk[1]) {
        hsize_t from[2] = {first - c->parts[c->open].first, column}, to[2] = {first, column};
        TRY_GOTO(read_chunk(c->in, c->path, c->name, from, &c->buffer));
        H5_TRY(H5Dwrite_chunk(c->out, H5P_DEFAULT, c->buffer.filter_mask, to, c->buffer.size, c->buffer.bytes),
               c->sink->path, c->name);
    }
done:
    return status;
}

/* A band that is cut differently in the parts: its rows decoded from one or more of them. */
static coar_status copy_rows(matrix_copy *c, hsize_t first, hsize_t count) {
    coar_status status = COAR_OK;
    hid_t space = H5I_INVALID_HID, memory = H5I_INVALID_HID;
    hsize_t start[2] = {first, 0}, size[2] = {count, c->dims[1]};
    size_t row_bytes = H5Tget_size(c->type) * c->dims[1];
    for (size_t i = 0; i < c->count; i++) {
        const mask_part *p = &c->parts[i];
        hsize_t from = p->first > first ? p->first : first;
        hsize_t to = p->first + p->count < first + count ? p->first + p->count : first + count;
        if (from >= to) continue;
        TRY_GOTO(open_part(c, i));
        TRY_GOTO(part_read(c->in, c->path, c->name, c->type, from - p->first, to - from, 0, c->dims[1],
                           (char *)c->rows + (from - first) * row_bytes));
    }
    H5_TRY(space = H5Dget_space(c->out), c->sink->path, c->name);
    H5_TRY(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, size, NULL), c->sink->path, c->name);
    H5_TRY(memory = H5Screate_simple(2, size, NULL), c->sink->path, c->name);
    H5_TRY(H5Dwrite(c->out, c->type, memory, space, H5P_DEFAULT, c->rows), c->sink->path, c->name);
done:
    h5_close(&memory);
    h5_close(&space);
    return status;
}

static coar_status copy_band(matrix_copy *c, hsize_t first, hsize_t count) {
    size_t i = 0;
    while (c->parts[i].first + c->parts[i].count <= first) i++;
    const mask_part *p = &c->parts[i];
    TRY(open_part(c, i));
    bool whole = p->first <= first && first + count <= p->first + p->count && (first - p->first) % c->chunk[0] == 0;
    if (whole && c->in_checked && c->in_chunk[0] == c->chunk[0] && c->in_chunk[1] == c->chunk[1])
        return copy_chunks(c, first);
    return copy_rows(c, first, count);
}

static coar_status report(index_sink *sink, uint64_t bytes) {
    progress *p = sink->progress;
    TRY(h5_check_writes(sink->file, sink->path));
    uint64_t done = p->done + bytes < p->total ? p->done + bytes : p->total;
    if (!progress_update(p, done)) return COAR_OK;
    return status_set(COAR_STOPPED, "%s: merge stopped, nothing was written", sink->final);
}

static coar_status copy_matrix(index_sink *sink, const char *name, const mask_part *parts, size_t count) {
    coar_status status = COAR_OK;
    size_t band;
    matrix_copy c = {.sink = sink, .name = name, .parts = parts, .count = count, .open = count};
    c.type = c.out = c.file = c.in = H5I_INVALID_HID;
    c.dims[0] = parts[count - 1].first + parts[count - 1].count;
    TRY_GOTO(open_part(&c, 0));
    c.chunk[0] = c.dims[0] < CHUNK_MASKS ? c.dims[0] : CHUNK_MASKS;
    c.chunk[1] = c.dims[1] < CHUNK_EXAMPLES ? c.dims[1] : CHUNK_EXAMPLES;
    if (!size_mul(c.chunk[0], c.dims[1], &band)) band = SIZE_MAX; /* memory_new says so */
    TRY_GOTO(memory_new(band, H5Tget_size(c.type), "rows", &c.rows));
    TRY_GOTO(part_create_dataset(sink->file, sink->path, name, c.type, 2, c.dims, c.chunk, &c.out));
    for (hsize_t first = 0, rows; first < c.dims[0]; first += rows) {
        rows = c.dims[0] - first < c.chunk[0] ? c.dims[0] - first : c.chunk[0];
        TRY_GOTO(copy_band(&c, first, rows));
        TRY_GOTO(report(sink, rows * c.dims[1] * H5Tget_size(c.type)));
    }
done:
    h5_close(&c.out);
    h5_close(&c.in);
    h5_close(&c.file);
    h5_close(&c.type);
    free(c.buffer.bytes);
    free(c.rows);
    free(c.path);
    return status;
}

/* ---------------------------------------------------------------------------------------------- objects */

typedef struct verify_context {
    const char *path;
    chunk_buffer buffer;
    coar_status status;
} verify_context;

/* Checks every chunk of one data set. */
static herr_t verify(hid_t object, const char *name, const H5O_info_t *info, void *data) {
    verify_context *context = data;
    coar_status status = COAR_OK;
    hid_t id = H5I_INVALID_HID, space = H5I_INVALID_HID;
    hsize_t chunk[H5S_MAX_RANK], offset[H5S_MAX_RANK], count, size;
    haddr_t address;
    unsigned mask;
    if (info->type != H5O_TYPE_DATASET) return 0;
    H5_TRY(id = H5Dopen2(object, name, H5P_DEFAULT), context->path, name);
    H5_TRY(space = H5Dget_space(id), context->path, name);
    if (!checked_chunks(id, H5Sget_simple_extent_ndims(space), chunk)) goto done;
    H5_TRY(H5Dget_num_chunks(id, space, &count), context->path, name);
    for (hsize_t i = 0; i < count; i++) {
        H5_TRY(H5Dget_chunk_info(id, space, i, offset, &mask, &address, &size), context->path, name);
        TRY_GOTO(read_chunk(id, context->path, name, offset, &context->buffer));
    }
done:
    h5_close(&space);
    h5_close(&id);
    context->status = status;
    return status == COAR_OK ? 0 : 1; /* 1: stop */
}

static coar_status copy_object(index_sink *sink, const char *part, const char *name) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID;
    struct stat information;
    char *path = folder_path(sink->store, part);
    verify_context context = {.path = path, .status = COAR_OK};
    if (!path) return COAR_ERROR_MEMORY;
    TRY_GOTO(h5_open(path, &file));
    if (!h5_has(file, name)) {
        status = status_set(COAR_ERROR_INPUT, "%s: '%s' is missing", path, name);
        goto done;
    }
    H5_TRY(H5Ovisit_by_name2(file, name, H5_INDEX_NAME, H5_ITER_INC, verify, &context, H5O_INFO_BASIC, H5P_DEFAULT),
           path, name);
    TRY_GOTO(context.status);
    TRY_GOTO(part_create_groups(sink->file, sink->path, name));
    H5_TRY(H5Ocopy(file, name, sink->file, name, H5P_DEFAULT, H5P_DEFAULT), sink->path, name);
    TRY_GOTO(report(sink, stat(path, &information) ? 0 : (uint64_t)information.st_size));
done:
    h5_close(&file);
    free(context.buffer.bytes);
    free(path);
    return status;
}

/* -------------------------------------------------------------------------------------------------- file */

static coar_status total_bytes(const run_store *store, uint64_t *total) {
    name_list list;
    *total = 0;
    TRY(folder_list(store, "", ".h5", &list));
    for (size_t i = 0; i < list.count; i++) {
        struct stat information;
        char *path = folder_path(store, list.names[i]);
        if (path && !stat(path, &information)) *total += (uint64_t)information.st_size;
        free(path);
    }
    name_list_free(&list);
    return COAR_OK;
}

static coar_status write_merged(run_store *store, const char *temporary, const char *output,
                                const coar_callbacks *callbacks) {
    coar_status status = COAR_OK;
    uint64_t total;
    progress p;
    index_sink sink = {.store = store,
                       .file = H5I_INVALID_HID,
                       .path = temporary,
                       .final = output,
                       .matrix = copy_matrix,
                       .object = copy_object,
                       .progress = &p};
    TRY_GOTO(total_bytes(store, &total));
    progress_begin(&p, callbacks, "merge", "bytes", 0, total);
    TRY_GOTO(h5_create(temporary, &sink.file));
    TRY_GOTO(index_write(&sink));
    TRY_GOTO(h5_finish(&sink.file, temporary));
    TRY_GOTO(file_commit(temporary, output));
    progress_update(&p, total);
done:
    h5_close(&sink.file);
    return status;
}

coar_status store_merge(run_store *store, const char *output, const coar_callbacks *callbacks) {
    uint64_t masks, examples;
    uint32_t passes;
    TRY(store_passes_finished(store, &passes));
    if (!passes) TRY(store_output_shape(store, &masks, &examples)); /* an unfinished run has nothing to publish */
    char *temporary = file_temporary(output);
    if (!temporary) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", output);
    coar_status status = folder_lock(store); /* no part is replaced meanwhile */
    if (status == COAR_OK) {
        h5_lock();
        status = write_merged(store, temporary, output, callbacks);
        h5_unlock();
        folder_unlock(store);
    }
    if (status != COAR_OK) unlink(temporary);
    free(temporary);
    return status;
}
