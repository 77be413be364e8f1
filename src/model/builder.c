/* builder.c - see builder.h: checked access to tensors, and the ops that several families share. */
#include "model/builder.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

enum { NAME_MAX_LENGTH = 192 }; /* of a tensor; the longest real one has 70 characters */

#define FORMAT_NAME(name, format)                                                                                      \
    char name[NAME_MAX_LENGTH];                                                                                        \
    do {                                                                                                               \
        va_list arguments;                                                                                             \
        va_start(arguments, format);                                                                                   \
        vsnprintf(name, sizeof name, format, arguments);                                                               \
        va_end(arguments);                                                                                             \
    } while (0)

bool builder_has(const model_builder *b, const char *format, ...) {
    FORMAT_NAME(name, format);
    return tensor_find(b->table, name) != NULL;
}

static coar_status find(const model_builder *b, const char *name, int rank, tensor **out) {
    tensor *t = tensor_find(b->table, name);
    if (!t) return status_set(COAR_ERROR_INPUT, "%s: tensor '%s' is missing", b->table->path, name);
    if (t->rank != rank)
        return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': has %d dimensions instead of %d", b->table->path, name,
                          t->rank, rank);
    for (int d = 0; d < rank; d++)
        if (t->shape[d] == 0 || t->shape[d] > INT32_MAX)
            return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': dimension %d is %zu", b->table->path, name, d,
                              t->shape[d]);
    *out = t;
    return COAR_OK;
}

coar_status builder_find(const model_builder *b, int rank, tensor **out, const char *format, ...) {
    FORMAT_NAME(name, format);
    return find(b, name, rank, out);
}

/* A malloc'ed copy of the tensor, whose shape must be this one. */
static coar_status load(const model_builder *b, const char *name, int rank, const size_t *shape, float **out) {
    tensor *t = NULL;
    TRY(find(b, name, rank, &t));
    if (memcmp(t->shape, shape, (size_t)rank * sizeof *shape) != 0) {
        char is[128], wanted[128];
        return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': shape is %s, the layers before it need %s",
                          b->table->path, name, tensor_shape_text(rank, t->shape, is, sizeof is),
                          tensor_shape_text(rank, shape, wanted, sizeof wanted));
    }
    return tensor_to_f32(b->table, t, out);
}

coar_status builder_load(const model_builder *b, int rank, const size_t *shape, const float **out, const char *format,
                         ...) {
    FORMAT_NAME(name, format);
    float *values;
    TRY(load(b, name, rank, shape, &values));
    TRY(graph_own(b->model->graph, values));
    *out = values;
    return COAR_OK;
}

coar_status builder_load_transposed(const model_builder *b, size_t inputs, size_t outputs, const float **out,
                                    const char *format, ...) {
    FORMAT_NAME(name, format);
    float *values, *transposed;
    TRY(load(b, name, 2, (size_t[]){inputs, outputs}, &values));
    coar_status status = memory_new(inputs * outputs, sizeof *transposed, name, &transposed);
    for (size_t i = 0; status == COAR_OK && i < inputs; i++)
        for (size_t o = 0; o < outputs; o++) transposed[o * inputs + i] = values[i * outputs + o];
    free(values);
    TRY(status);
    TRY(graph_own(b->model->graph, transposed));
    *out = transposed;
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------- the input */

coar_status builder_image(const model_builder *b, uint32_t side, uint32_t *height, uint32_t *width) {
    const model_setting *given = settings_find(b->settings, "image");
    uint32_t image;
    TRY(settings_integer(b->settings, "image", side, 1, 65536, &image));
    *height = b->options->image_height ? b->options->image_height : image;
    *width = b->options->image_width ? b->options->image_width : image;
    if (given && given->origin == SETTING_ARCH && (*height != image || *width != image)) {
        char problem[80];
        snprintf(problem, sizeof problem, "the data's images are %u x %u", *height, *width);
        return settings_bad(b->settings, given, problem);
    }
    return COAR_OK;
}

coar_status builder_patched_side(const model_builder *b, const char *positions, uint32_t tokens, uint32_t patch,
                                 uint32_t *side) {
    const char *path = b->table->path;
    uint32_t grid = 1, height, width;
    while ((uint64_t)(grid + 1) * (grid + 1) < tokens) grid++;
    if ((uint64_t)grid * grid + 1 != tokens)
        return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': %u positions are not a class token's and a square's",
                          path, positions, tokens);
    if ((uint64_t)grid * patch > 65536)
        return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': %u patches of %u along an axis make the image too large",
                          path, positions, grid, patch);
    *side = grid * patch;
    TRY(builder_image(b, *side, &height, &width));
    if (height != *side || width != *side)
        return status_set(COAR_ERROR_INPUT,
                          "%s: is made for images of %u x %u, not %u x %u: pack the data with --size %u", path, *side,
                          *side, height, width, *side);
    return COAR_OK;
}

coar_status builder_heads(const model_builder *b, const char *family, uint32_t width, uint32_t usual, uint32_t *heads) {
    const model_setting *given = settings_find(b->settings, "heads");
    char problem[64];
    if (!given && (!usual || width % usual))
        return status_set(COAR_ERROR_INPUT,
                          "%s: a width of %u does not tell the number of heads: give --arch %s,heads=H", b->table->path,
                          width, family);
    TRY(settings_integer(b->settings, "heads", usual, 1, width, heads));
    if (width % *heads == 0) return COAR_OK;
    snprintf(problem, sizeof problem, "does not divide the width %u", width);
    return settings_bad(b->settings, given, problem);
}

