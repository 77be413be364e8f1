/*
 * edit_page.c - a section for every edit of the run: what was ablated for good, what each number of components does to
 * which examples, beside other ways to choose as many, and examples before and after.
 * Must not know: where the data come from, how components are chosen.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "report/page.h"
#include "report/svg.h"

static const char *const set_names[REPORT_EDIT_SETS] = {"Target", "Reference", "Validation", "Test", "Fresh targets"};

/* As they are told: fresh targets beside the targets. */
static const size_t set_order[REPORT_EDIT_SETS] = {REPORT_TARGET, REPORT_FRESH, REPORT_REFERENCE, REPORT_VALIDATION,
                                                   REPORT_TEST};

/* Classes of the style sheet for the swept sets' lines. */
static const char *const set_classes[REPORT_EDIT_SWEPT] = {"target", "reference", "validation"};

static bool has_pairs(const report_edit *e) {
    return e->pair_count > 0;
}

static const char *pair_name(const report_edit *e) {
    return e->has_groups ? "group" : "class";
}

/* ------------------------------------------------------------------------------------------- in one glance */

static void introduction(html *h, const report_data *data, const report_edit *e) {
    char kind[32];
    const report_edit_set *target = &e->sets[REPORT_TARGET], *reference = &e->sets[REPORT_REFERENCE];
    html_print(h, "<section class=\"edit\"><h2>Edit %s</h2><p class=\"intro\">", e->name);
    if (e->k)
        html_print(h, "Ablates %s of the %s %s for good, to %s", COUNT(e->k), COUNT(e->components),
                   page_components(data, kind), e->raise ? "raise" : "lower");
    else
        html_print(h, "Was to ablate some of the %s %s for good, to %s", COUNT(e->components),
                   page_components(data, kind), e->raise ? "raise" : "lower");
    html_print(h, " the %s of %s target example%s (<code>%s</code>) and leave that of %s others (<code>%s</code>).",
               e->output, COUNT(target->examples), target->examples == 1 ? "" : "s", target->spec,
               COUNT(reference->examples), reference->spec);
    html_print(h, " Which: by method <b>%s</b>", e->method);
    if (e->given)
        html_print(h, ", attributions made elsewhere");
    else if (e->fit[0])
        html_print(h, ", attributions of fit %s", e->fit);
    if (!isnan(e->harm_weight)) html_print(h, ", harm weight %s", NUMBER(e->harm_weight));
    html_print(h, ". How many: by validation examples, of which at most %s%s might be lost", NUMBER(e->select),
               e->has_classes ? " points of accuracy" : " of mean output");
    if (!isnan(e->until))
        html_print(h, ", the fewest with which at %s %s %% of the target are right", e->raise ? "least" : "most",
                   NUMBER(e->until));
    html_print(h, ".");
    if (!e->k)
        html_print(h, " <b>%s: the network stays as it is.</b>",
                   isnan(e->until) ? "No number of components helps within that"
                                   : "None is needed for that, or no number of components helps");
    html_print(h, "</p>");
}

/* "97.1 % -> 96.8 %" */
static void change(html *h, double before, double after, bool percent) {
    if (isnan(before) && isnan(after))
        html_print(h, "&ndash;");
    else if (percent)
        html_print(h, "%s &rarr; %s", PERCENT(before), PERCENT(after));
    else
        html_print(h, "%s &rarr; %s", SIGNED(before), SIGNED(after));
}

static void key(html *h, const report_edit *e, const char *label, size_t set, int score) {
    const report_edit_set *s = &e->sets[set];
    const int shown = e->has_classes ? score : REPORT_OUTPUT;
    html_print(h, "<div><dt>%s</dt><dd><div class=\"figure\">", label);
    change(h, s->before[shown], s->after[shown], shown != REPORT_OUTPUT);
    html_print(h, "</div><div class=\"under\">");
    if (shown == REPORT_ACCURACY) {
        html_print(h, "mean %s ", e->output);
        change(h, s->before[REPORT_OUTPUT], s->after[REPORT_OUTPUT], false);
        html_print(h, ", ");
    }
    html_print(h, "%s example%s</div></dd></div>", COUNT(s->examples), s->examples == 1 ? "" : "s");
}

static void keys(html *h, const report_edit *e) {
    char label[64];
    html_print(h, "<dl class=\"keys\">");
    for (size_t i = 0; i < REPORT_EDIT_SETS; i++) {
        const size_t set = set_order[i];
        if (!e->sets[set].examples || set == REPORT_REFERENCE) continue; /* the reference stands in the table */
        snprintf(label, sizeof label, "%s: %s", set_names[set], e->has_classes ? "accuracy" : "mean output");
        key(h, e, label, set, REPORT_ACCURACY);
    }
    if (has_pairs(e)) {
        snprintf(label, sizeof label, "Test: worst %s", pair_name(e));
        key(h, e, label, REPORT_TEST, REPORT_WORST);
    }
    html_print(h, "</dl>");
}

