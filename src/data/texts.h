/*
 * texts.h - where the texts of a new data set come from: arrays of tokens, or a text file and its vocabulary.
 * Must not know: HDF5, models.
 */
#ifndef COAR_DATA_TEXTS_H
#define COAR_DATA_TEXTS_H

#include "core/npy.h"
#include "data/bpe.h"

typedef struct text_source {
    const char *path;    /* for messages; borrowed */
    uint64_t count;      /* N >= 1 */
    uint32_t tokens;     /* T >= 2: room for the longest */
    uint32_t vocabulary; /* 0 = not known */
    int32_t *lengths;    /* [N] 2..T */
    /* one of both */
    npy_array array; /* integers [N, T] */
    token_list list; /* all texts, one behind the other, each as long as it is */
    size_t *start;   /* [N] in the list */
} text_source;

/* Integers of shape [N, T] in a .npy file. `lengths`: integers [N], or NULL = T each. `vocabulary`: a vocab.json that the
 * tokens are of, or NULL = not known. Texts are cut after `longest` tokens (0 = never). Zero-initialised by the call;
 * texts_close in any case. */
coar_status texts_open_array(const char *path, const char *lengths, const char *vocabulary, uint32_t longest,
                             text_source *out);

/* Texts of a UTF-8 file, which <|endoftext|> separates: white space at both ends is none of theirs, and what is empty then is
 * no text. A text is cut after `longest` tokens (0 = never); fewer than two tokens are an error. */
coar_status texts_open_file(const char *path, const char *vocabulary, const char *merges, uint32_t longest,
                            text_source *out);

/* Texts first .. first + count - 1 as tokens[count][T], zeros behind a text's end. A number that is no token is an error. */
coar_status texts_read(const text_source *source, uint64_t first, size_t count, int32_t *tokens);

void texts_close(text_source *source);

#endif
