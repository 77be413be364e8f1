/* results.c - see results.h. */
#include "cli/results.h"

#include <math.h>
#include <stdio.h>

#include "cli/cli.h"

/* JSON has no NaN. Fit and output names hold letters, digits and -_.: only (the library checks them). */
static void print_number(double value) {
    if (isfinite(value))
        printf("%.6g", value);
    else
        printf("null");
}

static void print_interval(const char *key, double low, double high) {
    printf(",\"%s\":[", key);
    print_number(low);
    printf(",");
    print_number(high);
    printf("]");
}

static void print_fit(const coar_fit_result *f) {
    printf("{\"fit\":\"%s\",\"masks\":%llu,\"passes\":%llu,\"components\":%llu,\"examples\":%llu,"
           "\"masks_left_out\":%llu,\"examples_left_out\":%llu,\"r2_mean\":",
           f->name, (unsigned long long)f->masks, (unsigned long long)f->passes, (unsigned long long)f->components,
           (unsigned long long)f->examples, (unsigned long long)f->masks_left_out,
           (unsigned long long)f->examples_left_out);
    print_number(f->r2_mean);
    printf(",\"heldout_mean\":");
    print_number(f->heldout_mean);
    printf(",\"predicted\":");
    print_number(f->predicted);
    print_interval("predicted_ci", f->predicted_low, f->predicted_high);
    printf(",\"solver\":\"%s\"", f->iterative ? "iterative" : "direct");
    if (f->iterative) {
        printf(",\"residual_largest\":");
        print_number(f->residual_largest);
        printf(",\"residual_median\":");
        print_number(f->residual_median);
        printf(",\"steps_most\":%llu,\"unsolved\":%llu", (unsigned long long)f->steps_most,
               (unsigned long long)f->unsolved);
    }
    printf(",\"seconds\":%.6g}", f->seconds);
}

void fit_print_json(const coar_fit_result *fit) {
    print_fit(fit);
    printf("\n");
}

static void print_evaluation(const coar_evaluation *e) {
    printf("{\"fit\":\"%s\",\"output\":\"%s\",\"alpha\":%.9g,\"masks\":%llu,\"seed\":%llu,\"pearson_mean\":", e->fit,
           e->output, e->alpha, (unsigned long long)e->masks, (unsigned long long)e->seed);
    print_number(e->pearson_mean);
    print_interval("pearson_ci", e->pearson_low, e->pearson_high);
    printf(",\"spearman_mean\":");
    print_number(e->spearman_mean);
    printf(",\"examples\":%llu,\"examples_undefined\":%llu}", (unsigned long long)e->examples,
           (unsigned long long)e->examples_undefined);
}

static void print_json(const coar_evaluation *list, size_t count, const coar_fit_result *fits, size_t fit_count) {
    printf("{");
    for (size_t i = 0; i < fit_count; i++) {
        printf(i ? "," : "\"fits\":[");
        print_fit(&fits[i]);
    }
    printf("%s\"evaluations\":[", fit_count ? "]," : "");
    for (size_t i = 0; i < count; i++) {
        printf(i ? "," : "");
        print_evaluation(&list[i]);
    }
    printf("]}\n");
}

void evaluations_print(const coar_evaluation *list, size_t count, const coar_fit_result *fits, size_t fit_count,
                       int json) {
    if (json) {
        print_json(list, count, fits, fit_count);
        return;
    }
    printf("%-16s %-8s %8s %7s  %-24s %8s %9s\n", "fit", "output", "alpha", "masks", "Pearson (95 %)", "Spearman",
           "examples");
    for (size_t i = 0; i < count; i++) {
        const coar_evaluation *e = &list[i];
        char pearson[80] = "-";
        if (isfinite(e->pearson_mean))
            snprintf(pearson, sizeof pearson, "%.3f (%s to %s)", e->pearson_mean, CLI_MEAN(e->pearson_low),
                     CLI_MEAN(e->pearson_high));
        printf("%-16s %-8s %8g %7llu  %-24s %8s %9llu\n", e->fit, e->output, e->alpha, (unsigned long long)e->masks,
               pearson, CLI_MEAN(e->spearman_mean), (unsigned long long)e->examples);
        if (e->examples_undefined)
            printf("  (%llu of them have no variance and are left out of the means)\n",
                   (unsigned long long)e->examples_undefined);
    }
}
