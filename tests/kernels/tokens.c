/* tokens.c - kernels/cuda/tokens.cu against the reference backend's ops, forward and in reverse. */
#include "backend/reference/reference_ops.h"
#include "kernel_test.h"

/* What fp32 sums and one rounding to the type may cost. */
static double allowed(gpu_type type) {
    return kernel_epsilon(type) + 5e-7;
}

/* ------------------------------------------------------------------------------------------------- lookup */

static void check_lookup(gpu_type type) {
    const uint32_t cases[][4] = {/* pairs, tokens, channels, vocabulary */
                                 {3, 7, 48, 11},
                                 {2, 5, 10, 67},
                                 {1, 2, 3, 2},
                                 {5, 33, 20, 300},
                                 {2, 1, 8, 5}};
    enum { EXAMPLES = 2 };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const uint32_t pairs = cases[k][0], tokens = cases[k][1], width = cases[k][2], vocabulary = cases[k][3];
        double *table = kernel_values((size_t)vocabulary * width, k, KERNEL_FLOAT);
        double *position = kernel_values((size_t)tokens * width, 50 + k, KERNEL_FLOAT);
        double *x = kernel_zeros(EXAMPLES * tokens), *expected = kernel_zeros((size_t)pairs * tokens * width);
        int32_t *token = kernel_buffer(EXAMPLES * tokens * sizeof *token);
        uint32_t *example = kernel_buffer(pairs * sizeof *example);
        for (size_t i = 0; i < EXAMPLES * tokens; i++) x[i] = token[i] = (int32_t)kernel_random(k, i, vocabulary);
        const op o = {.kind = OP_LOOKUP,
                      .vocabulary = vocabulary,
                      .weight = kernel_floats(table, (size_t)vocabulary * width),
                      .shift = kernel_floats(position, (size_t)tokens * width)};
        for (uint32_t p = 0; p < pairs; p++) {
            example[p] = (p + 1) % EXAMPLES;
            const reference_operands v = {.in = {1, tokens, 1},
                                          .out = {1, tokens, width},
                                          .x = {x + (size_t)example[p] * tokens},
                                          .y = expected + (size_t)p * tokens * width};
            reference_op(&o, &v);
        }
        const gpu_lookup l = {.type = type,
                              .pairs = pairs,
                              .tokens = tokens,
                              .channels = width,
                              .table = kernel_upload(GPU_F32, table, vocabulary, width),
                              .position = o.shift,
                              .token = token,
                              .example = example,
                              .y = kernel_output(type, (size_t)pairs * tokens, width)};
        KERNEL_RUN(gpu_lookup_launch(&l, 0));
        for (size_t i = 0; i < (size_t)pairs * tokens * width; i++)
            expected[i] = kernel_round(kernel_stored(type), (float)expected[i]);
        kernel_compare("lookup", kernel_download(type, l.y, (size_t)pairs * tokens, width), expected,
                       (size_t)pairs * tokens * width, 0, 0);
    }
    const gpu_lookup none = {.type = type, .tokens = 1, .channels = 1};
    CHECK_INT(gpu_lookup_launch(&none, 0), cudaErrorInvalidValue);
}

/* ------------------------------------------------------------------------------------- mean token and unit */

/* An op without masks that makes `out` of `in`, on `pairs` of them. */
typedef struct problem {
    op o;
    uint32_t pairs;
    shape in, out;
    double *x, *y, *dy, *dx; /* of all pairs; y and dx are what must come out, dx beside what is there already */
} problem;

static size_t count_of(shape s) {
    return shape_positions(s) * s.c;
}

static problem expect(gpu_type type, op o, uint32_t pairs, shape in, shape out) {
    problem p = {.o = o, .pairs = pairs, .in = in, .out = out};
    p.x = kernel_values(pairs * count_of(in), 3, kernel_stored(type));
    p.dy = kernel_values(pairs * count_of(out), 4, kernel_stored(type));
    p.y = kernel_zeros(pairs * count_of(out));
    p.dx = kernel_zeros(pairs * count_of(in));
    return p;
}

static void compute(problem *p) {
    for (uint32_t i = 0; i < p->pairs; i++) {
        const reference_operands v = {
            .in = p->in, .out = p->out, .x = {p->x + i * count_of(p->in)}, .y = p->y + i * count_of(p->out)};
        const reference_gradients d = {.dy = p->dy + i * count_of(p->out), .dx = {p->dx + i * count_of(p->in)}};
        reference_op(&p->o, &v);
        reference_op_reverse(&p->o, &v, &d);
    }
}

/* What lies in a gradient before it is added to; NULL where it is written. */
static void *begin_gradient(gpu_type type, const problem *p, bool add, double *expected) {
    const size_t rows = p->pairs * shape_positions(p->in), count = rows * p->in.c;
    const double *there = kernel_values(count, 5, kernel_stored(type));
    for (size_t i = 0; i < count; i++) expected[i] = p->dx[i] + (add ? there[i] : 0);
    return add ? kernel_upload(type, there, rows, p->in.c) : kernel_output(type, rows, p->in.c);
}

