/*
 * pack.c - coar_pack: an importer's images, resized where asked, into a data set file (texts: pack_texts.c). Batches are
 * loaded by all threads and written by the calling one; memory is bounded by a batch and one image per thread.
 * Must not know: image formats, HDF5.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/number.h"
#include "core/options.h"
#include "core/threads.h"
#include "data/dataset.h"
#include "data/groups.h"
#include "data/importer.h"
#include "data/names.h"
#include "data/pack_texts.h"
#include "data/resize.h"

/* Pixels of one batch: small against any machine, large against one chunk of the file. */
#define BATCH_BYTES ((size_t)16 << 20)

typedef struct packing {
    coar_pack_options options;
    importer *source;
    group_list groups;
    resize_filter filter;
    uint32_t shorter;          /* side before the crop; 0 = keep the images as they are */
    dataset_description shape; /* what is written */
    thread_pool *pool;
    image *images;  /* [threads] last decoded image of each worker */
    uint8_t *batch; /* [batch_count][H][W][C] */
    size_t batch_count, image_bytes;
    uint64_t first; /* example of the batch's first image */
    dataset_writer *writer;
} packing;

/* -------------------------------------------------------------------------------------------------- options */

/* "A,B,C" into values; *count says how many. */
static coar_status parse_list(const char *flag, const char *text, float values[DATASET_MAX_CHANNELS], uint32_t *count) {
    *count = 0;
    for (const char *p = text;; p++) {
        char *end;
        double value = number_parse(p, &end);
        if (end == p || (*end && *end != ',') || !(fabs(value) < 1e6) || *count == DATASET_MAX_CHANNELS)
            return status_set(COAR_ERROR_USAGE, "%s %s: expected one number per channel, as in 0.485,0.456,0.406", flag,
                              text);
        values[(*count)++] = (float)value;
        p = end;
        if (!*p) return COAR_OK;
    }
}

static coar_status parse_normalisation(packing *p) {
    const coar_pack_options *o = &p->options;
    uint32_t means, stds;
    if (!o->mean && !o->std) return COAR_OK;
    if (!o->mean || !o->std) return status_set(COAR_ERROR_USAGE, "--mean and --std: give both or none");
    TRY(parse_list("--mean", o->mean, p->shape.mean, &means));
    TRY(parse_list("--std", o->std, p->shape.std, &stds));
    if (means != p->shape.channels || stds != p->shape.channels)
        return status_set(COAR_ERROR_USAGE, "--mean %s, --std %s: %s has %u channel%s", o->mean, o->std, o->path,
                          p->shape.channels, p->shape.channels > 1 ? "s" : "");
    for (uint32_t c = 0; c < stds; c++)
        if (!(p->shape.std[c] > 0)) return status_set(COAR_ERROR_USAGE, "--std %s: must be above 0", o->std);
    p->shape.has_normalisation = 1;
    return COAR_OK;
}

/* What holds for every source. */
static coar_status check_options(const coar_pack_options *o) {
    if (!o->from || !o->path || !o->output)
        return status_set(COAR_ERROR_USAGE,
                          "pack: the source's format (--from), PATH and the output (-o) are all needed");
    TRY(file_check_output(o->output, o->force));
    const char *const inputs[] = {o->path, o->labels, o->groups, o->lengths, o->vocabulary, o->merges};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) TRY(file_check_distinct(o->output, inputs[i]));
    return COAR_OK;
}

