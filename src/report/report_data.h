/*
 * report_data.h - everything a report page shows, gathered and bounded before a line of HTML is written.
 *
 * gather.c fills it from a run and a data file; page.c, layers.c, svg.c, gallery.c and edit_page.c draw it. So the drawing is tested
 * with made-up data, and the page's size has a bound whatever N, n, m and the number of evaluations are.
 * Must not know: files, HDF5, HTML.
 */
#ifndef COAR_REPORT_REPORT_DATA_H
#define COAR_REPORT_REPORT_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "report/html.h"

enum {
    REPORT_FACTS = 24,       /* rows of the provenance list */
    REPORT_EVALUATIONS = 40, /* rows of the correlation table */
    REPORT_GROUPS = 240,     /* rows of the layer table: ViT-H/14 has 192 */
    REPORT_EXAMPLES = 21,    /* 4 x 5 + 1: best, worst, median and quartiles by correlation are among them */
    REPORT_PANELS = 5,       /* those five, as scatter plots */
    REPORT_POINTS = 400,     /* of one scatter plot */
    REPORT_COMPONENTS = 4,   /* strongest of each sign */
    REPORT_BINS = 40,        /* histogram over -1..1: a bin of .05 */
    REPORT_IMAGE_SIDE = 96,  /* pixels; larger images are reduced */
    REPORT_TEXT = 120,       /* bytes of a name; longer ones are cut */

    REPORT_EDITS = 12,        /* of a run */
    REPORT_EDIT_POINTS = 400, /* of a sweep */
    REPORT_EDIT_PAIRS = 60,   /* labels, or (label, group): the ones with the lowest accuracy after the edit */
    REPORT_EDIT_CHOICES = 24, /* ways to choose components, compared */
    REPORT_EDIT_LISTED = 40,  /* components by name */
    REPORT_EDIT_EXAMPLES = 6, /* of one set, with pictures */
    REPORT_EDIT_SIDE = 64,    /* of these */
};

typedef struct report_fact {
    const char *label; /* static */
    char value[REPORT_TEXT + 4];
    char *full; /* the unshortened hash, path or command, itself bounded; may be NULL */
} report_fact;

/* Distribution of one figure per example over -1..1. */
typedef struct report_histogram {
    uint32_t bins[REPORT_BINS];
    uint64_t count;      /* values in the bins */
    uint64_t undefined;  /* NaN: left out */
    double mean, median; /* NaN when count is 0 */
} report_histogram;

typedef struct report_evaluation {
    char fit[64], output[40];
    double alpha;
    uint64_t seed, masks;
    double pearson_low, pearson_high; /* 95 % bootstrap over masks and examples; NaN: not known */
    double spearman_mean;
    report_histogram pearson; /* with its mean */
} report_evaluation;

/* One component group. A component's strength is mean over examples of |w|. */
typedef struct report_group {
    char name[96], kind[16];
    uint32_t first, count;
    double low, lower, median, upper, high; /* 5, 25, 50, 75, 95 % of the group's components by strength */
    double strength;                        /* mean of strengths */
    double mean;                            /* mean over components and examples of w, with its sign */
    double share;                           /* of the sum of strengths of all groups */
} report_group;

typedef struct report_component {
    char group[96];
    uint32_t index; /* inside the group */
    double weight;
} report_component;

typedef struct report_picture {
    uint8_t *pixels; /* u8 [height][width][channels]; channels 1 or 3. NULL: no picture */
    uint32_t width, height, channels;
} report_picture;

typedef struct report_example {
    uint64_t row;                                           /* of the data file */
    char label[REPORT_TEXT + 4], subgroup[REPORT_TEXT + 4]; /* "" when there is no name or group */
    double baseline;                                        /* the unablated model's output */
    double correlation; /* of the featured evaluation, or leave-one-out without one; may be NaN */
    double r2;
    report_picture picture;
    report_component positive[REPORT_COMPONENTS], negative[REPORT_COMPONENTS]; /* strongest first */
    size_t positive_count, negative_count;
    bool has_weights;         /* false: this example was left out of the fit */
    const char *rank;         /* static: "best", "median", ...; NULL when the example has no scatter plot */
    float *truth, *predicted; /* [points] */
    size_t points;
} report_example;

/* --------------------------------------------------------------------------------------------------- edits */

/* The sets of examples; what is measured for every k are the first ones. Fresh: other ones such as the target's. */
enum { REPORT_TARGET, REPORT_REFERENCE, REPORT_VALIDATION, REPORT_TEST, REPORT_FRESH, REPORT_EDIT_SETS };
enum { REPORT_EDIT_SWEPT = REPORT_VALIDATION + 1 };

/* A set of examples under one mask: mean output; accuracies are fractions of 1, NaN where there is none. */
enum { REPORT_OUTPUT, REPORT_ACCURACY, REPORT_WORST, REPORT_AVERAGE, REPORT_SCORES };

