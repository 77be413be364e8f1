/*
 * files.h - whole files: atomic replacement, mapping, paths, hashes.
 * Must not know: any format.
 */
#ifndef COAR_CORE_FILES_H
#define COAR_CORE_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

typedef struct file_map {
    const uint8_t *data; /* read-only mapping; NULL for an empty file */
    size_t size;
} file_map;

coar_status file_map_open(const char *path, file_map *out);
void file_map_close(file_map *map);

/* Gives the memory of the pages with data .. data + size - 1 back, which lie in the map; a later access reads them from the file
 * again. Nothing where there is no map. */
void file_map_release(const file_map *map, const void *data, size_t size);

/* sha256_hex of the whole map, of which no page stays in memory. */
coar_status file_map_sha256(const file_map *map, char hex[65]);

bool file_exists(const char *path);

/* Whether both paths lead to one existing file, by whatever names and links. */
bool file_same(const char *a, const char *b);

/* An error when `output` is the file `input` that it is to be made from, which --force must not replace. `input` may be NULL. */
coar_status file_check_distinct(const char *output, const char *input);

/* An error when `path` is a folder, or its folder does not exist or is not writable, so that a long job fails at its start. */
coar_status file_check_place(const char *path);

/* The same for a file that is written whole; an error naming --force when `path` exists and force is 0. What has a folder
 * PATH.parts beside it is a run's and never replaced. */
coar_status file_check_output(const char *path, int force);

/* Temporary name beside `path` ("PATH.tmp.PID", malloc'ed), for writing first and file_commit later. */
char *file_temporary(const char *path);

/* fsync(temporary), rename over `path`, fsync the folder. On failure the temporary is removed. */
coar_status file_commit(const char *temporary, const char *path);

/* Writes a whole file by way of file_temporary and file_commit. */
coar_status file_write(const char *path, const void *data, size_t size);

/* Lower-case hex SHA-256 of a file's bytes (by libcrypto). */
coar_status file_sha256(const char *path, char hex[65]);
void sha256_hex(const void *data, size_t size, char hex[65]);

/* CRC32C (Castagnoli, reflected 0x82F63B78). crc = 0 to begin. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

/* Folder of a path ("." when it has none), malloc'ed. */
char *path_folder(const char *path);
/* `path` expressed relative to the folder of `from_file` (both made absolute first), malloc'ed. */
char *path_relative(const char *path, const char *from_file);
/* Inverse: a stored relative path against the folder of `from_file`, malloc'ed. Absolute ones are kept. */
char *path_resolve(const char *stored, const char *from_file);

#endif
