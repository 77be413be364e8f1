/*
 * reverse_ops.c - the derivative of every op against central differences of its forward pass, in double: with respect
 * to its inputs, to what is added to it, to its keeps and to its fills; at every place of a mask and for every
 * activation.
 */
#include "test.h"

#include "backend/reference/reference_ops.h"
#include "nets.h"

enum { AFFINE = 1, RESIDUAL = 2, FILL = 4, SAME_INPUT = 8, FENCE = 4 };

typedef struct op_case {
    const char *name;
    shape in;
    uint32_t channels; /* of the output */
    mask_place place;
    uint32_t width;
    int has;
    op op;
} op_case;

/* One op with random numbers around it. L = sum over elements of dy * y. */
typedef struct probe {
    const op_case *c;
    graph *g;
    const op *o;
    uint64_t state;
    size_t inputs, outputs; /* elements */
    int input_count;        /* arrays in x */
    double *x[3], *residual, *y, *argument, *site_x, *scratch;
    float *keep, *fill;
    reference_operands v;
    double *dy, *dx[3], *dresidual, *dmasked;
} probe;

/* Gradients are added to what is there. */
static const double THERE_BEFORE = 0.25;

/* Keeps are numbers of few bits, so that a step of 2^-18 changes them by just that. */
static const float keeps[] = {1, 0, 0.5f, 0.375f, 1.625f, -0.75f};
static const double KEEP_STEP = 0x1p-18, STEP = 1e-5;

static double *numbers(probe *p, size_t count) {
    double *array;
    CHECK_OK(memory_new(count, sizeof *array, "test", &array));
    for (size_t i = 0; i < count; i++) array[i] = 1.5 * net_uniform(&p->state);
    return array;
}

static double *filled(size_t count, double value) {
    double *array;
    CHECK_OK(memory_new(count, sizeof *array, "test", &array));
    for (size_t i = 0; i < count; i++) array[i] = value;
    return array;
}

static const float *weights(probe *p, size_t count, float centre) {
    float *array;
    CHECK_OK(memory_new(count, sizeof *array, "test", &array));
    for (size_t i = 0; i < count; i++) array[i] = centre + net_uniform(&p->state);
    CHECK_OK(graph_own(p->g, array));
    return array;
}

static void give_weights(probe *p, op *o) {
    const op_case *c = p->c;
    const size_t channels = c->channels;
    if (o->kind == OP_CONV) o->weight = weights(p, channels * c->in.c * o->kernel_h * o->kernel_w, 0);
    if (o->kind == OP_EMBED || o->kind == OP_MEAN_TOKEN)
        o->weight = weights(p, (shape_positions(c->in) + 1) * channels, 0);
    if (o->kind == OP_LAYERNORM && c->has & AFFINE) o->weight = weights(p, channels, 1);
    if (o->kind == OP_CONV && c->has & AFFINE) o->scale = weights(p, channels, 1);
    if (c->has & AFFINE) o->shift = weights(p, channels, 0);
}

static void give_site(probe *p, const mask_site *m) {
    CHECK_OK(memory_new(m->count, sizeof *p->keep, "keeps", &p->keep));
    CHECK_OK(memory_new(p->v.out.c, sizeof *p->fill, "fills", &p->fill));
    for (uint32_t j = 0; j < m->count; j++) p->keep[j] = keeps[j % (sizeof keeps / sizeof *keeps)];
    for (uint32_t c = 0; c < p->v.out.c; c++) p->fill[c] = (float)net_below(&p->state, 64) / 32 - 1;
    p->v.site = (reference_site){.place = m->place,
                                 .width = m->width,
                                 .keep = p->keep,
                                 .fill = p->c->has & FILL ? p->fill : NULL,
                                 .x = p->site_x};
}

