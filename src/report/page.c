/*
 * page.c - the frame of the report, its header, and how well the attributions predict.
 * Must not know: where the data come from.
 */
#include "report/page.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "report/svg.h"

const char *page_components(const report_data *data, char buffer[32]) {
    snprintf(buffer, 32, "%s%s", data->kind, data->components == 1 ? "" : "s");
    return buffer;
}

static void key_begin(html *h, const char *label, const char *value) {
    html_print(h, "<div><dt>%s</dt><dd><div class=\"figure\">%s</div><div class=\"under\">", label, value);
}

static void key_end(html *h) {
    html_print(h, "</div></dd></div>");
}

static void keys(html *h, const report_data *data) {
    html_print(h, "<dl class=\"keys\">");
    if (data->featured >= 0) {
        const report_evaluation *e = &data->evaluations[data->featured];
        key_begin(h, "Counterfactual correlation", FIXED(e->pearson.mean));
        if (isfinite(e->pearson_low))
            html_print(h, "95 %% interval %s to %s, ", FIXED(e->pearson_low), FIXED(e->pearson_high));
        html_print(h, "%s fresh masks, &alpha; = %s", COUNT(e->masks), NUMBER(e->alpha));
        key_end(h);
    }
    key_begin(h, "Leave-one-out correlation", FIXED(data->heldout.mean));
    html_print(h, "on the fit&#39;s own masks, each predicted without itself");
    key_end(h);
    key_begin(h, "Variance explained, R\xc2\xb2", FIXED(data->r2_mean));
    html_print(h, "on the masks that the fit has seen");
    key_end(h);
    if (isfinite(data->accuracy)) {
        key_begin(h, "Baseline accuracy", PERCENT(data->accuracy));
        html_print(h, "of the unablated model on these examples");
        key_end(h);
    }
    html_print(h, "</dl>");
}

void page_header(html *h, const report_data *data) {
    char kind[32];
    html_print(h, "<header><p class=\"eyebrow\">Component attributions</p><h1>%s</h1>", data->title);
    html_print(h,
               "<p class=\"lead\">How each of %s %s shapes the %s of %s example%s, estimated from %s random ablations",
               COUNT(data->components), page_components(data, kind), data->output, COUNT(data->examples),
               data->examples == 1 ? "" : "s", COUNT(data->masks));
    if (isfinite(data->alpha)) html_print(h, " that each switch off about %s %% of them", NUMBER(100 * data->alpha));
    html_print(h, ".</p>");
    keys(h, data);
    html_print(h, "<div class=\"panel\"><dl class=\"facts\">");
    for (size_t i = 0; i < data->fact_count; i++) {
        const report_fact *fact = &data->facts[i];
        const char *full = fact->full ? fact->full : fact->value;
        int whole = strlen(fact->value) > 40; /* a command gets a line of its own, uncut */
        html_print(h, whole ? "<div class=\"whole\" title=\"%s\">" : "<div title=\"%s\">", full);
        html_print(h, "<dt>%s</dt><dd>%s</dd></div>", fact->label, whole ? full : fact->value);
    }
    html_print(h, "</dl></div></header>");
}

static void evaluation_row(html *h, const report_evaluation *e, int chosen) {
    char title[128];
    snprintf(title, sizeof title, "Pearson correlation of %s examples from -1 to 1, median %s", COUNT(e->pearson.count),
             FIXED(e->pearson.median));
    html_print(h, chosen ? "<tr class=\"chosen\">" : "<tr>");
    html_print(h, "<td>%s</td><td>%s</td><td>%s</td>", e->fit, NUMBER(e->alpha), FIXED(e->pearson.mean));
    if (isfinite(e->pearson_low))
        html_print(h, "<td>%s to %s</td>", FIXED(e->pearson_low), FIXED(e->pearson_high));
    else
        html_print(h, "<td>&ndash;</td>");
    html_print(h, "<td class=\"spark\">");
    svg_sparkline(h, title, e->pearson.bins, REPORT_BINS);
    html_print(h, "</td><td>%s</td><td>%s</td><td title=\"seed %s\">%s</td><td>%s</td></tr>", FIXED(e->spearman_mean),
               e->output, COUNT(e->seed), COUNT(e->masks), COUNT(e->pearson.undefined));
}

