/* attention.c - the attention kernels against reference_op, in double. */
#include "backend/reference/reference_ops.h"
#include "kernel_test.h"

#include <math.h>

/* [pairs][tokens][heads * width] */
typedef struct shape_case {
    uint32_t pairs, tokens, heads, width;
} shape_case;

/* What a test computes on. Channels have masks of their own; a slot's keeps lie among those of other sites. */
enum { SITE = 3, OTHERS = 5 }; /* rows in front of this site's and behind them */
typedef struct problem {
    shape_case shape;
    bool causal;
    size_t elements; /* of one pair */
    uint32_t channels, slots;
    const double *q, *k, *v;
    double *keep;   /* [slots][channels]; NULL: no mask */
    double *fill;   /* [channels]; NULL: zeros */
    uint32_t *slot; /* [pairs] */
} problem;

static problem problem_of(shape_case s, const double *q, const double *k, const double *v) {
    const uint32_t channels = s.heads * s.width;
    return (problem){.shape = s, .elements = (size_t)s.tokens * channels, .channels = channels, .q = q, .k = k, .v = v};
}

/* Values of the format; q is four times as large, so that the weights of one query differ by factors of a hundred. */
static problem random_problem(shape_case s, kernel_format format) {
    const size_t count = (size_t)s.pairs * s.tokens * s.heads * s.width;
    double *q = kernel_values(count, 1, format);
    for (size_t i = 0; i < count; i++) q[i] *= 4;
    return problem_of(s, q, kernel_values(count, 2, format), kernel_values(count, 3, format));
}

/* Keeps of 0, 1, 1/2, -1.25 (scale:G may be negative), in slots that pairs take in no order. */
static void add_mask(problem *p, bool fill) {
    static const double keeps[] = {0, 1, 0.5, -1.25};
    p->slots = 3;
    p->keep = kernel_zeros((size_t)p->slots * p->channels);
    for (size_t i = 0; i < (size_t)p->slots * p->channels; i++) p->keep[i] = keeps[kernel_random(4, i, 4)];
    p->fill = fill ? kernel_values(p->channels, 5, KERNEL_FLOAT) : NULL;
    p->slot = kernel_buffer(p->shape.pairs * sizeof *p->slot);
    for (uint32_t i = 0; i < p->shape.pairs; i++) p->slot[i] = (i * 2 + 1) % p->slots;
}

static gpu_mask device_mask(const problem *p) {
    if (!p->keep) return (gpu_mask){.place = GPU_PLACE_NONE};
    const size_t rows = SITE + p->channels + OTHERS;
    double *all = kernel_values(p->slots * rows, 6, KERNEL_FLOAT);
    for (size_t s = 0; s < p->slots; s++)
        memcpy(all + s * rows + SITE, p->keep + s * p->channels, p->channels * sizeof *all);
    return (gpu_mask){.place = GPU_PLACE_OUT,
                      .keep = kernel_floats(all, p->slots * rows) + SITE,
                      .fill = kernel_floats(p->fill, p->channels),
                      .slot = p->slot,
                      .rows = (uint32_t)rows};
}

/* The launch's result, in a buffer of `type`. */
static void *launch(gpu_type type, const problem *p) {
    const shape_case s = p->shape;
    const size_t positions = (size_t)s.pairs * s.tokens;
    void *y = kernel_output(type, positions, p->channels);
    const gpu_attention a = {
        .type = type,
        .pairs = s.pairs,
        .tokens = s.tokens,
        .heads = s.heads,
        .width = s.width,
        .causal = p->causal,
        .q = kernel_upload(type, p->q, positions, p->channels),
        .k = kernel_upload(type, p->k, positions, p->channels),
        .v = kernel_upload(type, p->v, positions, p->channels),
        .y = y,
        .mask = device_mask(p),
    };
    KERNEL_RUN(gpu_attention_launch(&a, 0));
    return y;
}

