/* options.c - the option parser: one table per subcommand gives parsing and help. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

int cli_usage_error(const cli_command *command, const char *format, ...) {
    va_list arguments;
    if (cli_follows()) return 2; /* rank 0 tells, as a rule of the same command line */
    va_start(arguments, format);
    fprintf(stderr, "coar %s: ", command->name);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "; see coar %s --help\n", command->name);
    va_end(arguments);
    return 2;
}

static void print_help(const cli_command *command, const cli_option *options) {
    printf("usage: coar %s %s\n%s\n\n", command->name, command->usage, command->summary);
    for (const cli_option *o = options; o->name; o++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", o->name, o->argument ? " " : "", o->argument ? o->argument : "");
        printf("  %-26s %s\n", left, o->help);
    }
    printf("  %-26s %s\n", "--help", "this text");
}

static bool parse_unsigned(const char *text, uint64_t least, uint64_t most, uint64_t *out) {
    if (*text < '0' || *text > '9') return false; /* strtoull would take "-1" */
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || value < least || value > most) return false;
    *out = value;
    return true;
}

static bool parse_real(const char *text, double *out) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value)) return false;
    *out = value;
    return true;
}

/* "90", "90s", "30m", "2h" */
static bool parse_seconds(const char *text, double *out) {
    char number[32];
    size_t length = strlen(text);
    if (length == 0 || length >= sizeof number) return false;
    memcpy(number, text, length + 1);
    double unit = 1;
    switch (number[length - 1]) {
    case 's':
        number[length - 1] = '\0';
        break;
    case 'm':
        unit = 60;
        number[length - 1] = '\0';
        break;
    case 'h':
        unit = 3600;
        number[length - 1] = '\0';
        break;
    }
    if (!parse_real(number, out) || *out <= 0) return false;
    *out *= unit;
    return true;
}

/* False when `text` is no value of this option's type. */
static bool set_value(const cli_option *o, const char *text) {
    uint64_t number;
    double real;
    switch (o->type) {
    case OPTION_FLAG:
        *(int *)o->value = 1;
        return true;
    case OPTION_TEXT:
        *(const char **)o->value = text;
        return true;
    case OPTION_NUMBER:
        if (!parse_unsigned(text, 0, 1 << 20, &number)) return false;
        *(int *)o->value = (int)number;
        return true;
    case OPTION_INT:
        if (!parse_unsigned(text, 1, 1 << 20, &number)) return false;
        *(int *)o->value = (int)number;
        return true;
    case OPTION_U32:
        if (!parse_unsigned(text, 1, UINT32_MAX, &number)) return false;
        *(uint32_t *)o->value = (uint32_t)number;
        return true;
    case OPTION_COUNT:
        return parse_unsigned(text, 1, UINT64_MAX, o->value);
    case OPTION_SEED:
        return parse_unsigned(text, 0, UINT64_MAX, o->value);
    case OPTION_FRACTION:
        if (!parse_real(text, &real) || !(real > 0 && real < 1)) return false;
        *(double *)o->value = real;
        return true;
    case OPTION_SHARE:
        if (!parse_real(text, &real) || !(real > 0 && real <= 1)) return false;
        *(double *)o->value = real;
        return true;
    case OPTION_REAL:
        if (!parse_real(text, &real) || real < 0) return false;
        *(double *)o->value = real;
        return true;
    case OPTION_SIZE:
        return coar_parse_size(text, o->value) == COAR_OK;
    case OPTION_SECONDS:
        return parse_seconds(text, o->value);
    case OPTION_VARIABLE:
        return setenv(o->value, text, 1) == 0;
    }
    return false;
}

/* What a type takes, for messages. */
static const char *expected(option_type type) {
    switch (type) {
    case OPTION_INT:
    case OPTION_U32:
    case OPTION_COUNT:
        return "a whole number from 1 up";
    case OPTION_NUMBER:
    case OPTION_SEED:
        return "a whole number";
    case OPTION_FRACTION:
        return "a number above 0 and below 1";
    case OPTION_SHARE:
        return "a number above 0, at most 1";
    case OPTION_REAL:
        return "a number from 0 up";
    case OPTION_SIZE:
        return "a size, as in 512M or 8G";
    case OPTION_SECONDS:
        return "a time, as in 90s, 30m or 2h";
    case OPTION_FLAG:
    case OPTION_TEXT:
    case OPTION_VARIABLE:
        break; /* every text is one */
    }
    return "a value";
}

static const cli_option *find(const cli_option *options, const char *word, size_t length) {
    for (const cli_option *o = options; o->name; o++)
        if (strlen(o->name) == length && !memcmp(o->name, word, length)) return o;
    return NULL;
}

bool cli_parse(const cli_command *command, int count, char **arguments, const cli_option *options,
               const char **positional, int positional_max, int *positional_count) {
    int found = 0;
    bool only_words = false;
    for (int i = 1; i < count; i++) {
        const char *word = arguments[i];
        if (only_words || word[0] != '-' || !word[1]) {
            if (found == positional_max) {
                cli_usage_error(command, "unexpected '%s'", word);
                return false;
            }
            positional[found++] = word;
            continue;
        }
        if (!strcmp(word, "--")) {
            only_words = true;
            continue;
        }
        if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
            print_help(command, options);
            exit(0);
        }
        const char *equals = word[1] == '-' ? strchr(word, '=') : NULL;
        const cli_option *o = find(options, word, equals ? (size_t)(equals - word) : strlen(word));
        if (!o) {
            cli_usage_error(command, "unknown option '%s'", word);
            return false;
        }
        const char *text = equals ? equals + 1 : NULL;
        if (o->type == OPTION_FLAG && text) {
            cli_usage_error(command, "%s takes no value", o->name);
            return false;
        }
        if (o->type != OPTION_FLAG && !text) {
            if (i + 1 == count) {
                cli_usage_error(command, "%s needs a value (%s)", o->name, o->argument);
                return false;
            }
            text = arguments[++i];
        }
        if (!set_value(o, text)) {
            cli_usage_error(command, "%s '%s': give %s", o->name, text, expected(o->type));
            return false;
        }
        if (o->given) *o->given = 1;
    }
    if (positional_count) *positional_count = found;
    return true;
}
