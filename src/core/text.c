/* text.c - see text.h. */
#include "core/text.h"

size_t utf8_length(const char *text, size_t size) {
    const unsigned char *s = (const unsigned char *)text;
    if (size == 0) return 0;
    if (s[0] < 0x80) return s[0] != 0;
    size_t length = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4 || length > size) return 0; /* a continuation byte, overlong or beyond U+10FFFF */
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;                                      /* also stops at a terminating zero */
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F)) return 0; /* overlong; surrogates */
    if ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F)) return 0; /* overlong; beyond U+10FFFF */
    return length;
}

bool utf8_valid(const char *text, size_t size) {
    for (size_t at = 0, length; at < size; at += length)
        if (!(length = utf8_length(text + at, size - at))) return false;
    return true;
}

bool utf8_control(const char *text) {
    unsigned char first = (unsigned char)text[0];
    return first < ' ' || first == 0x7F || (first == 0xC2 && (unsigned char)text[1] < 0xA0);
}
