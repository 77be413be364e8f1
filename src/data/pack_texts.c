/*
 * pack_texts.c - coar_pack of texts: tokens in batches from their source into a data set file.
 * Must not know: images, how text becomes tokens.
 */
#include "data/pack_texts.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "data/dataset.h"
#include "data/groups.h"
#include "data/names.h"
#include "data/texts.h"

#define BATCH_BYTES ((size_t)4 << 20)

/* What the options make sense of: a file of text goes with a vocabulary and its merges, an array with lengths. */
static coar_status open_source(const coar_pack_options *o, text_source *source) {
    const size_t length = strlen(o->path);
    const bool array = length > 4 && !strcmp(o->path + length - 4, ".npy");
    if (o->labels || o->image_size || o->crop != 0 || o->resize || o->mean || o->std)
        return status_set(COAR_ERROR_USAGE,
                          "--from tokens: --labels, --size, --crop, --resize, --mean and --std are for images");
    if (o->length == 1) return status_set(COAR_ERROR_USAGE, "--length 1: a text has 2 tokens or more");
    if (array && o->merges) return status_set(COAR_ERROR_USAGE, "%s: holds tokens: --merges is for text", o->path);
    if (array) return texts_open_array(o->path, o->lengths, o->vocabulary, o->length, source);
    if (o->lengths)
        return status_set(COAR_ERROR_USAGE, "--lengths %s: is for tokens in a .npy file, which %s is not", o->lengths,
                          o->path);
    if (!o->vocabulary || !o->merges)
        return status_set(COAR_ERROR_USAGE,
                          "%s: give --vocab vocab.json and --merges merges.txt of the model that is to read it",
                          o->path);
    return texts_open_file(o->path, o->vocabulary, o->merges, o->length, source);
}

static coar_status write_texts(const coar_pack_options *o, const text_source *source, dataset_writer *writer) {
    coar_status status = COAR_OK;
    const size_t most = BATCH_BYTES / (source->tokens * sizeof(int32_t)) + 1;
    progress progress;
    int32_t *tokens = NULL;
    TRY_GOTO(memory_new(most, source->tokens * sizeof *tokens, "texts", &tokens));
    progress_begin(&progress, o->callbacks, "pack", "texts", 0, source->count);
    for (uint64_t first = 0; first < source->count;) {
        const uint64_t left = source->count - first;
        const size_t count = left < most ? (size_t)left : most;
        TRY_GOTO(texts_read(source, first, count, tokens));
        TRY_GOTO(dataset_writer_append(writer, tokens, count));
        first += count;
        if (progress_update(&progress, first) && first < source->count)
            TRY_GOTO(status_set(COAR_STOPPED, "%s: stopped at text %llu of %llu; nothing was written", o->output,
                                (unsigned long long)first, (unsigned long long)source->count));
    }
    status = dataset_writer_finish(writer);
done:
    free(tokens);
    return status;
}

coar_status pack_texts(const coar_pack_options *o, coar_pack_result *result) {
    coar_status status;
    const double start = clock_seconds();
    text_source source = {0};
    group_list groups = {0};
    dataset_writer *writer = NULL;
    char *provenance = NULL;
    TRY_GOTO(open_source(o, &source));
    if (o->groups) TRY_GOTO(groups_read(o->groups, NULL, source.count, &groups));
    provenance = string_format("%s %s", o->from, o->path);
    if (!provenance) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", o->path));
    const dataset_description description = {.count = source.count,
                                             .tokens = source.tokens,
                                             .vocabulary = source.vocabulary,
                                             .labels = source.lengths,
                                             .groups = groups.groups,
                                             .group_names = groups.names,
                                             .group_names_count = groups.names_count,
                                             .source = provenance,
                                             .command = o->command};
    TRY_GOTO(dataset_writer_create(o->output, &description, &writer));
    TRY_GOTO(write_texts(o, &source, writer));
    if (result)
        *result = (coar_pack_result){.examples = source.count,
                                     .groups = names_count_values(groups.groups, source.count, groups.names_count),
                                     .tokens = source.tokens,
                                     .vocabulary = source.vocabulary,
                                     .seconds = clock_seconds() - start};
done:
    dataset_writer_destroy(writer);
    free(provenance);
    group_list_free(&groups);
    texts_close(&source);
    return status;
}