/* --------------------------------------------------------------------------------------------------- the sweep */

static void legend(html *h, const report_edit *e, bool worst) {
    html_print(h, "<p class=\"label lines\">");
    for (size_t i = 0; i < REPORT_EDIT_SWEPT; i++)
        html_print(h, "<span><span class=\"line %s\"></span>%s (%s)</span> ", set_classes[i], set_names[i],
                   COUNT(e->sets[i].examples));
    if (worst) html_print(h, "<span><span class=\"line worst\"></span>Validation, worst %s</span>", pair_name(e));
    html_print(h, "</p>");
}

/* The swept sets' lines of one score; with `worst` also that of validation's worst group. */
static void sweep_plot(html *h, const report_edit *e, const char *title, int score, bool worst) {
    svg_curve curves[REPORT_EDIT_SWEPT + 1];
    size_t count = 0;
    for (size_t i = 0; i < REPORT_EDIT_SWEPT; i++)
        curves[count++] = (svg_curve){.class = set_classes[i], .y = e->sweep[i][score]};
    if (worst) curves[count++] = (svg_curve){.class = "worst", .y = e->sweep[REPORT_VALIDATION][REPORT_WORST]};
    html_print(h, "<div><p class=\"label\">%s</p>", title);
    svg_curves(h, title, e->ablated, e->points, curves, count, score == REPORT_OUTPUT ? 1 : 100, (double)e->k);
    html_print(h, "<p class=\"label below\">components ablated</p></div>");
}

static void sweep(html *h, const report_edit *e) {
    if (!e->points) return;
    char title[80];
    html_print(h, "<figure class=\"panel\"><div class=\"%s\">", e->has_classes ? "twin" : "");
    if (e->has_classes) sweep_plot(h, e, "Accuracy, %", REPORT_ACCURACY, has_pairs(e));
    snprintf(title, sizeof title, "Mean %s", e->output);
    sweep_plot(h, e, title, REPORT_OUTPUT, false);
    html_print(h, "</div>");
    legend(h, e, e->has_classes && has_pairs(e));
    html_print(h, "<figcaption>What ablating the first 0 to %s components does.", COUNT(e->max_k));
    if (e->stopped)
        html_print(h, " The sweep ended at %s: enough was gained, or too much lost, to go on.", COUNT(e->stopped));
    html_print(h, " Dashed: %s, the number taken; test examples had no part in that.</figcaption></figure>",
               COUNT(e->k));
}

/* ------------------------------------------------------------------------------------------- before and after */

static void set_row(html *h, const report_edit *e, size_t i) {
    const report_edit_set *s = &e->sets[i];
    html_print(h, "<tr><td>%s</td><td>%s</td><td>", set_names[i], COUNT(s->examples));
    change(h, s->before[REPORT_OUTPUT], s->after[REPORT_OUTPUT], false);
    html_print(h, "</td>");
    for (int score = REPORT_ACCURACY; e->has_classes && score <= (has_pairs(e) ? REPORT_AVERAGE : REPORT_ACCURACY);
         score++) {
        html_print(h, "<td>");
        change(h, s->before[score], s->after[score], true);
        html_print(h, "</td>");
    }
    html_print(h, "<td class=\"spec\"><code>%s</code></td></tr>", s->spec);
}

static void before_after(html *h, const report_edit *e) {
    html_print(h,
               "<figure class=\"panel\"><div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th "
               "scope=\"col\">Set</th><th scope=\"col\">Examples</th><th scope=\"col\">Mean %s</th>",
               e->output);
    if (e->has_classes) html_print(h, "<th scope=\"col\">Accuracy</th>");
    if (e->has_classes && has_pairs(e))
        html_print(h, "<th scope=\"col\">Worst %s</th><th scope=\"col\">Mean of them</th>", pair_name(e));
    html_print(h, "<th scope=\"col\" class=\"spec\">Which</th></tr></thead><tbody>");
    for (size_t i = 0; i < REPORT_EDIT_SETS; i++)
        if (e->sets[set_order[i]].examples) set_row(h, e, set_order[i]);
    html_print(h, "</tbody></table></div><figcaption>Before the edit &rarr; after it.");
    if (has_pairs(e) && e->has_groups)
        html_print(h, " Groups are the pairs of a label and a group, which the mean counts alike.");
    html_print(h, "</figcaption></figure>");
}

static void pair_cells(html *h, const report_edit_pair *p, size_t which) {
    html_print(h, "<td>%s</td><td>", COUNT(p->examples[which]));
    if (p->examples[which])
        change(h, p->before[which], p->after[which], true);
    else
        html_print(h, "&ndash;");
    html_print(h, "</td>");
}

