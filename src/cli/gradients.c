/* gradients.c - coar gradients */
#include "cli/ablate_options.h"
#include "cli/cli.h"

static int run(int count, char **arguments) {
    ablate_texts texts = {0};
    coar_gradients_options o = COAR_GRADIENTS_INIT;
    const cli_option options[] = {
        {"--passes", OPTION_U32, &o.passes, "K", "reverse passes of every example (64); a larger number extends"},
        ABLATE_OPTIONS(o.ablate, texts),
        {NULL}};
    if (!cli_parse(&command_gradients, count, arguments, options, NULL, 0, NULL)) return 2;
    if (!ablate_options_finish(&command_gradients, &o.ablate, &texts)) return 2;
    if (cli_follows()) return ablate_follow(&o.ablate);
    coar_gradients_result r = {0};
    coar_status status = coar_gradients(&o, &r);
    if (status == COAR_OK || (status == COAR_STOPPED && r.units_total)) gradients_print(&o, &r);
    return cli_finish(status);
}

const cli_command command_gradients = {"gradients",
                                       "--model W.safetensors --data data.h5 -o run.h5 [--passes K] [options]",
                                       "add averaged mask gradients to a run, or begin one with them", run, true};
