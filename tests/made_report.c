/* made_report.c - see made_report.h. */
#include "made_report.h"

#include "core/philox.h"
#include "test.h"

/* ------------------------------------------------------------------------------------------ made-up data */

static uint32_t draw_counter;

double made_uniform(void) {
    uint32_t words[4];
    philox_words(7, 0, draw_counter++, 0, words);
    return words[0] / 4294967296.0;
}

double made_normal(void) {
    double sum = 0;
    for (int i = 0; i < 12; i++) sum += made_uniform();
    return sum - 6;
}

void made_histogram(report_histogram *histogram, double mean, uint64_t count) {
    *histogram = (report_histogram){.mean = mean, .median = mean + .02};
    for (uint64_t i = 0; i < count; i++) report_histogram_add(histogram, mean + .15 * made_normal());
}

static void add_fact(report_data *data, const char *label, const char *value) {
    report_fact *fact = &data->facts[data->fact_count++];
    fact->label = label;
    snprintf(fact->value, sizeof fact->value, "%s", value);
}

void made_group(report_data *data, const char *name, uint32_t count, double strength) {
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
    g->mean = strength * (.3 * made_normal() + .1);
    data->components += count;
}

static void fill_groups(report_data *data) {
    data->groups = calloc(64, sizeof *data->groups);
    made_group(data, "conv1", 16, .21);
    for (int stage = 1; stage <= 3; stage++)
        for (int block = 0; block < 3; block++)
            for (int conv = 1; conv <= 2; conv++) {
                char name[64];
                snprintf(name, sizeof name, "layer%d.%d.conv%d", stage, block, conv);
                made_group(data, name, 8u << stage, (.05 + .05 * made_uniform()) * (4 - stage));
            }
    double sum = 0;
    for (size_t i = 0; i < data->group_count; i++) sum += data->groups[i].strength * data->groups[i].count;
    for (size_t i = 0; i < data->group_count; i++)
        data->groups[i].share = data->groups[i].strength * data->groups[i].count / sum;
}

void made_picture(report_picture *e, uint32_t side, uint32_t channels, double hue) {
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
    const report_group *g = &data->groups[(size_t)(made_uniform() * (double)data->group_count)];
    memcpy(c->group, g->name, sizeof c->group);
    c->index = (uint32_t)(made_uniform() * g->count);
    c->weight = weight;
}

static void fill_example(const report_data *data, report_example *e, size_t i, double correlation) {
    static const char *const labels[] = {"airplane", "automobile", "bird",  "cat",  "deer",
                                         "dog",      "frog",       "horse", "ship", "truck"};
    *e = (report_example){.row = 137 * i + 3,
                          .baseline = 4 + 3 * made_normal(),
                          .correlation = correlation,
                          .r2 = .6,
                          .has_weights = true};
    snprintf(e->label, sizeof e->label, "%s", labels[i % 10]);
    made_picture(&e->picture, 32, 3, (double)i);
    for (size_t k = 0; k < REPORT_COMPONENTS; k++) {
        fill_component(data, &e->positive[k], .9 * made_uniform() + .2 * (double)(REPORT_COMPONENTS - k));
        fill_component(data, &e->negative[k], -.6 * made_uniform() - .2 * (double)(REPORT_COMPONENTS - k));
    }
    e->positive_count = e->negative_count = REPORT_COMPONENTS;
}

static void fill_scatter(report_example *e, const char *rank) {
    e->rank = rank;
    e->points = 100;
    e->truth = malloc(e->points * sizeof *e->truth);
    e->predicted = malloc(e->points * sizeof *e->predicted);
    for (size_t i = 0; i < e->points; i++) {
        double truth = made_normal();
        e->truth[i] = (float)(3 + 2 * truth);
        e->predicted[i] =
            (float)(3 + 1.6 * (e->correlation * truth + sqrt(1 - e->correlation * e->correlation) * made_normal()));
    }
}

void made_evaluation(report_data *data, const char *fit, double alpha, double mean) {
    report_evaluation *e = &data->evaluations[data->evaluation_count++];
    *e = (report_evaluation){.alpha = alpha,
                             .masks = 400,
                             .seed = 0,
                             .pearson_low = mean - .018,
                             .pearson_high = mean + .017,
                             .spearman_mean = mean - .02};
    snprintf(e->fit, sizeof e->fit, "%s", fit);
    snprintf(e->output, sizeof e->output, "margin");
    made_histogram(&e->pearson, mean, 200);
}