static double *reference(const problem *p) {
    const shape_case s = p->shape;
    const op o = {.kind = OP_ATTENTION, .heads = s.heads, .causal = p->causal};
    const shape value = {1, s.tokens, p->channels};
    double *y = kernel_zeros(s.pairs * p->elements), *scratch = kernel_zeros(s.tokens);
    for (uint32_t pair = 0; pair < s.pairs; pair++) {
        const size_t at = pair * p->elements;
        reference_operands v = {
            .in = value, .out = value, .x = {p->q + at, p->k + at, p->v + at}, .scratch = scratch, .y = y + at};
        if (p->keep)
            v.site = (reference_site){.place = PLACE_OUT,
                                      .width = 1,
                                      .keep = kernel_floats(p->keep + (size_t)p->slot[pair] * p->channels, p->channels),
                                      .fill = kernel_floats(p->fill, p->channels)};
        reference_op(&o, &v);
    }
    return y;
}

/* What rounding the weights and the result may cost: about four and two times what it does. */
static const struct {
    double largest, rms;
} ALLOWED[] = {
    [GPU_F32] = {1e-5, 2e-6}, [GPU_TF32] = {2e-3, 5e-4}, [GPU_BF16] = {1e-2, 4e-3}, [GPU_F16] = {2e-3, 5e-4}};

static void compare(gpu_type type, const problem *p, const double *expected) {
    char what[100];
    const shape_case s = p->shape;
    const size_t positions = (size_t)s.pairs * s.tokens;
    snprintf(what, sizeof what, "%u pairs, %u tokens, %u heads of %u%s", s.pairs, s.tokens, s.heads, s.width,
             p->causal ? ", causal" : "");
    kernel_compare(what, kernel_download(type, launch(type, p), positions, p->channels), expected,
                   positions * p->channels, ALLOWED[type].largest, ALLOWED[type].rms);
}

/* ------------------------------------------------------------------------------------------------ checks */

static void token_counts(gpu_type type) {
    static const shape_case cases[] = {{1, 1, 2, 32},  {2, 5, 1, 32},  {1, 17, 2, 32}, {2, 50, 1, 64},
                                       {1, 64, 1, 32}, {1, 65, 2, 32}, {1, 197, 1, 64}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const problem p = random_problem(cases[i], kernel_exact(type));
        compare(type, &p, reference(&p));
    }
}

static void widths(gpu_type type) {
    static const uint32_t cases[] = {1, 5, 8, 16, 20, 24, 32, 40, 64, 72, 80, 96, 112, 128, 136, 200, 256};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const problem p = random_problem((shape_case){1, 19, cases[i] < 100 ? 3 : 1, cases[i]}, kernel_exact(type));
        compare(type, &p, reference(&p));
    }
}

/* Many tiles and several blocks of all their warps, once for each kernel: every type would take the longest part of the
 * run under the sanitizers. */
static void many_tokens(gpu_type type) {
    const problem p = random_problem((shape_case){1, 1030, 1, type == GPU_F32 ? 8 : 32}, kernel_exact(type));
    compare(type, &p, reference(&p));
}

static void masks(gpu_type type) {
    static const shape_case cases[] = {{5, 18, 2, 32}, {4, 7, 3, 20}, {4, 7, 1, 40}};
    for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
        problem p = random_problem(cases[i / 2], kernel_exact(type));
        add_mask(&p, i % 2);
        compare(type, &p, reference(&p));
    }
}

/* The diagonal in the first, the second, the last span of a tile; several tiles, and blocks. */
static void causal(gpu_type type) {
    static const shape_case cases[] = {{1, 1, 2, 32},  {2, 16, 1, 32}, {1, 17, 2, 8},   {2, 33, 1, 20},
                                       {1, 65, 1, 64}, {1, 50, 2, 40}, {1, 150, 1, 32}, {1, 37, 1, 136}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        problem p = random_problem(cases[i], kernel_exact(type));
        p.causal = true;
        if (i % 2) add_mask(&p, i % 4 == 1);
        compare(type, &p, reference(&p));
    }
}

