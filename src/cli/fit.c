/* fit.c - coar fit */
#include <math.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/results.h"

static void print(const coar_fit_result *r) {
    printf("%s: %llu masks, ", r->name, (unsigned long long)r->masks);
    if (r->passes) printf("%llu passes of gradients, ", (unsigned long long)r->passes);
    printf("%llu components, %llu examples: R^2 %s, held-out correlation %s, %.1f s\n",
           (unsigned long long)r->components, (unsigned long long)r->examples, CLI_MEAN(r->r2_mean),
           CLI_MEAN(r->heldout_mean), r->seconds);
    if (!isnan(r->predicted))
        printf("predicted correlation on fresh masks: %.3f (95 %%: %.3f to %.3f)\n", r->predicted, r->predicted_low,
               r->predicted_high);
    if (r->examples_left_out || r->masks_left_out)
        printf("left out for non-finite outputs: %llu examples, %llu masks\n", (unsigned long long)r->examples_left_out,
               (unsigned long long)r->masks_left_out);
}

static int run(int count, char **arguments) {
    coar_fit_options o = COAR_FIT_INIT;
    const char *path = NULL;
    int paths, json = 0;
    const cli_option options[] = {
        {"--estimator", OPTION_TEXT, &o.estimator, "E", "ols, ridge, eb, lasso, grad, grad+eb (by what the run has)"},
        {"--output", OPTION_TEXT, &o.output, "NAME", "which output (the run's first)"},
        {"--name", OPTION_TEXT, &o.name, "NAME", "of the fit (the estimator's)"},
        {"--standard-errors", OPTION_FLAG, &o.standard_errors, NULL, "store a standard error for every weight"},
        {"--masks", OPTION_TEXT, &o.masks, "M.npy", "bool [m, n], instead of a run"},
        {"--outputs", OPTION_TEXT, &o.outputs, "Y.npy", "f32 [m, N], with --masks"},
        {"-o", OPTION_TEXT, &o.output_file, "FILE", "attributions.h5, with --masks"},
        {"--backend", OPTION_TEXT, &o.backend, "B", "cpu or cuda (cuda where there is a device)"},
        {"--devices", OPTION_TEXT, &o.devices, "LIST", "cuda: which device, the first of the list (0)"},
        {"--threads", OPTION_INT, &o.threads, "T", "threads (one per core)"},
        {"--memory", OPTION_SIZE, &o.memory, "BYTES", "most memory to take (with cuda: of the device)"},
        {"--force", OPTION_FLAG, &o.force, NULL, "replace a fit (its predictions go with it)"},
        {"--json", OPTION_FLAG, &json, NULL, "as JSON"},
        {NULL},
    };
    if (!cli_parse(&command_fit, count, arguments, options, &path, 1, &paths)) return 2;
    o.run = path;
    o.command = cli_command_line();
    o.callbacks = cli_callbacks();
    if (cli_follows()) {
        coar_follow_options follow = COAR_FOLLOW_INIT;
        follow.threads = o.threads;
        return cli_follow(follow);
    }
    coar_fit_result r;
    coar_status status = coar_fit(&o, &r);
    if (status == COAR_OK && json) fit_print_json(&r);
    if (status == COAR_OK && !json) print(&r);
    return cli_finish(status);
}

const cli_command command_fit = {"fit", "run.h5 [options] | --masks M.npy --outputs Y.npy -o attributions.h5 [options]",
                                 "attributions from a run, or from masks and outputs made elsewhere", run, true};