void made_run(report_data *data) {
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
    made_histogram(&data->heldout, .53, 200);
    for (size_t i = 0; i < REPORT_EXAMPLES; i++) {
        fill_example(data, &data->shown[i], i, .85 - .04 * (double)i);
        data->shown_count++;
        if (i % 5 == 0) fill_scatter(&data->shown[i], ranks[i / 5]);
    }
    made_evaluation(data, "ols", .1, .526);
    made_evaluation(data, "ridge", .1, .542);
    made_evaluation(data, "ridge", .05, .41);
    data->featured = 1;
}

static void fill_sweep(report_edit *e) {
    static const double gains[REPORT_EDIT_SWEPT] = {8, -.4, -.9}, right[REPORT_EDIT_SWEPT] = {.9, -.04, -.03};
    e->points = 26;
    e->ablated = calloc(e->points, sizeof *e->ablated);
    for (size_t i = 0; i < e->points; i++) e->ablated[i] = (double)(2 * i);
    for (size_t i = 0; i < REPORT_EDIT_SWEPT; i++)
        for (size_t s = 0; s < REPORT_SCORES; s++) {
            e->sweep[i][s] = calloc(e->points, sizeof(double));
            for (size_t k = 0; k < e->points; k++) {
                const double way = 1 - exp(-.15 * (double)k);
                e->sweep[i][s][k] = s == REPORT_OUTPUT
                                        ? gains[i] * way + (i ? 5 : -4)
                                        : fmin(1, fmax(0, right[i] * way + (i ? .96 : 0) + .01 * made_normal()));
            }
        }
}

static void fill_choice(report_edit *e, const char *method, double gain) {
    report_edit_choice *c = &e->choices[e->choice_count++];
    snprintf(c->method, sizeof c->method, "%s", method);
    for (int f = 0; f < REPORT_FIGURES; f++)
        for (int k = 0; k < 3; k++)
            c->figure[f][k] = f == REPORT_GAIN         ? gain + .7 * (k == 2) - .6 * (k == 1)
                              : f == REPORT_FRESH_GAIN ? NAN
                                                       : .01 * f + .004 * (k == 2) - .005 * (k == 1);
}

static void fill_turn(report_edit *e, size_t set, size_t i) {
    report_edit_example *x = &e->examples[set][e->example_count[set]++];
    *x = (report_edit_example){
        .row = 31 * i + set, .margin_before = -2 - made_uniform(), .margin_after = 3 * made_normal()};
    snprintf(x->label, sizeof x->label, "ship");
    snprintf(x->before, sizeof x->before, "airplane");
    snprintf(x->after, sizeof x->after, x->margin_after > 0 ? "ship" : "truck");
    made_picture(&x->picture, 32, 3, (double)(i + 40 * set));
}

/* An edit of 7 filters with groups; `pairs` of them. */
void made_edit(report_data *data, const char *name, size_t pairs) {
    data->edits = realloc(data->edits, (data->edit_count + 1) * sizeof *data->edits);
    report_edit *e = &data->edits[data->edit_count++];
    *e = (report_edit){.raise = true,
                       .has_classes = true,
                       .components = data->components,
                       .k = 8,
                       .max_k = 100,
                       .stopped = 50,
                       .select = 2,
                       .until = NAN,
                       .harm_weight = NAN};
    snprintf(e->name, sizeof e->name, "%s", name);
    snprintf(e->method, sizeof e->method, "tau");
    snprintf(e->fit, sizeof e->fit, "ridge");
    snprintf(e->output, sizeof e->output, "margin");
    for (size_t i = 0; i < REPORT_EDIT_SETS; i++) {
        e->sets[i] = (report_edit_set){.examples = i == 4 ? 0 : 10 + 500 * i * i,
                                       .before = {i ? 5 : -4, i ? .96 : 0, .71, .88},
                                       .after = {i ? 4.8 : 2.1, i ? .95 : .9, .86, .93}};
        snprintf(e->sets[i].spec, sizeof e->sets[i].spec, i ? "rest" : "class:ship & wrong");
        for (size_t k = 0; i != 2 && i != 4 && k < REPORT_EDIT_EXAMPLES; k++) fill_turn(e, i, k);
    }
    fill_sweep(e);
    e->groups = calloc(data->group_count, sizeof *e->groups);
    for (e->group_count = 0; e->group_count < data->group_count; e->group_count++) {
        report_edit_group *g = &e->groups[e->group_count];
        snprintf(g->name, sizeof g->name, "%s", data->groups[e->group_count].name);
        g->count = data->groups[e->group_count].count;
        g->edited = e->group_count % 5 == 3 ? 2 : 0;
    }
    for (e->listed_count = 0; e->listed_count < 8; e->listed_count++) {
        report_edit_component *c = &e->listed[e->listed_count];
        *c = (report_edit_component){.index = (uint32_t)(3 * e->listed_count), .score = -9 + (double)e->listed_count};
        snprintf(c->group, sizeof c->group, "%s", data->groups[3 + 5 * (e->listed_count % 4)].name);
    }
    for (; e->pair_count < pairs; e->pair_count++) {
        report_edit_pair *p = &e->pairs[e->pair_count];
        *p = (report_edit_pair){.examples = {40, e->pair_count % 2 ? 0 : 41}, .before = {.7, .71}, .after = {.9, .86}};
        snprintf(p->label, sizeof p->label, "ship");
        snprintf(p->group, sizeof p->group, "group %zu", e->pair_count);
    }
    e->has_groups = pairs > 0;
    fill_choice(e, "tau", 6);
    fill_choice(e, "loo", 4.1);
    fill_choice(e, "gradient", 1.2);
    fill_choice(e, "norm", -.3);
    fill_choice(e, "random", .2);
}

