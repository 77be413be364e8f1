/*
 * bpe.h - text into tokens by GPT-2's byte-level byte-pair encoding (Radford et al. 2019, section 2.2; Sennrich et al.,
 * arXiv 1508.07909): a text is cut into words, a word's bytes are its first tokens, and neighbours merge in the order of
 * a list for as long as any can.
 * Must not know: data sets, what a model does with tokens.
 */
#ifndef COAR_DATA_BPE_H
#define COAR_DATA_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

typedef struct bpe bpe;

/* `vocabulary`: vocab.json, an object of every token's text and number; `merges`: merges.txt, a pair of tokens a line, the
 * first to merge first. Both in GPT-2's alphabet, which writes every byte as a printable character. Errors name file and
 * line or token. */
coar_status bpe_open(const char *vocabulary, const char *merges, bpe **out);
void bpe_destroy(bpe *b); /* accepts NULL */

/* How many tokens there are: all are below that. */
uint32_t bpe_size(const bpe *b);

/* The number of tokens in a vocab.json. */
coar_status bpe_count(const char *vocabulary, uint32_t *count);

/* Tokens that grow: zero-initialise, and free() the array. */
typedef struct token_list {
    int32_t *tokens;
    size_t count, capacity;
} token_list;

/* Appends the tokens of `size` bytes of text. `name` and `offset`, where the text begins in it, are for messages: text that
 * is not UTF-8 is an error. One thread at a time. */
coar_status bpe_encode(bpe *b, const char *name, size_t offset, const char *text, size_t size, token_list *out);

#endif
