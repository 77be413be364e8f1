/* evaluate.c - coar evaluate */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/results.h"

static int follow(const coar_evaluate_options *o) {
    coar_follow_options follow = COAR_FOLLOW_INIT;
    follow.model = o->model;
    follow.data = o->data;
    follow.classes = o->classes;
    follow.devices = o->devices;
    follow.threads = o->threads;
    follow.memory = o->memory;
    return cli_follow(follow);
}

static int run(int count, char **arguments) {
    coar_evaluate_options o = COAR_EVALUATE_INIT;
    const char *path = NULL;
    int paths, json = 0;
    const cli_option options[] = {
        {"--fit", OPTION_TEXT, &o.fits, "LIST", "fits to evaluate (all)"},
        {"--alpha", OPTION_TEXT, &o.alphas, "LIST", "ablated fractions, e.g. .1,.05 (the training one)"},
        {"--masks", OPTION_COUNT, &o.masks, "K", "fresh masks (100)"},
        {"--seed", OPTION_SEED, &o.seed, "S", "of the fresh masks (the run's)", &o.has_seed},
        {"--baselines", OPTION_FLAG, &o.baselines, NULL, "beside them leave-one-out, gradient, conductance, influence"},
        {"--model", OPTION_TEXT, &o.model, "FILE", "weights, where the run's path is not valid any more"},
        {"--data", OPTION_TEXT, &o.data, "FILE", "data set, likewise"},
        {"--classes", OPTION_TEXT, &o.classes, "FILE", "class embeddings of a CLIP, likewise"},
        {"--backend", OPTION_TEXT, &o.backend, "NAME", "the run's by default"},
        CLI_ISA_OPTION,
        {"--devices", OPTION_TEXT, &o.devices, "LIST", "GPUs to use, as in 0,1 (all)"},
        {"--threads", OPTION_INT, &o.threads, "T", "threads (one per core)"},
        {"--memory", OPTION_SIZE, &o.memory, "BYTES", "most memory to take"},
        {"--force-resume", OPTION_FLAG, &o.force_resume, NULL, "resume although another process seems alive"},
        {"--json", OPTION_FLAG, &json, NULL, "results as JSON"},
        {NULL},
    };
    if (!cli_parse(&command_evaluate, count, arguments, options, &path, 1, &paths)) return 2;
    if (!paths) return cli_usage_error(&command_evaluate, "name a run file");
    o.run = path;
    o.command = cli_command_line();
    o.callbacks = cli_callbacks();
    if (cli_follows()) return follow(&o);
    coar_evaluation *list = NULL;
    size_t entries = 0;
    coar_status status = coar_evaluate(&o, &list, &entries);
    if (status == COAR_OK) evaluations_print(list, entries, NULL, 0, json);
    coar_free(list);
    return cli_finish(status);
}

const cli_command command_evaluate = {"evaluate", "run.h5 [options]",
                                      "counterfactual correlation on fresh masks, at several alphas", run, true};
