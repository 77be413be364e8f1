/* Fuzzes what `coar pack --from tokens` reads: a vocabulary, its merges and a text, separated by zero bytes. What is accepted is
 * read as tokens, all of which must be in the vocabulary. */
#include "fuzz.h"

#include <fcntl.h>

#include "data/texts.h"

static char paths[3][128];

static void parse(const uint8_t *data, size_t size) {
    text_source source;
    for (int part = 0; part < 3; part++) {
        const uint8_t *end = part < 2 ? memchr(data, 0, size) : NULL;
        const size_t length = end ? (size_t)(end - data) : size;
        int file = open(paths[part], O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (file < 0 || write(file, data, length) != (ssize_t)length || close(file)) exit(2);
        data += end ? length + 1 : length;
        size -= end ? length + 1 : length;
    }
    status_clear();
    if (texts_open_file(paths[2], paths[0], paths[1], 5, &source) == COAR_OK) {
        int32_t *tokens = malloc(source.tokens * sizeof *tokens);
        for (uint64_t row = 0; tokens && row < source.count; row++) {
            if (texts_read(&source, row, 1, tokens) != COAR_OK) exit(2);
            for (uint32_t t = 0; t < source.tokens; t++)
                if (tokens[t] < 0 || (uint32_t)tokens[t] >= source.vocabulary) abort();
        }
        free(tokens);
    }
    texts_close(&source);
}

int main(void) {
    const char *folder = getenv("TMPDIR");
    for (int part = 0; part < 3; part++)
        snprintf(paths[part], sizeof paths[part], "%.80s/coar-fuzz-%ld-%d", folder ? folder : "/tmp", (long)getpid(),
                 part);
#define SEED(text)                                                                                                     \
    { text, sizeof text - 1 }
    static const fuzz_seed seeds[] = {
        SEED("{\"a\": 0, \"b\": 1, \"ab\": 2, \"abab\": 3, \"\\u0120\": 4, \"\\u0120a\": 5}\0"
             "#version: 0.2\na b\nab ab\n\xc4\xa0 a\n\0abab a b <|endoftext|> aab<|endoftext|>\n"),
        SEED("{\"\xc3\x83\":1,\"\xc2\xa9\":0,\"\xc3\x83\xc2\xa9\":2,\"!\":3}\0\xc3\x83 \xc2\xa9\r\n\0"
             "\xc3\xa9!!\xc3\xa9\xc3\xa9"),
        SEED("{\"a\":0,\"aa\":1,\"aaaa\":2,\"aaa\":3}\0aa aa\na a\naa a\0aaaaaaaaaaaaaaaaaaaaa"),
    };
    const int code = fuzz_run("texts", seeds, sizeof seeds / sizeof *seeds, 3000, parse);
    for (int part = 0; part < 3; part++) unlink(paths[part]);
    return code;
}