/* What comes later changes no bit of what is in front of it: also where it is in the same span. */
static void later_tokens(gpu_type type) {
    static const shape_case cases[] = {{1, 90, 2, 32}, {1, 90, 2, 20}};
    const uint32_t kept[] = {1, 40, 64, 89};
    for (size_t i = 0; i < sizeof cases / sizeof *cases * 4; i++) {
        problem p = random_problem(cases[i / 4], kernel_exact(type)), other = p;
        const size_t front = kept[i % 4] * (size_t)p.channels;
        p.causal = other.causal = true;
        const double *const from[] = {p.q, p.k, p.v};
        const double **const to[] = {&other.q, &other.k, &other.v};
        for (int k = 0; k < 3; k++) {
            double *changed = kernel_values(p.elements, 20 + (uint64_t)k, kernel_exact(type));
            memcpy(changed, from[k], front * sizeof *changed);
            *to[k] = changed;
        }
        kernel_same_bytes("tokens in front of others", launch(type, &other), launch(type, &p),
                          kept[i % 4] * gpu_stride(p.channels) * gpu_type_size(type));
    }
}

/* Scores of thousands: their exponentials would be infinite, and those of most differences zero. q and k are small
 * integers times 30, so that the scores are exact in fp32 and the weights can be compared. */
static void extreme_scores(gpu_type type) {
    static const shape_case cases[] = {{1, 70, 2, 64}, {1, 70, 1, 20}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t count = (size_t)cases[i].tokens * cases[i].heads * cases[i].width;
        double *q = kernel_zeros(count), *k = kernel_zeros(count);
        for (size_t n = 0; n < count; n++) {
            q[n] = 30 * ((double)kernel_random(7, n, 7) - 3);
            k[n] = 30 * ((double)kernel_random(8, n, 7) - 3);
        }
        const problem p = problem_of(cases[i], q, k, kernel_values(count, 9, kernel_exact(type)));
        compare(type, &p, reference(&p));
    }
}

/* The weights that are applied add up to one: a value that all keys share comes out as it went in. */
static void constant_values(gpu_type type) {
    static const shape_case s = {1, 150, 2, 32};
    problem p = random_problem(s, kernel_exact(type));
    const double *row = kernel_values(p.channels, 10, kernel_exact(type));
    double *v = kernel_zeros(p.elements);
    for (size_t i = 0; i < p.elements; i++) v[i] = row[i % p.channels];
    p.v = v;
    kernel_compare("constant v", kernel_download(type, launch(type, &p), s.tokens, p.channels), v, p.elements,
                   gpu_type_size(type) == 2 ? 0 : 1e-6, 1);
}

/* tf32 operands are rounded to nearest (the hardware would cut them off): full fp32 inputs against rounded ones. */
static void tf32_rounding(gpu_type type) {
    static const shape_case s = {1, 40, 1, 64};
    const problem full = random_problem(s, KERNEL_FLOAT);
    double *rounded[3];
    for (int i = 0; i < 3; i++) {
        const double *from = i == 0 ? full.q : i == 1 ? full.k : full.v;
        rounded[i] = kernel_zeros(full.elements);
        for (size_t n = 0; n < full.elements; n++) rounded[i][n] = kernel_round(KERNEL_TF32, from[n]);
    }
    const problem p = problem_of(s, rounded[0], rounded[1], rounded[2]);
    kernel_compare("full fp32 inputs", kernel_download(type, launch(type, &full), s.tokens, full.channels),
                   reference(&p), full.elements, 1e-3, 3e-4);
}

/* A pair's bytes are the same alone and among others. */
static void alone(gpu_type type) {
    static const shape_case cases[] = {{3, 21, 2, 32}, {3, 21, 2, 5}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        problem p = random_problem(cases[i], kernel_exact(type));
        add_mask(&p, true);
        const unsigned char *together = launch(type, &p);
        const size_t bytes = cases[i].tokens * gpu_stride(p.channels) * gpu_type_size(type);
        for (uint32_t pair = 0; pair < cases[i].pairs; pair++) {
            problem one = p;
            one.shape.pairs = 1;
            one.q += pair * p.elements;
            one.k += pair * p.elements;
            one.v += pair * p.elements;
            one.slot = kernel_copy(p.slot + pair, sizeof *p.slot);
            kernel_same_bytes("a pair alone", launch(type, &one), together + pair * bytes, bytes);
        }
    }
}

