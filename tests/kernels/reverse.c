/*
 * reverse.c - the epilogue backwards and the sums of masks' gradients, against double. The slope of an activation is a
 * central difference of the reference backend's, so that no formula of the kernel is used to test it.
 */
#include "backend/reference/reference_ops.h"
#include "kernel_test.h"

enum { SLOTS = 3, EXAMPLES = 2, FIRST = 2 }; /* FIRST: where the site's sums begin */

typedef struct problem {
    uint32_t pairs, positions, channels, width;
    gpu_activation activation;
    gpu_place place;
    gpu_reverse_kind kind;
    bool from_y; /* ReLU's sign is taken from y, */
    bool wide;   /* unless that is fp32 */
    bool residual, fill, plain;
    bool in_place;         /* dlinear is dy */
    bool dresidual, added; /* dresidual is wanted; it is added to what is there */
} problem;

typedef struct instance {
    problem p;
    gpu_conv c;
    gpu_reverse r;
    size_t count; /* pairs * positions * channels */
    double *dy, *linear, *y, *residual, *there;
    double *dlinear, *dresidual, *sums; /* expected */
} instance;

static const activation ACTIVATIONS[] = {ACT_NONE, ACT_RELU, ACT_GELU_ERF, ACT_GELU_TANH, ACT_QUICKGELU};

/* ------------------------------------------------------------------------------- what must come out */

static double slope(gpu_activation activation, double u) {
    const double h = 1e-5;
    if (activation == GPU_RELU) return u > 0;
    return (reference_activation(ACTIVATIONS[activation], u + h) -
            reference_activation(ACTIVATIONS[activation], u - h)) /
           (2 * h);
}

static double mixed(double keep, double x, double fill) {
    return keep * x + (1 - keep) * fill;
}

/* One element on its way forward. */
typedef struct element {
    double keep, fill, scale;
    double x;        /* what the mask acts on */
    double argument; /* of the activation */
    double y;
} element;

static element forward(const instance *n, size_t at) {
    const problem *p = &n->p;
    const uint32_t c = (uint32_t)(at % p->channels), pair = (uint32_t)(at / p->channels / p->positions);
    const gpu_mask *m = &n->c.mask;
    element e = {.keep = m->place ? m->keep[m->slot[pair] * m->rows + c] : 1,
                 .fill = m->fill ? m->fill[c] : 0,
                 .scale = p->plain ? 1 : n->c.scale[c]};
    double v = n->linear[at];
    if (p->place == GPU_PLACE_PRE) e.x = v, v = mixed(e.keep, v, e.fill);
    v = e.scale * v + (p->plain ? 0 : n->c.shift[c]);
    if (p->place == GPU_PLACE_POST) e.x = v, v = mixed(e.keep, v, e.fill);
    e.argument = v + (n->residual ? n->residual[at] : 0);
    v = reference_activation(ACTIVATIONS[p->activation], e.argument);
    if (p->place == GPU_PLACE_OUT) e.x = v, v = mixed(e.keep, v, e.fill);
    e.y = v;
    return e;
}

static double term(const instance *n, size_t at, const element *e, double g) {
    const problem *p = &n->p;
    const size_t pair = at / p->channels / p->positions, before = (size_t)p->positions * p->channels;
    switch (p->kind) {
    case GPU_REVERSE_MASK:
        return g * (e->x - e->fill);
    case GPU_REVERSE_INFLUENCE:
        return e->keep * g;
    case GPU_REVERSE_CONDUCTANCE:
        return n->r.example[pair] ? e->keep * g * (e->x - forward(n, at - before).x) : 0;
    default:
        return 0;
    }
}

static void expect(instance *n) {
    const problem *p = &n->p;
    for (size_t at = 0; at < n->count; at++) {
        const element e = forward(n, at);
        const bool positive = kernel_round(kernel_stored(n->c.type), e.y) > 0;
        double g = n->dy[at], sum = 0;
        if (p->place == GPU_PLACE_OUT) sum = term(n, at, &e, g), g *= e.keep;
        g *= p->from_y && !p->wide && p->place != GPU_PLACE_OUT ? positive : slope(p->activation, e.argument);
        n->dresidual[at] = g + (n->there ? n->there[at] : 0);
        if (p->place == GPU_PLACE_POST) sum = term(n, at, &e, g), g *= e.keep;
        g *= e.scale;
        if (p->place == GPU_PLACE_PRE) sum = term(n, at, &e, g), g *= e.keep;
        n->dlinear[at] = g;
        n->y[at] = e.y;
        const size_t component = at % p->channels / p->width, pair = at / p->channels / p->positions;
        n->sums[pair * (p->channels / p->width) + component] += sum;
    }
}