static void probe_open(probe *p, const op_case *c, uint64_t seed) {
    op o = c->op;
    int value;
    *p = (probe){.c = c, .state = seed, .v.in = c->in, .inputs = shape_positions(c->in) * c->in.c};
    CHECK_OK(graph_create(c->in, 0, &p->g));
    o.residual = -1; /* its pointer is given below; the graph is there for the shapes */
    give_weights(p, &o);
    if (c->place != PLACE_NONE) o.mask = (mask_site){c->place, .count = c->channels / c->width, .width = c->width};
    CHECK_OK(graph_add(p->g, &o, c->channels, &value));
    p->o = &p->g->ops[0];
    p->v.out = p->g->values[value];
    p->outputs = shape_positions(p->v.out) * p->v.out.c;
    p->input_count = o.kind == OP_ATTENTION && !(c->has & SAME_INPUT) ? 3 : 1;
    for (int k = 0; k < (o.kind == OP_ATTENTION ? 3 : 1); k++) {
        p->x[k] = k < p->input_count ? numbers(p, p->inputs) : p->x[0];
        p->dx[k] = k < p->input_count ? filled(p->inputs, THERE_BEFORE) : p->dx[0];
        p->v.x[k] = p->x[k];
    }
    if (c->has & RESIDUAL) p->v.residual = p->residual = numbers(p, p->outputs);
    if (c->has & RESIDUAL) p->dresidual = filled(p->outputs, THERE_BEFORE);
    p->dy = numbers(p, p->outputs);
    p->v.y = p->y = filled(p->outputs, NAN);
    p->v.argument = p->argument = filled(p->outputs, NAN);
    p->site_x = filled(p->outputs, NAN);
    p->dmasked = filled(p->outputs, NAN);
    p->v.scratch = p->scratch = filled(reference_scratch(p->g) + FENCE, 1234.5);
    if (c->place != PLACE_NONE) give_site(p, &p->o->mask);
}

static void probe_close(probe *p) {
    for (int k = 0; k < p->input_count; k++) {
        free(p->x[k]);
        free(p->dx[k]);
    }
    free(p->residual);
    free(p->dresidual);
    free(p->dy);
    free(p->y);
    free(p->argument);
    free(p->site_x);
    free(p->dmasked);
    free(p->scratch);
    free(p->keep);
    free(p->fill);
    graph_destroy(p->g);
}

/* ------------------------------------------------------------------------------------ central differences */

static double loss(probe *p) {
    double sum = 0;
    reference_op(p->o, &p->v);
    for (size_t i = 0; i < p->outputs; i++) sum += p->dy[i] * p->y[i];
    return sum;
}

static double slope(probe *p, double *at) {
    const double value = *at;
    *at = value + STEP;
    const double up = loss(p);
    *at = value - STEP;
    const double down = loss(p);
    *at = value;
    return (up - down) / (2 * STEP);
}

/* With respect to `count` floats that move together. */
static double slope_of_floats(probe *p, float *at, size_t count) {
    double sides[2];
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < count; i++) at[i] += (float)(side ? -2 * KEEP_STEP : KEEP_STEP);
        sides[side] = loss(p);
    }
    for (size_t i = 0; i < count; i++) at[i] += (float)KEEP_STEP;
    return (sides[0] - sides[1]) / (2 * KEEP_STEP);
}

static void check_array(probe *p, double *array, const double *gradient, size_t count) {
    for (size_t i = 0; array && i < count; i++) {
        const double expected = slope(p, &array[i]);
        CHECK_NEAR(gradient[i] - THERE_BEFORE, expected, 1e-7 * (1 + fabs(expected)));
    }
}

/* dL/dk and, with a fill, dL/dfill = (1 - k) sum of dL/d masked. */
static void check_site(probe *p, const double *x) {
    const mask_site *m = &p->o->mask;
    const uint32_t channels = p->v.out.c;
    for (uint32_t j = 0; j < m->count; j++) {
        double by_keep = 0, by_fill = 0;
        for (size_t i = 0; i < p->outputs; i++) {
            if (i % channels / m->width != j) continue;
            by_keep += p->dmasked[i] * (x[i] - (p->v.site.fill ? p->fill[i % channels] : 0));
            by_fill += p->dmasked[i] * (1 - p->keep[j]);
        }
        double expected = slope_of_floats(p, &p->keep[j], 1);
        CHECK_NEAR(by_keep, expected, 1e-7 * (1 + fabs(expected)));
        if (!p->v.site.fill) continue;
        expected = slope_of_floats(p, &p->fill[j * m->width], m->width);
        CHECK_NEAR(by_fill, expected, 1e-7 * (1 + fabs(expected)));
    }
}

