/* info.c - coar info */
#include <stdio.h>

#include "cli/cli.h"

static int run(int count, char **arguments) {
    const char *path = NULL, *arch = NULL, *components = NULL, *classes = NULL;
    int paths, json = 0;
    const cli_option options[] = {
        {"--arch", OPTION_TEXT, &arch, "NAME,K=V", "for weights: as in coar ablate"},
        {"--components", OPTION_TEXT, &components, "SET", "for weights: filters, neurons, heads or blocks"},
        {"--classes", OPTION_TEXT, &classes, "FILE", "for a CLIP: its class embeddings (.npy)"},
        {"--json", OPTION_FLAG, &json, NULL, "as JSON"},
        {NULL},
    };
    if (!cli_parse(&command_info, count, arguments, options, &path, 1, &paths)) return 2;
    if (!paths) return cli_usage_error(&command_info, "name a file");
    char *text = NULL;
    coar_status status = coar_info(path, arch, components, classes, json, &text);
    if (status == COAR_OK) fputs(text, stdout);
    coar_free(text);
    return cli_finish(status);
}

const cli_command command_info = {"info", "FILE [options]", "what is in a weight, data or run file", run};