static void pairs(html *h, const report_edit *e) {
    if (!has_pairs(e)) return;
    html_print(h, "<figure class=\"panel\"><div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th "
                  "scope=\"col\">Label</th>");
    if (e->has_groups) html_print(h, "<th scope=\"col\" class=\"spec\">Group</th>");
    html_print(h, "<th scope=\"col\">Validation</th><th scope=\"col\">Accuracy</th><th scope=\"col\">Test</th><th "
                  "scope=\"col\">Accuracy</th></tr></thead><tbody>");
    for (size_t i = 0; i < e->pair_count; i++) {
        const report_edit_pair *p = &e->pairs[i];
        html_print(h, "<tr><td>%s</td>", p->label);
        if (e->has_groups) html_print(h, "<td class=\"spec\">%s</td>", p->group);
        pair_cells(h, p, 0);
        pair_cells(h, p, 1);
        html_print(h, "</tr>");
    }
    html_print(h,
               "</tbody></table></div><figcaption>Examples and accuracy by label%s, before the edit &rarr; after it.",
               e->has_groups ? " and group" : "");
    if (e->pairs_hidden)
        html_print(h, " %s more, with higher accuracies, are in the run file.", COUNT(e->pairs_hidden));
    html_print(h, "</figcaption></figure>");
}

/* ------------------------------------------------------------------------------------------------- comparison */

/* The columns of the table. */
static const struct column {
    const char *title;
    int figure;
    bool accuracy; /* of networks with classes: shown in points */
} columns[] = {{"Gain of the target", REPORT_GAIN, false},
               {"Gain of fresh targets", REPORT_FRESH_GAIN, true},
               {"Loss on validation", REPORT_VALIDATION_LOSS, true},
               {"Loss on test", REPORT_TEST_LOSS, true}};
enum { COLUMNS = sizeof columns / sizeof *columns };

/* What holds 0 and every finite interval of a column. False where there is none: such a column is left out. */
static bool interval_range(const report_edit *e, int figure, svg_range *out) {
    svg_range range = {0, 0};
    bool any = false;
    for (size_t i = 0; i < e->choice_count; i++)
        for (int k = 0; k < 3; k++) {
            const double value = e->choices[i].figure[figure][k];
            if (!isfinite(value)) continue;
            any = true;
            range.low = fmin(range.low, value);
            range.high = fmax(range.high, value);
        }
    const double room = range.high > range.low ? .04 * (range.high - range.low) : 1;
    *out = (svg_range){range.low - room, range.high + room};
    return any;
}

static void choice_cells(html *h, const report_edit *e, const report_edit_choice *c, const struct column *column,
                         svg_range range) {
    const double *v = c->figure[column->figure], unit = column->accuracy && e->has_classes ? 100 : 1;
    const double scale = unit * fmax(-range.low, range.high);
    char title[160], low[HTML_NUMBER_SIZE], high[HTML_NUMBER_SIZE];
    html_scaled(low, unit * v[1], scale, 1);
    html_scaled(high, unit * v[2], scale, 1);
    snprintf(title, sizeof title, "%s: 95 %% interval %s to %s", c->method, low, high);
    html_print(h, "<td>%s<div class=\"soft\">%s to %s</div></td><td class=\"spark\">",
               SIGNED_SCALED(unit * v[0], scale), low, high);
    svg_interval(h, title, v[0], v[1], v[2], range);
    html_print(h, "</td>");
}

static void comparison(html *h, const report_edit *e) {
    if (!e->choice_count) return;
    svg_range ranges[COLUMNS];
    bool shown[COLUMNS];
    html_print(h,
               "<figure class=\"panel\"><div class=\"scroll\" tabindex=\"0\"><table class=\"choices\"><thead><tr><th "
               "scope=\"col\">Chosen by</th>");
    for (size_t k = 0; k < COLUMNS; k++) {
        shown[k] = interval_range(e, columns[k].figure, &ranges[k]);
        if (shown[k]) html_print(h, "<th scope=\"colgroup\" colspan=\"2\">%s</th>", columns[k].title);
    }
    html_print(h, "</tr></thead><tbody>");
    for (size_t i = 0; i < e->choice_count; i++) {
        html_print(h, i ? "<tr><td>%s</td>" : "<tr class=\"chosen\"><td>%s</td>", e->choices[i].method);
        for (size_t k = 0; k < COLUMNS; k++)
            if (shown[k]) choice_cells(h, e, &e->choices[i], &columns[k], ranges[k]);
        html_print(h, "</tr>");
    }
    html_print(h,
               "</tbody></table></div><figcaption>Ablating %s component%s chosen in other ways; bold: the edit itself. "
               "Gain of the target: of its mean %s, in the direction wanted. All else: of %s. Intervals: 95 %%, "
               "bootstrap over examples.</figcaption></figure>",
               COUNT(e->k), e->k == 1 ? "" : "s", e->output, e->has_classes ? "accuracy, in points" : "mean output");
}

