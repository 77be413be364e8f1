/* images.c - decoders (valid, odd and hostile files), resizing against Pillow, and image folders. */
#include <png.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/npy.h"
#include "data/dataset.h"
#include "data/image.h"
#include "data/resize.h"
#include "pictures.h"
#include "test.h"

/* Public functions clear the message; here the internal ones are called directly. */
#define FRESH(expression) (status_clear(), (expression))

static void check_refused(const char *name, const uint8_t *data, size_t size, const char *text) {
    image decoded = {0};
    char path[64];
    snprintf(path, sizeof path, "folder/%s", name);
    CHECK_ERROR(FRESH(image_decode(data, size, path, &decoded)), COAR_ERROR_INPUT, text);
    CHECK(strstr(coar_last_error(), path) != NULL);
    image_free(&decoded);
}

/* ---------------------------------------------------------------------------------------------------- JPEG */

/* Largest difference between a decoded file and the picture; `grey`: channel 0 in all; `k`: CMYK. */
static int jpeg_distance(picture p, uint32_t width, uint32_t height, bool grey, bool k) {
    image decoded = {0};
    int largest = -1;
    CHECK_OK(FRESH(image_decode(p.data, p.size, "test.jpg", &decoded)));
    CHECK(decoded.width == width && decoded.height == height && decoded.channels == 3);
    for (uint32_t y = 0; decoded.pixels && y < height; y++)
        for (uint32_t x = 0; x < width; x++)
            for (int c = 0; c < 3; c++) {
                int sample = picture_sample(x, y, grey ? 0 : c);
                if (k) sample = sample * picture_sample(x, y, 3) / 255;
                int distance = abs(decoded.pixels[(y * width + x) * 3 + (uint32_t)c] - sample);
                if (distance > largest) largest = distance;
            }
    image_free(&decoded);
    return largest;
}