/* ------------------------------------------------------------------------------------- instances */

static void add_mask(const problem *p, instance *n) {
    const uint32_t rows = p->channels + 5, first = 3; /* the site's rows lie among others */
    double *keep = kernel_zeros(SLOTS * rows);
    for (size_t i = 0; i < SLOTS * rows; i++) keep[i] = (const double[]){0, 0.5, 1}[kernel_random(7, i, 3)];
    uint32_t *slot = kernel_buffer(p->pairs * sizeof *slot), *example = kernel_buffer(p->pairs * sizeof *example);
    for (uint32_t i = 0; i < p->pairs; i++) slot[i] = (i / EXAMPLES + 1) % SLOTS, example[i] = i % EXAMPLES;
    n->c.mask =
        (gpu_mask){.place = p->place, .keep = kernel_floats(keep, SLOTS * rows) + first, .slot = slot, .rows = rows};
    if (p->fill) n->c.mask.fill = kernel_floats(kernel_values(p->channels, 8, KERNEL_FLOAT), p->channels);
    n->r.example = example;
}

static void *upload(const instance *n, const double *values) {
    return values ? kernel_upload(n->c.type, values, (size_t)n->p.pairs * n->p.positions, n->p.channels) : NULL;
}

static instance make(const problem *p, gpu_type type) {
    const size_t rows = (size_t)p->pairs * p->positions;
    const kernel_format format = kernel_stored(type);
    instance n = {.p = *p, .count = rows * p->channels};
    n.c = (gpu_conv){.type = type, .pairs = p->pairs, .out_h = 1, .out_w = p->positions, .out_channels = p->channels};
    n.c.activation = p->activation;
    n.c.wide = p->wide;
    n.r = (gpu_reverse){.add = p->added, .kind = p->kind, .width = p->width, .unscale = 0.25f};
    n.dy = kernel_values(n.count, 1, format);
    n.linear = kernel_values(n.count, 2, format);
    n.residual = p->residual ? kernel_values(n.count, 3, format) : NULL;
    n.there = p->added ? kernel_values(n.count, 4, format) : NULL;
    if (!p->plain) {
        n.c.scale = kernel_floats(kernel_values(p->channels, 5, KERNEL_FLOAT), p->channels);
        n.c.shift = kernel_floats(kernel_values(p->channels, 6, KERNEL_FLOAT), p->channels);
    }
    if (p->place != GPU_PLACE_NONE) add_mask(p, &n);
    n.y = kernel_zeros(n.count);
    n.dlinear = kernel_zeros(n.count);
    n.dresidual = kernel_zeros(n.count);
    n.sums = kernel_zeros(p->pairs * (p->channels / p->width));
    expect(&n);
    n.r.dy = upload(&n, n.dy);
    n.c.y = p->from_y ? kernel_upload(p->wide ? GPU_F32 : type, n.y, rows, p->channels) : NULL;
    n.c.residual = upload(&n, n.residual);
    /* what is said not to be read is not there */
    if (gpu_reverse_reads_linear(&n.c, p->kind)) n.c.linear = upload(&n, n.linear);
    n.r.dlinear = p->in_place ? (void *)n.r.dy : kernel_output(type, rows, p->channels);
    if (p->added)
        n.r.dresidual = upload(&n, n.there);
    else if (p->dresidual)
        n.r.dresidual = kernel_output(type, rows, p->channels);
    n.r.components = p->channels / p->width + 2 * FIRST; /* the site's sums lie among others */
    n.r.sums = (float *)kernel_buffer(p->pairs * n.r.components * sizeof(float)) + FIRST;
    const size_t bytes = gpu_reverse_workspace(&n.c, &n.r);
    n.r.workspace = bytes ? kernel_buffer(bytes) : NULL;
    return n;
}

/* ---------------------------------------------------------------------------------------- checks */

static void compare_sums(const instance *n, const char *what) {
    const uint32_t count = n->p.channels / n->p.width;
    double *sums = kernel_zeros(n->p.pairs * count);
    for (uint32_t pair = 0; pair < n->p.pairs; pair++) {
        const float *row = n->r.sums + (size_t)pair * n->r.components;
        for (uint32_t j = 0; j < count; j++) sums[pair * count + j] = row[j] / n->r.unscale;
        if (!isnan(row[-1]) || !isnan(row[count])) test_fail(__FILE__, __LINE__, "%s: a neighbour's sum changed", what);
    }
    kernel_compare(what, sums, n->sums, n->p.pairs * count, 1e-5, 1e-5);
}

