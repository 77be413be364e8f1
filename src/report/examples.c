/* examples.c - the examples that a report shows: which, their pictures, their strongest components. See gather.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "report/gather.h"

/* ------------------------------------------------------------------------------------------------- which ones */

typedef struct ranked {
    double score;
    uint64_t index;
} ranked;

/* Best first; NaN last; equal ones by index. */
static int by_score(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (isnan(x->score) != isnan(y->score)) return isnan(x->score) - isnan(y->score);
    if (x->score > y->score) return -1;
    if (x->score < y->score) return 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* The extremes first: with fewer than five examples several ranks fall on one. */
static void name_ranks(report_data *data) {
    static const struct {
        size_t quarter;
        const char *name;
    } ranks[REPORT_PANELS] = {{0, "Best"}, {4, "Worst"}, {2, "Median"}, {1, "Upper quartile"}, {3, "Lower quartile"}};
    for (size_t i = 0; i < REPORT_PANELS; i++) {
        report_example *e = &data->shown[ranks[i].quarter * (data->shown_count - 1) / 4];
        if (!e->rank) e->rank = ranks[i].name;
    }
}

coar_status report_pick(const double *score, uint64_t examples, report_data *data, uint64_t picked[REPORT_EXAMPLES]) {
    ranked *order;
    TRY(memory_new(examples, sizeof *order, "report", &order));
    uint64_t defined = 0;
    for (uint64_t i = 0; i < examples; i++) {
        order[i] = (ranked){score[i], i};
        defined += !isnan(score[i]);
    }
    qsort(order, examples, sizeof *order, by_score);
    uint64_t from = defined ? defined : examples; /* one without a score is shown only when none has one */
    data->shown_count = from < REPORT_EXAMPLES ? from : REPORT_EXAMPLES;
    for (size_t i = 0; i < data->shown_count; i++) {
        uint64_t place = data->shown_count > 1 ? i * (from - 1) / (data->shown_count - 1) : 0;
        picked[i] = order[place].index;
        data->shown[i] = (report_example){.correlation = order[place].score};
    }
    if (data->shown_count) name_ranks(data);
    free(order);
    return COAR_OK;
}

/* ---------------------------------------------------------------------------------------------------- pictures */

/* Means of step x step pixels (fewer at the far edges), of the channels that a PNG can show. */
static void reduce(const uint8_t *image, uint32_t height, uint32_t width, uint32_t channels, uint32_t step,
                   report_picture *out) {
    for (uint32_t y = 0; y < out->height; y++)
        for (uint32_t x = 0; x < out->width; x++)
            for (uint32_t c = 0; c < out->channels; c++) {
                uint64_t sum = 0, count = 0;
                for (uint32_t v = y * step; v < (y + 1) * step && v < height; v++)
                    for (uint32_t u = x * step; u < (x + 1) * step && u < width; u++, count++)
                        sum += image[((size_t)v * width + u) * channels + c];
                out->pixels[((size_t)y * out->width + x) * out->channels + c] = (uint8_t)((sum + count / 2) / count);
            }
}

coar_status report_read_picture(const dataset *data, uint64_t row, uint32_t most, report_picture *out) {
    coar_status status;
    uint8_t *image = NULL;
    size_t pixels;
    if (data->tokens) return COAR_OK;
    if (!size_mul(data->height, data->width, &pixels)) pixels = SIZE_MAX;
    TRY_GOTO(memory_new(pixels, data->channels, "image", &image));
    TRY_GOTO(dataset_read(data, &row, 1, image));
    uint32_t side = data->height > data->width ? data->height : data->width;
    uint32_t step = side / most + (side % most != 0);
    out->height = data->height / step + (data->height % step != 0);
    out->width = data->width / step + (data->width % step != 0);
    out->channels = data->channels < 3 ? 1 : 3;
    TRY_GOTO(memory_new((size_t)out->height * out->width, out->channels, "picture", &out->pixels));
    reduce(image, data->height, data->width, data->channels, step, out);
done:
    free(image);
    return status;
}

/* -------------------------------------------------------------------------------------------------- components */

/* Puts component j, strongest first, into a list of at most REPORT_COMPONENTS; index holds j until names are set. */
static void insert(report_component *list, size_t *count, uint32_t j, double weight) {
    size_t at = *count;
    while (at > 0 && fabs(list[at - 1].weight) < fabs(weight)) at--;
    if (at == REPORT_COMPONENTS) return;
    if (*count < REPORT_COMPONENTS) (*count)++;
    memmove(list + at + 1, list + at, (*count - at - 1) * sizeof *list);
    list[at] = (report_component){.index = j, .weight = weight};
}

static void name_component(const run_tables *tables, report_component *c) {
    for (size_t i = 0; i < tables->group_count; i++) {
        const store_group *g = &tables->groups[i];
        if (c->index < g->first || c->index - g->first >= g->count) continue;
        memcpy(c->group, g->name, sizeof c->group - 1);
        c->index -= g->first;
        return;
    }
    snprintf(c->group, sizeof c->group, "component"); /* in no group: its number alone */
}

static void strongest(const run_tables *tables, const float *weight, report_example *e) {
    for (uint32_t j = 0; j < tables->components; j++)
        if (!isfinite(weight[j])) return;
    e->has_weights = true;
    for (uint32_t j = 0; j < tables->components; j++) {
        if (weight[j] > 0) insert(e->positive, &e->positive_count, j, weight[j]);
        if (weight[j] < 0) insert(e->negative, &e->negative_count, j, weight[j]);
    }
    for (size_t i = 0; i < e->positive_count; i++) name_component(tables, &e->positive[i]);
    for (size_t i = 0; i < e->negative_count; i++) name_component(tables, &e->negative[i]);
}

/* ------------------------------------------------------------------------------------------------------- cards */

void report_name(char out[REPORT_TEXT + 4], char *const *names, size_t count, const char *what, int32_t number) {
    if (names && number >= 0 && (size_t)number < count)
        report_cut(out, names[number]);
    else
        snprintf(out, REPORT_TEXT + 4, "%s %d", what, number);
}

static coar_status fill(const report_source *source, uint64_t index, const float *baseline, float *weight,
                        report_example *e) {
    const run_tables *tables = &source->tables;
    const dataset *data = source->data;
    e->row = tables->example_rows[index];
    if (e->row >= data->count)
        return status_set(COAR_ERROR_INPUT, "%s: examples/index: row %llu is outside %s, which holds %llu",
                          store_path(source->store), (unsigned long long)e->row, data->path,
                          (unsigned long long)data->count);
    e->baseline = baseline ? baseline[index] : NAN;
    if (data->tokens)
        snprintf(e->label, sizeof e->label, "%d tokens", tables->labels[index]);
    else
        report_name(e->label, data->class_names, data->classes, "class", tables->labels[index]);
    if (tables->subgroups)
        report_name(e->subgroup, data->group_names, data->group_names_count, "group", tables->subgroups[index]);
    TRY(report_read_picture(data, e->row, REPORT_IMAGE_SIDE, &e->picture));
    TRY(store_read_fit(source->store, source->fit.name, index, 1, weight, NULL, NULL, NULL, NULL));
    strongest(tables, weight, e);
    return COAR_OK;
}

coar_status report_examples(const report_source *source, const uint64_t *picked, const double *r2, report_data *data) {
    const run_tables *tables = &source->tables;
    const float *baseline = report_baseline(tables, source->fit.output);
    float *weight;
    TRY(memory_new(tables->components, sizeof *weight, "attributions", &weight));
    coar_status status = COAR_OK;
    for (size_t i = 0; i < data->shown_count; i++) {
        data->shown[i].r2 = r2[picked[i]];
        TRY_GOTO(fill(source, picked[i], baseline, weight, &data->shown[i]));
    }
done:
    free(weight);
    return status;
}
