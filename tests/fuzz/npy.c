/* Fuzzes the .npy reader with headers that lie. What is accepted is read to its last element. */
#include "fuzz.h"

#include <fcntl.h>

#include "core/npy.h"

static char path[128];
static volatile double sum; /* so that no read is optimised away */

static void parse(const uint8_t *data, size_t size) {
    npy_array array;
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, data, size) != (ssize_t)size || close(file)) exit(2);
    status_clear();
    if (npy_open(path, &array) != COAR_OK) return;
    for (size_t i = 0; i < array.count; i++) sum += npy_get_double(&array, i);
    for (size_t i = 0; array.type < NPY_F16 && i < array.count; i++) sum += (double)npy_get_int(&array, i);
    npy_close(&array);
}

/* A version 1 file whose header is `dictionary`, followed by `bytes` counting bytes. */
static fuzz_seed file_of(const char *dictionary, size_t bytes) {
    size_t length = strlen(dictionary);
    uint8_t *data = malloc(10 + length + bytes);
    if (!data) exit(2);
    memcpy(data, "\x93NUMPY\1\0", 8);
    data[8] = (uint8_t)length;
    data[9] = (uint8_t)(length >> 8);
    memcpy(data + 10, dictionary, length);
    for (size_t i = 0; i < bytes; i++) data[10 + length + i] = (uint8_t)i;
    return (fuzz_seed){data, 10 + length + bytes};
}

int main(void) {
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%.80s/coar-fuzz-%ld.npy", folder ? folder : "/tmp", (long)getpid());
    fuzz_seed seeds[] = {
        file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }          \n", 24),
        file_of("{'descr': '|b1', 'fortran_order': False, 'shape': (7,), }\n", 7),
        file_of("{'descr': '<i8', 'fortran_order': True, 'shape': (1,), }\n", 8),
        file_of("{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, 1, 3), }\n", 12),
        file_of("{'descr': '<u2', 'fortran_order': False, 'shape': (), }\n", 2),
    };
    size_t count = sizeof seeds / sizeof *seeds;
    int code = fuzz_run("npy", seeds, count, 4000, parse);
    for (size_t i = 0; i < count; i++) free((void *)seeds[i].data);
    unlink(path);
    return code;
}
