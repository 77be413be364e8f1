/* files.c - see files.h. */
#include "core/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/memory.h"

coar_status file_map_open(const char *path, file_map *out) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot open", path);
    struct stat information;
    coar_status status = COAR_OK;
    if (fstat(file, &information)) {
        status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot read", path);
    } else if (!S_ISREG(information.st_mode)) {
        status = status_set(COAR_ERROR_INPUT, "%s: not a regular file", path);
    } else if (information.st_size == 0) {
        *out = (file_map){NULL, 0};
    } else {
        void *data = mmap(NULL, (size_t)information.st_size, PROT_READ, MAP_PRIVATE, file, 0);
        if (data == MAP_FAILED)
            status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot map", path);
        else
            *out = (file_map){data, (size_t)information.st_size};
    }
    close(file);
    return status;
}

void file_map_close(file_map *map) {
    if (map->data) munmap((void *)map->data, map->size);
    *map = (file_map){NULL, 0};
}

void file_map_release(const file_map *map, const void *data, size_t size) {
    if (!map->data) return;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), offset = (size_t)((const uint8_t *)data - map->data);
    const size_t start = offset / page * page;
    madvise((void *)(map->data + start), offset + size - start, MADV_DONTNEED); /* a refusal costs memory alone */
}

bool file_exists(const char *path) {
    struct stat information;
    return lstat(path, &information) == 0;
}

bool file_same(const char *a, const char *b) {
    struct stat first, second;
    return !stat(a, &first) && !stat(b, &second) && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

coar_status file_check_distinct(const char *output, const char *input) {
    if (!input || !file_same(output, input)) return COAR_OK;
    return status_set(COAR_ERROR_USAGE, "-o %s: is the input %s: give another -o", output, input);
}

coar_status file_check_place(const char *path) {
    struct stat information;
    if (!stat(path, &information) && S_ISDIR(information.st_mode))
        return status_set(COAR_ERROR_USAGE, "%s: is a folder; name a file", path);
    char *folder = path_folder(path);
    if (!folder) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
    coar_status status = COAR_OK;
    if (access(folder, W_OK | X_OK))
        status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write into folder %s", path, folder);
    free(folder);
    return status;
}

coar_status file_check_output(const char *path, int force) {
    coar_status status = COAR_OK;
    char *parts = string_format("%s.parts", path);
    if (!parts) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
    if (file_exists(parts))
        status = status_set(COAR_ERROR_EXISTS, "%s: belongs to the run in %s: give another -o", path, parts);
    free(parts);
    if (status == COAR_OK) status = file_check_place(path);
    if (status == COAR_OK && !force && file_exists(path))
        status = status_set(COAR_ERROR_EXISTS, "%s: exists already; give --force to replace it", path);
    return status;
}

char *file_temporary(const char *path) {
    return string_format("%s.tmp.%ld", path, (long)getpid());
}

static coar_status sync_path(const char *path, int flags) {
    int file = open(path, flags | O_CLOEXEC);
    if (file < 0) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot open", path);
    /* EINVAL: a file system that cannot sync a folder (some network ones) */
    int failed = fsync(file) && errno != EINVAL;
    int error = errno;
    close(file);
    return failed ? status_set_errno(COAR_ERROR_IO, error, "%s: cannot sync to disk", path) : COAR_OK;
}

coar_status file_commit(const char *temporary, const char *path) {
    coar_status status = sync_path(temporary, O_RDONLY);
    if (status == COAR_OK && rename(temporary, path))
        status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot rename %s to it", path, temporary);
    if (status != COAR_OK) {
        unlink(temporary);
        return status;
    }
    char *folder = path_folder(path);
    if (!folder) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
    status = sync_path(folder, O_RDONLY | O_DIRECTORY);
    free(folder);
    return status;
}

static coar_status write_all(const char *path, const void *data, size_t size) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot create", path);
    const char *next = data;
    coar_status status = COAR_OK;
    while (size && status == COAR_OK) {
        ssize_t written = write(file, next, size < ((size_t)1 << 30) ? size : (size_t)1 << 30);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0)
            status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write", path);
        else
            next += written, size -= (size_t)written;
    }
    if (close(file) && status == COAR_OK) status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write", path);
    return status;
}

coar_status file_write(const char *path, const void *data, size_t size) {
    char *temporary = file_temporary(path);
    if (!temporary) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
    coar_status status = write_all(temporary, data, size);
    if (status == COAR_OK)
        status = file_commit(temporary, path);
    else
        unlink(temporary);
    free(temporary);
    return status;
}

