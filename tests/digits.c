/* digits.c - see digits.h. */
#include "digits.h"

#include "coar.h"
#include "test.h"

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
