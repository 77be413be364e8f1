/* report.c - the report page from made-up data: well-formed, escaped, bounded, gaps for what is not finite. */
#include "test.h"


#include "core/philox.h"
#include "core/text.h"
#include "report/report_data.h"

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
static const char *malformed(const char *page) {
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
static char *checked_page(report_data *data, size_t *bytes) {
    html page = {0};
    CHECK_OK(report_render(data, &page));
    const char *wrong = page.text ? malformed(page.text) : "no page";
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

static void check_page(report_data *data, const char *contains) {
    char *page = checked_page(data, NULL);
    if (!strstr(page, contains)) test_fail(__FILE__, __LINE__, "the page lacks \"%s\"", contains);
    free(page);
}

/* ---------------------------------------------------------------------------------------------------- pages */

static void test_checker(void) {
    test_begin("the checker itself finds what is wrong");
    CHECK(!malformed("<p class=\"a\">x &amp; y<br><img src=\"1\"></p>"));
    CHECK(malformed("<p><b></p></b>") != NULL);
    CHECK(malformed("<p>") != NULL);
    CHECK(malformed("<p>a & b</p>") != NULL);
    CHECK(malformed("<p title=\"a\"b\">x</p>") != NULL);
    CHECK(malformed("<p>a > b</p>") != NULL);
}

static void test_ordinary(void) {
    test_begin("a page of an ordinary run");
    report_data data;
    fill_run(&data);
    char *page = checked_page(&data, NULL);
    CHECK(strstr(page, "688 filters shapes the margin of 200 examples") != NULL);
    CHECK(strstr(page, "0.52 to 0.56") != NULL);
    CHECK(strstr(page, "81.5") != NULL);
    CHECK(strstr(page, "18446744073709551615") != NULL);
    CHECK(strstr(page, "layer3.2.conv2") != NULL);
    CHECK(strstr(page, "Upper quartile") != NULL);

    fill_run(&data);
    char *again = checked_page(&data, NULL);
    CHECK_TEXT(again, page);
    free(again);
    free(page);
}

#define HOSTILE "\"><script>alert('&')</script>\x01\xff\xc2\x85<!--"

static void make_hostile(report_data *data) {
    snprintf(data->title, sizeof data->title, HOSTILE);
    snprintf(data->kind, sizeof data->kind, "\"'<&>");
    snprintf(data->output, sizeof data->output, HOSTILE);
    snprintf(data->fit, sizeof data->fit, HOSTILE);
    for (size_t i = 0; i < data->fact_count; i++) {
        snprintf(data->facts[i].value, sizeof data->facts[i].value, HOSTILE);
        data->facts[i].full = strdup(HOSTILE HOSTILE);
    }
    for (size_t i = 0; i < data->evaluation_count; i++) {
        snprintf(data->evaluations[i].fit, sizeof data->evaluations[i].fit, HOSTILE);
        snprintf(data->evaluations[i].output, sizeof data->evaluations[i].output, HOSTILE);
    }
    for (size_t i = 0; i < data->group_count; i++) {
        snprintf(data->groups[i].name, sizeof data->groups[i].name, "%s%zu", HOSTILE, i);
        snprintf(data->groups[i].kind, sizeof data->groups[i].kind, "<&\"'>");
    }
    for (size_t i = 0; i < data->shown_count; i++) {
        snprintf(data->shown[i].label, sizeof data->shown[i].label, HOSTILE);
        snprintf(data->shown[i].subgroup, sizeof data->shown[i].subgroup, HOSTILE);
        for (size_t k = 0; k < REPORT_COMPONENTS; k++) {
            snprintf(data->shown[i].positive[k].group, sizeof data->shown[i].positive[k].group, HOSTILE);
            snprintf(data->shown[i].negative[k].group, sizeof data->shown[i].negative[k].group, HOSTILE);
        }
    }
}

static void test_hostile(void) {
    test_begin("hostile names everywhere are text, not markup");
    report_data data;
    fill_run(&data);
    make_hostile(&data);
    char *page = checked_page(&data, NULL);
    CHECK(strstr(page,
                 "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd&lt;!--") !=
          NULL);
    for (const char *at = page; *at; at++)
        if ((unsigned char)*at < ' ' && *at != '\n') test_fail(__FILE__, __LINE__, "control character %d", *at);
    for (const char *at = page; *at; at += utf8_length(at, SIZE_MAX) ? utf8_length(at, SIZE_MAX) : 1)
        if (!utf8_length(at, SIZE_MAX)) test_fail(__FILE__, __LINE__, "not UTF-8: byte %d", (unsigned char)*at);
    free(page);
}

static void spoil(double *value, int i) {
    *value = i % 2 ? NAN : INFINITY;
}

static void test_not_finite(void) {
    test_begin("NaN and infinity leave gaps, not \"nan\"");
    report_data data;
    fill_run(&data);
    spoil(&data.r2_mean, 0);
    spoil(&data.accuracy, 1);
    spoil(&data.alpha, 1);
    spoil(&data.heldout.mean, 1);
    for (size_t i = 0; i < data.group_count; i++) {
        report_group *g = &data.groups[i];
        double *all[] = {&g->low, &g->lower, &g->median, &g->upper, &g->high, &g->strength, &g->mean, &g->share};
        for (int k = 0; k < 8; k++) spoil(all[k], k + (int)i);
    }
    for (size_t i = 0; i < data.shown_count; i++) {
        report_example *e = &data.shown[i];
        spoil(&e->baseline, (int)i);
        spoil(&e->correlation, (int)i + 1);
        spoil(&e->r2, (int)i);
        if (i % 3 == 0) e->has_weights = false;
        for (size_t p = 0; p < e->points; p++) e->truth[p] = p % 2 ? NAN : INFINITY;
    }
    for (size_t i = 0; i < data.evaluation_count; i++) {
        report_evaluation *e = &data.evaluations[i];
        double *all[] = {&e->pearson_low, &e->pearson_high, &e->spearman_mean, &e->pearson.mean, &e->pearson.median};
        for (int k = 0; k < 5; k++) spoil(all[k], 1);
    }
    char *page = checked_page(&data, NULL);
    CHECK(strstr(page, "Left out of the fit") != NULL);
    CHECK(strstr(page, "class=\"dots\" d=\"\"") != NULL);
    free(page);
}

static void test_smallest(void) {
    test_begin("n = 1, N = 1");
    report_data data = {
        .examples = 1, .components = 0, .masks = 2, .alpha = .5, .accuracy = 1, .r2_mean = NAN, .featured = -1};
    snprintf(data.title, sizeof data.title, "tiny");
    snprintf(data.kind, sizeof data.kind, "head");
    snprintf(data.output, sizeof data.output, "margin");
    data.groups = calloc(1, sizeof *data.groups);
    add_group(&data, "only", 1, .3);
    data.shown[data.shown_count++] =
        (report_example){.correlation = NAN, .baseline = 0, .r2 = NAN, .has_weights = true, .rank = "Best"};
    fill_picture(&data.shown[0], 1, 1, 0);
    fill_histogram(&data.heldout, NAN, 0);
    check_page(&data, "1 head shapes the margin of 1 example,");
}

static void test_no_evaluation(void) {
    test_begin("without an evaluation the page says how to get one");
    report_data data;
    fill_run(&data);
    data.evaluation_count = 0;
    data.featured = -1;
    char *page = checked_page(&data, NULL);
    CHECK(strstr(page, "coar evaluate") != NULL);
    CHECK(strstr(page, "Leave-one-out correlation, per example") != NULL);
    CHECK(!strstr(page, "Predicted against true</h2>"));
    free(page);

    test_begin("evaluations of other fits alone: a table, no scatter plots");
    fill_run(&data);
    data.featured = -1;
    page = checked_page(&data, NULL);
    CHECK(strstr(page, "Counterfactual correlation") != NULL);
    CHECK(!strstr(page, "Predicted against true</h2>"));
    free(page);
}

static void test_bounded(void) {
    test_begin("the largest page stays small");
    report_data data;
    fill_run(&data);
    free(data.groups);
    data.groups = calloc(REPORT_GROUPS, sizeof *data.groups);
    data.group_count = 0;
    for (int i = 0; i < REPORT_GROUPS; i++) {
        char name[96];
        memset(name, '<', sizeof name); /* four characters each on the page */
        name[95] = '\0';
        add_group(&data, name, 4096, .1);
    }
    data.evaluation_count = 0;
    while (data.evaluation_count < REPORT_EVALUATIONS) fill_evaluation(&data, "a-fit-with-a-rather-long-name", .1, .5);
    for (size_t i = 0; i < data.shown_count; i++) {
        report_example *e = &data.shown[i];
        free(e->pixels);
        fill_picture(e, REPORT_IMAGE_SIDE, 3, 1);
        for (size_t k = 0; k < (size_t)REPORT_IMAGE_SIDE * REPORT_IMAGE_SIDE * 3; k++)
            e->pixels[k] = (uint8_t)(256 * uniform());
        if (!e->rank) continue;
        e->truth = realloc(e->truth, REPORT_POINTS * sizeof *e->truth);
        e->predicted = realloc(e->predicted, REPORT_POINTS * sizeof *e->predicted);
        for (e->points = 0; e->points < REPORT_POINTS; e->points++)
            e->truth[e->points] = e->predicted[e->points] = (float)normal();
    }
    size_t bytes;
    free(checked_page(&data, &bytes));
    if (bytes > 3u << 20) test_fail(__FILE__, __LINE__, "the page has %zu bytes", bytes);
}

int main(void) {
    test_checker();
    test_ordinary();
    test_hostile();
    test_not_finite();
    test_smallest();
    test_no_evaluation();
    test_bounded();
    return test_end();
}