static void check_case(const op_case *c, uint64_t seed) {
    probe p;
    probe_open(&p, c, seed);
    const reference_gradients d = {
        .dy = p.dy, .dx = {p.dx[0], p.dx[1], p.dx[2]}, .dresidual = p.dresidual, .dmasked = p.dmasked};
    double *site_x = filled(p.outputs, NAN), *dmasked = filled(p.outputs, NAN);
    loss(&p);
    memcpy(site_x, p.site_x, p.outputs * sizeof *site_x); /* the differences overwrite the probe's */
    reference_op_reverse(p.o, &p.v, &d);
    /* Where inputs' gradients are not wanted, the mask's are the same. */
    reference_op_reverse(p.o, &p.v, &(reference_gradients){.dy = p.dy, .dmasked = dmasked});
    CHECK(!memcmp(dmasked, p.dmasked, p.outputs * sizeof *dmasked));
    for (size_t i = 0; i < FENCE; i++) CHECK(p.scratch[reference_scratch(p.g) + i] == 1234.5);
    for (int k = 0; k < p.input_count; k++) check_array(&p, p.x[k], p.dx[k], p.inputs);
    check_array(&p, p.residual, p.dresidual, p.outputs);
    if (c->place != PLACE_NONE) check_site(&p, site_x);
    free(site_x);
    free(dmasked);
    probe_close(&p);
}

/* ---------------------------------------------------------------------------------------------- the cases */

static void convolutions(void) {
    static const struct {
        shape in;
        uint32_t channels, kernel_h, kernel_w, stride, pad;
    } geometries[] = {
        {{5, 4, 3}, 6, 3, 3, 1, 1}, {{7, 5, 2}, 4, 3, 3, 2, 1}, {{9, 8, 2}, 3, 7, 7, 2, 3},  {{5, 6, 4}, 6, 1, 1, 2, 0},
        {{8, 4, 3}, 5, 4, 4, 4, 0}, {{4, 6, 2}, 3, 1, 3, 1, 0}, {{10, 7, 1}, 4, 5, 5, 3, 1}, {{1, 5, 6}, 9, 1, 1, 1, 0},
    };
    static const char *const acts[] = {"none", "relu", "gelu", "gelu tanh", "quickgelu"};
    static const char *const places[] = {"no mask", "pre", "post", "out"};
    uint64_t seed = 0;
    for (activation act = ACT_NONE; act <= ACT_QUICKGELU; act++)
        for (mask_place place = PLACE_NONE; place <= PLACE_OUT; place++) {
            test_begin("convolutions: %s, %s", acts[act], places[place]);
            for (size_t g = 0; g < sizeof geometries / sizeof *geometries; g++, seed++) {
                const uint32_t channels = geometries[g].channels;
                int has = (int)(seed * 5 % 8); /* every combination of AFFINE, RESIDUAL and FILL */
                /* What is ablated and has nothing added would stand on ReLU's kink. */
                if (act == ACT_RELU && (place == PLACE_PRE || place == PLACE_POST)) has |= RESIDUAL;
                const op_case c = {
                    .in = geometries[g].in,
                    .channels = channels,
                    .place = place,
                    .width = seed % 3 == 0   ? 1
                             : seed % 3 == 1 ? channels
                             : channels % 2  ? 1
                                             : 2,
                    .has = has,
                    .op = {.kind = OP_CONV,
                           .kernel_h = geometries[g].kernel_h,
                           .kernel_w = geometries[g].kernel_w,
                           .stride = geometries[g].stride,
                           .pad = geometries[g].pad,
                           .act = act},
                };
                check_case(&c, seed + 100);
            }
        }
}

