/* digits.c - see digits.h. */
#include "digits.h"

#include "coar.h"
#include "core/npy.h"
#include "test.h"

static npy_array open_array(const char *name) {
    npy_array array = {0};
    CHECK_OK(npy_open(test_path(name), &array));
    return array;
}

void digits_read(digits_examples *out) {
    npy_array rows = open_array("golden/digits/examples.npy");
    npy_array images = open_array("../data/digits-images.npy"), labels = open_array("../data/digits-labels.npy");
    CHECK_INT(rows.count, DIGITS_EXAMPLES);
    for (size_t i = 0; i < DIGITS_EXAMPLES && i < rows.count; i++) {
        const size_t row = (size_t)npy_get_int(&rows, i), size = sizeof out->images[i];
        memcpy(out->images[i], (const uint8_t *)images.data + row * size, size);
        out->labels[i] = (int32_t)npy_get_int(&labels, row);
    }
    npy_close(&rows);
    npy_close(&images);
    npy_close(&labels);
}

const char *digits_data(void) {
    static char path[512], images[512], labels[512];
    if (path[0]) return path;
    snprintf(path, sizeof path, "%s", test_temporary("digits.h5"));
    snprintf(images, sizeof images, "%s", test_path("../data/digits-images.npy"));
    snprintf(labels, sizeof labels, "%s", test_path("../data/digits-labels.npy"));
    coar_pack_options o = COAR_PACK_INIT;
    o.from = "npy";
    o.path = images;
    o.labels = labels;
    o.output = path;
    CHECK_OK(coar_pack(&o, NULL));
    return path;
}

const char *digits_model(const char *net) {
    static char paths[2][512];
    static int next;
    char *path = paths[next++ % 2], name[64];
    snprintf(name, sizeof name, "../data/digits-%s.safetensors", net);
    snprintf(path, sizeof paths[0], "%s", test_path(name));
    return path;
}

job *digits_job(const job_options *options) {
    job *j = NULL;
    CHECK_OK(job_open(options, &j));
    if (!j) exit(1);
    return j;
}
