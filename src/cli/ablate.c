/* ablate.c - coar ablate */
#include "cli/ablate_options.h"
#include "cli/cli.h"

static int run(int count, char **arguments) {
    ablate_texts texts = {0};
    coar_ablate_options o = COAR_ABLATE_INIT;
    const cli_option options[] = {ABLATE_OPTIONS(o, texts), {NULL}};
    if (!cli_parse(&command_ablate, count, arguments, options, NULL, 0, NULL)) return 2;
    if (!ablate_options_finish(&command_ablate, &o, &texts)) return 2;
    if (cli_follows()) return ablate_follow(&o);
    coar_ablate_result r = {0};
    coar_status status = coar_ablate(&o, &r);
    if (status == COAR_OK || (status == COAR_STOPPED && r.units_total)) ablate_print(&o, &r);
    return cli_finish(status);
}

const cli_command command_ablate = {"ablate", "--model W.safetensors --data data.h5 -o run.h5 [options]",
                                    "run masked forward passes into a run file (resumes by itself)", run, true};