static const op_case others[] = {
#define WINDOW(k, h, w, s, p)                                                                                          \
    { .kind = k, .kernel_h = h, .kernel_w = w, .stride = s, .pad = p }
    {"max-pool 3x3/2", {7, 8, 3}, 3, PLACE_NONE, 0, 0, WINDOW(OP_MAXPOOL, 3, 3, 2, 1)},
    {"max-pool 2x2/1, windows overlap", {4, 5, 2}, 2, PLACE_NONE, 0, 0, WINDOW(OP_MAXPOOL, 2, 2, 1, 0)},
    {"average of 2x3, windows overlap", {5, 6, 3}, 3, PLACE_NONE, 0, 0, WINDOW(OP_AVGPOOL, 2, 3, 1, 0)},
    {"average of 2x2/2, a border left out", {5, 7, 2}, 2, PLACE_NONE, 0, 0, WINDOW(OP_AVGPOOL, 2, 2, 2, 0)},
    {"average of the whole image", {5, 3, 4}, 4, PLACE_NONE, 0, 0, WINDOW(OP_AVGPOOL, 5, 3, 1, 0)},
#undef WINDOW
    {"option A", {5, 6, 3}, 8, PLACE_NONE, 0, 0, {.kind = OP_SUBSAMPLE, .stride = 2, .pad = 2}},
    {"class token and positions", {2, 3, 5}, 5, PLACE_NONE, 0, 0, {.kind = OP_EMBED}},
    {"mean token and positions", {2, 3, 5}, 5, PLACE_NONE, 0, 0, {.kind = OP_MEAN_TOKEN}},
    {"length 1", {1, 4, 7}, 7, PLACE_NONE, 0, 0, {.kind = OP_NORMALISE}},
    {"class token alone", {1, 4, 5}, 5, PLACE_NONE, 0, 0, {.kind = OP_SELECT}},
    {"layer norm", {1, 4, 7}, 7, PLACE_NONE, 0, AFFINE, {.kind = OP_LAYERNORM, .eps = 1e-5f}},
    {"layer norm without weights", {1, 3, 6}, 6, PLACE_NONE, 0, 0, {.kind = OP_LAYERNORM, .eps = 1e-2f}},
    {"layer norm, out", {1, 4, 9}, 9, PLACE_OUT, 1, AFFINE | FILL, {.kind = OP_LAYERNORM, .eps = 1e-6f}},
    {"layer norm, out, as one", {1, 4, 9}, 9, PLACE_OUT, 9, AFFINE, {.kind = OP_LAYERNORM, .eps = 1e-6f}},
    {"attention", {1, 5, 6}, 6, PLACE_NONE, 0, 0, {.kind = OP_ATTENTION, .heads = 2}},
    {"attention, out", {1, 6, 6}, 6, PLACE_OUT, 1, 0, {.kind = OP_ATTENTION, .heads = 3}},
    {"attention, heads", {1, 4, 12}, 12, PLACE_OUT, 3, FILL, {.kind = OP_ATTENTION, .heads = 4}},
    {"attention, causal", {1, 6, 6}, 6, PLACE_OUT, 1, FILL, {.kind = OP_ATTENTION, .heads = 2, .causal = true}},
    {"attention, one value for q, k and v", {1, 5, 4}, 4, PLACE_OUT, 2, SAME_INPUT, {.kind = OP_ATTENTION, .heads = 2}},
};

/* ------------------------------------------------------------------------------------------ the next token */

