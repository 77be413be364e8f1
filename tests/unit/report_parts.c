/* report_parts.c - what the report is drawn with: numbers, escaping, ticks, histograms, pictures. */
#include "test.h"

#include <png.h>

#include "core/philox.h"
#include "core/text.h"
#include "report/html.h"
#include "report/png_url.h"
#include "report/report_data.h"
#include "report/svg.h"

static uint32_t draw_counter;

static double uniform(void) {
    uint32_t words[4];
    philox_words(7, 0, draw_counter++, 0, words);
    return words[0] / 4294967296.0;
}

static void check_print(const char *expected, const char *(*format)(char *, double), double value) {
    char buffer[HTML_NUMBER_SIZE];
    CHECK_TEXT(format(buffer, value), expected);
}

static void test_numbers(void) {
    test_begin("numbers as readers expect them");
    const char *minus = "\xe2\x88\x92", *dash = "\xe2\x80\x93";
    char text[64];
    check_print("0", html_number, -0.0);
    check_print("0.123", html_number, .12345);
    check_print("12345", html_number, 12345);
    check_print("1.23e+08", html_number, 123456789);
    check_print(dash, html_number, NAN);
    check_print(dash, html_signed, -INFINITY);
    check_print("+1.5", html_signed, 1.5);
    snprintf(text, sizeof text, "%s1.5", minus);
    check_print(text, html_signed, -1.5);
    snprintf(text, sizeof text, "%s1e%s07", minus, minus);
    check_print(text, html_number, -1e-7);
    check_print("0.00", html_fixed, -.001);
    check_print("0.54", html_fixed, .542);
    CHECK_TEXT(COUNT(0), "0");
    CHECK_TEXT(COUNT(999), "999");
    CHECK_TEXT(COUNT(1000), "1,000");
    CHECK_TEXT(COUNT(UINT64_MAX), "18,446,744,073,709,551,615");
    CHECK_TEXT(SCALED(.0123, .25), "0.012");
    CHECK_TEXT(SCALED(123.456, 300), "123");
    CHECK_TEXT(SIGNED_SCALED(.0123, 2.5), "+0.01");
    CHECK_TEXT(SIGNED_SCALED(-.0001, 2.5), "0.00");
    CHECK_TEXT(SCALED(NAN, 1), dash);
    CHECK_TEXT(SCALED(5e-9, 5e-9), "5e\xe2\x88\x92"
                                   "09");

    test_begin("the printer");
    html page = {0};
    html_print(&page, "<a b=\"%s\">%5.1f|%03u|%zu|%x|%%|%d</a>", "<\">", 2.25, 7u, (size_t)9, 255u, -3);
    CHECK_TEXT(page.text, "<a b=\"&lt;&quot;&gt;\">  2.2|007|9|ff|%|-3</a>");
    html_free(&page);
    const char *volatile none = NULL; /* volatile: the compiler must not warn about what is meant */
    html_print(&page, "[%s]", none);
    CHECK_TEXT(page.text, "[]");
    html_free(&page);

    test_begin("UTF-8: overlong forms, surrogates and torn sequences are refused");
    CHECK_INT(utf8_length("\xe2\x82\xac", 2), 0); /* cut off */
    CHECK_INT(utf8_length("", 0), 0);
    CHECK(utf8_valid("\xe2\x82\xac", 3) && !utf8_valid("\xe2\x82\xac", 2) && !utf8_valid("a\0", 2));
    CHECK(utf8_control("\x1b") && utf8_control("\x7f") && utf8_control("\xc2\x9b") && !utf8_control("\xc2\xa0"));
    CHECK_INT(utf8_length("a", SIZE_MAX), 1);
    CHECK_INT(utf8_length("\xc3\xa9", SIZE_MAX), 2);
    CHECK_INT(utf8_length("\xe2\x82\xac", SIZE_MAX), 3);
    CHECK_INT(utf8_length("\xf0\x9f\x98\x80", SIZE_MAX), 4);
    static const char *const bad[] = {
        "\x80",     "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80",
        "\xe2\x82", "\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK_INT(utf8_length(bad[i], SIZE_MAX), 0);
}

static void test_plots(void) {
    test_begin("ticks: steps of 1, 2 and 5, never more than asked for");
    const double lows[] = {0, -1, -3.7, 1e-7, -2e30, 5}, highs[] = {1, 1, 12.2, 3e-7, 1e30, 5.001};
    for (size_t i = 0; i < 6; i++)
        for (int count = 1; count < 12; count++) {
            svg_range range = {lows[i], highs[i]};
            double step = svg_step(range, count), ticks = (range.high - range.low) / step;
            double mantissa = step / pow(10, floor(log10(step) + 1e-9));
            CHECK(fabs(mantissa - 1) < 1e-9 || fabs(mantissa - 2) < 1e-9 || fabs(mantissa - 5) < 1e-9);
            CHECK(ticks <= count * (1 + 1e-6) && ticks >= count / 2.6);
        }

    test_begin("histogram: ends, out of range, NaN");
    report_histogram histogram = {0};
    const double values[] = {-1, 1, -1.0001, 2, 0, NAN, .999, INFINITY};
    for (size_t i = 0; i < 8; i++) report_histogram_add(&histogram, values[i]);
    CHECK_INT(histogram.count, 7);
    CHECK_INT(histogram.undefined, 1);
    CHECK_INT(histogram.bins[0], 2);
    CHECK_INT(histogram.bins[REPORT_BINS / 2], 1);
    CHECK_INT(histogram.bins[REPORT_BINS - 1], 4);
}

static uint8_t *decode_base64(const char *text, size_t *size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t *out = malloc(strlen(text));
    uint32_t word = 0, bits = 0;
    *size = 0;
    for (; *text && *text != '='; text++) {
        const char *digit = strchr(digits, *text);
        if (!digit) break;
        word = word << 6 | (uint32_t)(digit - digits);
        bits += 6;
        if (bits >= 8) out[(*size)++] = (uint8_t)(word >> (bits -= 8));
    }
    return out;
}

static void check_png(uint32_t width, uint32_t height, uint32_t channels) {
    static const char prefix[] = "data:image/png;base64,";
    size_t size = (size_t)width * height * channels, file_size;
    uint8_t *pixels = malloc(size), *back = calloc(size + 16, 1);
    for (size_t i = 0; i < size; i++) pixels[i] = (uint8_t)(256 * uniform());
    memset(back + size, 0xA5, 16);
    char *url = NULL;
    CHECK_OK(png_url(pixels, width, height, channels, &url));
    CHECK(url && !strncmp(url, prefix, sizeof prefix - 1));
    uint8_t *file = decode_base64(url + sizeof prefix - 1, &file_size);
    png_image image = {.version = PNG_IMAGE_VERSION};
    CHECK(png_image_begin_read_from_memory(&image, file, file_size));
    CHECK_INT(image.width, width);
    CHECK_INT(image.height, height);
    image.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
    CHECK(png_image_finish_read(&image, NULL, back, 0, NULL));
    CHECK(!memcmp(pixels, back, size));
    CHECK_INT(back[size], 0xA5);
    free(file);
    free(url);
    free(back);
    free(pixels);
}

static void test_pictures(void) {
    test_begin("base64: the vectors of RFC 4648, section 10");
    static const char *const plain[] = {"", "f", "fo", "foo", "foob", "fooba", "foobar"};
    static const char *const coded[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
    for (size_t i = 0; i < 7; i++) {
        char out[16];
        base64_encode((const uint8_t *)plain[i], strlen(plain[i]), out);
        CHECK_TEXT(out, coded[i]);
    }
    test_begin("pictures decode to their pixels");
    check_png(1, 1, 1);
    check_png(1, 1, 3);
    check_png(7, 3, 1);
    check_png(5, 9, 3);
    check_png(REPORT_IMAGE_SIDE, REPORT_IMAGE_SIDE, 3);
}

int main(void) {
    test_numbers();
    test_plots();
    test_pictures();
    return test_end();
}
