/*
 * golden_ops.c - every op of the reference backend, and its derivatives, against PyTorch's numbers in float64
 * (tests/golden/ops, tools/golden_ops.py).
 */
#include "test.h"

#include "backend/reference/reference_ops.h"
#include "core/npy.h"

/* Which arrays a case has; the twin of the table in tools/golden_ops.py, which says what is in a file. */
enum { SCALE = 1, SHIFT = 2, RESIDUAL = 4, FILL = 8, AFFINE = SCALE | SHIFT };

static const struct {
    const char *name;
    shape in;
    uint32_t channels; /* of the output */
    int arrays;
    mask_place place;
    uint32_t width;
    op op;
} cases[] = {
#define CONV(kh, kw, s, p, a)                                                                                          \
    { .kind = OP_CONV, .kernel_h = kh, .kernel_w = kw, .stride = s, .pad = p, .act = a }
    {"conv-3x3", {5, 7, 3}, 5, AFFINE, PLACE_NONE, 0, CONV(3, 3, 1, 1, ACT_RELU)},
    {"conv-3x3-stride-2", {9, 6, 4}, 3, AFFINE | RESIDUAL, PLACE_NONE, 0, CONV(3, 3, 2, 1, ACT_RELU)},
    {"conv-7x7-stride-2", {11, 8, 3}, 2, SHIFT, PLACE_NONE, 0, CONV(7, 7, 2, 3, ACT_NONE)},
    {"conv-1x1-stride-2", {5, 6, 7}, 4, SCALE, PLACE_NONE, 0, CONV(1, 1, 2, 0, ACT_NONE)},
    {"conv-patches", {8, 12, 3}, 6, SHIFT, PLACE_NONE, 0, CONV(4, 4, 4, 0, ACT_NONE)},
    {"conv-1x3", {4, 6, 2}, 3, AFFINE, PLACE_NONE, 0, CONV(1, 3, 1, 0, ACT_NONE)},
    {"conv-pad-0", {6, 5, 2}, 3, 0, PLACE_NONE, 0, CONV(3, 3, 1, 0, ACT_NONE)},
    {"conv-5x5-pad-1-stride-3", {10, 9, 2}, 3, AFFINE, PLACE_NONE, 0, CONV(5, 5, 3, 1, ACT_NONE)},
    {"linear-gelu", {1, 5, 6}, 9, SHIFT, PLACE_NONE, 0, CONV(1, 1, 1, 0, ACT_GELU_ERF)},
    {"linear-gelu-tanh", {1, 5, 6}, 9, SHIFT, PLACE_NONE, 0, CONV(1, 1, 1, 0, ACT_GELU_TANH)},
    {"linear-quickgelu", {1, 5, 6}, 9, SHIFT, PLACE_NONE, 0, CONV(1, 1, 1, 0, ACT_QUICKGELU)},
    {"mask-pre", {4, 3, 3}, 7, AFFINE | RESIDUAL, PLACE_PRE, 1, CONV(3, 3, 1, 1, ACT_RELU)},
    {"mask-pre-fill", {4, 3, 3}, 7, AFFINE | RESIDUAL | FILL, PLACE_PRE, 1, CONV(3, 3, 1, 1, ACT_RELU)},
    {"mask-post", {4, 3, 3}, 8, AFFINE | RESIDUAL, PLACE_POST, 2, CONV(3, 3, 1, 1, ACT_RELU)},
    {"mask-post-branch", {4, 3, 3}, 5, AFFINE | RESIDUAL | FILL, PLACE_POST, 5, CONV(3, 3, 1, 1, ACT_RELU)},
    {"mask-out", {1, 4, 3}, 7, SHIFT, PLACE_OUT, 1, CONV(1, 1, 1, 0, ACT_GELU_ERF)},
    {"mask-out-fill", {1, 4, 3}, 7, AFFINE | RESIDUAL | FILL, PLACE_OUT, 1, CONV(1, 1, 1, 0, ACT_GELU_ERF)},
    {"maxpool-3x3-stride-2",
     {7, 10, 3},
     3,
     0,
     PLACE_NONE,
     0,
     {OP_MAXPOOL, .kernel_h = 3, .kernel_w = 3, .stride = 2, .pad = 1}},
    {"maxpool-2x2", {5, 5, 2}, 2, 0, PLACE_NONE, 0, {OP_MAXPOOL, .kernel_h = 2, .kernel_w = 2, .stride = 2}},
    {"avgpool-global", {5, 3, 4}, 4, 0, PLACE_NONE, 0, {OP_AVGPOOL, .kernel_h = 5, .kernel_w = 3, .stride = 1}},
    {"avgpool-2x2", {7, 6, 3}, 3, 0, PLACE_NONE, 0, {OP_AVGPOOL, .kernel_h = 2, .kernel_w = 2, .stride = 2}},
    {"subsample", {5, 6, 3}, 8, 0, PLACE_NONE, 0, {OP_SUBSAMPLE, .stride = 2, .pad = 2}},
    {"embed", {2, 3, 5}, 5, 0, PLACE_NONE, 0, {OP_EMBED}},
    {"mean-token", {2, 3, 5}, 5, 0, PLACE_NONE, 0, {OP_MEAN_TOKEN}},
    {"normalise", {1, 4, 7}, 7, 0, PLACE_NONE, 0, {OP_NORMALISE}},
    {"layernorm", {1, 4, 7}, 7, AFFINE, PLACE_NONE, 0, {OP_LAYERNORM, .eps = 1e-5f}},
    {"layernorm-plain", {1, 3, 6}, 6, 0, PLACE_NONE, 0, {OP_LAYERNORM, .eps = 1e-2f}},
    {"layernorm-mask", {1, 4, 9}, 9, AFFINE | FILL, PLACE_OUT, 1, {OP_LAYERNORM, .eps = 1e-6f}},
    {"attention", {1, 5, 6}, 6, 0, PLACE_NONE, 0, {OP_ATTENTION, .heads = 2}},
    {"attention-mask-rows", {1, 7, 6}, 6, 0, PLACE_OUT, 1, {OP_ATTENTION, .heads = 3}},
    {"attention-mask-heads", {1, 4, 12}, 12, FILL, PLACE_OUT, 3, {OP_ATTENTION, .heads = 4}},
    {"select", {1, 4, 5}, 5, 0, PLACE_NONE, 0, {OP_SELECT}},
#undef CONV
};

