/*
 * attention_reverse.c - the gradients of attention, and what the forward pass leaves for them, against double: the
 * Jacobian of softmax row by row, which is itself held to differences of the reference backend's attention.
 */
#include "backend/reference/reference_ops.h"
#include "kernel_test.h"

#include <math.h>

enum { Q, K, V, INPUTS };

/* [pairs][tokens][heads * width] */
typedef struct shape_case {
    uint32_t pairs, tokens, heads, width;
} shape_case;

typedef struct problem {
    shape_case shape;
    bool causal;
    uint32_t channels;
    size_t positions, elements; /* of all pairs, of one */
    double slack;               /* how much more than usual rounding may cost */
    double *in[INPUTS], *dresult;
    double *result, *logsum, *gradient[INPUTS]; /* expected */
} problem;

/* --------------------------------------------------------------------------------- what must come out */

/* One row of queries of one head: its weights, what they give, and what its gradient gives back. Rows of the head begin
 * at `at` and are `channels` apart. */
static void expect_row(problem *p, size_t at, uint32_t t, double *weight, double *slope, double *logsum) {
    const uint32_t tokens = p->causal ? t + 1 : p->shape.tokens, width = p->shape.width;
    const size_t row = at + (size_t)t * p->channels;
    const double scale = 1 / sqrt(width);
    double largest = -INFINITY, sum = 0, mean = 0;
    for (uint32_t s = 0; s < tokens; s++) {
        const size_t other = at + (size_t)s * p->channels;
        weight[s] = slope[s] = 0;
        for (uint32_t c = 0; c < width; c++) {
            weight[s] += p->in[Q][row + c] * p->in[K][other + c] * scale;
            slope[s] += p->dresult[row + c] * p->in[V][other + c];
        }
        largest = fmax(largest, weight[s]);
    }
    for (uint32_t s = 0; s < tokens; s++) sum += weight[s] = exp(weight[s] - largest);
    *logsum = (largest + log(sum)) / log(2);
    for (uint32_t s = 0; s < tokens; s++) mean += (weight[s] /= sum) * slope[s];
    for (uint32_t s = 0; s < tokens; s++) {
        const size_t other = at + (size_t)s * p->channels;
        const double score = weight[s] * (slope[s] - mean) * scale;
        for (uint32_t c = 0; c < width; c++) {
            p->result[row + c] += weight[s] * p->in[V][other + c];
            p->gradient[Q][row + c] += score * p->in[K][other + c];
            p->gradient[K][other + c] += score * p->in[Q][row + c];
            p->gradient[V][other + c] += weight[s] * p->dresult[row + c];
        }
    }
}

/* Inputs of the format; q is four times as large, so that the weights of one query differ by factors of a hundred. */
static problem inputs_of(shape_case s, kernel_format format) {
    problem p = {.shape = s, .channels = s.heads * s.width, .positions = (size_t)s.pairs * s.tokens};
    const size_t count = p.positions * p.channels;
    p.slack = 1;
    p.elements = count / s.pairs;
    for (int i = 0; i < INPUTS; i++) p.in[i] = kernel_values(count, 1 + (uint64_t)i, format);
    for (size_t i = 0; i < count; i++) p.in[Q][i] *= 4;
    p.dresult = kernel_values(count, 4, format);
    return p;
}

static problem expect(problem p) {
    const shape_case s = p.shape;
    for (int i = 0; i < INPUTS; i++) p.gradient[i] = kernel_zeros(p.positions * p.channels);
    p.result = kernel_zeros(p.positions * p.channels);
    p.logsum = kernel_zeros(p.positions * s.heads);
    double *weight = kernel_zeros(s.tokens), *slope = kernel_zeros(s.tokens);
    for (uint32_t item = 0; item < s.pairs * s.heads; item++)
        for (uint32_t t = 0; t < s.tokens; t++)
            expect_row(&p, item / s.heads * p.elements + item % s.heads * s.width, t, weight, slope,
                       &p.logsum[item * s.tokens + t]);
    return p;
}

static problem problem_of(shape_case s, kernel_format format) {
    return expect(inputs_of(s, format));
}

/* ------------------------------------------------------------------------------------------- launches */

/* A launch forward under a mask that ablates, then one backward. */
typedef struct launched {
    gpu_attention a;
    gpu_attention_reverse r;
} launched;

