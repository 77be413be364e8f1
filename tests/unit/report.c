/* report.c - the report page from made-up data: well-formed, escaped, bounded, gaps for what is not finite. */
#include "core/text.h"
#include "made_report.h"
#include "test.h"

static void check_page(report_data *data, const char *contains) {
    char *page = page_checked(data, NULL);
    if (!strstr(page, contains)) test_fail(__FILE__, __LINE__, "the page lacks \"%s\"", contains);
    free(page);
}

/* ---------------------------------------------------------------------------------------------------- pages */

static void test_checker(void) {
    test_begin("the checker itself finds what is wrong");
    CHECK(!page_malformed("<p class=\"a\">x &amp; y<br><img src=\"1\"></p>"));
    CHECK(page_malformed("<p><b></p></b>") != NULL);
    CHECK(page_malformed("<p>") != NULL);
    CHECK(page_malformed("<p>a & b</p>") != NULL);
    CHECK(page_malformed("<p title=\"a\"b\">x</p>") != NULL);
    CHECK(page_malformed("<p>a > b</p>") != NULL);
}

static void test_ordinary(void) {
    test_begin("a page of an ordinary run");
    report_data data;
    made_run(&data);
    char *page = page_checked(&data, NULL);
    CHECK(strstr(page, "688 filters shapes the margin of 200 examples") != NULL);
    CHECK(strstr(page, "0.52 to 0.56") != NULL);
    CHECK(strstr(page, "81.5") != NULL);
    CHECK(strstr(page, "18446744073709551615") != NULL);
    CHECK(strstr(page, "layer3.2.conv2") != NULL);
    CHECK(strstr(page, "Upper quartile") != NULL);

    made_run(&data);
    char *again = page_checked(&data, NULL);
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
    made_run(&data);
    make_hostile(&data);
    char *page = page_checked(&data, NULL);
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
    made_run(&data);
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
    char *page = page_checked(&data, NULL);
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
    made_group(&data, "only", 1, .3);
    data.shown[data.shown_count++] =
        (report_example){.correlation = NAN, .baseline = 0, .r2 = NAN, .has_weights = true, .rank = "Best"};
    made_picture(&data.shown[0].picture, 1, 1, 0);
    made_histogram(&data.heldout, NAN, 0);
    check_page(&data, "1 head shapes the margin of 1 example,");
}

static void test_no_evaluation(void) {
    test_begin("without an evaluation the page says how to get one");
    report_data data;
    made_run(&data);
    data.evaluation_count = 0;
    data.featured = -1;
    char *page = page_checked(&data, NULL);
    CHECK(strstr(page, "coar evaluate") != NULL);
    CHECK(strstr(page, "Leave-one-out correlation, per example") != NULL);
    CHECK(!strstr(page, "Predicted against true</h2>"));
    free(page);

    test_begin("evaluations of other fits alone: a table, no scatter plots");
    made_run(&data);
    data.featured = -1;
    page = page_checked(&data, NULL);
    CHECK(strstr(page, "Counterfactual correlation") != NULL);
    CHECK(!strstr(page, "Predicted against true</h2>"));
    free(page);
}

static void test_bounded(void) {
    test_begin("the largest page stays small");
    report_data data;
    made_run(&data);
    free(data.groups);
    data.groups = calloc(REPORT_GROUPS, sizeof *data.groups);
    data.group_count = 0;
    for (int i = 0; i < REPORT_GROUPS; i++) {
        char name[96];
        memset(name, '<', sizeof name); /* four characters each on the page */
        name[95] = '\0';
        made_group(&data, name, 4096, .1);
    }
    data.evaluation_count = 0;
    while (data.evaluation_count < REPORT_EVALUATIONS) made_evaluation(&data, "a-fit-with-a-rather-long-name", .1, .5);
    for (size_t i = 0; i < data.shown_count; i++) {
        report_example *e = &data.shown[i];
        free(e->picture.pixels);
        made_picture(&e->picture, REPORT_IMAGE_SIDE, 3, 1);
        for (size_t k = 0; k < (size_t)REPORT_IMAGE_SIDE * REPORT_IMAGE_SIDE * 3; k++)
            e->picture.pixels[k] = (uint8_t)(256 * made_uniform());
        if (!e->rank) continue;
        e->truth = realloc(e->truth, REPORT_POINTS * sizeof *e->truth);
        e->predicted = realloc(e->predicted, REPORT_POINTS * sizeof *e->predicted);
        for (e->points = 0; e->points < REPORT_POINTS; e->points++)
            e->truth[e->points] = e->predicted[e->points] = (float)made_normal();
    }
    size_t bytes;
    free(page_checked(&data, &bytes));
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