/* The next `count` numbers of a golden file; NULL (and a failure) when it has fewer. */
typedef struct reader {
    npy_array file;
    size_t used;
} reader;

static const double *take(reader *r, size_t count) {
    if (r->used + count > r->file.count) {
        test_fail(__FILE__, __LINE__, "the golden has %zu numbers, more are wanted", r->file.count);
        return NULL;
    }
    r->used += count;
    return (const double *)r->file.data + r->used - count;
}

/* The same as floats, which the numbers are exactly; `own` frees them with the graph. */
static const float *take_floats(reader *r, graph *own, size_t count) {
    const double *from = take(r, count);
    float *array;
    CHECK_OK(memory_new(count, sizeof *array, "golden", &array));
    for (size_t i = 0; from && i < count; i++) array[i] = (float)from[i];
    CHECK_OK(graph_own(own, array));
    return array;
}

/* One golden, and what its op makes of it. Arrays of the golden are in its file. */
typedef struct probe {
    reader r;
    graph *g;
    size_t inputs, outputs, count; /* elements of an input and of the result; arrays in v.x */
    reference_operands v;
} probe;

enum { FENCE = 8 };
static const double UNTOUCHED = 1234.5;

/* count numbers between two fences. */
static double *fenced(size_t count) {
    double *array;
    CHECK_OK(memory_new(count + 2 * FENCE, sizeof *array, "test", &array));
    for (size_t i = 0; i < FENCE; i++) array[i] = array[FENCE + count + i] = UNTOUCHED;
    return array + FENCE;
}

static void check_and_free(double *array, size_t count) {
    for (size_t i = 0; array && i < FENCE; i++) CHECK(array[i - FENCE] == UNTOUCHED && array[count + i] == UNTOUCHED);
    if (array) free(array - FENCE);
}

static void check_numbers(const char *what, const double *actual, const double *expected, size_t count) {
    for (size_t i = 0; expected && i < count; i++)
        if (!(fabs(actual[i] - expected[i]) <= 1e-12 * (1 + fabs(expected[i]))))
            test_fail(__FILE__, __LINE__, "%s %zu: got %.17g, expected %.17g", what, i, actual[i], expected[i]);
}

