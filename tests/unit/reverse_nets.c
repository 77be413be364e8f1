/*
 * reverse_nets.c - reverse passes of whole networks: against central differences of the forward pass, whose keeps,
 * fills and images are moved (the reference backend); and what must not change a derivative (every backend that has
 * them).
 */
#include "engines.h"
#include "nets.h"
#include "test.h"

enum { EXAMPLES = 2, MASKS = 3, OUTPUTS = 4 };
static const char SMOOTH_OUTPUTS[] = "loss,logit,logit:2,logit:1-3"; /* margins bend: golden_gradients.c has them */

/* Outputs are floats: half a unit of 4 in its last place, 2^-23, is 6e-5 of a difference over two steps. */
static const float STEP = 0x1p-9f;

static const ablation zero = {.kind = ABLATION_ZERO};

static float *numbers(size_t count, float value) {
    float *array;
    CHECK_OK(memory_new(count, sizeof *array, "test", &array));
    for (size_t i = 0; i < count; i++) array[i] = value;
    return array;
}

/* keeps[masks][n]: zeros, halves, ones and others. */
static float *random_keeps(size_t masks, uint32_t n, uint64_t seed) {
    static const float levels[] = {0, 0.5f, 1, 1, 0.25f, 1.25f};
    float *keeps = numbers(masks * n, 0);
    for (size_t i = 0; i < masks * n; i++) keeps[i] = levels[net_below(&seed, 6)];
    return keeps;
}

static const struct net {
    const char *name;
    graph *(*convolutional)(net_components set, uint64_t seed); /* NULL: net_transformer */
    net_components set;
    activation act; /* of the transformer */
} nets[] = {
    {"basic blocks, filters", net_basic, NET_FILTERS, ACT_NONE},
    {"basic blocks, branches", net_basic, NET_BLOCKS, ACT_NONE},
    {"basic blocks, after ReLU", net_basic, NET_INPUTS, ACT_NONE},
    {"bottlenecks, filters", net_bottleneck, NET_FILTERS, ACT_NONE},
    {"bottlenecks, branches", net_bottleneck, NET_BLOCKS, ACT_NONE},
    {"transformer, neurons", NULL, NET_FILTERS, ACT_GELU_ERF},
    {"transformer, inputs of layers", NULL, NET_INPUTS, ACT_GELU_TANH},
    {"transformer, heads", NULL, NET_HEADS, ACT_QUICKGELU},
    {"transformer, branches", NULL, NET_BLOCKS, ACT_GELU_ERF},
};
enum { NETS = sizeof nets / sizeof *nets };

static graph *make_net(const struct net *net, uint64_t seed) {
    return net->convolutional ? net->convolutional(net->set, seed) : net_transformer(net->set, net->act, seed);
}

/* ------------------------------------------------------------------------------------ central differences */

/* How derivatives compared. A ReLU that changes sides within a step, or a pool's largest pixel, spoils a difference:
 * where a network has such `kinks`, a few may be off (one wrong op spoils all that lie before it). */
typedef struct account {
    bool kinks;
    size_t count, off;
} account;

/* `derivative` against factor * (up - down) / 2 steps; `largest`: of the derivatives beside it. */
static void check(account *a, double derivative, double factor, double up, double down, double largest) {
    const double rounding = 0x1p-22 * (1 + fabs(up)) / STEP, expected = factor * (up - down) / (2 * (double)STEP);
    const double limit = 1e-3 * largest + fabs(factor) * rounding;
    const bool off = !(fabs(derivative - expected) <= limit);
    if (off && !a->kinks) CHECK_NEAR(derivative, expected, limit);
    a->count++;
    a->off += off;
}

static void check_account(const account *a) {
    CHECK(a->count > 0 && a->off <= a->count / 20);
    printf("# %zu derivatives, %zu off\n", a->count, a->off);
}

/* Without kinks: every ReLU is a GELU. */
static void make_smooth(graph *g) {
    for (size_t i = 0; i < g->op_count; i++)
        if (g->ops[i].act == ACT_RELU) g->ops[i].act = ACT_GELU_ERF;
}

static double largest_of(const float *values, size_t count) {
    double largest = 0;
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs(values[i]));
    return largest;
}

