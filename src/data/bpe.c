/* bpe.c - see bpe.h. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/bpe.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/memory.h"
#include "core/text.h"

/* Bytes of vocab.json and of merges.txt; GPT-2's have one million and half of that. */
#define FILE_MAX ((size_t)16 << 20)

/* Words: contractions, letters, digits, other signs, each with the space before it, and white space that is left. The
 * alternatives are in the order that GPT-2 tries them in. */
static const char words[] = "'(?:s|t|re|ve|m|ll|d)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum { BYTES = 256, NOWHERE = -1 };

/* A token's text, in the alphabet: it lies in a file that stays in memory, or in cJSON's tree. */
typedef struct entry {
    const char *text;
    size_t length;
    int32_t token;
} entry;

/* Open addressing; sizes are powers of two, at least twice what they hold. */
typedef struct text_table {
    entry *entries;
    size_t size;
} text_table;

/* Two neighbours that merge. */
typedef struct merge {
    int32_t left, right, token; /* left = NOWHERE: an empty place of the table */
    uint32_t rank;              /* lower ones first */
} merge;

/* A token of the word in hand: a list, whose `next` ends with the word's length. */
typedef struct symbol {
    int32_t token;
    size_t next, before;
} symbol;

/* A merge that may be possible: the tokens may have merged with others meanwhile. */
typedef struct candidate {
    size_t at; /* the symbol on the left */
    const merge *merge;
} candidate;

struct bpe {
    uint32_t size;
    int32_t byte_token[BYTES];
    merge *merges;
    size_t merges_size; /* a power of two */
    pcre2_code *pattern;
    pcre2_match_data *match;
    symbol *symbols; /* of the word in hand */
    size_t symbol_capacity;
    candidate *heap;
    size_t heap_count, heap_capacity;
};

/* --------------------------------------------------------------------------------------------------- tables */

static uint64_t mix(uint64_t h) {
    h ^= h >> 32;
    h *= 0xD6E8FEB86659FD93u;
    return h ^ (h >> 29);
}

static size_t table_size(size_t count) {
    size_t size = 16;
    while (size < 2 * count) size *= 2;
    return size;
}

/* Where a text is, or would be. */
static entry *find_text(const text_table *t, const char *text, size_t length) {
    uint64_t h = length;
    for (size_t i = 0; i < length; i++) h = mix(h ^ (uint8_t)text[i]) + i;
    size_t at = (size_t)h & (t->size - 1);
    while (t->entries[at].text && (t->entries[at].length != length || memcmp(t->entries[at].text, text, length) != 0))
        at = (at + 1) & (t->size - 1);
    return &t->entries[at];
}

static int32_t token_of(const text_table *t, const char *text, size_t length) {
    const entry *e = find_text(t, text, length);
    return e->text ? e->token : NOWHERE;
}

static merge *find_merge(const bpe *b, int32_t left, int32_t right) {
    size_t at = (size_t)mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right) & (b->merges_size - 1);
    while (b->merges[at].left != NOWHERE && (b->merges[at].left != left || b->merges[at].right != right))
        at = (at + 1) & (b->merges_size - 1);
    return &b->merges[at];
}

/* ---------------------------------------------------------------------------------------------------- files */

/* The file's bytes with zeros behind them, malloc'ed. */
static coar_status read_file(const char *path, char **text, size_t *size) {
    file_map map;
    TRY(file_map_open(path, &map));
    coar_status status = COAR_OK;
    if (map.size > FILE_MAX) TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: is larger than %zu MiB", path, FILE_MAX >> 20));
    TRY_GOTO(memory_new(map.size + 16, 1, path, text)); /* cJSON's escapes may look too far */
    if (map.size) memcpy(*text, map.data, map.size);
    *size = map.size;
done:
    file_map_close(&map);
    return status;
}

