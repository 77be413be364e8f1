/* edit_results.c - what coar edit prints: a table for people, JSON for programs. See results.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/results.h"

static const char *const set_names[COAR_EDIT_SETS] = {"target", "reference", "validation", "test", "target_test"};

/* ---------------------------------------------------------------------------------------------------------- JSON */

static void print_number(const char *key, double value) {
    if (isfinite(value))
        printf("\"%s\":%.9g", key, value);
    else
        printf("\"%s\":null", key); /* JSON has no NaN */
}

static void print_score(const char *key, const coar_edit_score *s) {
    printf("\"%s\":{", key);
    print_number("output", s->output);
    putchar(',');
    print_number("accuracy", s->accuracy);
    putchar(',');
    print_number("worst", s->worst);
    putchar(',');
    print_number("average", s->average);
    putchar('}');
}

static void print_sets(const coar_edit_result *r) {
    printf("\"sets\":{");
    for (int k = 0; k < COAR_EDIT_SETS; k++) {
        printf("%s\"%s\":{\"examples\":%llu,", k ? "," : "", set_names[k], (unsigned long long)r->examples[k]);
        print_score("before", &r->before[k]);
        putchar(',');
        print_score("after", &r->after[k]);
        putchar('}');
    }
    putchar('}');
}

static void print_sweep(const coar_edit_result *r) {
    printf("\"sweep\":[");
    for (size_t i = 0; i < r->point_count; i++) {
        printf("%s{\"k\":%u", i ? "," : "", r->points[i].k);
        for (int k = 0; k < COAR_EDIT_TEST; k++) {
            putchar(',');
            print_score(set_names[k], &r->points[i].set[k]);
        }
        putchar('}');
    }
    putchar(']');
}

static void print_order(const coar_edit_result *r) {
    printf("\"order\":[");
    for (size_t i = 0; i < r->order_count; i++) {
        const coar_edit_component *c = &r->order[i];
        printf("%s{\"component\":%u,\"group\":", i ? "," : "", c->component);
        cli_json_text(c->group);
        printf(",\"row\":%u,", c->row);
        print_number("score", c->score);
        putchar('}');
    }
    putchar(']');
}

static void print_pairs_json(const coar_edit_result *r) {
    static const char *const keys[2] = {"validation", "test"};
    printf("\"pairs\":[");
    for (size_t i = 0; i < r->pair_count; i++) {
        const coar_edit_pair *p = &r->pairs[i];
        printf("%s{\"label\":%d,\"group\":%d,\"label_name\":", i ? "," : "", p->label, p->group);
        cli_json_text(p->label_name);
        printf(",\"group_name\":");
        cli_json_text(p->group_name);
        for (int k = 0; k < 2; k++) {
            printf(",\"%s\":{\"examples\":%llu,", keys[k], (unsigned long long)p->examples[k]);
            print_number("before", p->before[k]);
            putchar(',');
            print_number("after", p->after[k]);
            putchar('}');
        }
        putchar('}');
    }
    putchar(']');
}

static void print_interval(const char *key, const coar_edit_interval *v) {
    printf(",\"%s\":{", key);
    print_number("mean", v->mean);
    putchar(',');
    print_number("low", v->low);
    putchar(',');
    print_number("high", v->high);
    putchar('}');
}

static void print_comparisons_json(const coar_edit_result *r) {
    printf("\"comparison\":[");
    for (size_t i = 0; i < r->comparison_count; i++) {
        const coar_edit_comparison *c = &r->comparisons[i];
        printf("%s{\"method\":\"%s\"", i ? "," : "", c->method);
        print_interval("target_gain", &c->target_gain);
        print_interval("validation_loss", &c->validation_loss);
        print_interval("test_loss", &c->test_loss);
        print_interval("target_test_gain", &c->target_test_gain);
        putchar('}');
    }
    putchar(']');
}

static void print_json(const coar_edit_result *r) {
    printf("{\"edit\":\"%s\",\"method\":\"%s\",\"fit\":\"%s\",\"output\":\"%s\",\"direction\":\"%s\",\"components\":%u,"
           "\"max_k\":%u,\"select\":%.9g,\"stopped\":%u,\"k\":%u,",
           r->name, r->method, r->fit, r->output, r->direction, r->components, r->max_k, r->select, r->stopped, r->k);
    print_sets(r);
    putchar(',');
    print_sweep(r);
    putchar(',');
    print_order(r);
    putchar(',');
    print_pairs_json(r);
    putchar(',');
    print_comparisons_json(r);
    printf(",\"seconds\":%.6g}\n", r->seconds);
}

/* --------------------------------------------------------------------------------------------------------- tables */

/* "93.4 %", "-" where there is none. The macro's text lasts for the enclosing block. */
static const char *percent(char text[16], double value) {
    if (isnan(value)) return "-";
    snprintf(text, 16, "%.1f %%", 100 * value);
    return text;
}
#define PERCENT(value) percent((char[16]){0}, value)

