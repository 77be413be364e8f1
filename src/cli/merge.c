/* merge.c - coar merge */
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"

static int run(int count, char **arguments) {
    coar_merge_options o = COAR_MERGE_INIT;
    coar_merge_result r = {0};
    int paths;
    const cli_option options[] = {
        {"-o", OPTION_TEXT, &o.output, "FILE", "the file to write"},
        {"--run", OPTION_FLAG, &o.as_run, NULL, "of several runs: make FILE a run to go on with, with FILE.parts"},
        {"--force", OPTION_FLAG, &o.force, NULL, "replace an existing file"},
        {NULL},
    };
    const char **runs = calloc((size_t)count, sizeof *runs);
    if (!runs) return cli_usage_error(&command_merge, "not enough memory for %d names", count);
    bool good = cli_parse(&command_merge, count, arguments, options, runs, count, &paths);
    if (good && (!paths || !o.output)) {
        cli_usage_error(&command_merge, "name run files and -o FILE");
        good = false;
    }
    o.runs = runs;
    o.run_count = good ? (size_t)paths : 0;
    o.callbacks = cli_callbacks();
    const coar_status status = good ? coar_merge(&o, &r) : COAR_OK;
    free(runs);
    if (!good) return 2;
    if (status == COAR_OK && r.units_missing)
        printf("%s: %llu of %llu units are there; `coar ablate` or `coar gradients` with the runs' options and -o %s "
               "makes the others\n",
               o.output, (unsigned long long)(r.units - r.units_missing), (unsigned long long)r.units, o.output);
    else if (status == COAR_OK)
        printf("%s\n", o.output);
    return cli_finish(status);
}

const cli_command command_merge = {"merge", "run.h5 [run.h5 ...] -o FILE [--run] [--force]",
                                   "one plain file from a run and its parts, or from the shards of one", run};