/* An object with something in it; freed with cJSON_Delete. */
static coar_status read_vocabulary(const char *path, cJSON **root) {
    char *text;
    size_t size;
    TRY(read_file(path, &text, &size));
    cJSON *parsed = cJSON_Parse(text);
    free(text);
    if (!cJSON_IsObject(parsed) || !parsed->child) {
        cJSON_Delete(parsed);
        return status_set(COAR_ERROR_INPUT, "%s: is not a JSON object of tokens and their numbers", path);
    }
    *root = parsed;
    return COAR_OK;
}

static size_t count_items(const cJSON *root) {
    size_t count = 0;
    for (const cJSON *item = root->child; item; item = item->next) count++;
    return count;
}

coar_status bpe_count(const char *vocabulary, uint32_t *count) {
    cJSON *root = NULL;
    TRY(read_vocabulary(vocabulary, &root));
    *count = (uint32_t)count_items(root); /* below FILE_MAX */
    cJSON_Delete(root);
    return COAR_OK;
}

/* Every token by its text; numbers 0 .. count - 1, each once. The texts stay the tree's. */
static coar_status list_tokens(const char *path, const cJSON *root, text_table *table) {
    coar_status status = COAR_OK;
    const size_t count = count_items(root);
    bool *taken = NULL;
    table->size = table_size(count);
    TRY_GOTO(memory_new(table->size, sizeof *table->entries, path, &table->entries));
    TRY_GOTO(memory_new(count, sizeof *taken, path, &taken));
    for (const cJSON *item = root->child; item; item = item->next) {
        const double number = cJSON_IsNumber(item) ? item->valuedouble : -1;
        entry *e = find_text(table, item->string, strlen(item->string));
        if (!(number >= 0 && number < (double)count) || number != floor(number) || taken[(size_t)number] || e->text)
            TRY_GOTO(status_set(COAR_ERROR_INPUT,
                                "%s: token '%s': its number must be a whole one of 0 to %zu, each once", path,
                                item->string, count - 1));
        taken[(size_t)number] = true;
        *e = (entry){item->string, strlen(item->string), (int32_t)number};
    }
done:
    free(taken);
    return status;
}

/* GPT-2's alphabet: a byte that is printable in Latin-1 stands for itself, the others for the characters from 256 on. */
static void list_bytes(const text_table *table, int32_t byte_token[BYTES]) {
    uint32_t others = BYTES;
    for (uint32_t byte = 0; byte < BYTES; byte++) {
        const bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
        const uint32_t c = printable ? byte : others++;
        const char utf8[2] = {(char)(c < 128 ? c : 0xC0 | c >> 6), (char)(0x80 | (c & 0x3F))};
        byte_token[byte] = token_of(table, utf8, c < 128 ? 1 : 2);
    }
}

/* One line "LEFT RIGHT". */
static coar_status add_merge(bpe *b, const text_table *table, const char *path, size_t line, const char *text,
                             size_t length, uint32_t rank) {
    const char *space = memchr(text, ' ', length);
    char joined[1024];
    const size_t left = space ? (size_t)(space - text) : 0, right = space ? length - left - 1 : 0;
    if (!left || !right || memchr(space + 1, ' ', right) || left + right > sizeof joined)
        return status_set(COAR_ERROR_INPUT,
                          "%s: line %zu: expected two tokens of at most %zu bytes with a space between", path, line,
                          sizeof joined);
    memcpy(joined, text, left);
    memcpy(joined + left, space + 1, right);
    const merge m = {token_of(table, text, left), token_of(table, space + 1, right),
                     token_of(table, joined, left + right), rank};
    if (m.left == NOWHERE || m.right == NOWHERE || m.token == NOWHERE)
        return status_set(COAR_ERROR_INPUT, "%s: line %zu: '%.*s', or what it makes, is not in the vocabulary", path,
                          line, (int)length, text);
    merge *place = find_merge(b, m.left, m.right);
    if (place->left != NOWHERE)
        return status_set(COAR_ERROR_INPUT, "%s: line %zu: '%.*s' is there twice", path, line, (int)length, text);
    *place = m;
    return COAR_OK;
}

