/*
 * random_examples.c - a data set that no file holds: random pixels with labels in turn, or random texts that fill their
 * room. For forecasts of jobs whose data are not there yet; no kernel's time depends on what examples hold.
 * Must not know: models.
 */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/philox.h"
#include "data/dataset.h"
#include "data/names.h"

coar_status dataset_random(const dataset_description *like, dataset **out) {
    dataset *data;
    if (like->count > memory_available() / 4 / sizeof *data->labels)
        return status_set(COAR_ERROR_MEMORY, "%llu examples do not fit this machine's memory",
                          (unsigned long long)like->count);
    TRY(memory_new(1, sizeof *data, "data set", &data));
    *data = (dataset){.random = true,
                      .count = like->count,
                      .height = like->height,
                      .width = like->width,
                      .channels = like->channels,
                      .tokens = like->tokens,
                      .vocabulary = like->vocabulary,
                      .classes = like->classes,
                      .has_normalisation = 1,
                      .file = -1,
                      .examples = -1};
    coar_status status = names_copy("random examples", &data->path);
    if (status == COAR_OK) status = memory_new((size_t)like->count, sizeof *data->labels, "labels", &data->labels);
    for (uint64_t i = 0; status == COAR_OK && i < like->count; i++)
        data->labels[i] = (int32_t)(like->tokens ? like->tokens : i % like->classes);
    for (size_t c = 0; c < DATASET_MAX_CHANNELS; c++) data->mean[c] = .5f, data->std[c] = .25f;
    if (status == COAR_OK)
        *out = data;
    else
        dataset_close(data);
    return status;
}

void dataset_read_random(const dataset *data, const uint64_t *rows, size_t count, void *examples) {
    const size_t bytes = dataset_example_bytes(data);
    for (size_t i = 0; i < count; i++)
        for (size_t at = 0; at < bytes; at += 16) {
            uint32_t words[4];
            philox_words(0, PHILOX_STREAM_CALIBRATION, rows[i], (uint32_t)(at / 16), words);
            for (size_t k = 0; data->tokens && k < 4; k++) words[k] %= data->vocabulary;
            memcpy((char *)examples + i * bytes + at, words, bytes - at < 16 ? bytes - at : 16);
        }
}