static bool has_groups(const coar_edit_result *r) {
    return r->pair_count && r->pairs[0].group >= 0;
}

/* Of a sweep: k = 0, the last, the one taken and its neighbours, and some between. */
static bool notable(const coar_edit_result *r, size_t i) {
    const size_t step = r->point_count / 12 + 1;
    return i % step == 0 || i + 1 == r->point_count || r->points[i].k == r->k ||
           (i + 1 < r->point_count && r->points[i + 1].k == r->k) || (i > 0 && r->points[i - 1].k == r->k);
}

static void print_table(const coar_edit_result *r) {
    const bool pairs = has_groups(r);
    printf("%-7s %10s %9s %10s %9s %11s%s\n", "k", "target", "right", "reference", "right", "validation",
           pairs ? "      worst" : "");
    for (size_t i = 0; i < r->point_count; i++) {
        const coar_edit_point *p = &r->points[i];
        const coar_edit_score *t = &p->set[COAR_EDIT_TARGET], *f = &p->set[COAR_EDIT_REFERENCE],
                              *v = &p->set[COAR_EDIT_VALIDATION];
        if (!notable(r, i)) continue;
        printf("%-7u %10.3f %9s %10.3f %9s ", p->k, t->output, PERCENT(t->accuracy), f->output, PERCENT(f->accuracy));
        if (r->has_classes)
            printf("%11s", PERCENT(v->accuracy));
        else
            printf("%11.3f", v->output);
        if (pairs) printf(" %9s", PERCENT(v->worst));
        printf("%s\n", p->k == r->k ? "  <" : "");
    }
    if (r->stopped) printf("ended at k = %u of %u\n", r->stopped, r->max_k);
}

/* "layer1.0.conv1: 3, layer2.0.conv1: 1" */
static void print_components(const coar_edit_result *r) {
    if (!r->k) {
        printf("\nk = 0: no edit %ss the target within what it may cost\n", r->direction);
        return;
    }
    printf("\nk = %u components:", r->k);
    const char *separator = " ";
    for (uint32_t i = 0; i < r->k; i++) {
        uint32_t of_group = 0;
        bool first = true;
        for (uint32_t j = 0; j < r->k; j++) {
            const bool same = !strcmp(r->order[i].group, r->order[j].group);
            of_group += same;
            first &= !same || j >= i;
        }
        if (!first) continue;
        printf("%s%s: %u", separator, r->order[i].group, of_group);
        separator = ", ";
    }
    putchar('\n');
}

static void print_change(const char *name, const char *before, const char *after) {
    printf("  %-18s %9s -> %s\n", name, before, after);
}

static void print_before_after(const coar_edit_result *r) {
    putchar('\n');
    for (int k = 0; k < COAR_EDIT_SETS; k++) {
        const coar_edit_score *b = &r->before[k], *a = &r->after[k];
        if (!r->examples[k]) continue;
        printf("%-11s %7llu examples  %s %.3f -> %.3f", set_names[k], (unsigned long long)r->examples[k], r->output,
               b->output, a->output);
        if (r->has_classes) printf(", right %s -> %s", PERCENT(b->accuracy), PERCENT(a->accuracy));
        putchar('\n');
        if (isnan(b->worst) || !has_groups(r)) continue;
        print_change("worst pair", PERCENT(b->worst), PERCENT(a->worst));
        print_change("mean of pairs", PERCENT(b->average), PERCENT(a->average));
    }
}

static void print_difference(const coar_edit_interval *v, double scale) {
    char text[64];
    snprintf(text, sizeof text, "%.2f (%.2f to %.2f)", scale * v->mean, scale * v->low, scale * v->high);
    printf(" %-24s", text);
}

static void print_comparisons(const coar_edit_result *r) {
    if (!r->comparison_count) return;
    const double scale = r->has_classes ? 100 : 1;
    const char *unit = r->has_classes ? " points" : "";
    printf("\n%-12s %-24s validation loses%-8s test loses%-14s%s\n", "(95 %)", "target gains", unit, unit,
           r->examples[COAR_EDIT_TARGET_TEST] ? "target test gains" : "");
    for (size_t i = 0; i < r->comparison_count; i++) {
        const coar_edit_comparison *c = &r->comparisons[i];
        printf("%-12s", c->method);
        print_difference(&c->target_gain, 1);
        print_difference(&c->validation_loss, scale);
        print_difference(&c->test_loss, scale);
        if (r->examples[COAR_EDIT_TARGET_TEST]) print_difference(&c->target_test_gain, scale);
        putchar('\n');
    }
}

void edit_print(const coar_edit_result *result, int json) {
    if (json) {
        print_json(result);
        return;
    }
    print_table(result);
    print_components(result);
    print_comparisons(result);
    print_before_after(result);
}
