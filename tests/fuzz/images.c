/* Fuzzes the image decoders: damaged JPEG and PNG files of every kind. What is accepted is resized too. */
#include "fuzz.h"

#include <png.h>

#include "data/image.h"
#include "data/resize.h"
#include "pictures.h"

static void decode(const uint8_t *data, size_t size) {
    static image decoded; /* kept, as a worker of coar_pack keeps it */
    uint8_t pixels[6 * 6 * 3];
    status_clear();
    if (image_decode(data, size, "fuzz", &decoded) != COAR_OK) return;
    if (resize_crop(&decoded, (resize_filter)(size % 3), 7, 6, "fuzz", pixels) != COAR_OK) abort();
}

/* Most mutations of a PNG break a checksum, which hides what else they do: decode also with all of them put right. */
static void decode_twice(const uint8_t *data, size_t size) {
    decode(data, size);
    if (size < 8 || data[0] != 0x89) return;
    uint8_t *copy = malloc(size);
    if (!copy) return;
    memcpy(copy, data, size);
    for (size_t at = 8; size - at >= 12;) {
        size_t length = (size_t)copy[at] << 24 | (size_t)copy[at + 1] << 16 | (size_t)copy[at + 2] << 8 | copy[at + 3];
        if (length > size - at - 12) break;
        picture_png_fix_crc((picture){copy, size}, at);
        at += 12 + length;
    }
    decode(copy, size);
    free(copy);
}

int main(void) {
    const picture pictures[] = {
        picture_jpeg(17, 13, 3, 0),
        picture_jpeg(17, 13, 3, 1),
        picture_jpeg(9, 9, 1, 0),
        picture_jpeg(9, 9, 4, 1),
        picture_jpeg(9, 9, PICTURE_YCCK, 0),
        picture_png(11, 7, PNG_COLOR_TYPE_RGB, 8, 1),
        picture_png(11, 7, PNG_COLOR_TYPE_RGB_ALPHA, 16, 0),
        picture_png(11, 7, PNG_COLOR_TYPE_PALETTE, 4, 0),
        picture_png(11, 7, PNG_COLOR_TYPE_GRAY, 2, 1),
    };
    enum { COUNT = sizeof pictures / sizeof *pictures };
    fuzz_seed seeds[COUNT];
    for (int i = 0; i < COUNT; i++) seeds[i] = (fuzz_seed){pictures[i].data, pictures[i].size};
    int code = fuzz_run("images", seeds, COUNT, 20000, decode_twice);
    for (int i = 0; i < COUNT; i++) free(pictures[i].data);
    return code;
}
