/*
 * gallery.c - the sections about single examples: predicted against true outputs, and pictures with their strongest
 * components.
 * Must not know: where the data come from.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report/page.h"
#include "report/png_url.h"
#include "report/svg.h"

void page_picture(html *h, const report_picture *p, const char *label) {
    if (!p->pixels || h->status != COAR_OK) return;
    char *url;
    h->status = png_url(p->pixels, p->width, p->height, p->channels, &url);
    if (h->status != COAR_OK) return;
    html_print(h, "<img alt=\"%s\" src=\"", label[0] ? label : "example");
    html_raw(h, url, strlen(url));
    html_print(h, "\">");
    free(url);
}

/* "truck", or the row where the data have no names. */
static void name(html *h, const report_example *e) {
    if (e->label[0])
        html_print(h, "%s", e->label);
    else
        html_print(h, "Row %s", COUNT(e->row));
}

static void panel(html *h, const report_example *e) {
    char title[160];
    html_print(h, "<figure class=\"panel\"><div class=\"who\">");
    page_picture(h, &e->picture, e->label);
    html_print(h, "<p><b>%s</b><br>", e->rank);
    name(h, e);
    html_print(h, "<br><span class=\"soft\"><i>r</i> = %s</span></p></div>", FIXED(e->correlation));
    snprintf(title, sizeof title, "Predicted against true output, row %llu, %zu masks, r = %s",
             (unsigned long long)e->row, e->points, FIXED(e->correlation));
    html_print(h, "<p class=\"label\">predicted</p>");
    svg_scatter(h, title, e->truth, e->predicted, e->points);
    html_print(h, "<p class=\"label right\">true</p></figure>");
}

void page_scatter(html *h, const report_data *data) {
    if (data->featured < 0) return; /* page_quality says how to get an evaluation */
    const report_evaluation *e = &data->evaluations[data->featured];
    html_print(h,
               "<section><h2>Predicted against true</h2><p class=\"intro\">Each dot is one fresh mask: the "
               "network&#39;s %s under that ablation "
               "(across) and what the attributions predict for it (up). On the dashed line the two are equal. Fit %s, "
               "&alpha; = %s.</p>"
               "<div class=\"panels\">",
               e->output, e->fit, NUMBER(e->alpha));
    for (size_t i = 0; i < data->shown_count; i++)
        if (data->shown[i].rank) panel(h, &data->shown[i]);
    html_print(h, "</div></section>");
}

static void component_row(html *h, const report_component *c, double limit) {
    char title[160];
    snprintf(title, sizeof title, "%s[%u]: w = %s", c->group, c->index, SIGNED(c->weight));
    html_print(h, "<tr><th scope=\"row\" title=\"%s\">%s<span class=\"soft\">[%u]</span></th><td>", title, c->group,
               c->index);
    svg_signed_bar(h, title, c->weight, limit);
    html_print(h, "</td><td>%s</td></tr>", SIGNED_SCALED(c->weight, limit));
}

static void component_table(html *h, const report_example *e) {
    if (!e->has_weights) {
        html_print(h, "<p>Left out of the fit: too many of its outputs are not finite.</p>");
        return;
    }
    double limit = 0;
    if (e->positive_count) limit = fmax(limit, e->positive[0].weight);
    if (e->negative_count) limit = fmax(limit, -e->negative[0].weight);
    html_print(h, "<table class=\"weights\"><tbody>");
    for (size_t i = 0; i < e->positive_count; i++) component_row(h, &e->positive[i], limit);
    for (size_t i = e->negative_count; i-- > 0;) component_row(h, &e->negative[i], limit);
    html_print(h, "</tbody></table>");
}

static void card(html *h, const report_data *data, const report_example *e) {
    html_print(h, "<article class=\"card\"><div class=\"head\">");
    page_picture(h, &e->picture, e->label);
    html_print(h, "<div><h3>");
    name(h, e);
    html_print(h, "</h3><p>row %s", COUNT(e->row));
    if (e->subgroup[0]) html_print(h, ", %s", e->subgroup);
    html_print(h, "</p><p>%s <b>%s</b>", data->output, SIGNED_SCALED(e->baseline, fmax(fabs(e->baseline), 1)));
    if (isfinite(data->accuracy) && isfinite(e->baseline))
        html_print(h, e->baseline > 0 ? ", right" : ", <span class=\"wrong\">wrong</span>");
    html_print(h, "</p><p><i>r</i> <b>%s</b>, R&sup2; <b>%s</b></p></div></div>", FIXED(e->correlation), FIXED(e->r2));
    component_table(h, e);
    html_print(h, "</article>");
}

void page_gallery(html *h, const report_data *data) {
    if (data->shown_count == 0) return;
    html_print(h, "<section><h2>Examples and their strongest components</h2><p class=\"intro\">");
    if (data->shown_count < data->examples)
        html_print(h, "%zu of %s examples, evenly spread by correlation from best to worst.", data->shown_count,
                   COUNT(data->examples));
    else
        html_print(h, "All examples, by correlation from best to worst.");
    html_print(
        h,
        " For each, the unablated model&#39;s %s and the components with the largest attributions: "
        "<span class=\"legend blue\"></span>ablating it lowers the %s, <span class=\"legend orange\"></span>ablating "
        "it raises it. "
        "Brackets: index in its group. Bars are scaled per example; weights in units of %s.</p><div class=\"cards\">",
        data->output, data->output, data->output);
    for (size_t i = 0; i < data->shown_count; i++) card(h, data, &data->shown[i]);
    html_print(h, "</div></section>");
}