static void compare(const char *what, gpu_type type, const problem *p, shape s, const void *actual,
                    const double *expected) {
    const size_t rows = p->pairs * shape_positions(s);
    kernel_compare(what, kernel_download(type, actual, rows, s.c), expected, rows * s.c, allowed(type), allowed(type));
}

static void check_mean_token(gpu_type type) {
    const uint32_t cases[][3] = {{2, 17, 48}, {3, 5, 10}, {1, 2, 3}, {2, 50, 20}, {1, 300, 4}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        gpu_embed e = {.type = type, .pairs = cases[k][0], .tokens = cases[k][1], .channels = cases[k][2]};
        const shape in = {1, e.tokens - 1, e.channels}, out = {1, e.tokens, e.channels};
        const float *table =
            kernel_floats(kernel_values((size_t)e.tokens * e.channels, 7, KERNEL_FLOAT), (size_t)e.tokens * e.channels);
        problem p = expect(type, (op){.kind = OP_MEAN_TOKEN, .weight = table}, e.pairs, in, out);
        compute(&p);
        e.table = table;
        e.x = kernel_upload(type, p.x, e.pairs * shape_positions(in), in.c);
        e.y = kernel_output(type, e.pairs * shape_positions(out), out.c);
        KERNEL_RUN(gpu_mean_token_launch(&e, 0));
        compare("mean token", type, &p, out, e.y, p.y);
        for (int add = 0; add < 2; add++) {
            double *expected = kernel_zeros(e.pairs * count_of(in));
            void *dx = begin_gradient(type, &p, add, expected);
            const void *dy = kernel_upload(type, p.dy, e.pairs * shape_positions(out), out.c);
            KERNEL_RUN(gpu_mean_token_reverse_launch(&e, dy, dx, add, 0));
            compare("gradient of mean token", type, &p, in, dx, expected);
        }
    }
    const gpu_embed one = {.type = type, .pairs = 1, .tokens = 1, .channels = 1};
    CHECK_INT(gpu_mean_token_launch(&one, 0), cudaErrorInvalidValue);
    CHECK_INT(gpu_mean_token_reverse_launch(&one, NULL, NULL, false, 0), cudaErrorInvalidValue);
}

/* Also a position of nothing but zeros, whose gradient passes; and results in the place of what they are made of. */
static void check_unit(gpu_type type) {
    const uint32_t cases[][2] = {{2, 48}, {9, 10}, {1, 3}, {3, 512}, {2, 1001}, {17, 8}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const uint32_t rows = cases[k][0], width = cases[k][1];
        const shape value = {1, 1, width};
        problem p = expect(type, (op){.kind = OP_NORMALISE}, rows, value, value);
        for (uint32_t c = 0; k % 2 && c < width; c++) p.x[(rows - 1) * (size_t)width + c] = 0;
        compute(&p);
        const void *x = kernel_upload(type, p.x, rows, width);
        void *y = kernel_output(type, rows, width), *place = kernel_upload(type, p.x, rows, width);
        KERNEL_RUN(gpu_unit_launch(type, rows, width, x, y, 0));
        compare("unit", type, &p, value, y, p.y);
        KERNEL_RUN(gpu_unit_launch(type, rows, width, place, place, 0));
        kernel_same_bytes("unit in place", place, y, rows * gpu_stride(width) * gpu_type_size(type));
        for (int add = 0; add < 2; add++) {
            double *expected = kernel_zeros(rows * (size_t)width);
            void *dx = begin_gradient(type, &p, add, expected), *dy = kernel_upload(type, p.dy, rows, width);
            KERNEL_RUN(gpu_unit_reverse_launch(type, rows, width, x, dy, dx, add, 0));
            compare("gradient of unit", type, &p, value, dx, expected);
            if (add) continue;
            KERNEL_RUN(gpu_unit_reverse_launch(type, rows, width, x, dy, dy, false, 0));
            kernel_same_bytes("gradient in place", dy, dx, rows * gpu_stride(width) * gpu_type_size(type));
        }
    }
    CHECK_INT(gpu_unit_launch(type, 0, 1, NULL, NULL, 0), cudaErrorInvalidValue);
    CHECK_INT(gpu_unit_reverse_launch(type, 1, 0, NULL, NULL, NULL, false, 0), cudaErrorInvalidValue);
}

static void tests(void) {
    kernel_each("lookup", KERNEL_ALL, check_lookup);
    kernel_each("mean token", KERNEL_ALL, check_mean_token);
    kernel_each("unit", KERNEL_ALL, check_unit);
}

int main(void) {
    return kernel_main(tests);
}