static coar_status read_merges(bpe *b, const text_table *table, const char *path) {
    static const char version[] = "#version";
    coar_status status;
    char *text = NULL;
    size_t size = 0, lines = 1;
    TRY_GOTO(read_file(path, &text, &size));
    for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
    b->merges_size = table_size(lines);
    TRY_GOTO(memory_new(b->merges_size, sizeof *b->merges, path, &b->merges));
    for (size_t i = 0; i < b->merges_size; i++) b->merges[i].left = NOWHERE;
    uint32_t rank = 0;
    for (size_t line = 1, start = 0; start < size; line++) {
        const char *end = memchr(text + start, '\n', size - start);
        const size_t next = end ? (size_t)(end - text) + 1 : size;
        size_t length = (end ? (size_t)(end - text) : size) - start;
        if (length && text[start + length - 1] == '\r') length--;
        if (length && !(line == 1 && !strncmp(text, version, sizeof version - 1)))
            TRY_GOTO(add_merge(b, table, path, line, text + start, length, rank++));
        start = next;
    }
done:
    free(text);
    return status;
}

static coar_status compile_pattern(bpe *b) {
    int code;
    PCRE2_SIZE at;
    b->pattern = pcre2_compile((PCRE2_SPTR)words, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (b->pattern) b->match = pcre2_match_data_create_from_pattern(b->pattern, NULL);
    return b->match ? COAR_OK : status_set(COAR_ERROR_MEMORY, "tokens: not enough memory for the pattern of words");
}

coar_status bpe_open(const char *vocabulary, const char *merges, bpe **out) {
    coar_status status;
    cJSON *root = NULL;
    text_table table = {0};
    bpe *b = NULL;
    TRY_GOTO(memory_new(1, sizeof *b, "tokens", &b));
    TRY_GOTO(read_vocabulary(vocabulary, &root));
    TRY_GOTO(list_tokens(vocabulary, root, &table));
    b->size = (uint32_t)count_items(root);
    list_bytes(&table, b->byte_token);
    TRY_GOTO(read_merges(b, &table, merges));
    TRY_GOTO(compile_pattern(b));
    *out = b;
    b = NULL;
done:
    free(table.entries);
    cJSON_Delete(root);
    bpe_destroy(b);
    return status;
}

void bpe_destroy(bpe *b) {
    if (!b) return;
    if (b->match) pcre2_match_data_free(b->match);
    if (b->pattern) pcre2_code_free(b->pattern);
    free(b->merges);
    free(b->symbols);
    free(b->heap);
    free(b);
}

uint32_t bpe_size(const bpe *b) {
    return b->size;
}

/* -------------------------------------------------------------------------------------------------- one word */

/* Lower ranks first, then from the left. */
static bool goes_before(const candidate *a, const candidate *b) {
    return a->merge->rank != b->merge->rank ? a->merge->rank < b->merge->rank : a->at < b->at;
}

static void swap(candidate *a, candidate *b) {
    const candidate c = *a;
    *a = *b;
    *b = c;
}

/* Puts the merge of symbol `at` and the one behind it on the heap, if there is one. */
static coar_status push(bpe *b, size_t at, size_t length) {
    const size_t next = b->symbols[at].next;
    if (next == length) return COAR_OK;
    const merge *m = find_merge(b, b->symbols[at].token, b->symbols[next].token);
    if (m->left == NOWHERE) return COAR_OK;
    TRY(memory_grow(&b->heap, &b->heap_capacity, b->heap_count + 1, sizeof *b->heap, "tokens of a word"));
    size_t i = b->heap_count++;
    b->heap[i] = (candidate){at, m};
    for (; i && goes_before(&b->heap[i], &b->heap[(i - 1) / 2]); i = (i - 1) / 2)
        swap(&b->heap[i], &b->heap[(i - 1) / 2]);
    return COAR_OK;
}

static candidate pop(bpe *b) {
    const candidate first = b->heap[0];
    b->heap[0] = b->heap[--b->heap_count];
    for (size_t i = 0, child; (child = 2 * i + 1) < b->heap_count; i = child) {
        if (child + 1 < b->heap_count && goes_before(&b->heap[child + 1], &b->heap[child])) child++;
        if (!goes_before(&b->heap[child], &b->heap[i])) break;
        swap(&b->heap[child], &b->heap[i]);
    }
    return first;
}

/* Whether the two tokens are still there. A symbol that has merged into the one before it has no token. */
static bool still_possible(const bpe *b, const candidate *c, size_t length) {
    const size_t next = b->symbols[c->at].next;
    return b->symbols[c->at].token == c->merge->left && next != length && b->symbols[next].token == c->merge->right;
}

static coar_status apply(bpe *b, const candidate *c, size_t length) {
    symbol *left = &b->symbols[c->at], *right = &b->symbols[left->next];
    left->token = c->merge->token;
    left->next = right->next;
    right->token = NOWHERE;
    if (left->next != length) b->symbols[left->next].before = c->at;
    if (c->at) TRY(push(b, left->before, length)); /* the first symbol never merges into another */
    return push(b, c->at, length);
}

/* The heap takes each merge as it becomes possible, so that a long word costs little more for each of its bytes than a
 * short one. */
static coar_status encode_word(bpe *b, const char *name, size_t offset, const uint8_t *word, size_t length,
                               token_list *out) {
    TRY(memory_grow(&b->symbols, &b->symbol_capacity, length, sizeof *b->symbols, "tokens of a word"));
    for (size_t i = 0; i < length; i++) {
        b->symbols[i] = (symbol){b->byte_token[word[i]], i + 1, i ? i - 1 : 0};
        if (b->symbols[i].token == NOWHERE)
            return status_set(COAR_ERROR_INPUT, "%s: byte %zu: the vocabulary has no token for a byte 0x%02x", name,
                              offset + i, word[i]);
    }
    b->heap_count = 0;
    for (size_t i = 0; i < length; i++) TRY(push(b, i, length));
    while (b->heap_count) {
        const candidate c = pop(b);
        if (still_possible(b, &c, length)) TRY(apply(b, &c, length));
    }
    for (size_t i = 0; i < length; i = b->symbols[i].next) {
        TRY(memory_grow(&out->tokens, &out->capacity, out->count + 1, sizeof *out->tokens, "tokens"));
        out->tokens[out->count++] = b->symbols[i].token;
    }
    return COAR_OK;
}

static coar_status check_text(const char *name, size_t offset, const char *text, size_t size) {
    for (size_t i = 0, length; i < size; i += length) {
        length = utf8_length(text + i, size - i);
        if (!length) return status_set(COAR_ERROR_INPUT, "%s: byte %zu: is no UTF-8 text", name, offset + i);
    }
    return COAR_OK;
}

coar_status bpe_encode(bpe *b, const char *name, size_t offset, const char *text, size_t size, token_list *out) {
    TRY(check_text(name, offset, text, size));
    for (size_t at = 0; at < size;) {
        /* Every character is in some word, so that words follow upon each other. */
        const int found =
            pcre2_match(b->pattern, (PCRE2_SPTR)text, size, at, PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED, b->match, NULL);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(b->match);
        if (found < 0 || span[1] <= at)
            return status_set(COAR_ERROR_INTERNAL, "%s: byte %zu: cannot be cut into words (PCRE2: %d)", name,
                              offset + at, found);
        TRY(encode_word(b, name, offset + at, (const uint8_t *)text + at, span[1] - at, out));
        at = span[1];
    }
    return COAR_OK;
}