static gpu_mask some_mask(const problem *p) {
    double *keep = kernel_zeros(2 * p->channels);
    uint32_t *slot = kernel_buffer(p->shape.pairs * sizeof *slot);
    for (size_t i = 0; i < 2 * p->channels; i++) keep[i] = kernel_random(5, i, 3) / 2.0;
    for (uint32_t i = 0; i < p->shape.pairs; i++) slot[i] = i % 2;
    return (gpu_mask){
        .place = GPU_PLACE_OUT, .keep = kernel_floats(keep, 2 * p->channels), .slot = slot, .rows = p->channels};
}

static launched arguments(const problem *p, gpu_type type, bool masked) {
    const shape_case s = p->shape;
    const size_t statistics = p->positions * s.heads * sizeof(float);
    launched n = {.a = {.type = type, .pairs = s.pairs, .tokens = s.tokens, .heads = s.heads, .width = s.width}};
    n.a.causal = p->causal;
    const void *in[INPUTS];
    for (int i = 0; i < INPUTS; i++) in[i] = kernel_upload(type, p->in[i], p->positions, p->channels);
    n.a.q = in[Q], n.a.k = in[K], n.a.v = in[V];
    n.a.y = kernel_output(type, p->positions, p->channels);
    if (masked) {
        n.a.mask = some_mask(p);
        n.a.result = kernel_output(type, p->positions, p->channels);
    }
    n.a.logsum = kernel_buffer(statistics);
    n.r.dresult = kernel_upload(type, p->dresult, p->positions, p->channels);
    n.r.workspace = kernel_buffer(statistics);
    n.r.dq = kernel_output(type, p->positions, p->channels);
    n.r.dk = kernel_output(type, p->positions, p->channels);
    n.r.dv = kernel_output(type, p->positions, p->channels);
    return n;
}

/* What rounding weights, slopes and results may cost: about four and two times what it does. tf32's weights are rounded
 * by the forward pass alone. */
static const struct {
    double largest, rms;
} ALLOWED[] = {
    [GPU_F32] = {2e-5, 4e-6}, [GPU_TF32] = {2e-3, 5e-4}, [GPU_BF16] = {2e-2, 1.2e-2}, [GPU_F16] = {3e-3, 1.5e-3}};

static void compare(const problem *p, gpu_type type, const char *what, const void *actual, const double *expected) {
    char text[120];
    const shape_case s = p->shape;
    snprintf(text, sizeof text, "%s, %u pairs, %u tokens, %u heads of %u%s", what, s.pairs, s.tokens, s.heads, s.width,
             p->causal ? ", causal" : "");
    kernel_compare(text, kernel_download(type, actual, p->positions, p->channels), expected, p->positions * p->channels,
                   p->slack * ALLOWED[type].largest, p->slack * ALLOWED[type].rms);
}

static void compare_gradients(const problem *p, gpu_type type, const gpu_attention_reverse *r) {
    compare(p, type, "dq", r->dq, p->gradient[Q]);
    compare(p, type, "dk", r->dk, p->gradient[K]);
    compare(p, type, "dv", r->dv, p->gradient[V]);
}

static void check_problem(const problem *p, gpu_type type, bool masked) {
    launched n = arguments(p, type, masked);
    const size_t rows = p->positions * p->shape.heads;
    KERNEL_RUN(gpu_attention_launch(&n.a, 0));
    compare(p, type, "result", masked ? n.a.result : n.a.y, p->result);
    double *logsum = kernel_zeros(rows);
    for (size_t i = 0; i < rows; i++) logsum[i] = n.a.logsum[i];
    kernel_compare("logsum", logsum, p->logsum, rows, p->slack * ALLOWED[type].largest, p->slack * ALLOWED[type].rms);
    KERNEL_RUN(gpu_attention_reverse_launch(&n.a, &n.r, 0));
    compare_gradients(p, type, &n.r);
}

static void check(shape_case s, gpu_type type, bool masked) {
    const problem p = problem_of(s, kernel_exact(type));
    check_problem(&p, type, masked);
}

/* --------------------------------------------------------------------------------------------- checks */

