/* report.c - coar report */
#include <stdio.h>

#include "cli/cli.h"

static int run(int count, char **arguments) {
    coar_report_options o = COAR_REPORT_INIT;
    const char *path = NULL;
    int paths;
    const cli_option options[] = {
        {"-o", OPTION_TEXT, &o.output, "FILE", "the page to write (report.html)"},
        {"--fit", OPTION_TEXT, &o.fit, "NAME", "which fit (the first)"},
        {"--data", OPTION_TEXT, &o.data, "FILE", "data set, where the run's path is not valid any more"},
        {"--force", OPTION_FLAG, &o.force, NULL, "replace an existing page"},
        {NULL},
    };
    if (!cli_parse(&command_report, count, arguments, options, &path, 1, &paths)) return 2;
    if (!paths) return cli_usage_error(&command_report, "name a run file");
    if (!o.output) o.output = "report.html";
    o.run = path;
    o.callbacks = cli_callbacks();
    coar_status status = coar_report(&o);
    if (status == COAR_OK) printf("%s\n", o.output);
    return cli_finish(status);
}

const cli_command command_report = {"report", "run.h5 [-o report.html] [options]",
                                    "one self-contained HTML page with plots", run};