/* ------------------------------------------------------------------------------------------ where, and which */

static coar_status where(html *h, const report_data *data, const report_edit *e) {
    coar_status status;
    page_bar *bars = NULL;
    char(*titles)[240] = NULL, kind[32];
    TRY_GOTO(memory_new(e->group_count, sizeof *bars, "report", &bars));
    TRY_GOTO(memory_new(e->group_count, sizeof *titles, "report", &titles));
    for (size_t i = 0; i < e->group_count; i++) {
        const report_edit_group *g = &e->groups[i];
        snprintf(titles[i], sizeof titles[i], "%s: %s of %s ablated", g->name, COUNT(g->edited), COUNT(g->count));
        bars[i] = (page_bar){.name = g->name,
                             .width = g->count,
                             .height = g->count ? 100.0 * g->edited / g->count : 0,
                             .title = titles[i]};
    }
    html_print(h, "<figure class=\"panel\"><p class=\"label\">%% of a group ablated</p>");
    page_skyline(h, "Ablated components by group, in model order", bars, e->group_count);
    html_print(h,
               "<figcaption>Where the %s ablated %s sit, from input (left) to output (right): each bar is as wide as "
               "its group has components and as tall as the part of them that is ablated.",
               COUNT(e->k), page_components(data, kind));
    if (e->groups_hidden) html_print(h, " %s groups without any are left out.", COUNT(e->groups_hidden));
    html_print(h, " In their order:</figcaption><ol class=\"picks\">");
    for (size_t i = 0; i < e->listed_count; i++) {
        const report_edit_component *c = &e->listed[i];
        html_print(h, "<li title=\"score %s\">%s<span class=\"soft\">[%u]</span></li>", SIGNED(c->score), c->group,
                   c->index);
    }
    html_print(h, "</ol>");
    if (e->listed_count < e->k) html_print(h, "<p class=\"label\">and %s more</p>", COUNT(e->k - e->listed_count));
    html_print(h, "</figure>");
done:
    free(bars);
    free(titles);
    return status;
}

/* --------------------------------------------------------------------------------------------------- examples */

static void prediction(html *h, const char *predicted, double margin) {
    const char *class = margin > 0 ? "right" : "wrong";
    html_print(h, "<span class=\"%s\">%s</span> <span class=\"soft\">%s</span>", isfinite(margin) ? class : "",
               predicted, SIGNED_SCALED(margin, fmax(fabs(margin), 1)));
}

static void example(html *h, const report_edit_example *e) {
    html_print(h, "<article class=\"card turn\"><div class=\"head\">");
    page_picture(h, &e->picture, e->label);
    html_print(h, "<div><h3>%s</h3><p>row %s</p><p>before: ", e->label, COUNT(e->row));
    prediction(h, e->before, e->margin_before);
    html_print(h, "</p><p>after: ");
    prediction(h, e->after, e->margin_after);
    html_print(h, "</p></div></div></article>");
}

static void examples(html *h, const report_edit *e) {
    static const char *const titles[REPORT_EDIT_SETS] = {"Target examples", "Reference examples", "Validation examples",
                                                         "Test examples that the edit made right or wrong",
                                                         "Fresh examples such as the target's"};
    for (size_t i = 0; i < REPORT_EDIT_SETS; i++) {
        const size_t set = set_order[i];
        if (!e->example_count[set]) continue;
        html_print(h, "<h3 class=\"shown\">%s</h3><div class=\"turns\">", titles[set]);
        for (size_t k = 0; k < e->example_count[set]; k++) example(h, &e->examples[set][k]);
        html_print(h, "</div>");
    }
    html_print(h, "<p class=\"label\">Predictions with their margins: above 0 the prediction is right.</p>");
}

/* ----------------------------------------------------------------------------------------------------- an edit */

static void edit(html *h, const report_data *data, const report_edit *e) {
    introduction(h, data, e);
    if (e->k) keys(h, e);
    sweep(h, e);
    before_after(h, e);
    pairs(h, e);
    comparison(h, e);
    coar_status status = e->k ? where(h, data, e) : COAR_OK;
    if (status != COAR_OK && h->status == COAR_OK) h->status = status;
    if (e->k && e->has_classes) examples(h, e);
    html_print(h, "</section>");
}

void page_edits(html *h, const report_data *data) {
    for (size_t i = 0; i < data->edit_count; i++) edit(h, data, &data->edits[i]);
    if (data->edits_hidden)
        html_print(h, "<p class=\"note\">%s more edits are in the run file.</p>", COUNT(data->edits_hidden));
}
