/* main.c - the program `coar`: finds the subcommand and hands over. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const cli_command *const commands[] = {
    &command_run,      &command_pack,  &command_ablate,   &command_gradients, &command_fit,
    &command_evaluate, &command_edit,  &command_report,   &command_info,      &command_masks,
    &command_merge,    &command_bench, &command_selftest,
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static void print_help(FILE *to) {
    fprintf(to,
            "coar %s - how each component of a network shapes each of its predictions\n\nusage: coar COMMAND ...\n\n",
            coar_version());
    for (int i = 0; i < COMMAND_COUNT; i++) fprintf(to, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(to, "\n`coar COMMAND --help` tells more. Exit code: 0 done, 1 failure, 2 usage, 3 stopped early with\n"
                "everything saved.\n");
}

static bool asks_for_help(int count, char **arguments) {
    for (int i = 1; i < count; i++)
        if (!strcmp(arguments[i], "--help") || !strcmp(arguments[i], "-h")) return true;
    return false;
}

/* Help is every process's own, and ends it. */
static int run_command(const cli_command *command, int count, char **arguments) {
    if (!command->ranks || asks_for_help(count, arguments)) return command->run(count, arguments);
    if (!cli_ranks_begin()) return 1;
    return cli_ranks_end(command->run(count, arguments));
}

int main(int count, char **arguments) {
    if (count < 2) {
        print_help(stderr);
        return 2;
    }
    const char *name = arguments[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        print_help(stdout);
        return 0;
    }
    if (!strcmp(name, "--version")) {
        printf("coar %s\n", coar_version());
        return 0;
    }
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (!strcmp(name, commands[i]->name)) {
            cli_catch_signals();
            return run_command(commands[i], count - 1, arguments + 1);
        }
    fprintf(stderr, "coar: '%s' is no command; see coar --help\n", name);
    return 2;
}