static coar_status normalisation(model_builder *b, uint32_t channels, const float (*pixels)[3]) {
    model *m = b->model;
    int has_mean, has_std;
    TRY(settings_list(b->settings, "mean", channels, m->mean, &has_mean));
    TRY(settings_list(b->settings, "std", channels, m->std, &has_std));
    if (has_mean != has_std)
        return settings_bad(b->settings, settings_find(b->settings, has_mean ? "mean" : "std"),
                            has_mean ? "needs std beside it" : "needs mean beside it");
    for (uint32_t c = 0; has_std && c < channels; c++)
        if (!(m->std[c] > 0)) return settings_bad(b->settings, settings_find(b->settings, "std"), "must be above zero");
    m->has_normalisation = has_mean;
    if (!has_mean && pixels && channels == 3) {
        memcpy(m->mean, pixels[0], sizeof pixels[0]);
        memcpy(m->std, pixels[1], sizeof pixels[1]);
        m->has_normalisation = 1;
    }
    return COAR_OK;
}

coar_status builder_begin(model_builder *b, uint32_t channels, uint32_t height, uint32_t width,
                          const float (*pixels)[3]) {
    enum { CHANNELS_MAX = sizeof b->model->mean / sizeof *b->model->mean };
    if (channels > CHANNELS_MAX)
        return status_set(COAR_ERROR_INPUT, "%s: its first layer wants %u image channels; at most %d are supported",
                          b->table->path, channels, CHANNELS_MAX);
    TRY(normalisation(b, channels, pixels));
    return graph_create((shape){height, width, channels}, 0, &b->model->graph);
}

/* What a graph finds wrong, behind the file's name. */
static coar_status with_path(const model_builder *b, coar_status status) {
    if (status != COAR_ERROR_INPUT) return status;
    char message[1024];
    status_copy(message, sizeof message);
    status_clear();
    return status_set(status, "%s: %s", b->table->path, message);
}

coar_status builder_begin_tokens(model_builder *b, uint32_t vocabulary, uint32_t tokens) {
    return with_path(b, graph_create((shape){1, tokens, 1}, vocabulary, &b->model->graph));
}

/* ------------------------------------------------------------------------------------------------- ops */

op builder_op(op_kind kind, const char *name, int input) {
    op o = {.kind = kind, .input = {input, -1, -1}, .residual = -1, .kernel_h = 1, .kernel_w = 1, .stride = 1};
    snprintf(o.name, sizeof o.name, "%s", name);
    return o;
}

shape builder_shape(const model_builder *b, int value) {
    return b->model->graph->values[value];
}

coar_status builder_add(const model_builder *b, const op *o, uint32_t out_channels, int *value) {
    return with_path(b, graph_add(b->model->graph, o, out_channels, value));
}

coar_status builder_linear(const model_builder *b, const char *module, const op *given, uint32_t outputs, int *value) {
    op o = *given;
    uint32_t inputs = builder_shape(b, o.input[0]).c;
    TRY(builder_load(b, 2, (size_t[]){outputs, inputs}, &o.weight, "%s.weight", module));
    TRY(builder_load(b, 1, (size_t[]){outputs}, &o.shift, "%s.bias", module));
    return builder_add(b, &o, outputs, value);
}

coar_status builder_layernorm(const model_builder *b, const char *module, const char *name, float eps, int in,
                              int *value) {
    op o = builder_op(OP_LAYERNORM, name, in);
    size_t channels = builder_shape(b, in).c;
    o.eps = eps;
    TRY(builder_load(b, 1, &channels, &o.weight, "%s.weight", module));
    TRY(builder_load(b, 1, &channels, &o.shift, "%s.bias", module));
    return builder_add(b, &o, 0, value);
}

coar_status builder_batchnorm(const model_builder *b, const char *module, uint32_t channels, double eps,
                              const float **scale, const float **shift) {
    size_t size = channels;
    const float *gamma, *beta, *mean, *variance;
    float *factor, *offset;
    TRY(builder_load(b, 1, &size, &gamma, "%s.weight", module));
    TRY(builder_load(b, 1, &size, &beta, "%s.bias", module));
    TRY(builder_load(b, 1, &size, &mean, "%s.running_mean", module));
    TRY(builder_load(b, 1, &size, &variance, "%s.running_var", module));
    TRY(memory_new(size, sizeof *factor, module, &factor));
    TRY(graph_own(b->model->graph, factor));
    TRY(memory_new(size, sizeof *offset, module, &offset));
    TRY(graph_own(b->model->graph, offset));
    for (size_t c = 0; c < size; c++) {
        double k = gamma[c] / sqrt(variance[c] + eps), s = beta[c] - mean[c] * k;
        factor[c] = (float)k;
        offset[c] = (float)s;
        if (variance[c] < 0 || !isfinite(factor[c]) || !isfinite(offset[c]))
            return status_set(COAR_ERROR_INPUT, "%s: tensor '%s.running_var': element %zu is %g: no variance",
                              b->table->path, module, c, variance[c]);
    }
    *scale = factor;
    *shift = offset;
    return COAR_OK;
}

coar_status builder_finish(model_builder *b, const char *arch, int logits) {
    model *m = b->model;
    shape out = builder_shape(b, logits);
    snprintf(m->arch, sizeof m->arch, "%s", arch);
    if (!b->offered[0])
        return status_set(COAR_ERROR_USAGE, "--components: a %s has no %s", arch, component_set_name(m->set));
    if (!m->group_count)
        return status_set(COAR_ERROR_USAGE,
                          "--only and --except leave no component group of %s; groups have names like '%s'",
                          b->table->path, b->offered);
    if (out.c < 2) return status_set(COAR_ERROR_INPUT, "%s: its last layer has fewer than 2 classes", b->table->path);
    m->classes = m->graph->vocabulary ? m->graph->vocabulary : out.c;
    const component_group *last = &m->groups[m->group_count - 1];
    return graph_finish(m->graph, logits, last->first + last->count);
}
