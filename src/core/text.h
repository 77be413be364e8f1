/*
 * text.h - UTF-8 from files: names may hold anything, and terminals, JSON and HTML may not.
 * Must not know: where the text goes.
 */
#ifndef COAR_CORE_TEXT_H
#define COAR_CORE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes (1 to 4) of the character at `text`, of which at most `size` bytes are read; 0 where no valid one begins: at a
 * zero byte, an overlong form, a surrogate (Unicode 15, table 3-7). Pass SIZE_MAX for terminated text. */
size_t utf8_length(const char *text, size_t size);

/* Whether `size` bytes are UTF-8 without a zero byte. */
bool utf8_valid(const char *text, size_t size);

/* Whether the valid character at `text` is a control character (C0, DEL, C1), which a terminal obeys. */
bool utf8_control(const char *text);

#endif