/* The columns that matter most come first: on a narrow screen the rest is scrolled to. */
static void evaluation_table(html *h, const report_data *data) {
    html_print(
        h, "<figure class=\"panel\"><div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th scope=\"col\">Fit</th>"
           "<th scope=\"col\">&alpha;</th><th scope=\"col\">Mean <i>r</i></th><th scope=\"col\">95 %% interval</th>"
           "<th scope=\"col\" class=\"spark\"><i>r</i> per example<div class=\"top\"><span "
           "style=\"left:4%%\">&minus;1</span>"
           "<span style=\"left:50%%\">0</span><span style=\"left:96%%\">1</span></div></th>"
           "<th scope=\"col\">Mean Spearman <i>&rho;</i></th><th scope=\"col\">Output</th><th scope=\"col\">Masks</th>"
           "<th scope=\"col\">Undefined</th></tr></thead><tbody>");
    for (size_t i = 0; i < data->evaluation_count; i++)
        evaluation_row(h, &data->evaluations[i], (int)i == data->featured);
    html_print(
        h,
        "</tbody></table></div><figcaption>Counterfactual correlation: Pearson&#39;s <i>r</i> between predicted and "
        "true "
        "outputs over fresh masks, which no fit has seen, for each example; then the mean over examples. &alpha;: "
        "fraction "
        "of components ablated. Interval: bootstrap over masks and examples. Undefined: examples whose output did not "
        "vary, left out.");
    if (data->featured >= 0) html_print(h, " Bold: the evaluation shown in the figures below.");
    if (data->evaluations_hidden)
        html_print(h, " %s more evaluations are in the run file.", COUNT(data->evaluations_hidden));
    html_print(h, "</figcaption></figure>");
}

/* The bins from the one that holds `low` (or 0, where nothing lies below) up to 1. */
static void histogram(html *h, const report_histogram *values, const char *what) {
    size_t first = 0;
    while (first < REPORT_BINS / 2 && values->bins[first] == 0) first++;
    first -= first % 4; /* ticks of .2 begin at a bin's edge */
    svg_range range = {-1 + 2.0 * (double)first / REPORT_BINS, 1};
    svg_histogram(h, what, values->bins + first, REPORT_BINS - first, range, values->mean);
}

void page_quality(html *h, const report_data *data) {
    html_print(
        h,
        "<section><h2>How well the attributions predict</h2><p class=\"intro\">Attributions are a linear model of the "
        "network&#39;s output in terms of what is left on. They are worth what they predict: the effect of ablations "
        "that "
        "were not used to fit them.</p>");
    if (data->evaluation_count)
        evaluation_table(h, data);
    else
        html_print(
            h,
            "<p class=\"note\">This run has not been evaluated on fresh masks yet: <code>coar evaluate RUN.h5</code> "
            "adds the "
            "counterfactual correlation. Until then the fit&#39;s own leave-one-out correlation stands in for it.</p>");

    const report_evaluation *e = data->featured >= 0 ? &data->evaluations[data->featured] : NULL;
    const report_histogram *values = e ? &e->pearson : &data->heldout;
    html_print(h, "<figure class=\"panel\"><p class=\"label\">Examples</p>");
    histogram(h, values, e ? "Histogram of counterfactual correlation" : "Histogram of leave-one-out correlation");
    html_print(h, "<p class=\"label below\">%s</p><figcaption>",
               e ? "Pearson r between predicted and true outputs, per example"
                 : "Leave-one-out correlation, per example");
    html_print(h, "How many of the %s examples with a value have which correlation", COUNT(values->count));
    if (e) html_print(h, " (fit %s, &alpha; = %s, %s masks)", e->fit, NUMBER(e->alpha), COUNT(e->masks));
    html_print(h, "; bins of 0.05. Dashed: the mean, %s; the median is %s.</figcaption></figure></section>",
               FIXED(values->mean), FIXED(values->median));
}

static void footer(html *h) {
    html_print(
        h,
        "<footer><p>A <b>component</b> is one filter, neuron, head or block of the network. Its <b>attribution</b> "
        "<i>w</i> for "
        "an example is the coefficient of a linear model of the output over random ablations: how much the output "
        "rises when "
        "the component is left on. Method: Shah, Ilyas, Madry, <i>Decomposing and Editing Predictions by Modeling "
        "Model "
        "Computation</i>, arXiv 2404.11534.</p><p>Made by coar %s. This page is complete in itself.</p></footer>",
        coar_version());
}

coar_status report_render(const report_data *data, html *page) {
    html_print(page,
               "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
               "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">" PAGE_GENERATOR
               "<title>%s: component attributions</title><style>",
               data->title);
    html_raw(page, page_style, strlen(page_style));
    html_print(page, "</style></head><body><main>\n");
    page_header(page, data);
    page_quality(page, data);
    page_layers(page, data);
    page_scatter(page, data);
    page_gallery(page, data);
    page_edits(page, data);
    html_print(page, "</main>\n");
    footer(page);
    html_print(page, "</body></html>\n");
    return page->status;
}