static void digest_hex(const unsigned char digest[32], char hex[65]) {
    for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

void sha256_hex(const void *data, size_t size, char hex[65]) {
    unsigned char digest[32];
    EVP_Digest(data, size, digest, NULL, EVP_sha256(), NULL);
    digest_hex(digest, hex);
}

coar_status file_map_sha256(const file_map *map, char hex[65]) {
    const size_t part = (size_t)1 << 24;
    unsigned char digest[32];
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (!context || !EVP_DigestInit_ex(context, EVP_sha256(), NULL)) {
        EVP_MD_CTX_free(context);
        return status_set(COAR_ERROR_MEMORY, "cannot start SHA-256");
    }
    for (size_t at = 0; at < map->size; at += part) {
        const size_t size = map->size - at < part ? map->size - at : part;
        EVP_DigestUpdate(context, map->data + at, size);
        file_map_release(map, map->data + at, size);
    }
    EVP_DigestFinal_ex(context, digest, NULL);
    EVP_MD_CTX_free(context);
    digest_hex(digest, hex);
    return COAR_OK;
}

coar_status file_sha256(const char *path, char hex[65]) {
    coar_status status = COAR_OK;
    char *buffer = NULL;
    EVP_MD_CTX *context = NULL;
    enum { BLOCK = 1 << 20 };
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot open", path);
    struct stat information;
    if (fstat(file, &information) || !S_ISREG(information.st_mode)) { /* a device has no end */
        close(file);
        return status_set(COAR_ERROR_INPUT, "%s: not a regular file", path);
    }
    TRY_GOTO(memory_new(BLOCK, 1, "hash buffer", &buffer));
    context = EVP_MD_CTX_new();
    if (!context || !EVP_DigestInit_ex(context, EVP_sha256(), NULL)) {
        status = status_set(COAR_ERROR_MEMORY, "%s: cannot start SHA-256", path);
        goto done;
    }
    for (;;) {
        ssize_t got = read(file, buffer, BLOCK);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot read", path);
            goto done;
        }
        if (got == 0) break;
        EVP_DigestUpdate(context, buffer, (size_t)got);
    }
    unsigned char digest[32];
    EVP_DigestFinal_ex(context, digest, NULL);
    digest_hex(digest, hex);
done:
    EVP_MD_CTX_free(context);
    free(buffer);
    close(file);
    return status;
}

static uint32_t crc32c_table[256];

static void make_crc32c_table(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0x82F63B78u & -(crc & 1));
        crc32c_table[byte] = crc;
    }
}

uint32_t crc32c(uint32_t crc, const void *data, size_t size) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_crc32c_table);
    const uint8_t *p = data;
    crc = ~crc;
    for (; size; size--, p++) crc = (crc >> 8) ^ crc32c_table[(crc ^ *p) & 255];
    return ~crc;
}

char *path_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return strdup(".");
    if (slash == path) return strdup("/");
    return strndup(path, (size_t)(slash - path));
}

/* Absolute path without links where it exists; a name that does not exist yet keeps its last part. */
static char *path_absolute(const char *path) {
    char *real = realpath(path, NULL);
    if (real) return real;
    char *folder = path_folder(path), *real_folder = folder ? realpath(folder, NULL) : NULL;
    const char *slash = strrchr(path, '/');
    char *result = string_format("%s/%s", real_folder ? real_folder : folder ? folder : ".", slash ? slash + 1 : path);
    free(real_folder);
    free(folder);
    return result;
}

char *path_relative(const char *path, const char *from_file) {
    char *target = path_absolute(path), *from = path_absolute(from_file), *result = NULL;
    if (!target || !from) goto done;
    size_t common = 0; /* length up to and including the last shared '/' */
    for (size_t i = 0; target[i] && target[i] == from[i]; i++)
        if (target[i] == '/') common = i + 1;
    size_t ups = 0;
    for (const char *p = from + common; *p; p++) ups += *p == '/';
    size_t size = 3 * ups + strlen(target + common) + 1;
    result = malloc(size);
    if (!result) goto done;
    char *end = result;
    for (; ups; ups--) end = stpcpy(end, "../");
    stpcpy(end, target + common);
done:
    free(from);
    free(target);
    return result;
}

char *path_resolve(const char *stored, const char *from_file) {
    if (stored[0] == '/') return strdup(stored);
    char *folder = path_folder(from_file);
    if (!folder) return NULL;
    char *result = string_format("%s/%s", folder, stored);
    free(folder);
    return result;
}