static void check(const problem *p, gpu_type type, const char *name) {
    instance n = make(p, type);
    const size_t rows = (size_t)p->pairs * p->positions;
    const double tolerance = 1e-5 + (type == GPU_TF32 ? 0 : kernel_epsilon(type));
    char what[160];
    KERNEL_RUN(gpu_reverse_launch(&n.c, &n.r, 0));
    snprintf(what, sizeof what, "%s: dlinear", name);
    kernel_compare(what, kernel_download(type, n.r.dlinear, rows, p->channels), n.dlinear, n.count, tolerance,
                   tolerance);
    snprintf(what, sizeof what, "%s: dresidual", name);
    if (n.r.dresidual)
        kernel_compare(what, kernel_download(type, n.r.dresidual, rows, p->channels), n.dresidual, n.count, tolerance,
                       tolerance);
    snprintf(what, sizeof what, "%s: sums", name);
    if (p->place != GPU_PLACE_NONE && p->kind != GPU_REVERSE_NONE) compare_sums(&n, what);
}

/* Every place, activation, kind of sum and of residual, with and without means, scale and shift. */
static void epilogues(gpu_type type) {
    for (uint32_t i = 0; i < 4 * 5 * 6; i++) {
        problem p = {4, 5, 12, 1};
        p.place = (gpu_place)(i % 4);
        p.activation = (gpu_activation)(i / 4 % 5);
        p.kind = (gpu_reverse_kind)((i / 20 + 1) % 4);
        p.residual = i / 20 % 2;
        p.from_y = p.activation == GPU_RELU && kernel_random(9, i, 4) > 0;
        p.fill = kernel_random(10, i, 2);
        p.plain = kernel_random(11, i, 3) == 0;
        p.in_place = kernel_random(12, i, 2);
        p.dresidual = kernel_random(13, i, 2);
        p.added = p.dresidual && kernel_random(14, i, 2);
        p.width = (const uint32_t[]){1, 3, 12}[kernel_random(15, i, 3)];
        char name[120];
        snprintf(name, sizeof name, "place %u, activation %u, kind %u, residual %d, y %d, plain %d, width %u", p.place,
                 p.activation, p.kind, p.residual, p.from_y, p.plain, p.width);
        check(&p, type, name);
    }
}

/* Rows of quads of every width, one position and several chunks of them, both ways to fold. */
static void shapes(gpu_type type) {
    static const struct {
        uint32_t pairs, positions, channels, width;
    } SHAPES[] = {{3, 1, 1, 1},     {3, 1, 10, 1},   {2, 49, 133, 7}, {2, 300, 128, 128},
                  {1, 257, 260, 1}, {1, 4099, 3, 1}, {1, 530, 30, 15}};
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++) {
        problem p = {SHAPES[i].pairs, SHAPES[i].positions, SHAPES[i].channels, SHAPES[i].width};
        p.place = i % 2 ? GPU_PLACE_PRE : GPU_PLACE_POST;
        p.kind = GPU_REVERSE_MASK;
        p.activation = GPU_RELU;
        p.from_y = p.dresidual = true;
        char name[80];
        snprintf(name, sizeof name, "%u positions, %u channels, width %u", p.positions, p.channels, p.width);
        check(&p, type, name);
    }
}

/* Logits: their ReLU's sign is that of an argument which is computed again. */
static void wide(gpu_type type) {
    const problem p = {3,
                       1,
                       10,
                       1,
                       GPU_RELU,
                       GPU_PLACE_PRE,
                       GPU_REVERSE_MASK,
                       .from_y = true,
                       .wide = true,
                       .residual = true,
                       .dresidual = true};
    check(&p, type, "ReLU of logits");
}

/* ReLU of a NaN hands the gradient on (backend.h), whichever way its sign is found. */
static void nans(gpu_type type) {
    for (int from_y = 0; from_y < 2; from_y++) {
        const problem p = {
            1, 1, 8, 1, GPU_RELU, GPU_PLACE_POST, GPU_REVERSE_INFLUENCE, .from_y = from_y, .plain = true};
        instance n = make(&p, type);
        const float *keep = n.c.mask.keep + n.c.mask.slot[0] * n.c.mask.rows;
        uint32_t c = 0;
        while (c < 7 && !(keep[c] > 0 && fabs(n.dy[c]) > 0.1)) c++;
        const size_t size = gpu_type_size(type);
        memset((char *)(from_y ? n.c.y : n.c.linear) + c * size, 0xff, size);
        KERNEL_RUN(gpu_reverse_launch(&n.c, &n.r, 0));
        const double expected = keep[c] * n.dy[c], tolerance = 1e-5 + (type == GPU_TF32 ? 0 : kernel_epsilon(type));
        CHECK(fabs(expected) > 0.01);
        CHECK_NEAR(kernel_download(type, n.r.dlinear, 1, 8)[c], expected, tolerance);
    }
}

