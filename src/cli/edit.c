/* edit.c - coar edit */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/results.h"

static int run(int count, char **arguments) {
    coar_edit_options o = COAR_EDIT_INIT;
    const char *path = NULL;
    int paths, json = 0;
    char methods[160];
    snprintf(methods, sizeof methods, "how components are chosen: %s (tau)", coar_edit_methods());
    const cli_option options[] = {
        {"--target", OPTION_TEXT, &o.target, "SPEC", "examples whose outputs are to change, or RUN.h5:SPEC"},
        {"--reference", OPTION_TEXT, &o.reference, "SPEC", "examples whose outputs are to stay, likewise"},
        {"--raise", OPTION_FLAG, &o.raise, NULL, "the target's outputs"},
        {"--lower", OPTION_FLAG, &o.lower, NULL, "the target's outputs"},
        {"--max-k", OPTION_U32, &o.max_k, "K", "most components to ablate (100)"},
        {"--validation", OPTION_TEXT, &o.validation, "SPEC",
         "examples that choose how many (half of the run's others)"},
        {"--test", OPTION_TEXT, &o.test, "SPEC", "examples that decide nothing (the rest of them)"},
        {"--target-test", OPTION_TEXT, &o.target_test, "SPEC", "fresh examples such as the target's, only told"},
        {"--select", OPTION_REAL, &o.select, "X", "points of validation accuracy it may cost (2)", &o.has_select},
        {"--until", OPTION_REAL, &o.until, "A", "stop where A % of the target are right (lower: at most A %)",
         &o.has_until},
        {"--fit", OPTION_TEXT, &o.fit, "NAME", "attributions (the fit that expects the highest correlation)"},
        {"--attributions", OPTION_TEXT, &o.attributions, "W.npy", "f32 [examples, components], in place of a fit"},
        {"--rows", OPTION_TEXT, &o.rows, "R.npy", "their rows of the data file"},
        {"--method", OPTION_TEXT, &o.method, "NAME", methods},
        {"--harm-weight", OPTION_REAL, &o.harm_weight, "C", "greedy: what losses at the references weigh (2)",
         &o.has_harm_weight},
        {"--compare", OPTION_FLAG, &o.compare, NULL, "beside it the other methods at the same k"},
        {"--name", OPTION_TEXT, &o.name, "NAME", "of the edit in the run file (edit)"},
        {"-o", OPTION_TEXT, &o.output, "FILE", "edited weights, safetensors"},
        {"--force", OPTION_FLAG, &o.force, NULL, "replace an edit of this name and FILE"},
        {"--classes", OPTION_TEXT, &o.classes, "FILE.npy", "class embeddings of a zero-shot classifier (the run's)"},
        {"--model", OPTION_TEXT, &o.model, "FILE", "weights, where the run's path is not valid any more"},
        {"--data", OPTION_TEXT, &o.data, "FILE", "data set, likewise"},
        {"--backend", OPTION_TEXT, &o.backend, "NAME", "the run's by default"},
        CLI_ISA_OPTION,
        {"--devices", OPTION_TEXT, &o.devices, "LIST", "GPUs to use, as in 0,1 (all)"},
        {"--threads", OPTION_INT, &o.threads, "T", "threads (one per core)"},
        {"--memory", OPTION_SIZE, &o.memory, "BYTES", "most memory to take"},
        {"--time-limit", OPTION_SECONDS, &o.time_limit, "TIME", "stop then, saved, with exit code 3: 90s, 30m, 2h"},
        {"--force-resume", OPTION_FLAG, &o.force_resume, NULL, "resume although another process seems alive"},
        {"--json", OPTION_FLAG, &json, NULL, "results as JSON"},
        {NULL},
    };
    if (!cli_parse(&command_edit, count, arguments, options, &path, 1, &paths)) return 2;
    if (!paths) return cli_usage_error(&command_edit, "name a run file");
    o.run = path;
    o.command = cli_command_line();
    o.callbacks = cli_callbacks();
    coar_edit_result *result = NULL;
    const coar_status status = coar_edit(&o, &result);
    if (status == COAR_OK) edit_print(result, json);
    coar_free(result);
    return cli_finish(status);
}

const cli_command command_edit = {
    "edit", "run.h5 --target SPEC --reference SPEC --raise|--lower [options]",
    "choose components from target and reference examples, ablate them, write edited weights", run};
