/* masks.c - coar masks */
#include <stdio.h>

#include "cli/cli.h"

static int run(int count, char **arguments) {
    const char *path = NULL, *output = NULL;
    int paths, force = 0;
    const cli_option options[] = {
        {"-o", OPTION_TEXT, &output, "FILE", "bool .npy [m, n] to write, True = kept"},
        {"--force", OPTION_FLAG, &force, NULL, "replace an existing file"},
        {NULL},
    };
    if (!cli_parse(&command_masks, count, arguments, options, &path, 1, &paths)) return 2;
    if (!paths || !output) return cli_usage_error(&command_masks, "name a run file and -o M.npy");
    coar_status status = coar_masks(path, output, force);
    if (status == COAR_OK) printf("%s\n", output);
    return cli_finish(status);
}

const cli_command command_masks = {"masks", "run.h5 -o M.npy [--force]", "write a run's masks as .npy", run};
