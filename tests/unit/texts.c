/*
 * texts.c - texts as data sets: byte-level BPE against a second implementation (tools/stories.py) and by hand, coar_pack of
 * text and of tokens, what a data set of texts holds, and what is refused.
 */
#include <stdlib.h>

#include "core/npy.h"
#include "data/dataset.h"
#include "data/texts.h"
#include "pictures.h"
#include "test.h"

#define FRESH(expression) (status_clear(), (expression))

static const char *scratch(const char *name) {
    static char slots[32][512];
    static int next;
    char *slot = slots[next++ & 31];
    snprintf(slot, 512, "%s", test_temporary(name));
    return slot;
}

static const char *data_file(const char *name) {
    static char slots[4][512];
    static int next;
    char relative[128], *slot = slots[next++ & 3];
    snprintf(relative, sizeof relative, "../data/%s", name);
    snprintf(slot, 512, "%s", test_path(relative));
    return slot;
}

static const char *write_text(const char *name, const char *text) {
    const char *path = scratch(name);
    picture_write(path, text, strlen(text));
    return path;
}

/* -------------------------------------------------------------------------------------------- a vocabulary */

enum { BYTE_A = 255 - 'a' }; /* its token */

/* The character of GPT-2's alphabet that stands for a byte, as UTF-8. */
static const char *letter(int byte) {
    static char slots[4][8];
    static int next;
    char *slot = slots[next++ & 3];
    int code = byte, others = 256;
    for (int b = 0; b <= byte; b++) {
        const bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
        code = printable ? b : others++;
    }
    if (code < 128)
        snprintf(slot, 8, "%c", code);
    else
        snprintf(slot, 8, "%c%c", 0xC0 | code >> 6, 0x80 | (code & 0x3F));
    return slot;
}

/* Bytes are the tokens 255 .. 0, so that none is its own number; then "aa", "aaaa", " a", "é". */
static void write_vocabulary(const char **vocabulary, const char **merges) {
    char text[8192], *to = text;
    to += sprintf(to, "{");
    for (int b = 0; b < 256; b++) {
        const bool escaped = b == '"' || b == '\\';
        to += sprintf(to, "\"%s%s\": %d, ", escaped ? "\\" : "", letter(b), 255 - b);
    }
    sprintf(to, "\"aa\": 256, \"aaaa\": 257, \"%sa\": 258, \"%s%s\": 259}", letter(' '), letter(0xC3), letter(0xA9));
    *vocabulary = write_text("vocab.json", text);
    sprintf(text, "#version: 0.2\na a\r\naa aa\n%s a\n\n%s %s", letter(' '), letter(0xC3), letter(0xA9));
    *merges = write_text("merges.txt", text);
}

static void check_tokens(bpe *b, const char *text, size_t count, const int32_t *expected) {
    token_list list = {0};
    CHECK_OK(bpe_encode(b, "text", 0, text, strlen(text), &list));
    CHECK_INT(list.count, count);
    for (size_t i = 0; i < count && i < list.count; i++) CHECK_INT(list.tokens[i], expected[i]);
    free(list.tokens);
}

static void test_words(void) {
    test_begin("BPE: words, bytes, and merges in the order of their list");
    const char *vocabulary, *merges;
    bpe *b = NULL;
    write_vocabulary(&vocabulary, &merges);
    CHECK_OK(bpe_open(vocabulary, merges, &b));
    if (!b) return;
    CHECK_INT(bpe_size(b), 260);
    check_tokens(b, "", 0, NULL);
    check_tokens(b, "a", 1, (const int32_t[]){BYTE_A});
    check_tokens(b, "aaaaaaa", 3, (const int32_t[]){257, 256, BYTE_A});
    check_tokens(b, "aa aa", 3, (const int32_t[]){256, 255 - ' ', 256}); /* "a a" goes before " a" */
    check_tokens(b, "a a", 2, (const int32_t[]){BYTE_A, 258});
    /* Of two spaces the first is a word by itself; what is left of a run at the end stays together. */
    check_tokens(b, "a  a", 3, (const int32_t[]){BYTE_A, 255 - ' ', 258});
    check_tokens(b, "a\n\n", 3, (const int32_t[]){BYTE_A, 255 - '\n', 255 - '\n'});
    check_tokens(b, "\xc3\xa9", 1, (const int32_t[]){259});
    /* A letter after an apostrophe is a contraction or another word; digits and letters are apart. */
    check_tokens(b, "a's", 3, (const int32_t[]){BYTE_A, 255 - '\'', 255 - 's'});
    check_tokens(b, "a1a", 3, (const int32_t[]){BYTE_A, 255 - '1', BYTE_A});
    /* U+3000 is white space, and three bytes. */
    check_tokens(b, "a\xe3\x80\x80", 4, (const int32_t[]){BYTE_A, 255 - 0xe3, 255 - 0x80, 255 - 0x80});
    token_list list = {0};
    CHECK_ERROR(bpe_encode(b, "text", 100, "a\xff", 2, &list), COAR_ERROR_INPUT, "text: byte 101: is no UTF-8");
    free(list.tokens);

    test_begin("BPE: a word of a million letters");
    enum { LONG = 1 << 20 };
    char *word = malloc(LONG + 1);
    memset(word, 'a', LONG);
    list = (token_list){0};
    CHECK_OK(FRESH(bpe_encode(b, "text", 0, word, LONG, &list)));
    CHECK_INT(list.count, LONG / 4);
    for (size_t i = 0; i < list.count; i++) CHECK(list.tokens[i] == 257);
    free(list.tokens);
    free(word);
    bpe_destroy(b);
}

