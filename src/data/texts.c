/* texts.c - see texts.h. */
#include "data/texts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/dataset.h"

static const char separator[] = "<|endoftext|>";

/* ----------------------------------------------------------------------------------------------------- arrays */

static bool holds_integers(const npy_array *a, int rank) {
    return a->rank == rank && a->type != NPY_BOOL && a->type < NPY_F16;
}

/* Of the whole texts, which may be longer than what is taken of them. */
static coar_status read_lengths(const char *path, text_source *s) {
    coar_status status = COAR_OK;
    npy_array array = {0};
    TRY(npy_open(path, &array));
    if (!holds_integers(&array, 1) || array.count != s->count)
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: expected the lengths of %" PRIu64 " texts, integers of shape [N]",
                            path, s->count));
    for (size_t i = 0; i < s->count; i++) {
        const int64_t length = npy_get_int(&array, i);
        if (length < 2 || (uint64_t)length > s->array.shape[1])
            TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: entry %zu: a length of %" PRId64 " is not in 2..%zu", path, i,
                                length, s->array.shape[1]));
        if (length < s->tokens) s->lengths[i] = (int32_t)length;
    }
done:
    npy_close(&array);
    return status;
}

coar_status texts_open_array(const char *path, const char *lengths, const char *vocabulary, uint32_t longest,
                             text_source *out) {
    *out = (text_source){.path = path};
    TRY(npy_open(path, &out->array));
    const npy_array *a = &out->array;
    if (!holds_integers(a, 2))
        return status_set(COAR_ERROR_INPUT, "%s: expected tokens, integers of shape [N, T]", path);
    if (a->count == 0 || a->shape[1] < 2 || a->shape[1] > DATASET_MAX_TOKENS)
        return status_set(COAR_ERROR_INPUT, "%s: shape [%zu, %zu]: expected a text at least, of 2 to %u tokens", path,
                          a->shape[0], a->shape[1], DATASET_MAX_TOKENS);
    out->count = a->shape[0];
    out->tokens = longest && longest < a->shape[1] ? longest : (uint32_t)a->shape[1];
    if (vocabulary) TRY(bpe_count(vocabulary, &out->vocabulary));
    TRY(memory_new((size_t)out->count, sizeof *out->lengths, "lengths", &out->lengths));
    for (uint64_t i = 0; i < out->count; i++) out->lengths[i] = (int32_t)out->tokens;
    return lengths ? read_lengths(lengths, out) : COAR_OK;
}

static coar_status read_array(const text_source *s, uint64_t row, int32_t *tokens) {
    const int64_t limit = s->vocabulary ? s->vocabulary : INT32_MAX;
    for (uint32_t t = 0; t < (uint32_t)s->lengths[row]; t++) {
        const int64_t token = npy_get_int(&s->array, (size_t)row * s->array.shape[1] + t);
        if (token < 0 || token >= limit)
            return status_set(COAR_ERROR_INPUT, "%s: text %" PRIu64 ", token %u: %" PRId64 " is not in 0..%" PRId64,
                              s->path, row, t, token, limit - 1);
        tokens[t] = (int32_t)token;
    }
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------------ files */

/* A text of the file: what is left of it without white space at both ends. */
typedef struct stretch {
    size_t start, end;
} stretch;

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The text that begins at `start`; *next is where the one behind it does. */
static stretch next_text(const file_map *file, size_t start, size_t *next) {
    const char *text = (const char *)file->data;
    const char *mark = memmem(text + start, file->size - start, separator, sizeof separator - 1);
    stretch s = {start, mark ? (size_t)(mark - text) : file->size};
    *next = mark ? s.end + sizeof separator - 1 : file->size;
    while (s.start < s.end && is_space(text[s.start])) s.start++;
    while (s.end > s.start && is_space(text[s.end - 1])) s.end--;
    return s;
}

typedef struct reading {
    text_source *source;
    bpe *tokens;
    uint32_t longest;
    size_t capacity, length_capacity; /* of source->start, ->lengths */
} reading;

static coar_status add_text(reading *r, const file_map *file, stretch at) {
    text_source *s = r->source;
    const size_t first = s->list.count;
    TRY(bpe_encode(r->tokens, s->path, at.start, (const char *)file->data + at.start, at.end - at.start, &s->list));
    const size_t all = s->list.count - first, length = r->longest && all > r->longest ? r->longest : all;
    if (length < 2)
        return status_set(COAR_ERROR_INPUT, "%s: byte %zu: text %" PRIu64 " has fewer than 2 tokens", s->path, at.start,
                          s->count);
    if (length > DATASET_MAX_TOKENS)
        return status_set(COAR_ERROR_INPUT, "%s: byte %zu: text %" PRIu64 " has %zu tokens: give --length T to cut it",
                          s->path, at.start, s->count, length);
    s->list.count = first + length;
    TRY(memory_grow(&s->start, &r->capacity, (size_t)s->count + 1, sizeof *s->start, "texts"));
    TRY(memory_grow(&s->lengths, &r->length_capacity, (size_t)s->count + 1, sizeof *s->lengths, "texts"));
    s->start[s->count] = first;
    s->lengths[s->count++] = (int32_t)length;
    if (length > s->tokens) s->tokens = (uint32_t)length;
    return COAR_OK;
}

coar_status texts_open_file(const char *path, const char *vocabulary, const char *merges, uint32_t longest,
                            text_source *out) {
    coar_status status;
    file_map file = {0};
    reading r = {.source = out, .longest = longest};
    *out = (text_source){.path = path};
    TRY_GOTO(bpe_open(vocabulary, merges, &r.tokens));
    TRY_GOTO(file_map_open(path, &file));
    out->vocabulary = bpe_size(r.tokens);
    for (size_t start = 0, next; start < file.size; start = next) {
        const stretch text = next_text(&file, start, &next);
        if (text.start < text.end) TRY_GOTO(add_text(&r, &file, text));
    }
    if (!out->count) status = status_set(COAR_ERROR_INPUT, "%s: holds no text", path);
done:
    file_map_close(&file);
    bpe_destroy(r.tokens);
    return status;
}

/* ------------------------------------------------------------------------------------------------------- both */

coar_status texts_read(const text_source *source, uint64_t first, size_t count, int32_t *tokens) {
    memset(tokens, 0, count * source->tokens * sizeof *tokens);
    for (size_t i = 0; i < count; i++, tokens += source->tokens) {
        const uint64_t row = first + i;
        if (source->start)
            memcpy(tokens, source->list.tokens + source->start[row], (size_t)source->lengths[row] * sizeof *tokens);
        else
            TRY(read_array(source, row, tokens));
    }
    return COAR_OK;
}

void texts_close(text_source *source) {
    npy_close(&source->array);
    free(source->list.tokens);
    free(source->start);
    free(source->lengths);
    *source = (text_source){0};
}
