/* html.c - see html.h. */
#include "report/html.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/text.h"

#define MINUS "\xe2\x88\x92"       /* U+2212 */
#define EN_DASH "\xe2\x80\x93"     /* U+2013 */
#define THIN_SPACE "\xe2\x80\xaf"  /* U+202F, does not break */
#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

void html_raw(html *h, const char *text, size_t size) {
    if (h->status != COAR_OK) return;
    size_t need;
    if (!size_add(h->used, size, &need) || !size_add(need, 1, &need)) {
        h->status = status_set(COAR_ERROR_MEMORY, "report: the page is too large");
        return;
    }
    h->status = memory_grow(&h->text, &h->capacity, need, 1, "report page");
    if (h->status != COAR_OK) return;
    memcpy(h->text + h->used, text, size);
    h->used += size;
    h->text[h->used] = '\0';
}

void html_free(html *h) {
    free(h->text);
    *h = (html){0};
}

/* Whether the character at `text` may stand in an HTML document: no control character but tab and line ends. */
static bool allowed(const char *text) {
    return !utf8_control(text) || *text == '\t' || *text == '\n';
}

static void escaped(html *h, const char *text) {
    while (text && *text) {
        size_t length = utf8_length(text, SIZE_MAX);
        if (length == 0 || !allowed(text)) {
            html_raw(h, REPLACEMENT, 3);
            length = length ? length : 1;
        } else {
            switch (*text) {
            case '&':
                html_raw(h, "&amp;", 5);
                break;
            case '<':
                html_raw(h, "&lt;", 4);
                break;
            case '>':
                html_raw(h, "&gt;", 4);
                break;
            case '"':
                html_raw(h, "&quot;", 6);
                break;
            case '\'':
                html_raw(h, "&#39;", 5);
                break;
            default:
                html_raw(h, text, length);
            }
        }
        text += length;
    }
}

/* One conversion other than %s: `spec` is the whole of it ("%5.2f"), the argument is taken from *arguments. */
static void number(html *h, const char *spec, va_list *arguments) {
    char buffer[512]; /* %f of the largest double has 309 digits before the point */
    char conversion = spec[strlen(spec) - 1];
    int size = 0;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    if (strchr("fg", conversion))
        size = snprintf(buffer, sizeof buffer, spec, va_arg(*arguments, double));
    else if (strchr(spec, 'z'))
        size = snprintf(buffer, sizeof buffer, spec, va_arg(*arguments, size_t));
    else
        size = snprintf(buffer, sizeof buffer, spec, va_arg(*arguments, unsigned));
#pragma GCC diagnostic pop
    if (size > 0) html_raw(h, buffer, (size_t)size < sizeof buffer ? (size_t)size : sizeof buffer - 1);
}

void html_print(html *h, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    while (*format && h->status == COAR_OK) {
        size_t plain = strcspn(format, "%");
        html_raw(h, format, plain);
        format += plain;
        if (*format != '%') break;
        size_t length = 1 + strcspn(format + 1, "%sdufgx") + 1;
        char spec[16];
        if (length >= sizeof spec || format[length - 1] == '\0') {
            h->status = status_set(COAR_ERROR_INTERNAL, "report: unknown conversion in \"%s\"", format);
            break;
        }
        memcpy(spec, format, length);
        spec[length] = '\0';
        if (spec[length - 1] == 's')
            escaped(h, va_arg(arguments, const char *));
        else if (spec[length - 1] == '%')
            html_raw(h, "%", 1);
        else
            number(h, spec, &arguments);
        format += length;
    }
    va_end(arguments);
}

/* Copies a formatted number with its leading '-' (and that of an exponent) turned into a minus sign. */
static const char *typeset(char buffer[HTML_NUMBER_SIZE], const char *plain) {
    size_t used = 0;
    for (; *plain && used + 4 < HTML_NUMBER_SIZE; plain++) {
        if (*plain == '-') {
            memcpy(buffer + used, MINUS, 3);
            used += 3;
        } else {
            buffer[used++] = *plain;
        }
    }
    buffer[used] = '\0';
    return buffer;
}

static const char *dash(char buffer[HTML_NUMBER_SIZE]) {
    return strcpy(buffer, EN_DASH);
}

const char *html_number(char buffer[HTML_NUMBER_SIZE], double value) {
    if (!isfinite(value)) return dash(buffer);
    char plain[24];
    int whole = fabs(value) >= 1000 && fabs(value) < 1e6;                             /* 12345, not 1.23e+04 */
    snprintf(plain, sizeof plain, whole ? "%.0f" : "%.3g", value == 0 ? 0.0 : value); /* no "-0" */
    return typeset(buffer, plain);
}

const char *html_signed(char buffer[HTML_NUMBER_SIZE], double value) {
    if (!isfinite(value)) return dash(buffer);
    char plain[24];
    snprintf(plain, sizeof plain, value == 0 ? "%.3g" : "%+.3g", value == 0 ? 0.0 : value);
    return typeset(buffer, plain);
}

const char *html_fixed(char buffer[HTML_NUMBER_SIZE], double value) {
    if (!isfinite(value) || fabs(value) > 1e9) return html_number(buffer, value);
    char plain[24];
    snprintf(plain, sizeof plain, "%.2f", fabs(value) < .005 ? 0.0 : value);
    return typeset(buffer, plain);
}

const char *html_scaled(char buffer[HTML_NUMBER_SIZE], double value, double scale, int sign) {
    int decimals = scale > 0 && isfinite(scale) ? 2 - (int)floor(log10(scale)) : 2;
    if (!isfinite(value) || decimals > 5 || decimals < -3)
        return sign ? html_signed(buffer, value) : html_number(buffer, value);
    if (decimals < 0) decimals = 0;
    char plain[40];
    if (fabs(value) < .5 * pow(10, -decimals)) value = 0; /* no "-0.00" */
    snprintf(plain, sizeof plain, sign && value != 0 ? "%+.*f" : "%.*f", decimals, value);
    return typeset(buffer, plain);
}

const char *html_percent(char buffer[HTML_NUMBER_SIZE], double fraction) {
    if (!isfinite(fraction) || fabs(fraction) > 1e6) return dash(buffer);
    char plain[24];
    snprintf(plain, sizeof plain, "%.1f" THIN_SPACE "%%", 100 * fraction);
    return typeset(buffer, plain);
}

const char *html_count(char buffer[HTML_NUMBER_SIZE], uint64_t value) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
    size_t used = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) buffer[used++] = ',';
        buffer[used++] = digits[i];
    }
    buffer[used] = '\0';
    return buffer;
}
