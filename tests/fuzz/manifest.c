/* Fuzzes manifest.json and STAGE.json: JSON that lies about anything. What is accepted is compared with itself. */
#include "fuzz.h"

#include "store/internal.h"

#define SEED(text)                                                                                                     \
    { text, sizeof(text) - 1 }

static void parse(const uint8_t *data, size_t size) {
    document d;
    status_clear();
    if (document_parse("fuzz.json", STAGE_FORMAT, (const char *)data, size, &d) != COAR_OK) {
        if (!coar_last_error()[0]) abort(); /* every failure says why */
        return;
    }
    for (size_t i = 0; i < d.settings.count; i++) {
        const setting *s = &d.settings.items[i];
        if (!s->key[0] || !settings_value(&d.settings, s->key) || s->type > SETTING_REAL) abort();
    }
    settings_compare("fuzz.h5", &d.settings, d.settings.items, d.settings.count);
    document_free(&d);
}

int main(void) {
    static const fuzz_seed seeds[] = {
        SEED("{\"format\":\"coar.stage\",\"version_major\":1,\"version_minor\":0,\"settings\":[]}"),
        SEED("{\"format\":\"coar.stage\",\"version_major\":1,\"settings\":[{\"key\":\"alpha\",\"flag\":\"--alpha\","
             "\"value\":"
             "\"0.1\",\"type\":\"real\",\"compared\":true},{\"key\":\"seed\",\"flag\":\"--seed\",\"value\":"
             "\"18446744073709551615\",\"type\":\"integer\",\"compared\":true}],\"plan\":\"{\\\"layers\\\":[1,2]}\"}"),
        SEED("{\"format\":\"coar.manifest\",\"version_major\":1,\"settings\":[{\"key\":\"k\\u00e9\",\"flag\":\"\","
             "\"value\":\"\","
             "\"type\":\"text\",\"compared\":false}],\"plan\":[[[[]]]],\"more\":{\"a\":null}}"),
    };
    return fuzz_run("manifest", seeds, sizeof seeds / sizeof *seeds, 100000, parse);
}