/* dL/dk of component j in outputs[OUTPUTS][2 MASKS][EXAMPLES]: the upper masks first. */
static void check_component(account *a, float *const *gradients, const float *moved, uint32_t j, uint32_t n) {
    for (size_t k = 0; k < OUTPUTS; k++)
        for (size_t i = 0; i < MASKS * EXAMPLES; i++) {
            const float *up = moved + 2 * k * MASKS * EXAMPLES, *down = up + MASKS * EXAMPLES;
            check(a, gradients[k][i * n + j], 1, up[i], down[i], largest_of(gradients[k] + i * n, n));
        }
}

/* Every component, output, mask and example. */
static void keeps_moved(graph *g, ablation how, uint64_t seed, account *a) {
    const uint32_t n = g->components;
    const example_batch batch = net_batch(g, EXAMPLES, seed);
    float *keeps = random_keeps(MASKS, n, seed), *both = numbers((size_t)2 * MASKS * n, 0), *gradients[OUTPUTS];
    const mask_range range = {.count = MASKS, .n = n, .keeps = keeps};
    engine e;
    engine_open(&e, g,
                (engine_options){.backend = "reference",
                                 .outputs = SMOOTH_OUTPUTS,
                                 .ablation = how,
                                 .examples = EXAMPLES,
                                 .masks = 2 * MASKS,
                                 .reverse = true});
    float *here = engine_run(&e, &batch, &range), *outputs = numbers(MASKS * EXAMPLES, NAN);
    for (size_t k = 0; k < OUTPUTS; k++) {
        gradients[k] = engine_reverse(&e, &batch, REVERSE_MASK, k, &range, outputs);
        CHECK(!memcmp(outputs, here + k * MASKS * EXAMPLES, MASKS * EXAMPLES * sizeof *outputs));
    }
    for (uint32_t j = 0; j < n; j++) {
        memcpy(both, keeps, (size_t)MASKS * n * sizeof *both);
        memcpy(both + (size_t)MASKS * n, keeps, (size_t)MASKS * n * sizeof *both);
        for (size_t s = 0; s < 2 * MASKS; s++) both[s * n + j] += s < MASKS ? STEP : -STEP;
        float *moved = engine_run(&e, &batch, &(mask_range){.count = 2 * MASKS, .n = n, .keeps = both});
        check_component(a, gradients, moved, j, n);
        free(moved);
    }
    for (size_t k = 0; k < OUTPUTS; k++) free(gradients[k]);
    free(outputs);
    free(here);
    free(both);
    free(keeps);
    engine_close(&e);
    net_batch_free((example_batch *)&batch);
}

/* y = k x + (1 - k) fill: a fill that moves at every position of a component moves L by (1 - k) sum of dL/dy, and the
 * influence is k sum of dL/dy. */
static void fills_moved(graph *g, uint64_t seed, account *a) {
    const uint32_t n = g->components;
    const example_batch batch = net_batch(g, EXAMPLES, seed);
    float *keeps = random_keeps(MASKS, n, seed), *fill = numbers(g->rows, 0.25f);
    const mask_range range = {.count = MASKS, .n = n, .keeps = keeps};
    engine e; /* which borrows the fills */
    engine_open(&e, g,
                (engine_options){.backend = "reference",
                                 .ablation = {.kind = ABLATION_MEAN, .fill = fill},
                                 .outputs = "loss",
                                 .examples = EXAMPLES,
                                 .masks = MASKS,
                                 .reverse = true});
    float *influence = engine_reverse(&e, &batch, REVERSE_INFLUENCE, 0, &range, NULL);
    for (size_t i = 0; i < g->op_count; i++) {
        const mask_site *m = &g->ops[i].mask;
        for (uint32_t j = 0; m->place != PLACE_NONE && j < m->count; j++) {
            float *sides[2], *fills = fill + m->row_first + j * m->width;
            for (int side = 0; side < 2; side++) {
                for (uint32_t c = 0; c < m->width; c++) fills[c] = side ? 0.25f - STEP : 0.25f + STEP;
                sides[side] = engine_run(&e, &batch, &range);
            }
            for (uint32_t c = 0; c < m->width; c++) fills[c] = 0.25f;
            for (size_t pair = 0; pair < MASKS * EXAMPLES; pair++) {
                const double k = keeps[pair / EXAMPLES * n + m->first + j];
                check(a, (1 - k) * influence[pair * n + m->first + j], k, sides[0][pair], sides[1][pair],
                      largest_of(influence + pair * n, n));
            }
            free(sides[0]);
            free(sides[1]);
        }
    }
    free(influence);
    free(fill);
    free(keeps);
    engine_close(&e);
    net_batch_free((example_batch *)&batch);
}

