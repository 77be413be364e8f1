/* gradient_runs.c - see gradient_runs.h. */
#include "gradient_runs.h"

#include "core/files.h"
#include "runs.h"
#include "test.h"

coar_gradients_options gradient_options(const char *output) {
    coar_gradients_options o = COAR_GRADIENTS_INIT;
    o.passes = GRADIENT_PASSES;
    o.ablate.model = digits_model("resnet");
    o.ablate.data = digits_data();
    o.ablate.output = output;
    o.ablate.examples = "0:40";
    o.ablate.outputs = "margin,loss";
    o.ablate.alpha = 0.2;
    o.ablate.seed = 12345678901234567890u;
    o.ablate.backend = "cpu";
    o.ablate.threads = 2;
    return o;
}

const char *gradient_run(void) {
    static char path[512];
    if (path[0]) return path;
    run_path(path, "whole.h5");
    const coar_gradients_options o = gradient_options(path);
    CHECK_OK(coar_gradients(&o, NULL));
    return path;
}

void gradient_check_same(const char *a, const char *b) {
    file_map x, y;
    CHECK_OK(file_map_open(run_file(a, "gradients.h5"), &x));
    CHECK_OK(file_map_open(run_file(b, "gradients.h5"), &y));
    CHECK(x.size == y.size && !memcmp(x.data, y.data, x.size));
    file_map_close(&x);
    file_map_close(&y);
}
