/*
 * report.c - the report page from made-up data: well-formed, escaped, bounded; pictures decode to their pixels.
 */
#include "test.h"

#include <locale.h>
#include <png.h>

#include "core/philox.h"
#include "report/png_url.h"
#include "report/report_data.h"
#include "report/svg.h"

/* ------------------------------------------------------------------------------------------ made-up data */

static uint32_t draw_counter;

static double uniform(void) {
    uint32_t words[4];
    philox_words(7, 0, draw_counter++, 0, words);
    return words[0] / 4294967296.0;
}

static double normal(void) {
    double sum = 0;
    for (int i = 0; i < 12; i++) sum += uniform();
    return sum - 6;
}

static void fill_histogram(report_histogram *histogram, double mean, uint64_t count) {
    *histogram = (report_histogram){.mean = mean, .median = mean + .02};
    for (uint64_t i = 0; i < count; i++) report_histogram_add(histogram, mean + .15 * normal());
}

static void add_fact(report_data *data, const char *label, const char *value) {
    report_fact *fact = &data->facts[data->fact_count++];
    fact->label = label;
    snprintf(fact->value, sizeof fact->value, "%s", value);
}

static void add_group(report_data *data, const char *name, uint32_t count, double strength) {
    report_group *g = &data->groups[data->group_count++];
    snprintf(g->name, sizeof g->name, "%s", name);
    snprintf(g->kind, sizeof g->kind, "filter");
    g->first = data->components;
    g->count = count;
    g->low = .2 * strength;
    g->lower = .55 * strength;
    g->median = .85 * strength;
    g->upper = 1.3 * strength;
    g->high = 2.2 * strength;
    g->strength = strength;
    g->mean = strength * (.3 * normal() + .1);
    data->components += count;
}

static void fill_groups(report_data *data) {
    data->groups = calloc(64, sizeof *data->groups);
    add_group(data, "conv1", 16, .21);
    for (int stage = 1; stage <= 3; stage++)
        for (int block = 0; block < 3; block++)
            for (int conv = 1; conv <= 2; conv++) {
                char name[64];
                snprintf(name, sizeof name, "layer%d.%d.conv%d", stage, block, conv);
                add_group(data, name, 8u << stage, (.05 + .05 * uniform()) * (4 - stage));
            }
    double sum = 0;
    for (size_t i = 0; i < data->group_count; i++) sum += data->groups[i].strength * data->groups[i].count;
    for (size_t i = 0; i < data->group_count; i++)
        data->groups[i].share = data->groups[i].strength * data->groups[i].count / sum;
}

static void fill_picture(report_example *e, uint32_t side, uint32_t channels, double hue) {
    e->width = e->height = side;
    e->channels = channels;
    e->pixels = malloc((size_t)side * side * channels);
    for (uint32_t y = 0; y < side; y++)
        for (uint32_t x = 0; x < side; x++)
            for (uint32_t c = 0; c < channels; c++)
                e->pixels[(y * side + x) * channels + c] =
                    (uint8_t)(128 + 100 * sin(hue + .3 * x + c) * cos(.2 * y * (1 + hue / 9)));
}

static void fill_component(const report_data *data, report_component *c, double weight) {
    const report_group *g = &data->groups[(size_t)(uniform() * (double)data->group_count)];
    memcpy(c->group, g->name, sizeof c->group);
    c->index = (uint32_t)(uniform() * g->count);
    c->weight = weight;
}

static void fill_example(const report_data *data, report_example *e, size_t i, double correlation) {
    static const char *const labels[] = {"airplane", "automobile", "bird",  "cat",  "deer",
                                         "dog",      "frog",       "horse", "ship", "truck"};
    *e = (report_example){
        .row = 137 * i + 3, .baseline = 4 + 3 * normal(), .correlation = correlation, .r2 = .6, .has_weights = true};
    snprintf(e->label, sizeof e->label, "%s", labels[i % 10]);
    fill_picture(e, 32, 3, (double)i);
    for (size_t k = 0; k < REPORT_COMPONENTS; k++) {
        fill_component(data, &e->positive[k], .9 * uniform() + .2 * (double)(REPORT_COMPONENTS - k));
        fill_component(data, &e->negative[k], -.6 * uniform() - .2 * (double)(REPORT_COMPONENTS - k));
    }
    e->positive_count = e->negative_count = REPORT_COMPONENTS;
}

static void fill_scatter(report_example *e, const char *rank) {
    e->rank = rank;
    e->points = 100;
    e->truth = malloc(e->points * sizeof *e->truth);
    e->predicted = malloc(e->points * sizeof *e->predicted);
    for (size_t i = 0; i < e->points; i++) {
        double truth = normal();
        e->truth[i] = (float)(3 + 2 * truth);
        e->predicted[i] =
            (float)(3 + 1.6 * (e->correlation * truth + sqrt(1 - e->correlation * e->correlation) * normal()));
    }
}

static void fill_evaluation(report_data *data, const char *fit, double alpha, double mean) {
    report_evaluation *e = &data->evaluations[data->evaluation_count++];
    *e = (report_evaluation){.alpha = alpha,
                             .masks = 400,
                             .seed = 0,
                             .pearson_low = mean - .018,
                             .pearson_high = mean + .017,
                             .spearman_mean = mean - .02};
    snprintf(e->fit, sizeof e->fit, "%s", fit);
    snprintf(e->output, sizeof e->output, "margin");
    fill_histogram(&e->pearson, mean, 200);
}

static void fill_run(report_data *data) {
    static const char *const ranks[REPORT_PANELS] = {"Best", "Upper quartile", "Median", "Lower quartile", "Worst"};
    draw_counter = 0;
    *data =
        (report_data){.examples = 200, .masks = 2000, .alpha = .1, .accuracy = .815, .r2_mean = .71, .featured = -1};
    snprintf(data->title, sizeof data->title, "resnet20");
    snprintf(data->kind, sizeof data->kind, "filter");
    snprintf(data->output, sizeof data->output, "margin");
    snprintf(data->fit, sizeof data->fit, "ridge");
    snprintf(data->estimator, sizeof data->estimator, "ridge");
    add_fact(data, "Run", "r20.h5");
    add_fact(data, "Weights", "resnet20-cifar10.safetensors");
    add_fact(data, "Weights SHA-256", "1f0a7c33e29b");
    add_fact(data, "Data", "cifar10-test.h5");
    add_fact(data, "Data SHA-256", "9b00dbd81ffc");
    add_fact(data, "Components", "filters");
    add_fact(data, "Sampler", "bernoulli");
    add_fact(data, "Ablation", "zero");
    add_fact(data, "Outputs", "margin, loss");
    add_fact(data, "Seed", "18446744073709551615");
    add_fact(data, "Precision", "fp32");
    add_fact(data, "Fit", "ridge");
    add_fact(data, "Version", "0.1.0");
    add_fact(
        data, "Command",
        "coar run --model models/resnet20-cifar10.safetensors --data cifar10-test.h5 --examples @r20_examples.npy");
    fill_groups(data);
    fill_histogram(&data->heldout, .53, 200);
    for (size_t i = 0; i < REPORT_EXAMPLES; i++) {
        fill_example(data, &data->shown[i], i, .85 - .04 * (double)i);
        data->shown_count++;
        if (i % 5 == 0) fill_scatter(&data->shown[i], ranks[i / 5]);
    }
    fill_evaluation(data, "ols", .1, .526);
    fill_evaluation(data, "ridge", .1, .542);
    fill_evaluation(data, "ridge", .05, .41);
    data->featured = 1;
}
