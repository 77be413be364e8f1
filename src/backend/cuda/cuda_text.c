/* cuda_text.c - see cuda_text.h. */
#include "backend/cuda/cuda_text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool cuda_text_skip(const char **text, const char *word) {
    const size_t length = strlen(word);
    if (strncmp(*text, word, length)) return false;
    *text += length;
    return true;
}

bool cuda_text_integer(const char **text, int64_t *out) {
    char *end;
    if (**text != '-' && (**text < '0' || **text > '9')) return false; /* strtoll would skip spaces */
    errno = 0;
    *out = strtoll(*text, &end, 10);
    if (end == *text || errno) return false;
    *text = end;
    return true;
}

void cuda_text_version(size_t number, char text[CUDA_VERSION_SIZE]) {
    snprintf(text, CUDA_VERSION_SIZE, "%u.%u.%u", (unsigned)(number / 10000), (unsigned)(number / 100 % 100),
             (unsigned)(number % 100));
}
