/*
 * html.h - a growing buffer of HTML that can only be written escaped.
 *
 * Names in a report come from weight, data and run files, which are untrusted. So there is one way to put text on the
 * page, html_print, and its %s always escapes. Markup is what stands in the format itself.
 * Must not know: runs, figures.
 */
#ifndef COAR_REPORT_HTML_H
#define COAR_REPORT_HTML_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* Starts as {0}. The first failure sticks and later writes do nothing, so callers look at `status` once, at the end. */
typedef struct html {
    char *text;
    size_t used, capacity;
    coar_status status;
} html;

/* Appends. The format is copied as it is; conversions: %s (escaped for text and quoted attributes; bytes that are not UTF-8
 * and control characters become U+FFFD; NULL is ""), and printf's %d %u %zu %f %g %x with flags, width and precision. */
void html_print(html *h, const char *format, ...) COAR_PRINTF(2, 3);

/* Appends bytes that are known to be safe (style sheet, base64). */
void html_raw(html *h, const char *text, size_t size);

void html_free(html *h);

/* Numbers as a reader expects them, into `buffer`: three significant digits, a real minus sign, an en dash for NaN and
 * infinity; counts with commas between thousands. The macros make the buffer last for the enclosing block. */
#define HTML_NUMBER_SIZE 40
const char *html_number(char buffer[HTML_NUMBER_SIZE], double value);
const char *html_signed(char buffer[HTML_NUMBER_SIZE], double value); /* with + */
const char *html_fixed(char buffer[HTML_NUMBER_SIZE], double value);  /* two decimals: correlations */
const char *html_percent(char buffer[HTML_NUMBER_SIZE], double fraction);
/* With as many decimals as show `scale`, the largest value of a column, with three digits; `sign`: with +. */
const char *html_scaled(char buffer[HTML_NUMBER_SIZE], double value, double scale, int sign);
const char *html_count(char buffer[HTML_NUMBER_SIZE], uint64_t value);
#define NUMBER(value) html_number((char[HTML_NUMBER_SIZE]){0}, value)
#define SIGNED(value) html_signed((char[HTML_NUMBER_SIZE]){0}, value)
#define SCALED(value, scale) html_scaled((char[HTML_NUMBER_SIZE]){0}, value, scale, 0)
#define SIGNED_SCALED(value, scale) html_scaled((char[HTML_NUMBER_SIZE]){0}, value, scale, 1)
#define FIXED(value) html_fixed((char[HTML_NUMBER_SIZE]){0}, value)
#define PERCENT(value) html_percent((char[HTML_NUMBER_SIZE]){0}, value)
#define COUNT(value) html_count((char[HTML_NUMBER_SIZE]){0}, value)

#endif