static void test_jpeg_kinds(void) {
    static const struct {
        const char *name;
        int components, progressive;
    } cases[] = {{"grey", 1, 0},
                 {"RGB", 3, 0},
                 {"progressive RGB", 3, 1},
                 {"CMYK", 4, 0},
                 {"YCCK", PICTURE_YCCK, 0},
                 {"progressive grey", 1, 1},
                 {"progressive CMYK", 4, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_begin("JPEG: %s", cases[i].name);
        picture p = picture_jpeg(31, 17, cases[i].components, cases[i].progressive);
        int distance = jpeg_distance(p, 31, 17, cases[i].components == 1, cases[i].components > 3);
        CHECK(distance >= 0 && distance <= 2);
        free(p.data);
    }
}

static void test_jpeg_hostile(void) {
    test_begin("JPEG: cut off anywhere");
    for (int progressive = 0; progressive < 2; progressive++) {
        picture p = picture_jpeg(24, 24, 3, progressive);
        for (size_t size = 3; size < p.size; size++) check_refused("cut.jpg", p.data, size, "damaged JPEG");
        free(p.data);
    }

    test_begin("JPEG: a header of 65278 x 65278 pixels");
    picture p = picture_jpeg(16, 16, 3, 0);
    for (size_t i = 0; i + 9 < p.size; i++)
        if (p.data[i] == 0xff && p.data[i + 1] == 0xc0) memset(p.data + i + 5, 0xfe, 4);
    check_refused("bomb.jpg", p.data, p.size, "65278 x 65278 pixels are too many");
    free(p.data);

    test_begin("JPEG: 190 scans");
    p = picture_jpeg_many_scans();
    check_refused("scans.jpg", p.data, p.size, "scans");
    free(p.data);

    test_begin("JPEG: damaged entropy-coded data");
    p = picture_jpeg(32, 32, 3, 0);
    p.data[p.size - 40] = 0xff; /* a marker where none belongs */
    p.data[p.size - 39] = 0xc4;
    check_refused("damaged.jpg", p.data, p.size, "damaged JPEG");
    free(p.data);

    test_begin("JPEG: a height of zero");
    p = picture_jpeg(16, 16, 3, 0);
    for (size_t i = 0; i + 9 < p.size; i++)
        if (p.data[i] == 0xff && p.data[i + 1] == 0xc0) p.data[i + 5] = p.data[i + 6] = 0;
    check_refused("flat.jpg", p.data, p.size, "damaged JPEG");
    free(p.data);
}

/* ----------------------------------------------------------------------------------------------------- PNG */

/* A sample of `depth` bits as 8 bits: the high byte, or the bits repeated. */
static int expanded(int sample, int depth) {
    if (depth >= 8) return sample;
    int top = sample >> (8 - depth);
    return top * 255 / ((1 << depth) - 1);
}

static void test_png_kinds(void) {
    static const struct {
        const char *name;
        int type, depth;
    } cases[] = {{"RGB", PNG_COLOR_TYPE_RGB, 8},
                 {"RGB of 16 bits", PNG_COLOR_TYPE_RGB, 16},
                 {"grey", PNG_COLOR_TYPE_GRAY, 8},
                 {"grey of 1 bit", PNG_COLOR_TYPE_GRAY, 1},
                 {"grey of 2 bits", PNG_COLOR_TYPE_GRAY, 2},
                 {"grey of 4 bits", PNG_COLOR_TYPE_GRAY, 4},
                 {"grey of 16 bits", PNG_COLOR_TYPE_GRAY, 16},
                 {"palette with transparency", PNG_COLOR_TYPE_PALETTE, 8},
                 {"palette of 4 bits", PNG_COLOR_TYPE_PALETTE, 4},
                 {"RGB with alpha", PNG_COLOR_TYPE_RGB_ALPHA, 8},
                 {"RGB with alpha of 16 bits", PNG_COLOR_TYPE_RGB_ALPHA, 16},
                 {"grey with alpha", PNG_COLOR_TYPE_GRAY_ALPHA, 8}};
    enum { WIDTH = 21, HEIGHT = 13 };
    for (size_t i = 0; i < 2 * (sizeof cases / sizeof *cases); i++) {
        const int type = cases[i / 2].type, depth = cases[i / 2].depth, interlaced = i % 2;
        test_begin("PNG: %s%s", cases[i / 2].name, interlaced ? ", interlaced" : "");
        picture p = picture_png(WIDTH, HEIGHT, type, depth, interlaced);
        image decoded = {0};
        CHECK_OK(FRESH(image_decode(p.data, p.size, "test.png", &decoded)));
        CHECK(decoded.width == WIDTH && decoded.height == HEIGHT && decoded.channels == 3);
        size_t wrong = 0;
        for (uint32_t y = 0; decoded.pixels && y < HEIGHT; y++)
            for (uint32_t x = 0; x < WIDTH; x++)
                for (int c = 0; c < 3; c++) {
                    int expect = type == PNG_COLOR_TYPE_PALETTE ? picture_palette((int)(x + y) % 16, c)
                                 : type & PNG_COLOR_MASK_COLOR  ? picture_sample(x, y, c)
                                                                : expanded(picture_sample(x, y, 0), depth);
                    wrong += decoded.pixels[(y * WIDTH + x) * 3 + (uint32_t)c] != expect;
                }
        CHECK_INT(wrong, 0);
        image_free(&decoded);
        free(p.data);
    }
}

static void test_png_hostile(void) {
    test_begin("PNG: cut off anywhere");
    picture p = picture_png(9, 7, PNG_COLOR_TYPE_RGB, 8, 1);
    for (size_t size = 8; size < p.size; size++) check_refused("cut.png", p.data, size, "damaged PNG");

    test_begin("PNG: every byte of the pixels' chunk flipped");
    size_t accepted = 0;
    for (size_t i = 33; i < p.size - 12; i++) { /* behind IHDR, before IEND */
        image decoded = {0};
        p.data[i] ^= 0x55;
        accepted += FRESH(image_decode(p.data, p.size, "flipped.png", &decoded)) == COAR_OK;
        p.data[i] ^= 0x55;
        image_free(&decoded);
    }
    /* A flipped name of the chunk can make it one that readers must ignore, and then the pixels are missing: still an error. */
    CHECK_INT(accepted, 0);
    free(p.data);

    test_begin("PNG: headers of giant and zero dimensions");
    static const struct {
        uint8_t width[4], height[4];
        const char *text;
    } cases[] = {{{0, 0, 0xff, 0xff}, {0, 0, 0xff, 0xff}, "65535 x 65535 pixels are too many"},
                 {{0x7f, 0xff, 0xff, 0xff}, {0, 0, 0, 1}, "damaged PNG"},
                 {{0, 0, 0, 0}, {0, 0, 0, 1}, "damaged PNG"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        p = picture_png(4, 4, PNG_COLOR_TYPE_RGB, 8, 0);
        memcpy(p.data + 16, cases[i].width, 4);
        memcpy(p.data + 20, cases[i].height, 4);
        picture_png_fix_crc(p, 8);
        check_refused("bomb.png", p.data, p.size, cases[i].text);
        free(p.data);
    }
}

static void test_not_images(void) {
    test_begin("an empty file, and files that are no images");
    check_refused("empty.jpg", NULL, 0, "the file is empty");
    check_refused("text.jpg", (const uint8_t *)"hello, world", 12, "neither a JPEG nor a PNG");
    check_refused("short.png", (const uint8_t *)"\x89PN", 3, "neither a JPEG nor a PNG");
    check_refused("gif.png", (const uint8_t *)"GIF89a\1\0\1\0", 10, "neither a JPEG nor a PNG");
}

/* ------------------------------------------------------------------------------------------------ resizing */

/* The image of tools/golden_resize.py. */
static image formula_image(uint32_t width, uint32_t height) {
    image made = {0};
    CHECK_OK(image_reshape(&made, height, width, 3, "formula"));
    for (uint32_t y = 0; y < height; y++)
        for (uint32_t x = 0; x < width; x++)
            for (uint32_t c = 0; c < 3; c++)
                made.pixels[(y * width + x) * 3 + c] =
                    (uint8_t)(31 * x + 17 * y + 101 * c + x * y * (c + 1) + x * x * y / 7);
    return made;
}

static void test_resize_goldens(void) {
    static const struct {
        uint32_t width, height, shorter, side;
    } cases[] = {{53, 37, 16, 14}, {20, 31, 40, 33}, {64, 9, 7, 7},
                 {11, 90, 12, 3},  {17, 23, 17, 17}, {120, 100, 5, 5}};
    static const char *const filters[] = {"area", "bilinear", "bicubic"};
    for (size_t i = 0; i < 3 * (sizeof cases / sizeof *cases); i++) {
        const uint32_t width = cases[i / 3].width, height = cases[i / 3].height, side = cases[i / 3].side;
        char name[128];
        snprintf(name, sizeof name, "golden/resize/%ux%u-%u-%u-%s.npy", width, height, cases[i / 3].shorter, side,
                 filters[i % 3]);
        test_begin("%s equals Pillow", name);
        npy_array expected = {0};
        resize_filter filter;
        image source = formula_image(width, height);
        uint8_t *pixels = malloc((size_t)side * side * 3 + 1);
        size_t wrong = 0;
        pixels[(size_t)side * side * 3] = 0xa5; /* a sentinel behind the output */
        CHECK_OK(npy_open(test_path(name), &expected));
        CHECK_OK(resize_parse(filters[i % 3], &filter));
        CHECK_OK(resize_crop(&source, filter, cases[i / 3].shorter, side, "formula", pixels));
        CHECK_INT(expected.count, (size_t)side * side * 3);
        for (size_t k = 0; k < expected.count; k++) wrong += pixels[k] != ((const uint8_t *)expected.data)[k];
        CHECK_INT(wrong, 0);
        CHECK_INT(pixels[(size_t)side * side * 3], 0xa5);
        free(pixels);
        image_free(&source);
        npy_close(&expected);
    }
}

static void test_resize_extremes(void) {
    test_begin("resizing: one pixel, extreme proportions, one and four channels");
    static const uint32_t shapes[][3] = {{1, 1, 1}, {1, 70000, 3}, {70000, 1, 4}, {2, 3, 4}, {300, 2, 1}};
    for (size_t i = 0; i < 3 * (sizeof shapes / sizeof *shapes); i++) {
        const uint32_t *shape = shapes[i / 3];
        image flat = {0};
        uint8_t pixels[8 * 8 * 4];
        size_t wrong = 0;
        CHECK_OK(image_reshape(&flat, shape[0], shape[1], shape[2], "flat"));
        memset(flat.pixels, 77, (size_t)shape[0] * shape[1] * shape[2]);
        CHECK_OK(resize_crop(&flat, (resize_filter)(i % 3), 9, 8, "flat", pixels));
        for (size_t k = 0; k < 64 * shape[2]; k++) wrong += pixels[k] != 77; /* weights sum to one everywhere */
        CHECK_INT(wrong, 0);
        image_free(&flat);
    }
    resize_filter filter;
    CHECK_ERROR(FRESH(resize_parse("lanczos", &filter)), COAR_ERROR_USAGE, "--resize lanczos");
}

/* ----------------------------------------------------------------------------------------- image folders */

/* Writes a picture of this width below the temporary folder, making its class folder. */
static void put_png(const char *root, const char *class, const char *file, uint32_t width) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", root, class);
    mkdir(root, 0777);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/%s/%s", root, class, file);
    picture p = picture_png(width, 5, PNG_COLOR_TYPE_RGB, 8, 0);
    picture_write(path, p.data, p.size);
    free(p.data);
}

static void put_text(const char *root, const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", root, name);
    picture_write(path, "text", 4);
}

static coar_status pack_folder(const char *root, uint32_t size, const char *output, coar_pack_result *result) {
    coar_pack_options options = COAR_PACK_INIT;
    options.from = "imagefolder";
    options.path = root;
    options.output = output;
    options.image_size = size;
    options.force = 1;
    options.threads = 2;
    return coar_pack(&options, result);
}

/* test_temporary's buffers are few; these live as long as a test needs them. */
static const char *keep(const char *path, char buffer[512]) {
    snprintf(buffer, 512, "%s", path);
    return buffer;
}

static const char *fresh_root(const char *name) {
    static char root[512];
    return keep(test_temporary(name), root);
}

static void test_folder_order(void) {
    test_begin("folder: classes and files in the order of the C locale; what is ignored");
    char buffer[512];
    const char *root = fresh_root("order"), *output = keep(test_temporary("order.h5"), buffer);
    coar_pack_result result;
    dataset *data = NULL;
    put_png(root, "b", "2.png", 6);
    put_png(root, "b", "10.PNG", 6);
    put_png(root, "Z", "a.png", 6);
    put_png(root, "a b", "1.png", 6);
    put_png(root, "a", "1.png", 6);
    put_text(root, "a/.hidden");
    put_text(root, "a/Thumbs.db");
    put_text(root, "README.md");
    picture grey = picture_jpeg(6, 5, 1, 0);
    char path[600];
    snprintf(path, sizeof path, "%s/b/0.jpeg", root);
    picture_write(path, grey.data, grey.size);
    free(grey.data);
    CHECK_OK(pack_folder(root, 0, output, &result));
    CHECK(result.examples == 6 && result.classes == 4 && result.groups == 0);
    CHECK(result.height == 5 && result.width == 6 && result.channels == 3);
    CHECK_OK(dataset_open(output, &data));
    if (!data) return;
    static const char *const classes[] = {"Z", "a", "a b", "b"};
    static const int32_t labels[] = {0, 1, 2, 3, 3, 3};
    for (int i = 0; i < 4; i++) CHECK_TEXT(data->class_names[i], classes[i]);
    for (int i = 0; i < 6; i++) CHECK_INT(data->labels[i], labels[i]);
    uint8_t pixels[5 * 6 * 3];
    CHECK_OK(dataset_read(data, &(uint64_t){4}, 1, pixels)); /* b/10.PNG: behind 0.jpeg, before 2.png */
    for (int c = 0; c < 3; c++) CHECK_INT(pixels[(2 * 6 + 5) * 3 + c], picture_sample(5, 2, c));
    CHECK_OK(dataset_read(data, &(uint64_t){3}, 1, pixels)); /* b/0.jpeg, grey */
    CHECK(pixels[0] == pixels[1] && pixels[0] == pixels[2]);
    dataset_close(data);
}

static void test_folder_refused(void) {
    char buffer[512];
    const char *output = keep(test_temporary("refused.h5"), buffer), *root;
    coar_pack_result result;

    test_begin("folder: missing, empty, and a file instead of a folder");
    root = fresh_root("absent");
    CHECK_ERROR(pack_folder(root, 0, output, &result), COAR_ERROR_IO, root);
    mkdir(root, 0777);
    CHECK_ERROR(pack_folder(root, 0, output, &result), COAR_ERROR_INPUT, root);
    CHECK(strstr(coar_last_error(), "no class folders") != NULL);

    test_begin("folder: a class without images");
    put_png(root, "full", "1.png", 6);
    char path[600];
    snprintf(path, sizeof path, "%s/hollow", root);
    mkdir(path, 0777);
    CHECK_ERROR(pack_folder(root, 0, output, &result), COAR_ERROR_INPUT, "absent/hollow: the class has no images");

    test_begin("folder: images of unequal size without --size, and with it");
    root = fresh_root("unequal");
    put_png(root, "a", "1.png", 6);
    put_png(root, "b", "2.png", 9);
    CHECK_ERROR(pack_folder(root, 0, output, &result), COAR_ERROR_INPUT, "b/2.png: 9 x 5 pixels");
    CHECK(strstr(coar_last_error(), "--size") && strstr(coar_last_error(), root));
    CHECK(!file_exists(output));
    CHECK_OK(pack_folder(root, 4, output, &result));
    CHECK(result.height == 4 && result.width == 4);

    test_begin("folder: a file that is no image, an image outside a class, a folder too deep, a FIFO");
    put_text(root, "a/notes.txt");
    CHECK_ERROR(pack_folder(root, 4, output, &result), COAR_ERROR_INPUT, "a/notes.txt: neither .jpg");
    root = fresh_root("outside");
    put_png(root, "a", "1.png", 6);
    put_png(root, ".", "2.png", 6);
    CHECK_ERROR(pack_folder(root, 4, output, &result), COAR_ERROR_INPUT, "outside/2.png: an image outside");
    root = fresh_root("deep");
    put_png(root, "a", "1.png", 6);
    put_png(root, "a/b", "1.png", 6);
    CHECK_ERROR(pack_folder(root, 4, output, &result), COAR_ERROR_INPUT, "deep/a/b: not a file");
    root = fresh_root("fifo");
    put_png(root, "a", "1.png", 6);
    snprintf(path, sizeof path, "%s/a/2.png", root);
    CHECK_INT(mkfifo(path, 0666), 0);
    CHECK_ERROR(pack_folder(root, 4, output, &result), COAR_ERROR_INPUT, "fifo/a/2.png: not a file");

    test_begin("folder: damaged and mislabelled images are named");
    root = fresh_root("damaged");
    put_png(root, "a", "1.png", 6);
    put_text(root, "a/2.png");
    CHECK_ERROR(pack_folder(root, 4, output, &result), COAR_ERROR_INPUT, "damaged/a/2.png: neither a JPEG nor a PNG");
    snprintf(path, sizeof path, "%s/a/2.png", root);
    picture p = picture_png(8, 8, PNG_COLOR_TYPE_RGB, 8, 0);
    picture_write(path, p.data, p.size / 2);
    CHECK_ERROR(pack_folder(root, 4, output, &result), COAR_ERROR_INPUT, "damaged/a/2.png: damaged PNG");
    picture_write(path, p.data, 0);
    CHECK_ERROR(pack_folder(root, 4, output, &result), COAR_ERROR_INPUT, "damaged/a/2.png: the file is empty");
    free(p.data);
}

/* The 200 images that the goldens of ResNet-20 were computed from, decoded by another libjpeg through Python. */
static void test_cifar_golden(void) {
    test_begin("the 10,000 CIFAR-10 test JPEGs: the 200 golden images have their SHA-256");
    const char *archive = test_shared("cifar10/test-jpeg.tar.gz"), *examples = test_shared("golden/r20_examples.npy");
    if (!archive || !examples) {
        test_skip("shared/cifar10 and shared/golden are absent");
        return;
    }
    char command[1200], buffer[512];
    npy_array rows = {0};
    dataset *data = NULL;
    coar_pack_result result;
    const char *output = keep(test_temporary("cifar.h5"), buffer);
    snprintf(command, sizeof command, "tar -xzf '%s' -C '%s'", archive, test_temporary("."));
    CHECK_INT(system(command), 0);
    CHECK_OK(pack_folder(test_temporary("test"), 0, output, &result));
    CHECK(result.examples == 10000 && result.classes == 10);
    CHECK_OK(dataset_open(output, &data));
    CHECK_OK(npy_open(examples, &rows));
    if (!data || rows.count != 200) return;
    uint64_t selected[200];
    uint8_t *pixels = malloc(200 * 32 * 32 * 3);
    char hex[65];
    for (size_t i = 0; i < 200; i++) selected[i] = (uint64_t)npy_get_int(&rows, i);
    CHECK_OK(dataset_read(data, selected, 200, pixels));
    sha256_hex(pixels, 200 * 32 * 32 * 3, hex);
    CHECK_TEXT(hex, "ad5863d90792b24aa4642757ade3a0f8334d728d6dcddc0455aa2b54aa8fe6c6");
    free(pixels);
    npy_close(&rows);
    dataset_close(data);
}

int main(void) {
    test_jpeg_kinds();
    test_jpeg_hostile();
    test_png_kinds();
    test_png_hostile();
    test_not_images();
    test_resize_goldens();
    test_resize_extremes();
    test_folder_order();
    test_folder_refused();
    test_cifar_golden();
    return test_end();
}