/* The op's weights and inputs, up to what is expected. */
static void probe_open(probe *p, size_t n) {
    const int has = cases[n].arrays;
    const uint32_t channels = cases[n].channels;
    op o = cases[n].op;
    char path[128];
    int value;
    *p = (probe){.v.in = cases[n].in, .count = o.kind == OP_ATTENTION ? 3 : 1};
    p->inputs = shape_positions(p->v.in) * p->v.in.c;
    snprintf(path, sizeof path, "golden/ops/%s.npy", cases[n].name);
    CHECK_OK(npy_open(test_path(path), &p->r.file));
    CHECK_OK(graph_create(p->v.in, 0, &p->g));
    for (size_t k = 0; k < p->count; k++) p->v.x[k] = take(&p->r, p->inputs);
    if (o.kind == OP_CONV) o.weight = take_floats(&p->r, p->g, (size_t)channels * p->v.in.c * o.kernel_h * o.kernel_w);
    if (o.kind == OP_EMBED || o.kind == OP_MEAN_TOKEN)
        o.weight = take_floats(&p->r, p->g, (shape_positions(p->v.in) + 1) * channels);
    if (o.kind == OP_LAYERNORM && has & SCALE) o.weight = take_floats(&p->r, p->g, channels); /* gamma */
    if (o.kind == OP_CONV && has & SCALE) o.scale = take_floats(&p->r, p->g, channels);
    if (has & SHIFT) o.shift = take_floats(&p->r, p->g, channels);
    o.residual = -1; /* its pointer is given below; the graph is there for the shapes */
    if (cases[n].place != PLACE_NONE)
        o.mask = (mask_site){cases[n].place, .count = channels / cases[n].width, .width = cases[n].width};
    CHECK_OK(graph_add(p->g, &o, channels, &value));
    p->v.out = p->g->values[value];
    p->outputs = shape_positions(p->v.out) * p->v.out.c;
    if (has & RESIDUAL) p->v.residual = take(&p->r, p->outputs);
    if (cases[n].place == PLACE_NONE) return;
    p->v.site = (reference_site){.place = cases[n].place, .width = cases[n].width, .x = fenced(p->outputs)};
    p->v.site.keep = take_floats(&p->r, p->g, o.mask.count);
    if (has & FILL) p->v.site.fill = take_floats(&p->r, p->g, channels);
}

/* Derivatives by keeps and fills, from those by what the mask makes. */
static void check_mask(probe *p, const double *dmasked) {
    const mask_site *m = &p->g->ops[0].mask;
    const reference_site *site = &p->v.site;
    const uint32_t channels = p->v.out.c;
    double *dkeep = fenced(m->count), *dfill = fenced(channels);
    for (uint32_t j = 0; j < m->count; j++) dkeep[j] = 0;
    for (uint32_t c = 0; c < channels; c++) dfill[c] = 0;
    for (size_t i = 0; i < p->outputs; i++) {
        const size_t c = i % channels, j = c / m->width;
        dkeep[j] += dmasked[i] * (site->x[i] - (site->fill ? site->fill[c] : 0));
        dfill[c] += dmasked[i] * (1 - site->keep[j]);
    }
    check_numbers("dL/dkeep", dkeep, take(&p->r, m->count), m->count);
    if (site->fill) check_numbers("dL/dfill", dfill, take(&p->r, channels), channels);
    check_and_free(dkeep, m->count);
    check_and_free(dfill, channels);
}

static void check_reverse(probe *p) {
    reference_gradients d = {.dy = take(&p->r, p->outputs), .dmasked = fenced(p->outputs)};
    for (size_t k = 0; k < p->count; k++) {
        d.dx[k] = fenced(p->inputs);
        for (size_t i = 0; i < p->inputs; i++) d.dx[k][i] = 0;
    }
    if (p->v.residual) {
        d.dresidual = fenced(p->outputs);
        for (size_t i = 0; i < p->outputs; i++) d.dresidual[i] = 0;
    }
    if (d.dy) reference_op_reverse(&p->g->ops[0], &p->v, &d);
    for (size_t k = 0; k < p->count; k++) check_numbers("dL/dx", d.dx[k], take(&p->r, p->inputs), p->inputs);
    if (p->v.residual) check_numbers("dL/dresidual", d.dresidual, take(&p->r, p->outputs), p->outputs);
    if (p->v.site.place != PLACE_NONE) check_mask(p, d.dmasked);
    for (size_t k = 0; k < p->count; k++) check_and_free(d.dx[k], p->inputs);
    check_and_free(d.dresidual, p->outputs);
    check_and_free(d.dmasked, p->outputs);
}

static void op_golden(size_t n) {
    test_begin("op: %s", cases[n].name);
    probe p;
    probe_open(&p, n);
    double *y = fenced(p.outputs), *argument = fenced(p.outputs), *scratch = fenced(reference_scratch(p.g));
    const double *expected = take(&p.r, p.outputs);
    p.v.y = y;
    p.v.argument = argument;
    p.v.scratch = scratch;
    if (expected) {
        reference_op(&p.g->ops[0], &p.v);
        check_numbers("y", y, expected, p.outputs);
        check_reverse(&p);
    }
    CHECK_INT(p.r.used, p.r.file.count);
    check_and_free(y, p.outputs);
    check_and_free(argument, p.outputs);
    check_and_free(scratch, reference_scratch(p.g));
    check_and_free(p.v.site.x, p.outputs);
    graph_destroy(p.g);
    npy_close(&p.r.file);
}

int main(void) {
    for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) op_golden(n);
    return test_end();
}
