/*
 * png_url.h - pixels as a "data:image/png;base64,..." address, so that the page needs no other file.
 * Must not know: data sets, HTML.
 */
#ifndef COAR_REPORT_PNG_URL_H
#define COAR_REPORT_PNG_URL_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* u8 [height][width][channels], channels 1 (gray) or 3 (RGB). *url: malloc'ed text. */
coar_status png_url(const uint8_t *pixels, uint32_t width, uint32_t height, uint32_t channels, char **url);

/* Standard base64 with padding (RFC 4648, section 4): writes 4 * ceil(size / 3) characters and a zero. */
void base64_encode(const uint8_t *data, size_t size, char *out);

#endif
