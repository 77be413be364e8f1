/*
 * test.h - TAP from small C programs. A check prints both values when it fails and is never compiled out.
 * Each test program: #include "test.h", functions that check, TEST_MAIN(...).
 */
#ifndef COAR_TEST_H
#define COAR_TEST_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coar.h"

extern int test_count, test_failures;

/* Names the group that the following checks belong to; one TAP line is printed per group. */
void test_begin(const char *format, ...) __attribute__((format(printf, 1, 2)));
void test_skip(const char *reason, ...) __attribute__((format(printf, 1, 2))); /* instead of the current group */
int test_end(void); /* closes the last group, prints the plan, returns the exit code */
void test_fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Path below the directory of shared material (COAR_SHARED, default ../shared), or NULL when it is absent. Static buffers, four deep. */
const char *test_shared(const char *name);
/* Path below tests/ (TEST_DIR, default tests). */
const char *test_path(const char *name);
/* A fresh temporary folder for this program (removed at test_end), and a path in it. */
const char *test_temporary(const char *name);

#define CHECK(condition)                                                       \
    do {                                                                       \
        if (!(condition)) test_fail(__FILE__, __LINE__, "%s", #condition);     \
    } while (0)

#define CHECK_OK(expression)                                                                              \
    do {                                                                                                  \
        coar_status check_status = (expression);                                                          \
        if (check_status != COAR_OK)                                                                      \
            test_fail(__FILE__, __LINE__, "%s: %s", #expression, coar_last_error());                      \
    } while (0)

/* Fails with `expected`, and the message contains `text`. */
#define CHECK_ERROR(expression, expected, text)                                                           \
    do {                                                                                                  \
        coar_status check_status = (expression);                                                          \
        if (check_status != (expected) || !strstr(coar_last_error(), text))                               \
            test_fail(__FILE__, __LINE__, "%s: got %s \"%s\", expected %s with \"%s\"", #expression,      \
                      coar_status_text(check_status), coar_last_error(), coar_status_text(expected), text); \
    } while (0)

#define CHECK_INT(actual, expected)                                                                       \
    do {                                                                                                  \
        long long check_a = (long long)(actual), check_e = (long long)(expected);                         \
        if (check_a != check_e)                                                                           \
            test_fail(__FILE__, __LINE__, "%s: got %lld, expected %lld", #actual, check_a, check_e);      \
    } while (0)

#define CHECK_NEAR(actual, expected, tolerance)                                                           \
    do {                                                                                                  \
        double check_a = (double)(actual), check_e = (double)(expected);                                  \
        if (!(fabs(check_a - check_e) <= (tolerance)))                                                    \
            test_fail(__FILE__, __LINE__, "%s: got %.9g, expected %.9g +- %.3g", #actual, check_a,        \
                      check_e, (double)(tolerance));                                                      \
    } while (0)

#define CHECK_TEXT(actual, expected)                                                                      \
    do {                                                                                                  \
        const char *check_a = (actual), *check_e = (expected);                                            \
        if (!check_a || strcmp(check_a, check_e))                                                         \
            test_fail(__FILE__, __LINE__, "%s: got \"%s\", expected \"%s\"", #actual,                     \
                      check_a ? check_a : "(null)", check_e);                                             \
    } while (0)

#endif