/* A pair's bytes, its sums' too, are the same alone and among others. */
static void pairs_alone(gpu_type type) {
    const problem p = {5, 140, 136, 8, GPU_GELU_TANH, GPU_PLACE_PRE, GPU_REVERSE_MASK, .fill = true, .residual = true};
    instance n = make(&p, type);
    const size_t bytes = p.positions * gpu_stride(p.channels) * gpu_type_size(type);
    KERNEL_RUN(gpu_reverse_launch(&n.c, &n.r, 0));
    for (uint32_t pair = 0; pair < p.pairs; pair += 2) {
        gpu_conv c = n.c;
        gpu_reverse r = n.r;
        c.pairs = 1;
        c.mask.slot += pair;
        c.linear = kernel_copy((char *)n.c.linear + pair * bytes, bytes);
        c.residual = kernel_copy((const char *)n.c.residual + pair * bytes, bytes);
        r.dy = kernel_copy((const char *)n.r.dy + pair * bytes, bytes);
        r.dlinear = kernel_buffer(bytes);
        r.sums = kernel_buffer(r.components * sizeof(float));
        r.workspace = kernel_buffer(gpu_reverse_workspace(&c, &r));
        KERNEL_RUN(gpu_reverse_launch(&c, &r, 0));
        kernel_same_bytes("dlinear of a pair alone", r.dlinear, (char *)n.r.dlinear + pair * bytes, bytes);
        kernel_same_bytes("sums of a pair alone", r.sums, n.r.sums + (size_t)pair * r.components,
                          p.channels / p.width * sizeof(float));
    }
}

/* The launcher's contract: what it must not need, and what it refuses. */
static void refusals(void) {
    const problem p = {2, 3, 8, 2, GPU_RELU, GPU_PLACE_PRE, GPU_REVERSE_MASK, .from_y = true};
    instance n = make(&p, GPU_F32);
    CHECK_INT(gpu_reverse_launch(&n.c, &n.r, 0), cudaSuccess);
    CHECK(!gpu_reverse_reads_linear(&n.c, GPU_REVERSE_INFLUENCE));
    gpu_conv c[6];
    gpu_reverse r[11];
    for (size_t i = 0; i < 6; i++) c[i] = n.c;
    for (size_t i = 0; i < 11; i++) r[i] = n.r;
    c[0].pairs = 0;
    c[1].linear = NULL;
    c[2].mask.keep = NULL;
    c[3].mask.slot = NULL;
    c[4].activation = (gpu_activation)5;
    c[5].out_channels = 0;
    for (size_t i = 0; i < 6; i++) CHECK_INT(gpu_reverse_launch(&c[i], &n.r, 0), cudaErrorInvalidValue);
    r[0].dy = NULL;
    r[1].add = true; /* to nothing */
    r[2].add = true, r[2].dresidual = (void *)r[2].dy;
    r[3].dresidual = r[3].dlinear;
    r[4].width = 0;
    r[5].width = 3;
    r[6].components = 3;
    r[7].sums = NULL;
    r[8].workspace = NULL;
    r[9].kind = GPU_REVERSE_CONDUCTANCE, r[9].example = NULL;
    r[10].dlinear = r[10].dresidual = kernel_buffer(1024);
    for (size_t i = 0; i < 11; i++) CHECK_INT(gpu_reverse_launch(&n.c, &r[i], 0), cudaErrorInvalidValue);
}

static void tests(void) {
    kernel_each("reverse epilogues", KERNEL_ALL, epilogues);
    kernel_each("reverse shapes", KERNEL_ALL, shapes);
    kernel_each("reverse of NaN", KERNEL_ALL, nans);
    kernel_each("reverse of logits", KERNEL_ALL, wide);
    kernel_each("reverse pairs alone", KERNEL_ALL, pairs_alone);
    kernel_check("reverse refusals", refusals);
}

int main(void) {
    return kernel_main(tests);
}
