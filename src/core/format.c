/* format.c - see format.h. */
#include "core/format.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/h5.h"

/* An HDF5 file begins with this, unless a user block of 512, 1,024, ... bytes stands before it; coar writes none. */
bool format_is_hdf5(const void *head, size_t size) {
    static const char signature[8] = {'\x89', 'H', 'D', 'F', '\r', '\n', '\x1a', '\n'};
    return size >= sizeof signature && !memcmp(head, signature, sizeof signature);
}

/* The first bytes of a file, fewer when it is shorter. */
static coar_status read_head(const char *path, char *head, size_t size, size_t *got) {
    FILE *f = fopen(path, "rb");
    if (!f) return status_set_errno(COAR_ERROR_IO, errno, "%s", path);
    errno = 0;
    *got = fread(head, 1, size, f);
    coar_status status = ferror(f) ? status_set_errno(COAR_ERROR_IO, errno, "%s", path) : COAR_OK;
    fclose(f);
    return status;
}

static coar_status read_mark(const char *path, char format[FORMAT_SIZE]) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID;
    char *text = NULL;
    h5_lock();
    TRY_GOTO(h5_open(path, &file));
    if (h5_has_attribute(file, "format")) TRY_GOTO(h5_read_text(file, path, "format", &text));
    snprintf(format, FORMAT_SIZE, "%s", text ? text : "");
done:
    free(text);
    h5_close(&file);
    h5_unlock();
    return status;
}

coar_status format_of_file(const char *path, char format[FORMAT_SIZE]) {
    char head[9]; /* safetensors: 8 bytes of header length, then JSON */
    size_t got = 0;
    TRY(read_head(path, head, sizeof head, &got));
    if (format_is_hdf5(head, got)) return read_mark(path, format);
    if (got < sizeof head || head[8] != '{')
        return status_set(COAR_ERROR_INPUT, "%s: neither a safetensors nor an HDF5 file", path);
    strcpy(format, FORMAT_SAFETENSORS);
    return COAR_OK;
}