/* Images that grow by `scale`: everything depends on them through the stem alone, whose linear outputs grow alike. So
 * its components' conductances, from one example to the next, add up to dL/dscale times the scales' difference. */
static void scales_moved(graph *g, uint64_t seed, account *a) {
    enum { PATH = 5 };
    const uint32_t n = g->components;
    const mask_site *stem = &g->ops[0].mask;
    const size_t image = shape_positions(g->values[0]) * g->values[0].c;
    example_batch batch = net_batch(g, PATH, seed);
    for (size_t e = 1; e < PATH; e++) {
        memcpy((uint8_t *)batch.inputs + e * image, batch.inputs, image);
        ((int32_t *)batch.labels)[e] = batch.labels[0];
    }
    float scales[PATH] = {0.5f, 0.75f, 1, 1.125f, 0}, *keeps = random_keeps(MASKS, n, seed), *sides[2];
    batch.scale = scales;
    const mask_range range = {.count = MASKS, .n = n, .keeps = keeps};
    engine e;
    engine_open(&e, g,
                (engine_options){
                    .backend = "reference", .outputs = "logit:3", .examples = PATH, .masks = MASKS, .reverse = true});
    float *conductance = engine_reverse(&e, &batch, REVERSE_CONDUCTANCE, 0, &range, NULL);
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < PATH; i++) scales[i] += side ? -2 * STEP : STEP;
        sides[side] = engine_run(&e, &batch, &range);
    }
    for (size_t i = 0; i < PATH; i++) scales[i] += STEP;
    for (size_t pair = 0; pair < MASKS * PATH; pair++) {
        const size_t example = pair % PATH;
        const double change = example ? scales[example] - scales[example - 1] : 0;
        double sum = 0;
        for (uint32_t j = 0; j < stem->count; j++) sum += conductance[pair * n + stem->first + j];
        for (uint32_t j = 0; !example && j < n; j++) CHECK_NEAR(conductance[pair * n + j], 0, 0);
        check(a, sum, change, sides[0][pair], sides[1][pair], largest_of(conductance + pair * n, n));
    }
    for (int side = 0; side < 2; side++) free(sides[side]);
    free(conductance);
    free(keeps);
    engine_close(&e);
    batch.scale = NULL;
    net_batch_free(&batch);
}

static void central_differences(void) {
    for (size_t i = 0; i < NETS; i += REDUCED ? 3 : 1) {
        const bool pools = nets[i].convolutional == net_bottleneck, mean = i % 2;
        account a = {.kinks = pools};
        graph *g = make_net(&nets[i], i);
        make_smooth(g);
        float *fill = random_keeps(1, g->rows, i);
        test_begin("%s: keeps moved, %s ablation", nets[i].name, mean ? "mean" : "zero");
        keeps_moved(g, mean ? (ablation){ABLATION_MEAN, .fill = fill} : zero, i, &a);
        check_account(&a);
        a = (account){.kinks = pools};
        test_begin("%s: influence, fills moved", nets[i].name);
        fills_moved(g, i, &a);
        check_account(&a);
        free(fill);
        graph_destroy(g);
    }

    test_begin("%s: conductance along images that grow", nets[0].name);
    account a = {0};
    graph *g = make_net(&nets[0], 3);
    make_smooth(g);
    scales_moved(g, 3, &a);
    check_account(&a);
    graph_destroy(g);

    test_begin("random graphs: keeps moved");
    a = (account){.kinks = true};
    for (uint64_t seed = 0; seed < (REDUCED ? 10 : 60); seed++) {
        g = net_random(seed);
        make_smooth(g);
        if (g->components) keeps_moved(g, zero, seed, &a);
        graph_destroy(g);
    }
    check_account(&a);
}

/* ------------------------------------------------------------------------------- what must change nothing */

static bool same(const float *a, const float *b, size_t count) {
    return !memcmp(a, b, count * sizeof *a);
}

