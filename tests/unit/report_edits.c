/* report_edits.c - edits on the report page, from made-up data: well-formed, escaped, bounded, gaps for what is not finite. */
#include "core/text.h"
#include "made_report.h"
#include "test.h"

static void check_has(const char *page, const char *text) {
    if (!strstr(page, text)) test_fail(__FILE__, __LINE__, "the page lacks \"%s\"", text);
}

static void check_lacks(const char *page, const char *text) {
    if (strstr(page, text)) test_fail(__FILE__, __LINE__, "the page has \"%s\"", text);
}

static size_t occurrences(const char *page, const char *text) {
    size_t count = 0;
    for (; (page = strstr(page, text)); page++) count++;
    return count;
}

static void test_none(void) {
    test_begin("without edits nothing is said of them");
    report_data data;
    made_run(&data);
    char *page = page_checked(&data, NULL);
    check_lacks(page, "<h2>Edit ");
    free(page);
}

static void test_ordinary(void) {
    test_begin("an edit's section: what was done, what it does, how it compares, where it sits");
    report_data data;
    made_run(&data);
    made_edit(&data, "ships", 0);
    made_edit(&data, "worst", 4);
    data.edits_hidden = 3;
    char *page = page_checked(&data, NULL);
    check_has(page, "<h2>Edit ships</h2>");
    check_has(page, "<h2>Edit worst</h2>");
    check_has(page, "3 more edits are in the run file");
    check_has(page, "Ablates 8 of the 688 filters for good, to raise the margin of 10 target examples");
    check_has(page, "class:ship &amp; wrong");
    check_has(page, "0.0\xe2\x80\xaf% &rarr; 90.0\xe2\x80\xaf%"); /* the target's accuracy */
    check_has(page, "\xe2\x88\x92"
                    "4 &rarr; +2.1"); /* and its mean margin */
    check_has(page, "The sweep ended at 50");
    check_has(page, "<td>loo</td>");
    check_has(page, "<tr class=\"chosen\"><td>tau</td><td>+6.00<div");
    check_has(page, "layer1.1.conv1: 2 of 16 ablated");
    check_has(page, "before: <span class=\"wrong\">airplane</span>");
    check_has(page, "group 3");
    check_lacks(page, "Fresh targets");
    CHECK_INT(occurrences(page, "Test: worst group"), 1); /* the edit with groups alone */
    CHECK_INT(occurrences(page, "curve worst"), 1);
    CHECK_INT(occurrences(page, "curve target"), 4); /* accuracy and output of both */
    CHECK_INT(occurrences(page, "class=\"card turn\""), 2 * 3 * REPORT_EDIT_EXAMPLES);
    free(page);
}

static void test_fresh(void) {
    test_begin(
        "fresh examples such as the target's have a figure, a row and a column; labels without groups are classes");
    report_data data;
    made_run(&data);
    made_edit(&data, "fresh", 2);
    report_edit *e = &data.edits[0];
    e->has_groups = false;
    e->sets[REPORT_FRESH] = (report_edit_set){.examples = 77, .before = {-3, .02}, .after = {1, .75}};
    for (size_t i = 0; i < e->choice_count; i++)
        for (int k = 0; k < 3; k++) e->choices[i].figure[REPORT_FRESH_GAIN][k] = .5 + .1 * k;
    char *page = page_checked(&data, NULL);
    check_has(page, "Fresh targets: accuracy");
    check_has(page, "<td>Fresh targets</td><td>77</td>");
    check_has(page, "Gain of fresh targets");
    check_has(page, "<td>+50.0<div class=\"soft\">+60.0 to +70.0</div>");
    check_has(page, "Test: worst class");
    check_lacks(page, "group 0");
    free(page);
}

static void test_nothing_helps(void) {
    test_begin("an edit of no components says so");
    report_data data;
    made_run(&data);
    made_edit(&data, "none", 0);
    report_edit *e = &data.edits[0];
    e->k = e->listed_count = e->choice_count = 0;
    char *page = page_checked(&data, NULL);
    check_has(page, "the network stays as it is");
    check_has(page, "curve target");
    check_lacks(page, "class=\"picks\"");
    check_lacks(page, "class=\"card turn\"");
    free(page);
}

static void test_language_model(void) {
    test_begin("a language model's edit has outputs and no accuracies");
    report_data data;
    made_run(&data);
    made_edit(&data, "stories", 0);
    report_edit *e = &data.edits[0];
    e->has_classes = false;
    for (size_t i = 0; i < REPORT_EDIT_SETS; i++)
        for (size_t s = REPORT_ACCURACY; s < REPORT_SCORES; s++) {
            e->sets[i].before[s] = e->sets[i].after[s] = NAN;
            if (i < REPORT_EDIT_SWEPT)
                for (size_t k = 0; k < e->points; k++) e->sweep[i][s][k] = NAN;
        }
    char *page = page_checked(&data, NULL);
    check_has(page, "Target: mean output");
    check_has(page, "at most 2 of mean output");
    check_lacks(page, "Accuracy</th>");
    CHECK_INT(occurrences(page, "curve target"), 1);
    free(page);
}