typedef struct report_edit_set {
    char spec[REPORT_TEXT + 4];
    uint64_t examples; /* the last set may have none */
    double before[REPORT_SCORES], after[REPORT_SCORES];
} report_edit_set;

/* Accuracy on the examples of one label, or label and group, of validation and of test. */
typedef struct report_edit_pair {
    char label[REPORT_TEXT + 4], group[REPORT_TEXT + 4]; /* group "" without groups */
    uint64_t examples[2];
    double before[2], after[2];
} report_edit_pair;

/* What one way to choose as many components does: means and 95 % intervals of the target's gain of output, of the losses on
 * validation and test (of accuracy; a language model's of output), and of the gain of accuracy on fresh ones such as the
 * target's (NaN without them). */
enum { REPORT_GAIN, REPORT_VALIDATION_LOSS, REPORT_TEST_LOSS, REPORT_FRESH_GAIN, REPORT_FIGURES };

typedef struct report_edit_choice {
    char method[16];
    double figure[REPORT_FIGURES][3]; /* mean, low, high */
} report_edit_choice;

typedef struct report_edit_group {
    char name[96];
    uint32_t count, edited; /* components, and those that the edit ablates */
} report_edit_group;

typedef struct report_edit_component { /* in the order in which they are ablated */
    char group[96];
    uint32_t index; /* inside the group */
    double score;
} report_edit_component;

typedef struct report_edit_example {
    uint64_t row;                                                                 /* of the set's data file */
    char label[REPORT_TEXT + 4], before[REPORT_TEXT + 4], after[REPORT_TEXT + 4]; /* true class, predicted ones */
    double margin_before, margin_after;                                           /* above 0: right */
    report_picture picture;
} report_edit_example;

typedef struct report_edit {
    char name[64], method[16], fit[64], output[40]; /* fit "": attributions from elsewhere */
    bool raise;                                     /* the target's outputs; else lower */
    bool has_classes;                               /* false: a language model, without accuracies */
    bool has_groups;                                /* pairs are of a label and a group; else of a label alone */
    uint64_t components, k, max_k, stopped; /* n, ablated (0: no edit helps), K, where the sweep ended early or 0 */
    double select;                          /* points of accuracy (else output) that k might cost */
    double until, harm_weight;              /* NaN: not asked for; of methods that take none */
    bool given;                             /* attributions are of files, not of a fit */
    report_edit_set sets[REPORT_EDIT_SETS];
    double *ablated;                                 /* [points] k of the sweep, ascending */
    double *sweep[REPORT_EDIT_SWEPT][REPORT_SCORES]; /* [points] */
    size_t points;
    report_edit_group *groups; /* model order */
    size_t group_count;
    uint64_t groups_hidden; /* without edited components, beyond REPORT_GROUPS */
    report_edit_component listed[REPORT_EDIT_LISTED];
    size_t listed_count;
    report_edit_pair pairs[REPORT_EDIT_PAIRS];
    size_t pair_count;
    uint64_t pairs_hidden;
    report_edit_choice choices[REPORT_EDIT_CHOICES]; /* the edit's own first; none: not compared */
    size_t choice_count;
    report_edit_example examples[REPORT_EDIT_SETS][REPORT_EDIT_EXAMPLES];
    size_t example_count[REPORT_EDIT_SETS];
} report_edit;

typedef struct report_data {
    char title[REPORT_TEXT + 4];          /* the architecture, else the weight file's name */
    char kind[16];                        /* what a component is: "filter" */
    uint64_t examples, components, masks; /* N, n, and the m that the fit used */
    double alpha;
    char output[40]; /* of the fit */
    double accuracy; /* of the unablated model on the examples; NaN: not known */
    report_fact facts[REPORT_FACTS];
    size_t fact_count;

    char fit[64], estimator[16];
    double r2_mean;
    uint64_t examples_left_out; /* attribution is NaN */
    report_histogram heldout;   /* leave-one-out correlation per example */

    report_evaluation evaluations[REPORT_EVALUATIONS];
    size_t evaluation_count;
    uint64_t evaluations_hidden; /* beyond REPORT_EVALUATIONS */
    int featured;                /* the evaluation that histogram and scatter plots show; -1: none */

    report_group *groups; /* model order */
    size_t group_count;
    uint64_t groups_hidden; /* weaker ones beyond REPORT_GROUPS */

    report_example shown[REPORT_EXAMPLES]; /* by correlation, best first */
    size_t shown_count;

    report_edit *edits; /* in name order */
    size_t edit_count;
    uint64_t edits_hidden; /* beyond REPORT_EDITS */
} report_data;

/* Frees what the structure points to, not the structure. Accepts a zeroed one. */
void report_data_free(report_data *data);

/* Appends the whole page. Deterministic: the same data give the same bytes, in any locale. */
coar_status report_render(const report_data *data, html *page);

/* Counts a value; NaN goes to `undefined`. Mean and median are the caller's. */
void report_histogram_add(report_histogram *histogram, double value);

#endif