static coar_status parse_options(packing *p) {
    const coar_pack_options *o = &p->options;
    if (o->lengths || o->vocabulary || o->merges || o->length)
        return status_set(COAR_ERROR_USAGE, "--lengths, --vocab, --merges and --length: are for --from tokens");
    TRY(resize_parse(o->resize, &p->filter));
    if (o->image_size > DATASET_MAX_SIDE)
        return status_set(COAR_ERROR_USAGE, "--size %u: at most %u", o->image_size, DATASET_MAX_SIDE);
    if (!o->image_size && (o->crop != 0 || o->resize))
        return status_set(COAR_ERROR_USAGE, "--crop and --resize: need --size S");
    if (!(o->crop >= 0 && o->crop <= 1)) return status_set(COAR_ERROR_USAGE, "--crop %g: expected 0 < R <= 1", o->crop);
    const double crop = o->crop > 0 ? o->crop : o->image_size >= 224 ? .875 : 1;
    if (o->image_size / crop > DATASET_MAX_SIDE)
        return status_set(COAR_ERROR_USAGE, "--crop %g: the shorter side would exceed %u pixels", o->crop,
                          DATASET_MAX_SIDE);
    p->shorter = (uint32_t)lround(o->image_size / crop);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------- the work */

/* The first image fixes the shape of all. */
static coar_status plan_shape(packing *p) {
    image *first = &p->images[0];
    TRY(p->source->load(p->source, 0, first));
    const uint32_t side = p->options.image_size;
    p->shape.count = p->source->count;
    p->shape.height = side ? side : first->height;
    p->shape.width = side ? side : first->width;
    p->shape.channels = first->channels;
    if (p->shape.height > DATASET_MAX_SIDE || p->shape.width > DATASET_MAX_SIDE)
        return status_set(COAR_ERROR_INPUT, "%s: images of %u x %u pixels; give --size S to make them smaller",
                          p->options.path, p->shape.width, p->shape.height);
    TRY(parse_normalisation(p));
    p->image_bytes = (size_t)p->shape.height * p->shape.width * p->shape.channels;
    p->batch_count = BATCH_BYTES / p->image_bytes;
    const size_t threads = (size_t)thread_pool_size(p->pool);
    if (p->batch_count < threads) p->batch_count = threads;
    if (p->batch_count > p->shape.count) p->batch_count = (size_t)p->shape.count;
    return memory_new(p->batch_count, p->image_bytes, "a batch of images", &p->batch);
}

/* Example i's name in messages. */
static const char *example_name(const packing *p, uint64_t i, char buffer[32]) {
    if (p->source->names) return p->source->names[i];
    snprintf(buffer, 32, "example %llu", (unsigned long long)i);
    return buffer;
}

static coar_status load_task(void *context, size_t task, int worker) {
    packing *p = context;
    const uint64_t i = p->first + task;
    image *decoded = &p->images[worker];
    uint8_t *pixels = p->batch + task * p->image_bytes;
    char buffer[32];
    TRY(p->source->load(p->source, i, decoded));
    if (p->shorter)
        return resize_crop(decoded, p->filter, p->shorter, p->options.image_size, example_name(p, i, buffer), pixels);
    if (decoded->height != p->shape.height || decoded->width != p->shape.width)
        return status_set(COAR_ERROR_INPUT, "%s: %s: %u x %u pixels, but the first image has %u x %u; give --size S",
                          p->options.path, example_name(p, i, buffer), decoded->width, decoded->height, p->shape.width,
                          p->shape.height);
    memcpy(pixels, decoded->pixels, p->image_bytes);
    return COAR_OK;
}

static coar_status write_images(packing *p) {
    progress progress;
    progress_begin(&progress, p->options.callbacks, "pack", "images", 0, p->shape.count);
    for (p->first = 0; p->first < p->shape.count;) {
        uint64_t left = p->shape.count - p->first;
        size_t count = left < p->batch_count ? (size_t)left : p->batch_count;
        TRY(thread_pool_run(p->pool, count, load_task, p));
        TRY(dataset_writer_append(p->writer, p->batch, count));
        p->first += count;
        if (progress_update(&progress, p->first) && p->first < p->shape.count)
            return status_set(COAR_STOPPED, "%s: stopped at image %llu of %llu; nothing was written", p->options.output,
                              (unsigned long long)p->first, (unsigned long long)p->shape.count);
    }
    return dataset_writer_finish(p->writer);
}

static coar_status pack(packing *p) {
    coar_status status = COAR_OK;
    char *source = NULL;
    TRY_GOTO(parse_options(p));
    TRY_GOTO(importer_open(p->options.from, p->options.path, p->options.labels, &p->source));
    TRY_GOTO(thread_pool_create(p->options.threads, &p->pool));
    TRY_GOTO(memory_new((size_t)thread_pool_size(p->pool), sizeof *p->images, "images of each thread", &p->images));
    TRY_GOTO(plan_shape(p));
    if (p->options.groups) TRY_GOTO(groups_read(p->options.groups, p->source->names, p->source->count, &p->groups));
    source = string_format("%s %s", p->options.from, p->options.path);
    if (!source) {
        status = status_set(COAR_ERROR_MEMORY, "%s: not enough memory", p->options.path);
        goto done;
    }
    p->shape.labels = p->source->labels;
    p->shape.class_names = p->source->class_names;
    p->shape.classes = p->source->classes;
    p->shape.groups = p->groups.groups;
    p->shape.group_names = p->groups.names;
    p->shape.group_names_count = p->groups.names_count;
    p->shape.source = source;
    p->shape.command = p->options.command;
    TRY_GOTO(dataset_writer_create(p->options.output, &p->shape, &p->writer));
    TRY_GOTO(write_images(p));
done:
    free(source);
    return status;
}

coar_status coar_pack(const coar_pack_options *options, coar_pack_result *result) {
    status_clear();
    const double start = clock_seconds();
    packing p = {0};
    TRY(options_take(&p.options, sizeof p.options, options, "COAR_PACK_INIT"));
    TRY(check_options(&p.options));
    if (!strcmp(p.options.from, "tokens")) return pack_texts(&p.options, result);
    coar_status status = pack(&p);
    if (status == COAR_OK && result)
        *result = (coar_pack_result){
            .examples = p.shape.count,
            .classes = names_count_values(p.source->labels, p.shape.count, p.source->classes),
            .groups = names_count_values(p.groups.groups, p.shape.count, p.groups.names_count),
            .height = p.shape.height,
            .width = p.shape.width,
            .channels = p.shape.channels,
            .seconds = clock_seconds() - start,
        };
    dataset_writer_destroy(p.writer);
    for (int i = 0; p.images && i < thread_pool_size(p.pool); i++) image_free(&p.images[i]);
    free(p.images);
    free(p.batch);
    if (p.pool) thread_pool_destroy(p.pool);
    group_list_free(&p.groups);
    importer_destroy(p.source);
    return status;
}