/* What a language model says of the next token has a derivative by the vectors it says it from; L as above. */
static void next_token(void) {
    enum { TOKENS = 5, WIDTH = 4, VOCABULARY = 7, INPUTS = TOKENS * WIDTH, OUTPUTS = TOKENS * NEXT_CHANNELS };
    probe p = {.state = 4, .outputs = OUTPUTS};
    int made, said;
    test_begin("the next token");
    CHECK_OK(graph_create((shape){1, TOKENS, 1}, VOCABULARY, &p.g));
    op lookup = {.kind = OP_LOOKUP, .vocabulary = VOCABULARY}, next = {.kind = OP_NEXT, .vocabulary = VOCABULARY};
    lookup.weight = next.weight = weights(&p, VOCABULARY * WIDTH, 0);
    lookup.shift = weights(&p, TOKENS * WIDTH, 0);
    CHECK_OK(graph_add(p.g, &lookup, WIDTH, &made));
    next.input[0] = made;
    CHECK_OK(graph_add(p.g, &next, 0, &said));
    p.o = &p.g->ops[1];
    p.x[0] = numbers(&p, INPUTS);
    p.x[1] = filled(TOKENS, 0);
    for (size_t t = 0; t < TOKENS; t++) p.x[1][t] = net_below(&p.state, VOCABULARY);
    p.dy = numbers(&p, OUTPUTS);
    for (size_t i = 0; i < OUTPUTS; i++) /* which token it is has no derivative; nor has the last position a next one */
        if (i % NEXT_CHANNELS == NEXT_OTHER || i / NEXT_CHANNELS + 1 == TOKENS) p.dy[i] = 0;
    p.dx[0] = filled(INPUTS, THERE_BEFORE);
    p.y = filled(OUTPUTS, NAN);
    p.scratch = filled(reference_scratch(p.g) + FENCE, 1234.5);
    p.v = (reference_operands){.in = {1, TOKENS, WIDTH},
                               .out = {1, TOKENS, NEXT_CHANNELS},
                               .x = {p.x[0], p.x[1]},
                               .y = p.y,
                               .scratch = p.scratch};
    p.input_count = 2;
    loss(&p);
    reference_op_reverse(p.o, &p.v, &(reference_gradients){.dy = p.dy, .dx = {p.dx[0]}});
    for (size_t i = 0; i < FENCE; i++) CHECK(p.scratch[reference_scratch(p.g) + i] == 1234.5);
    check_array(&p, p.x[0], p.dx[0], INPUTS);
    probe_close(&p);
}

/* ------------------------------------------------------------------------------------------------- kinks */

static void kinks(void) {
    test_begin("ReLU has no slope at 0, and a NaN is no zero");
    CHECK_NEAR(reference_activation_slope(ACT_RELU, 0), 0, 0);
    CHECK_NEAR(reference_activation_slope(ACT_RELU, 1e-300), 1, 0);
    CHECK_NEAR(reference_activation_slope(ACT_RELU, -1e-300), 0, 0);
    for (activation act = ACT_GELU_ERF; act <= ACT_QUICKGELU; act++) {
        CHECK_NEAR(reference_activation_slope(act, 0), 0.5, 1e-15);
        CHECK_NEAR(reference_activation_slope(act, 40), 1, 1e-12); /* and no NaN from inf - inf */
        CHECK_NEAR(reference_activation_slope(act, -500), 0, 1e-12);
        CHECK(isnan(reference_activation_slope(act, NAN)));
    }

    test_begin("of equal largest pixels the first has the gradient, row by row");
    const op o = {.kind = OP_MAXPOOL, .kernel_h = 2, .kernel_w = 2, .stride = 1};
    const double x[6] = {1, 3, 3, 3, 0, 3}, dy[2] = {10, 100}; /* windows {1, 3, 3, 0} and {3, 3, 0, 3} */
    double dx[6] = {0};
    const reference_operands v = {.in = {2, 3, 1}, .out = {1, 2, 1}, .x = {x}};
    reference_maxpool_reverse(&o, &v, &(reference_gradients){.dy = dy, .dx = {dx}});
    for (int i = 0; i < 6; i++) CHECK_NEAR(dx[i], i == 1 ? 110 : 0, 0);

    test_begin("a window of minus infinities has its gradient as well");
    const double low[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    double dlow[4] = {0};
    reference_maxpool_reverse(&o, &(reference_operands){.in = {2, 2, 1}, .out = {1, 1, 1}, .x = {low}},
                              &(reference_gradients){.dy = dy, .dx = {dlow}});
    CHECK_NEAR(dlow[0], 10, 0);
}

int main(void) {
    convolutions();
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        test_begin("%s", others[i].name);
        check_case(&others[i], i);
    }
    next_token();
    kinks();
    return test_end();
}