/* Threads, one mask at a time, and the form of the masks. */
static void invariants(const char *backend, const struct net *net) {
    enum { MANY = 5, PAIRS = MANY * EXAMPLES };
    test_begin("%s, %s: threads, batches of masks and their form change no bit", backend, net->name);
    graph *g = make_net(net, 7);
    const uint32_t n = g->components;
    example_batch batch = net_batch(g, EXAMPLES, 9);
    const float gain = 0.5f;
    const sampler s = {.kind = SAMPLER_BERNOULLI, .seed = 3, .alpha = 0.3, .n = n};
    uint8_t *bits;
    float *keeps = numbers((size_t)MANY * n, 0), *scratch = numbers(mask_range_scratch_max(n), 0);
    CHECK_OK(memory_new(MANY, mask_bytes(n), "bits", &bits));
    const mask_range generated = {.count = MANY, .n = n, .sampler = &s, .first = 40};
    for (size_t m = 0; m < MANY; m++) {
        sampler_mask(&s, 40 + m, bits + m * mask_bytes(n), NULL);
        mask_range_keeps(&generated, m, gain, keeps + m * n, scratch);
    }
    engine_options o = {.backend = backend,
                        .ablation = {.kind = ABLATION_SCALE, .gain = gain},
                        .examples = EXAMPLES,
                        .masks = MANY,
                        .reverse = true,
                        .paths = true};
    engine one, three;
    engine_open(&one, g, o);
    o.threads = 3;
    engine_open(&three, g, o);
    for (reverse_kind kind = REVERSE_MASK; kind <= REVERSE_CONDUCTANCE; kind++) {
        float *expected = engine_reverse(&one, &batch, kind, 0, &generated, NULL);
        float *packed = engine_reverse(&three, &batch, kind, 0, &(mask_range){MANY, n, .bits = bits}, NULL);
        float *real = engine_reverse(&three, &batch, kind, 0, &(mask_range){MANY, n, .keeps = keeps}, NULL);
        CHECK(largest_of(expected, (size_t)PAIRS * n) > 0 && isfinite(largest_of(expected, (size_t)PAIRS * n)));
        CHECK(same(packed, expected, (size_t)PAIRS * n));
        CHECK(same(real, expected, (size_t)PAIRS * n));
        for (size_t m = 0; m < MANY; m++) {
            const mask_range single = {.count = 1, .n = n, .keeps = keeps + m * n};
            float *alone = engine_reverse(&three, &batch, kind, 0, &single, NULL);
            CHECK(same(alone, expected + m * EXAMPLES * n, (size_t)EXAMPLES * n));
            free(alone);
        }
        free(expected);
        free(packed);
        free(real);
    }
    engine_close(&one);
    engine_close(&three);
    free(bits);
    free(keeps);
    free(scratch);
    net_batch_free(&batch);
    graph_destroy(g);
}

/* (pixel / 255 - mean) / std times 1/2 is that of twice the std, to the bit. */
static void scaled_images(const char *backend) {
    test_begin("%s: scale multiplies what is normalised, for outputs and derivatives, until the next bind", backend);
    graph *g = net_basic(NET_FILTERS, 4);
    const uint32_t n = g->components;
    const example_batch plain = net_batch(g, EXAMPLES, 5);
    const float halves[EXAMPLES] = {0.5f, 0.5f}, ones[EXAMPLES] = {1, 1},
                twice[3] = {2 * plain.std[0], 2 * plain.std[1], 2 * plain.std[2]};
    example_batch scaled = plain, wide = plain, whole = plain;
    scaled.scale = halves;
    whole.scale = ones;
    wide.std = twice;
    float *keeps = random_keeps(1, n, 6);
    const mask_range range = {.count = 1, .n = n, .keeps = keeps};
    const example_batch *const pairs[][2] = {{&scaled, &wide}, {&whole, &plain}};
    engine e;
    engine_open(&e, g, (engine_options){.backend = backend, .examples = EXAMPLES, .masks = 1, .reverse = true});
    for (size_t i = 0; i < 2; i++) {
        float *a = engine_run(&e, pairs[i][0], &range), *b = engine_run(&e, pairs[i][1], &range);
        CHECK(same(a, b, OUTPUTS * EXAMPLES));
        free(a);
        free(b);
        a = engine_reverse(&e, pairs[i][0], REVERSE_MASK, 0, &range, NULL);
        b = engine_reverse(&e, pairs[i][1], REVERSE_MASK, 0, &range, NULL);
        CHECK(same(a, b, (size_t)EXAMPLES * n));
        free(a);
        free(b);
    }
    engine_close(&e);
    free(keeps);
    net_batch_free((example_batch *)&plain);
    graph_destroy(g);
}