static void test_vocabularies(void) {
    static const struct {
        const char *name, *vocabulary, *merges, *text;
    } cases[] = {
        {"no JSON", "[", "", "vocab.json: is not a JSON object"},
        {"an array", "[\"a\"]", "", "vocab.json: is not a JSON object"},
        {"empty", "{}", "", "vocab.json: is not a JSON object"},
        {"a gap", "{\"a\": 0, \"b\": 2}", "", "token 'b': its number must be a whole one of 0 to 1"},
        {"a number twice", "{\"a\": 0, \"b\": 0}", "", "token 'b'"},
        {"a token twice", "{\"a\": 0, \"a\": 1}", "", "token 'a'"},
        {"half a number", "{\"a\": 0.5}", "", "token 'a'"},
        {"a negative number", "{\"a\": -1}", "", "token 'a'"},
        {"a text for a number", "{\"a\": \"0\"}", "", "token 'a'"},
        {"huge", "{\"a\": 1e300}", "", "token 'a'"},
        {"one token a line", "{\"a\": 0, \"aa\": 1}", "#version: 0.2\na\n", "merges.txt: line 2: expected two tokens"},
        {"three tokens", "{\"a\": 0, \"aa\": 1}", "a a a\n", "merges.txt: line 1: expected two tokens"},
        {"an unknown token", "{\"a\": 0, \"aa\": 1}", "a b\n", "line 1: 'a b', or what it makes"},
        {"makes an unknown token", "{\"a\": 0, \"b\": 1}", "a b\n", "line 1: 'a b', or what it makes"},
        {"twice", "{\"a\": 0, \"aa\": 1}", "a a\n\na a", "line 3: 'a a' is there twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bpe *b = NULL;
        test_begin("BPE refuses: %s", cases[i].name);
        const char *vocabulary = write_text("vocab.json", cases[i].vocabulary);
        CHECK_ERROR(FRESH(bpe_open(vocabulary, write_text("merges.txt", cases[i].merges), &b)), COAR_ERROR_INPUT,
                    cases[i].text);
        CHECK(!b);
        bpe_destroy(b);
    }
    bpe *b = NULL;
    token_list list = {0};
    test_begin("BPE refuses: a byte that no token stands for");
    CHECK_OK(FRESH(bpe_open(write_text("vocab.json", "{\"a\": 0}"), write_text("merges.txt", ""), &b)));
    CHECK_ERROR(bpe_encode(b, "text", 7, "ab", 2, &list), COAR_ERROR_INPUT,
                "text: byte 8: the vocabulary has no token");
    free(list.tokens);
    bpe_destroy(b);
}

/* ----------------------------------------------------------------------------------------------------- packing */

static coar_pack_options text_options(const char *path, const char *vocabulary, const char *merges) {
    coar_pack_options o = COAR_PACK_INIT;
    o.from = "tokens";
    o.path = path;
    o.vocabulary = vocabulary;
    o.merges = merges;
    o.output = scratch("texts.h5");
    o.force = 1;
    return o;
}

static dataset *packed(const coar_pack_options *o) {
    dataset *data = NULL;
    remove(o->output);
    CHECK_OK(FRESH(coar_pack(o, NULL)));
    CHECK_OK(dataset_open(o->output, &data));
    return data;
}

static void test_stories(void) {
    test_begin("stories: the tokens of another implementation");
    npy_array expected = {0};
    coar_pack_options o =
        text_options(data_file("stories.txt"), data_file("stories-vocab.json"), data_file("stories-merges.txt"));
    CHECK_OK(npy_open(test_path("golden/stories-tokens.npy"), &expected));
    dataset *data = packed(&o);
    if (!data || !expected.data) return;
    CHECK_INT(data->count, expected.shape[0]);
    CHECK_INT(data->tokens, expected.shape[1]);
    CHECK_INT(data->vocabulary, 512);
    int32_t *tokens = calloc(data->count * data->tokens, sizeof *tokens);
    uint64_t *rows = calloc(data->count, sizeof *rows);
    for (uint64_t i = 0; i < data->count; i++) rows[i] = data->count - 1 - i;
    CHECK_OK(dataset_read(data, rows, data->count, tokens));
    for (uint64_t i = 0; i < data->count; i++)
        for (uint32_t t = 0; t < data->tokens; t++) {
            const int64_t wanted = npy_get_int(&expected, rows[i] * data->tokens + t);
            if (tokens[i * data->tokens + t] == wanted) continue;
            test_fail(__FILE__, __LINE__, "text %llu, token %u: got %d, expected %lld", (unsigned long long)rows[i], t,
                      tokens[i * data->tokens + t], (long long)wanted);
            i = data->count - 1;
            break;
        }
    CHECK(data->labels[0] < (int32_t)data->tokens && !tokens[(data->count - 1) * data->tokens + data->labels[0]]);
    free(tokens);
    free(rows);
    npy_close(&expected);
    dataset_close(data);
}

static void test_documents(void) {
    static const char text[] = " aaaa a\n<|endoftext|>\n\n<|endoftext|>aaaaaaa<|endoftext|> \t";
    const char *vocabulary, *merges;
    coar_pack_result r;
    test_begin("texts are what separators are between; long ones are cut, groups are theirs");
    write_vocabulary(&vocabulary, &merges);
    coar_pack_options o = text_options(write_text("two.txt", text), vocabulary, merges);
    o.groups = write_text("groups.csv", "index,group\n0,x\n1,y\n");
    CHECK_OK(FRESH(coar_pack(&o, &r)));
    CHECK_INT(r.examples, 2);
    CHECK_INT(r.groups, 2);
    CHECK_INT(r.tokens, 3);
    CHECK_INT(r.vocabulary, 260);
    dataset *data = packed(&o);
    int32_t tokens[2][3];
    if (!data || data->tokens != 3) return;
    CHECK_OK(dataset_read(data, (const uint64_t[]){0, 1}, 2, tokens));
    static const int32_t expected[2][3] = {{257, 258, 0}, {257, 256, BYTE_A}};
    for (int i = 0; i < 2; i++)
        for (int t = 0; t < 3; t++) CHECK_INT(tokens[i][t], expected[i][t]);
    CHECK(data->labels[0] == 2 && data->labels[1] == 3 && data->groups[1] == 1 && !data->classes);
    CHECK(dataset_example_bytes(data) == sizeof tokens[0] && !strcmp(dataset_kind(data), "texts"));
    uint64_t *rows;
    size_t count;
    CHECK_ERROR(FRESH(dataset_select(data, "class:1", NULL, NULL, &rows, &count)), COAR_ERROR_USAGE,
                "texts have no classes");
    dataset_close(data);
    o.length = 2;
    data = packed(&o);
    CHECK(data->tokens == 2 && data->labels[1] == 2);
    dataset_close(data);
}

static void test_arrays(void) {
    static const int64_t tokens[2][4] = {{5, 6, 7, -1}, {8, 9, 3, 2}};
    const char *path = scratch("tokens.npy"), *lengths = scratch("lengths.npy");
    test_begin("tokens of a .npy, with lengths: nothing is read behind a text's end");
    CHECK_OK(npy_write(path, NPY_I64, 2, (size_t[]){2, 4}, tokens));
    CHECK_OK(npy_write(lengths, NPY_U8, 1, (size_t[]){2}, (const uint8_t[]){3, 4}));
    coar_pack_options o = text_options(path, NULL, NULL);
    o.lengths = lengths;
    dataset *data = packed(&o);
    int32_t read[2][4];
    if (!data || data->tokens != 4) return;
    CHECK_OK(dataset_read(data, (const uint64_t[]){0, 1}, 2, read));
    for (int t = 0; t < 4; t++) CHECK_INT(read[0][t], t < 3 ? tokens[0][t] : 0);
    for (int t = 0; t < 4; t++) CHECK_INT(read[1][t], tokens[1][t]);
    CHECK(data->vocabulary == 0 && data->labels[0] == 3);
    dataset_close(data);
    test_begin("--length cuts them");
    o.length = 3;
    CHECK_OK(npy_write(lengths, NPY_U8, 1, (size_t[]){2}, (const uint8_t[]){2, 4}));
    data = packed(&o);
    if (!data || data->tokens != 3) return;
    CHECK_OK(dataset_read(data, (const uint64_t[]){0, 1}, 2, read));
    const int32_t *cut = read[0];
    static const int32_t expected[2][3] = {{5, 6, 0}, {8, 9, 3}};
    for (int t = 0; t < 6; t++) CHECK_INT(cut[t], expected[t / 3][t % 3]);
    CHECK(data->labels[0] == 2 && data->labels[1] == 3);
    dataset_close(data);
}

static void refuse(coar_pack_options o, coar_status code, const char *text) {
    remove(o.output);
    CHECK_ERROR(FRESH(coar_pack(&o, NULL)), code, text);
    CHECK(!file_exists(o.output));
}

static void test_refusals(void) {
    const char *vocabulary, *merges, *path = scratch("tokens.npy"), *lengths = scratch("lengths.npy");
    static const int32_t tokens[2][3] = {{5, 6, 7}, {8, 300, 3}};
    write_vocabulary(&vocabulary, &merges);
    CHECK_OK(npy_write(path, NPY_I32, 2, (size_t[]){2, 3}, tokens));
    coar_pack_options array = text_options(path, vocabulary, NULL), text = text_options("", vocabulary, merges), o;
    test_begin("pack refuses: tokens that are none");
    refuse(array, COAR_ERROR_INPUT, "text 1, token 1: 300 is not in 0..259");
    test_begin("pack refuses: lengths that are none");
    o = array;
    o.lengths = lengths;
    CHECK_OK(npy_write(lengths, NPY_I32, 1, (size_t[]){2}, (const int32_t[]){2, 4}));
    refuse(o, COAR_ERROR_INPUT, "entry 1: a length of 4 is not in 2..3");
    CHECK_OK(npy_write(lengths, NPY_I32, 1, (size_t[]){2}, (const int32_t[]){1, 3}));
    refuse(o, COAR_ERROR_INPUT, "entry 0: a length of 1 is not in 2..3");
    CHECK_OK(npy_write(lengths, NPY_I32, 1, (size_t[]){3}, (const int32_t[]){2, 2, 2}));
    refuse(o, COAR_ERROR_INPUT, "the lengths of 2 texts");
    test_begin("pack refuses: arrays that are no texts");
    CHECK_OK(npy_write(path, NPY_F32, 2, (size_t[]){2, 3}, tokens));
    refuse(array, COAR_ERROR_INPUT, "integers of shape [N, T]");
    CHECK_OK(npy_write(path, NPY_I32, 1, (size_t[]){6}, tokens));
    refuse(array, COAR_ERROR_INPUT, "integers of shape [N, T]");
    CHECK_OK(npy_write(path, NPY_I32, 2, (size_t[]){6, 1}, tokens));
    refuse(array, COAR_ERROR_INPUT, "of 2 to 1048576 tokens");
    test_begin("pack refuses: texts that are none");
    text.path = write_text("short.txt", "aaaa a<|endoftext|>\n aaaa");
    refuse(text, COAR_ERROR_INPUT, "short.txt: byte 21: text 1 has fewer than 2 tokens");
    text.path = write_text("blank.txt", "\n<|endoftext|> ");
    refuse(text, COAR_ERROR_INPUT, "blank.txt: holds no text");
    text.path = write_text("latin.txt", "a a \xe9 a");
    refuse(text, COAR_ERROR_INPUT, "latin.txt: byte 4: is no UTF-8 text");
    test_begin("pack refuses: options of other sources");
    text.path = write_text("good.txt", "aaaa a");
    o = text;
    o.merges = NULL;
    refuse(o, COAR_ERROR_USAGE, "give --vocab vocab.json and --merges merges.txt");
    o = text;
    o.lengths = lengths;
    refuse(o, COAR_ERROR_USAGE, "is for tokens in a .npy file");
    o = text;
    o.image_size = 8;
    refuse(o, COAR_ERROR_USAGE, "are for images");
    o = text;
    o.length = 1;
    refuse(o, COAR_ERROR_USAGE, "2 tokens or more");
    o = array;
    o.merges = merges;
    refuse(o, COAR_ERROR_USAGE, "--merges is for text");
    o = array;
    o.from = "npy";
    refuse(o, COAR_ERROR_USAGE, "are for --from tokens");
}

int main(void) {
    test_words();
    test_vocabularies();
    test_stories();
    test_documents();
    test_arrays();
    test_refusals();
    return test_end();
}
