/* kernel_conv.c - see kernel_conv.h. */
#include "kernel_conv.h"

void kernel_conv_reset(kernel_conv *n) {
    gpu_conv *c = &n->c;
    c->y = n->in_place ? kernel_upload(c->type, n->residual, n->rows, c->out_channels)
                       : kernel_output(n->stored, n->rows, c->out_channels);
    if (n->in_place) c->residual = c->y;
}

size_t kernel_conv_bytes(const kernel_conv *n) {
    return n->rows * gpu_stride(n->c.out_channels) * gpu_type_size(n->stored);
}

void kernel_conv_compare(const kernel_conv *n, const char *what) {
    const double tolerance = 2e-5 + (n->stored == GPU_TF32 ? 0 : kernel_epsilon(n->stored));
    double *y = kernel_download(n->stored, n->c.y, n->rows, n->c.out_channels);
    kernel_compare(what, y, n->expected, n->rows * n->c.out_channels, tolerance, tolerance);
}

void kernel_conv_forms(const char *name, kernel_conv *n, int most, int least) {
    void *first = NULL;
    int able = 0;
    for (int form = 0; form < most && gpu_conv_form(n->c.type, form); form++) {
        char what[120];
        snprintf(what, sizeof what, "%s, form %s", name, gpu_conv_form(n->c.type, form));
        if (!gpu_conv_can(&n->c, form)) continue;
        able++;
        kernel_conv_reset(n);
        KERNEL_RUN(gpu_conv_launch(&n->c, form, 0));
        if (first)
            kernel_same_bytes(what, n->c.y, first, kernel_conv_bytes(n));
        else
            kernel_conv_compare(n, what);
        if (!first) first = n->c.y;
    }
    if (able < least) test_fail(__FILE__, __LINE__, "%s: %d forms can, expected at least %d", name, able, least);
}
