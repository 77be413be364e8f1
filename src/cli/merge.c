/* merge.c - coar merge */
#include <stdio.h>

#include "cli/cli.h"

static int run(int count, char **arguments) {
    const char *path = NULL, *output = NULL;
    int paths, force = 0;
    const cli_option options[] = {
        {"-o", OPTION_TEXT, &output, "FILE", "the file to write"},
        {"--force", OPTION_FLAG, &force, NULL, "replace an existing file"},
        {NULL},
    };
    if (!cli_parse(&command_merge, count, arguments, options, &path, 1, &paths)) return 2;
    if (!paths || !output) return cli_usage_error(&command_merge, "name a run file and -o FILE");
    coar_status status = coar_merge(path, output, force, cli_callbacks());
    if (status == COAR_OK) printf("%s\n", output);
    return cli_finish(status);
}

const cli_command command_merge = {"merge", "run.h5 -o one.h5 [--force]", "one plain file from a run and its parts",
                                   run};