#define HOSTILE "\"><script>alert('&')</script>\x01\xff<!--"

static void test_hostile(void) {
    test_begin("hostile names in edits are text, not markup");
    report_data data;
    made_run(&data);
    made_edit(&data, HOSTILE, 2);
    report_edit *e = &data.edits[0];
    snprintf(e->method, sizeof e->method, "<&\"'>");
    snprintf(e->fit, sizeof e->fit, HOSTILE);
    snprintf(e->output, sizeof e->output, "<script>&\"'");
    for (size_t i = 0; i < REPORT_EDIT_SETS; i++) {
        snprintf(e->sets[i].spec, sizeof e->sets[i].spec, HOSTILE);
        for (size_t k = 0; k < e->example_count[i]; k++) {
            report_edit_example *x = &e->examples[i][k];
            snprintf(x->label, sizeof x->label, HOSTILE);
            snprintf(x->before, sizeof x->before, HOSTILE);
            snprintf(x->after, sizeof x->after, HOSTILE);
        }
    }
    for (size_t i = 0; i < e->group_count; i++) snprintf(e->groups[i].name, sizeof e->groups[i].name, HOSTILE);
    for (size_t i = 0; i < e->listed_count; i++) snprintf(e->listed[i].group, sizeof e->listed[i].group, HOSTILE);
    for (size_t i = 0; i < e->choice_count; i++) snprintf(e->choices[i].method, sizeof e->choices[i].method, "<&\"'>");
    for (size_t i = 0; i < e->pair_count; i++) {
        snprintf(e->pairs[i].label, sizeof e->pairs[i].label, HOSTILE);
        snprintf(e->pairs[i].group, sizeof e->pairs[i].group, HOSTILE);
    }
    char *page = page_checked(&data, NULL); /* finds markup, and what is not UTF-8 cannot be printed */
    check_has(page,
              "Edit &quot;&gt;&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;\xef\xbf\xbd\xef\xbf\xbd&lt;!--");
    free(page);
}

static void test_not_finite(void) {
    test_begin("NaN and infinity in edits leave gaps");
    report_data data;
    made_run(&data);
    made_edit(&data, "gaps", 3);
    report_edit *e = &data.edits[0];
    e->select = NAN;
    for (size_t i = 0; i < REPORT_EDIT_SETS; i++)
        for (size_t s = 0; s < REPORT_SCORES; s++) {
            e->sets[i].before[s] = NAN;
            e->sets[i].after[s] = INFINITY;
            if (i < REPORT_EDIT_SWEPT)
                for (size_t k = 0; k < e->points; k++) e->sweep[i][s][k] = k == 3 ? .5 : k % 2 ? NAN : -INFINITY;
        }
    for (size_t i = 0; i < e->pair_count; i++) e->pairs[i].before[0] = e->pairs[i].after[1] = NAN;
    for (size_t i = 0; i < e->choice_count; i++)
        for (int k = 0; k < 3; k++) {
            e->choices[i].figure[REPORT_GAIN][k] = NAN;
            e->choices[i].figure[REPORT_TEST_LOSS][k] = INFINITY;
        }
    for (size_t i = 0; i < e->listed_count; i++) e->listed[i].score = NAN;
    for (size_t k = 0; k < e->example_count[0]; k++) e->examples[0][k].margin_before = NAN;
    char *page = page_checked(&data, NULL);
    check_has(page, "class=\"curve target\" d=\"M120.0 500.0h0\"/>"); /* one value: a dot at 6 of 50, half way up */
    free(page);
}

static void test_bounded(void) {
    test_begin("the largest page with edits stays small");
    report_data data;
    made_run(&data);
    for (size_t i = 0; i < REPORT_EDITS; i++) {
        made_edit(&data, "large", REPORT_EDIT_PAIRS);
        report_edit *e = &data.edits[i];
        for (size_t s = 0; s < REPORT_EDIT_SETS; s++)
            for (size_t k = 0; k < e->example_count[s]; k++) {
                report_picture *p = &e->examples[s][k].picture;
                free(p->pixels);
                made_picture(p, REPORT_EDIT_SIDE, 3, 1);
                for (size_t b = 0; b < (size_t)REPORT_EDIT_SIDE * REPORT_EDIT_SIDE * 3; b++)
                    p->pixels[b] = (uint8_t)(256 * made_uniform());
            }
    }
    size_t bytes;
    free(page_checked(&data, &bytes));
    if (bytes > 6u << 20) test_fail(__FILE__, __LINE__, "the page has %zu bytes", bytes);
}

int main(void) {
    test_none();
    test_ordinary();
    test_fresh();
    test_nothing_helps();
    test_language_model();
    test_hostile();
    test_not_finite();
    test_bounded();
    return test_end();
}