static bool is_finite(gpu_type type, const void *buffer, size_t index) {
    if (gpu_type_size(type) == 4) return isfinite(((const float *)buffer)[index]);
    return (((const uint16_t *)buffer)[index] & 0x7fff) < (type == GPU_BF16 ? 0x7f80 : 0x7c00);
}

/* Infinity in one query spoils that query's result, all of it, and nothing else: what is broken must show. */
static void infinite_query(gpu_type type) {
    static const shape_case cases[] = {{1, 37, 2, 32}, {1, 37, 2, 12}};
    const uint32_t broken = 18;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const problem p = random_problem(cases[i], kernel_exact(type));
        ((double *)p.q)[broken * p.channels + 2] = INFINITY;
        const void *y = launch(type, &p);
        for (uint32_t t = 0; t < cases[i].tokens; t++)
            for (uint32_t c = 0; c < p.channels; c++)
                if (is_finite(type, y, t * gpu_stride(p.channels) + c) != (t != broken || c >= cases[i].width))
                    test_fail(__FILE__, __LINE__,
                              "width %u, token %u, channel %u: finite or not, it should be the other", cases[i].width,
                              t, c);
    }
}

/* Infinity in one head's k or v stays in that head, also where its channels lie where the tile of another is padded. */
static void infinite_head(gpu_type type) {
    static const shape_case s = {1, 20, 2, 40};
    for (int i = 0; i < 2; i++) {
        const problem p = random_problem(s, kernel_exact(type));
        ((double *)(i ? p.v : p.k))[7 * p.channels + s.width] = INFINITY;
        const void *y = launch(type, &p);
        for (uint32_t t = 0; t < s.tokens; t++)
            for (uint32_t c = 0; c < s.width; c++)
                if (!is_finite(type, y, t * gpu_stride(p.channels) + c))
                    test_fail(__FILE__, __LINE__, "%c: token %u, channel %u is not finite", "kv"[i], t, c);
    }
}

static void refusals(void) {
    float x = 0;
    uint32_t slot = 0;
    const gpu_attention good = {
        .type = GPU_F32, .pairs = 1, .tokens = 1, .heads = 1, .width = 1, .q = &x, .k = &x, .v = &x, .y = &x};
    gpu_attention bad[11];
    for (size_t i = 0; i < 11; i++) bad[i] = good;
    bad[0].pairs = 0;
    bad[1].tokens = 0;
    bad[2].heads = 0;
    bad[3].width = 0;
    bad[4].width = 257;
    bad[5].q = NULL;
    bad[6].mask = (gpu_mask){.place = GPU_PLACE_PRE, .keep = &x, .slot = &slot, .rows = 1};
    bad[7].mask = (gpu_mask){.place = GPU_PLACE_OUT, .slot = &slot, .rows = 1};
    bad[8].pairs = bad[8].tokens = 1u << 20; /* more blocks than a grid has */
    bad[9].tokens = UINT32_MAX;              /* rounding up must not wrap */
    bad[10].heads = UINT32_MAX;
    for (size_t i = 0; i < 11; i++) CHECK_INT(gpu_attention_launch(&bad[i], 0), cudaErrorInvalidValue);
}

static void tests(void) {
    kernel_each("attention: token counts", KERNEL_ALL, token_counts);
    kernel_each("attention: widths", KERNEL_ALL, widths);
    kernel_each("attention: 1,030 tokens", KERNEL_BIT(GPU_F32) | KERNEL_BIT(GPU_BF16), many_tokens);
    kernel_each("attention: masks", KERNEL_ALL, masks);
    kernel_each("attention: causal", KERNEL_ALL, causal);
    kernel_each("attention: later tokens", KERNEL_ALL, later_tokens);
    kernel_each("attention: extreme scores", KERNEL_ALL, extreme_scores);
    kernel_each("attention: constant values", KERNEL_ALL, constant_values);
    kernel_each("attention: rounding", KERNEL_BIT(GPU_TF32), tf32_rounding);
    kernel_each("attention: a pair alone", KERNEL_ALL, alone);
    kernel_each("attention: infinity", KERNEL_ALL, infinite_query);
    kernel_each("attention: infinity in a head", KERNEL_ALL, infinite_head);
    kernel_check("attention: refusals", refusals);
}

int main(void) {
    return kernel_main(tests);
}
