/* Fuzzes SPEC. Whatever is accepted must be rows of the data set, none of them twice. */
#include "fuzz.h"

#include "data/dataset.h"

enum { COUNT = 40 };

static void select_rows(const uint8_t *data, size_t size) {
    static int32_t labels[COUNT], groups[COUNT];
    static char *classes[] = {"truck", "ship", "0"}, *regions[] = {"a", "b & c"};
    static const uint8_t flags[COUNT] = {1, 0, 1, 1};
    for (int i = 0; i < COUNT; i++) labels[i] = i % 3, groups[i] = i % 2;
    const dataset set = {.path = "fuzz.h5",
                         .count = COUNT,
                         .labels = labels,
                         .groups = groups,
                         .class_names = classes,
                         .classes = 3,
                         .group_names = regions,
                         .group_names_count = 2};
    char *text = malloc(size + 1);
    uint64_t *rows = NULL;
    size_t count = 0;
    if (!text) return;
    memcpy(text, data, size);
    text[size] = '\0';
    status_clear();
    if (dataset_select(&set, text, flags, flags, &rows, &count) == COAR_OK) {
        uint8_t seen[COUNT] = {0};
        if (count == 0 || count > COUNT) abort();
        for (size_t i = 0; i < count; i++)
            if (rows[i] >= COUNT || seen[rows[i]]++) abort();
    } else if (!coar_last_error()[0] || strchr(coar_last_error(), '\n')) {
        abort(); /* every refusal has one line of text */
    }
    free(rows);
    free(text);
}

int main(void) {
    static const char *const texts[] = {"0:20",
                                        "3,17,39",
                                        "class:truck & group:1 & wrong",
                                        "class:2&group:b & correct & rest",
                                        "@/dev/null",
                                        "all & 1,2,3,4 & 0:18446744073709551615"};
    enum { SEEDS = sizeof texts / sizeof *texts };
    fuzz_seed seeds[SEEDS];
    for (int i = 0; i < SEEDS; i++) seeds[i] = (fuzz_seed){texts[i], strlen(texts[i])};
    return fuzz_run("select", seeds, SEEDS, 100000, select_rows);
}