/* Less than a tile, whole tiles, several blocks (of the tensor-core kernels for one type: it takes long). */
static void token_counts(gpu_type type) {
    static const shape_case cases[] = {{1, 2, 2, 32}, {2, 17, 1, 32}, {1, 64, 1, 64}, {1, 65, 2, 8}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check(cases[i], type, i % 2);
    if (type == GPU_BF16) check((shape_case){1, 134, 1, 32}, type, true);
}

/* Of the plain kernels, and of every tensor-core kernel. */
static void widths(gpu_type type) {
    static const uint32_t plain[] = {1, 5, 40, 256, 0}, mixed[] = {5, 8, 24, 40, 64, 72, 80, 96, 128, 136, 0};
    for (const uint32_t *width = type == GPU_F32 ? plain : mixed; *width; width++)
        check((shape_case){1, 37, *width < 64 ? 2 : 1, *width}, type, *width % 16);
}

/* The diagonal in every place of a tile, in one block and in several. */
static void causal(gpu_type type) {
    static const shape_case cases[] = {{1, 2, 1, 8}, {2, 16, 2, 32}, {1, 33, 1, 20}, {1, 70, 1, 64}, {1, 45, 1, 96}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases + (type == GPU_BF16); i++) {
        const shape_case s = i < sizeof cases / sizeof *cases ? cases[i] : (shape_case){1, 150, 1, 32};
        problem p = inputs_of(s, kernel_exact(type));
        p.causal = true;
        p = expect(p);
        check_problem(&p, type, i % 2);
    }
}

/* Scores of -200 and less: a token behind the last one, whose score is zero, would have an infinite weight. The keys
 * have a mean of -6, which the slopes, whose sum is zero but for rounding, multiply. */
static void negative_scores(gpu_type type) {
    problem p = inputs_of((shape_case){1, 37, 1, 32}, kernel_exact(type));
    p.slack = 8;
    for (size_t i = 0; i < p.elements; i++) {
        p.in[Q][i] = 5 + kernel_random(8, i, 2);
        p.in[K][i] = -5.0 - kernel_random(9, i, 3);
    }
    p = expect(p);
    check_problem(&p, type, false);
}

/* Added to gradients that are there; and one buffer for all three, where q, k and v are one value. */
static void added(gpu_type type) {
    static const uint32_t cases[] = {32, 20};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        problem p = problem_of((shape_case){2, 19, 1, cases[i]}, kernel_exact(type));
        const size_t count = p.positions * p.channels;
        const double *there = kernel_values(count, 7, kernel_stored(type));
        double *all = kernel_zeros(count);
        launched n = arguments(&p, type, false);
        KERNEL_RUN(gpu_attention_launch(&n.a, 0));
        n.r.dq = n.r.dk = n.r.dv = kernel_output(type, p.positions, p.channels);
        n.r.add_k = n.r.add_v = true;
        KERNEL_RUN(gpu_attention_reverse_launch(&n.a, &n.r, 0));
        for (int k = 0; k < INPUTS; k++)
            for (size_t e = 0; e < count; e++) all[e] += p.gradient[k][e];
        compare(&p, type, "dq + dk + dv", n.r.dq, all);
        n.r.dq = kernel_upload(type, there, p.positions, p.channels);
        n.r.dk = n.r.dv = NULL; /* not wanted */
        n.r.add_q = true;
        KERNEL_RUN(gpu_attention_reverse_launch(&n.a, &n.r, 0));
        for (size_t e = 0; e < count; e++) p.gradient[Q][e] += there[e];
        compare(&p, type, "dq, added", n.r.dq, p.gradient[Q]);
        for (int k = K; k <= V; k++) { /* one of the keys' two alone */
            void *out = kernel_output(type, p.positions, p.channels);
            n.r = (gpu_attention_reverse){.dresult = n.r.dresult, .dk = k == K ? out : NULL, .dv = k == V ? out : NULL};
            n.r.workspace = kernel_buffer(p.positions * p.shape.heads * sizeof(float));
            KERNEL_RUN(gpu_attention_reverse_launch(&n.a, &n.r, 0));
            compare(&p, type, k == K ? "dk alone" : "dv alone", out, p.gradient[k]);
        }
    }
}

