/*
 * cli.h - what the subcommands share: option tables, progress on a terminal, exit codes.
 * The command line sees coar.h and nothing else of the library.
 */
#ifndef COAR_CLI_CLI_H
#define COAR_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coar.h"

/* One option of a subcommand. `value` points at the variable that takes it. */
typedef enum option_type {
    OPTION_FLAG,     /* int: set to 1 */
    OPTION_TEXT,     /* const char * */
    OPTION_NUMBER,   /* int, from 0 */
    OPTION_INT,      /* int, from 1: 0 is the library's "default", which an option given by hand never means */
    OPTION_U32,      /* uint32_t, from 1 */
    OPTION_COUNT,    /* uint64_t, from 1 */
    OPTION_SEED,     /* uint64_t */
    OPTION_FRACTION, /* double, above 0 and below 1 */
    OPTION_SHARE,    /* double, above 0 and up to 1 */
    OPTION_REAL,     /* double, from 0 */
    OPTION_SIZE,     /* uint64_t, "8G" */
    OPTION_SECONDS,  /* double, "90", "90s", "30m", "2h" */
    OPTION_VARIABLE, /* `value` is the name of an environment variable that the library reads: it is set */
} option_type;

typedef struct cli_option {
    const char *name; /* "--alpha" or "-o" */
    option_type type;
    void *value;
    const char *argument; /* "A" in the help; NULL for flags */
    const char *help;
    int *given; /* set to 1 where the option is given, for values without a neutral one; may be NULL */
} cli_option;

/* Of every command that computes on the CPU. */
#define CLI_ISA_OPTION \
    {"--isa", OPTION_VARIABLE, "COAR_ISA", "NAME", "instruction set of the CPU kernels: portable, avx2, avx512, avx512bf16 (the best present)"}

typedef struct cli_command {
    const char *name;
    const char *usage;                       /* after "coar NAME " */
    const char *summary;                     /* one line */
    int (*run)(int count, char **arguments); /* arguments[0] is the subcommand's name; returns the exit code */
    bool ranks;                              /* several processes may do it together (ranks.c) */
} cli_command;

extern const cli_command command_pack, command_info, command_ablate, command_gradients, command_masks, command_fit, command_evaluate,
    command_edit, command_run, command_plan, command_report, command_merge, command_status, command_bench,
    command_selftest;

/* Parses options (ended by an entry with a NULL name) and at most `positional_max` other words, GNU style: any order,
 * --name=value or --name value, -- ends options. --help prints the help to stdout and exits 0. False: an error was printed
 * (exit code 2). */
bool cli_parse(const cli_command *command, int count, char **arguments, const cli_option *options,
               const char **positional, int positional_max, int *positional_count);

/* Of a command line that was parsed by `options`, the options that are also in `wanted`: names and values, as typed, in
 * words[2 * count] (borrowed). Returns how many words. */
int cli_words(int count, char **arguments, const cli_option *options, const cli_option *wanted, const char **words);

/* A mean over examples with three decimals, "-" where no example has a value. The macro's text lasts for the enclosing block. */
enum { CLI_MEAN_SIZE = 32 };
const char *cli_mean(char text[CLI_MEAN_SIZE], double value);
#define CLI_MEAN(value) cli_mean((char[CLI_MEAN_SIZE]){0}, value)

/* "1:02:03", "2:03"; "--:--" for a negative number: not known. */
enum { CLI_TIME_SIZE = 32 };
const char *cli_time(char text[CLI_TIME_SIZE], double seconds);
#define CLI_TIME(seconds) cli_time((char[CLI_TIME_SIZE]){0}, seconds)

/* Prints a text as JSON; names in files may hold anything. */
void cli_json_text(const char *text);

/* Prints the library's error and returns the exit code: 0 done, 1 failure, 2 usage, 3 stopped early with everything saved. */
int cli_finish(coar_status status);

/* A usage error of the command line itself: one line, exit code 2. */
int cli_usage_error(const cli_command *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Progress and log lines on stderr; SIGINT and SIGTERM ask the library to stop. */
const coar_callbacks *cli_callbacks(void);
/* Seconds between progress lines where stderr is no terminal; 60. */
extern double cli_log_interval;
/* Log lines and signals alone: for a command whose results are its progress. */
const coar_callbacks *cli_silent_callbacks(void);
void cli_catch_signals(void);

/* Around a command with `ranks`: joins the processes that were started together with this one. begin is false when an error was
 * printed where it is to be; end takes the exit code and returns the job's. */
bool cli_ranks_begin(void);
int cli_ranks_end(int code);

/* This process is one of several and leads them not: it prints nothing but warnings. Instead of the command's own call it makes
 * cli_follow, whose options' callbacks are filled in there. */
bool cli_follows(void);
int cli_follow(coar_follow_options options);

/* coar selftest --comm: the exit code. devices: "" = each rank takes its own. */
typedef struct cli_comm_options {
    const char *backend;
    char devices[16];
    uint64_t bytes;
    int json;
} cli_comm_options;
int cli_selftest_comm(const cli_comm_options *options);

/* The command line as typed, for provenance. */
const char *cli_command_line(void);

#endif