/* On the reference alone, which has no tiles: another backend's examples may be computed in another form alone. */
static void one_example_at_a_time(void) {
    test_begin("reference: an example alone has the same derivatives");
    graph *g = net_bottleneck(NET_FILTERS, 2);
    const uint32_t n = g->components;
    const size_t image = shape_positions(g->values[0]) * g->values[0].c;
    const example_batch batch = net_batch(g, EXAMPLES, 1);
    float *keeps = random_keeps(1, n, 6);
    const mask_range range = {.count = 1, .n = n, .keeps = keeps};
    engine e;
    engine_open(&e, g, (engine_options){.backend = "reference", .examples = EXAMPLES, .masks = 1, .reverse = true});
    float *both = engine_reverse(&e, &batch, REVERSE_MASK, 1, &range, NULL);
    for (size_t i = 0; i < EXAMPLES; i++) {
        example_batch single = batch;
        single.inputs = (const uint8_t *)batch.inputs + i * image;
        single.labels += i;
        single.count = 1;
        float *alone = engine_reverse(&e, &single, REVERSE_MASK, 1, &range, NULL);
        CHECK(same(alone, both + i * n, n));
        free(alone);
    }
    free(both);
    free(keeps);
    engine_close(&e);
    net_batch_free((example_batch *)&batch);
    graph_destroy(g);
}

static void refusals(const char *backend) {
    test_begin("%s: what cannot be differentiated", backend);
    enum { PATH = 33 };
    graph *g = net_basic(NET_FILTERS, 1);
    example_batch batch = net_batch(g, PATH, 1);
    float *keeps = random_keeps(1, g->components, 1), *gradients = numbers((size_t)PATH * g->components, 0);
    const mask_range range = {.count = 1, .n = g->components, .keeps = keeps};
    engine_options o = {.backend = backend, .examples = PATH, .masks = 1, .reverse = true};
    engine e;
    engine_open(&e, g, o);
    CHECK_OK(e.interface->bind(e.b, &batch));
    CHECK_ERROR(e.interface->run_reverse(e.b, REVERSE_MASK, OUTPUTS, &range, gradients, NULL), COAR_ERROR_INTERNAL,
                "output 4");
    status_clear();
    CHECK_ERROR(e.interface->run_reverse(e.b, REVERSE_CONDUCTANCE, 0, &range, gradients, NULL), COAR_ERROR_INTERNAL,
                "33");
    status_clear();
    CHECK_ERROR(e.interface->run_reverse(e.b, REVERSE_MASK, 0, &(mask_range){.count = 1, .n = 3, .keeps = keeps},
                                         gradients, NULL),
                COAR_ERROR_INTERNAL, "3 components");
    status_clear();
    engine_close(&e);
    o.reverse = false;
    engine_open(&e, g, o);
    CHECK_OK(e.interface->bind(e.b, &batch));
    CHECK_ERROR(e.interface->run_reverse(e.b, REVERSE_MASK, 0, &range, gradients, NULL), COAR_ERROR_INTERNAL,
                "a reverse pass");
    status_clear();
    engine_close(&e);
    free(keeps);
    free(gradients);
    net_batch_free(&batch);
    graph_destroy(g);
}

int main(void) {
    static const char *const backends[] = {"reference", "cpu", "cuda"};
    central_differences();
    one_example_at_a_time();
    for (size_t k = 0; k < sizeof backends / sizeof *backends; k++) {
        const backend_interface *interface;
        if (backend_find(backends[k], NULL, &interface) != COAR_OK || !interface->run_reverse) {
            test_begin("%s: what must not change a derivative", backends[k]);
            test_skip("no backend %s with a reverse pass here", backends[k]);
            status_clear();
            continue;
        }
        for (size_t i = 0; i < NETS; i++) invariants(backends[k], &nets[i]);
        scaled_images(backends[k]);
        refusals(backends[k]);
    }
    return test_end();
}