/* A pair's bytes are the same alone and among others; and y's, whether or not the rest is wanted. */
static void alone(gpu_type type) {
    static const shape_case cases[] = {{3, 21, 2, 32}, {3, 21, 2, 5}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const problem p = problem_of(cases[i], kernel_exact(type));
        const size_t bytes = cases[i].tokens * gpu_stride(p.channels) * gpu_type_size(type);
        launched all = arguments(&p, type, true);
        KERNEL_RUN(gpu_attention_launch(&all.a, 0));
        KERNEL_RUN(gpu_attention_reverse_launch(&all.a, &all.r, 0));
        for (uint32_t pair = 0; pair < cases[i].pairs; pair++) {
            problem q = p;
            q.shape.pairs = 1;
            q.positions = cases[i].tokens;
            q.dresult += pair * p.elements;
            for (int k = 0; k < INPUTS; k++) q.in[k] += pair * p.elements;
            launched one = arguments(&q, type, false);
            KERNEL_RUN(gpu_attention_launch(&one.a, 0));
            KERNEL_RUN(gpu_attention_reverse_launch(&one.a, &one.r, 0));
            kernel_same_bytes("result", one.a.y, (char *)all.a.result + pair * bytes, bytes);
            kernel_same_bytes("dq of a pair alone", one.r.dq, (char *)all.r.dq + pair * bytes, bytes);
            kernel_same_bytes("dk of a pair alone", one.r.dk, (char *)all.r.dk + pair * bytes, bytes);
            kernel_same_bytes("dv of a pair alone", one.r.dv, (char *)all.r.dv + pair * bytes, bytes);
        }
        gpu_attention plain = all.a;
        plain.result = NULL;
        plain.logsum = NULL;
        plain.y = kernel_output(type, p.positions, p.channels);
        KERNEL_RUN(gpu_attention_launch(&plain, 0));
        kernel_same_bytes("y", plain.y, all.a.y, cases[i].pairs * bytes);
    }
}

/* The expectation itself: along random directions, against differences of the reference backend's op. */
static void expectation(bool causal) {
    problem p = inputs_of((shape_case){1, 6, 2, 5}, KERNEL_DOUBLE);
    p.causal = causal;
    p = expect(p);
    const op o = {.kind = OP_ATTENTION, .heads = p.shape.heads, .causal = causal};
    const shape value = {1, p.shape.tokens, p.channels};
    double *y = kernel_zeros(p.elements), *scratch = kernel_zeros(p.shape.tokens);
    const double h = 1e-5;
    for (int k = 0; k < INPUTS; k++) {
        const double *direction = kernel_values(p.elements, 60 + (uint64_t)k, KERNEL_DOUBLE);
        double slope = 0, expected = 0;
        for (int side = -1; side <= 1; side += 2) {
            reference_operands v = {.in = value, .out = value, .scratch = scratch, .y = y};
            double *moved = kernel_zeros(p.elements);
            for (size_t i = 0; i < p.elements; i++) moved[i] = p.in[k][i] + side * h * direction[i];
            for (int i = 0; i < INPUTS; i++) v.x[i] = i == k ? moved : p.in[i];
            reference_op(&o, &v);
            for (size_t i = 0; i < p.elements; i++) slope += side * p.dresult[i] * y[i] / (2 * h);
        }
        for (size_t i = 0; i < p.elements; i++) expected += p.gradient[k][i] * direction[i];
        if (!(fabs(slope - expected) <= 1e-8))
            test_fail(__FILE__, __LINE__, "d%c: slope %.12g, expected %.12g", "qkv"[k], slope, expected);
    }
}

static void expectations(void) {
    expectation(false);
    expectation(true);
}

static void refusals(void) {
    const problem p = problem_of((shape_case){1, 2, 1, 8}, KERNEL_FLOAT);
    const launched good = arguments(&p, GPU_F32, false);
    launched bad[9];
    for (size_t i = 0; i < 9; i++) bad[i] = good;
    bad[0].a.pairs = 0;
    bad[1].a.tokens = UINT32_MAX;
    bad[2].a.width = 257;
    bad[3].a.logsum = NULL;
    bad[4].a.y = NULL;
    bad[5].a.v = NULL;
    bad[6].r.dresult = NULL;
    bad[7].r.workspace = NULL;
    bad[8].a.heads = 0;
    for (size_t i = 0; i < 9; i++)
        CHECK_INT(gpu_attention_reverse_launch(&bad[i].a, &bad[i].r, 0), cudaErrorInvalidValue);
}

static void tests(void) {
    kernel_check("attention gradients: expectation", expectations);
    kernel_each("attention gradients: token counts", KERNEL_ALL, token_counts);
    kernel_each("attention gradients: widths", KERNEL_ALL & ~KERNEL_BIT(GPU_TF32), widths); /* fp32's kernel */
    kernel_each("attention gradients: causal", KERNEL_ALL, causal);
    kernel_each("attention gradients: negative scores", KERNEL_ALL, negative_scores);
    kernel_each("attention gradients: added", KERNEL_ALL, added);
    kernel_each("attention gradients: a pair alone", KERNEL_ALL, alone);
    kernel_check("attention gradients: refusals", refusals);
}

int main(void) {
    return kernel_main(tests);
}