/* ------------------------------------------------------------------------------------------- a tiny checker */

static int is_void(const char *name) {
    return !strcmp(name, "meta") || !strcmp(name, "img") || !strcmp(name, "br");
}

/* The end of the tag that begins at `at` ('<'), with quotes balanced; NULL when there is none. */
static const char *tag_end(const char *at) {
    int quoted = 0;
    for (at++; *at; at++) {
        if (*at == '"')
            quoted = !quoted;
        else if (*at == '<')
            return NULL;
        else if (*at == '>' && !quoted)
            return at;
    }
    return NULL;
}

/* NULL, or where the page stops being well-formed: every tag closed in order, every & an entity, quotes balanced. */
const char *page_malformed(const char *page) {
    char stack[64][16], name[16];
    size_t depth = 0;
    for (const char *at = page; *at; at++) {
        const char *entity_end = at + 1 + strspn(at + 1, "#abcdefghijklmnopqrstuvwxyz0123456789");
        if (*at == '&' && (*entity_end != ';' || entity_end == at + 1)) return at;
        if (*at == '>') return at;
        if (*at != '<') continue;
        const char *end = tag_end(at);
        if (!end) return at;
        int closing = at[1] == '/';
        if (sscanf(at + 1 + closing, "%15[a-zA-Z0-9!]", name) != 1) return at;
        if (closing) {
            if (depth == 0 || strcmp(stack[--depth], name) != 0) return at;
        } else if (name[0] != '!' && !is_void(name) && end[-1] != '/') {
            if (depth == 64) return at;
            strcpy(stack[depth++], name);
        }
        at = end;
        if (!closing && !strcmp(name, "style")) at = strstr(at, "</style>") - 1;
    }
    return depth ? page + strlen(page) : NULL;
}

/* The page without its pictures: base64 may spell anything. */
static char *without_pictures(const char *page) {
    char *copy = calloc(strlen(page) + 1, 1), *out = copy;
    for (const char *at = page; *at;) {
        if (!strncmp(at, "base64,", 7))
            while (*at && *at != '"') at++;
        else
            *out++ = *at++;
    }
    return copy;
}

/* Renders, checks what holds for every page, frees the data. The page (without pictures) is the caller's to free. */
char *page_checked(report_data *data, size_t *bytes) {
    html page = {0};
    CHECK_OK(report_render(data, &page));
    const char *wrong = page.text ? page_malformed(page.text) : "no page";
    if (wrong) test_fail(__FILE__, __LINE__, "malformed at: %.80s", wrong);
    char *text = without_pictures(page.text ? page.text : "");
    static const char *const never[] = {"http:", "https:", "<script", "url(",  "@import",
                                        "nan",   "inf\"",  ">inf<",   "-0.00<"};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
        const char *found = strstr(text, never[i]);
        if (found) test_fail(__FILE__, __LINE__, "the page holds \"%s\": %.60s", never[i], found);
    }
    if (bytes) *bytes = page.used;
    html_free(&page);
    report_data_free(data);
    return text;
}
