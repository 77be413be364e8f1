/* evaluations.c - see evaluations.h. */
#include "cli/evaluations.h"

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

static void print_json(const coar_evaluation *list, size_t count) {
    printf("{\"evaluations\":[");
    for (size_t i = 0; i < count; i++) {
        const coar_evaluation *e = &list[i];
        printf("%s{\"fit\":\"%s\",\"output\":\"%s\",\"alpha\":%.9g,\"masks\":%llu,\"seed\":%llu,\"pearson_mean\":",
               i ? "," : "", e->fit, e->output, e->alpha, (unsigned long long)e->masks, (unsigned long long)e->seed);
        print_number(e->pearson_mean);
        printf(",\"pearson_ci\":[");
        print_number(e->pearson_low);
        printf(",");
        print_number(e->pearson_high);
        printf("],\"spearman_mean\":");
        print_number(e->spearman_mean);
        printf(",\"examples\":%llu,\"examples_undefined\":%llu}", (unsigned long long)e->examples,
               (unsigned long long)e->examples_undefined);
    }
    printf("]}\n");
}

void evaluations_print(const coar_evaluation *list, size_t count, int json) {
    if (json) {
        print_json(list, count);
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
