/* number.c - see number.h. */
#include "core/number.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static locale_t c_locale;

static void make_locale(void) {
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* built into the C library: it cannot fail */
}

locale_t number_locale(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_locale);
    return c_locale;
}

double number_parse(const char *text, char **end) {
    return strtod_l(text, end, number_locale());
}

void number_format(double value, char text[NUMBER_SIZE]) {
    locale_t callers = uselocale(number_locale());
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, NUMBER_SIZE, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    uselocale(callers);
}
