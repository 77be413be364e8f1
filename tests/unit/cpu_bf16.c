/*
 * cpu_bf16.c - bf16 on CPUs: products to the bit of what AVX-512 BF16 is documented to do, by a model of it in scalar
 * code; networks against the reference backend in the same precision; what a plan of it says and refuses.
 */
#include "backend/cpu/cpu_isa.h"
#include "engines.h"
#include "lanes.h"
#include "nets.h"

/* -------------------------------------------------------------------------------------------- one product */

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float flush(float value) {
    return fabsf(value) < 0x1p-126f ? copysignf(0, value) : value;
}

/* As VDPBF16PS: the upper numbers' product first. */
static float dot(float sum, const float x[2], const float w[2]) {
    sum = flush(fmaf(x[1], w[1], sum));
    return flush(fmaf(x[0], w[0], sum));
}

/* Numbers of bf16 that products are sensitive to: near the least and the greatest, at ties of rounding, special ones. */
static float awkward(void) {
    static const float some[] = {0,        -0.0f,     0x1p-126f, -0x1.04p-126f, 0x1.fep127f, -0x1.fep127f,
                                 1,        0x1.02p0f, 0x1p-63f,  -0x1.02p-63f,  0x1p63f,     -0x1.fep63f,
                                 0x1p-75f, 0x1p-12f,  INFINITY};
    const uint32_t kind = lanes_random(4);
    if (kind == 0) return some[lanes_random(sizeof some / sizeof *some)];
    const float value = ldexpf(lanes_value(), kind == 1 ? (int)lanes_random(8) : (int)lanes_random(200) - 100);
    return flush(precision_stored(PRECISION_BF16, value));
}

/* Of fp32: also subnormals and what is halfway between two numbers of bf16. */
static float awkward_input(void) {
    const float value = awkward();
    const uint32_t tail[] = {0, 0x8000, 0x7FFF, 0x8001};
    if (lanes_random(8) == 0) return from_bits(lanes_random(1 << 23) | lanes_random(2) << 31);
    return isfinite(value) ? from_bits((bits_of(value) & 0xFFFF0000) | tail[lanes_random(4)]) : value;
}

static float rounded(float value) {
    return precision_stored(PRECISION_BF16, flush(value));
}

/* A 1x1 convolution of one row is a sum of products of pairs, from zero. */
static void check_products(const cpu_kernels *k) {
    enum { PAIRS = 3, CHANNELS = 2 * PAIRS, POSITIONS = 2000 };
    const window w = {1, POSITIONS, 1, POSITIONS, 1, 1, 1, 0};
    float *x = lanes_values((size_t)POSITIONS * CHANNELS), *weight = lanes_weights(CHANNELS);
    float *packed = lanes_weights(conv_packed_size(1, PAIRS, 1, k->tile_rows));
    static uint32_t zone[POSITIONS];
    const size_t row = 0;
    const uint32_t channel = 0, column[PAIRS] = {0, k->tile_rows, 2 * k->tile_rows};
    const uint32_t pair[PAIRS][2] = {{0, 1}, {2, 3}, {4, 5}};
    conv_args c = {.window = w,
                   .in_channels = CHANNELS,
                   .out_channels = 1,
                   .input = x,
                   .output = lanes_output(POSITIONS),
                   .rows = 1,
                   .weight = packed,
                   .row = &row,
                   .column = column,
                   .tap = (size_t)PAIRS * k->tile_rows,
                   .channel = &channel,
                   .mul = lanes_values(1),
                   .add = lanes_values(1),
                   .zone_y = zone,
                   .zone_x = zone,
                   .zones_x = 1,
                   .scratch = lanes_output(k->conv_bf16_scratch(&w, CHANNELS) / LANES),
                   .pairs = PAIRS,
                   .pair = pair,
                   .linear = lanes_output(POSITIONS)};
    int wrong = 0, finite = 0, zeros = 0;
    for (int round = 0; round < 40; round++) {
        for (size_t i = 0; i < CHANNELS; i++) weight[i] = awkward_input();
        for (size_t i = 0; i < (size_t)POSITIONS * CHANNELS * LANES; i++) x[i] = awkward_input();
        k->conv_bf16_pack(&w, CHANNELS, 1, weight, packed);
        k->conv_bf16(&c);
        for (size_t i = 0; i < (size_t)POSITIONS * LANES; i++) {
            float sum = 0;
            for (size_t p = 0; p < PAIRS; p++) {
                const float *from = x + (i / LANES * CHANNELS + 2 * p) * LANES + i % LANES;
                sum = dot(sum, (float[]){rounded(from[0]), rounded(from[LANES])},
                          (float[]){rounded(weight[2 * p]), rounded(weight[2 * p + 1])});
            }
            const bool same = isnan(sum) ? isnan(c.linear[i]) : bits_of(sum) == bits_of(c.linear[i]);
            if (!same && wrong++ < 3)
                test_fail(__FILE__, __LINE__, "round %d, sum %zu: got %a, expected %a", round, i, (double)c.linear[i],
                          (double)sum);
            finite += isfinite(sum) && sum != 0;
            zeros += sum == 0;
        }
    }
    CHECK_INT(wrong, 0);
    CHECK(finite > 100000 && zeros > 1000);
}

/* --------------------------------------------------------------------------------------------- networks */

enum { MASKS = 3, EXAMPLES = 37 /* a group and some more */ };

static engine_options options_for(const char *backend, const char *precision) {
    return (engine_options){
        .backend = backend, .precision = precision, .examples = EXAMPLES, .masks = MASKS, .threads = 2};
}

static float *outputs_of(const graph *g, engine_options o, const example_batch *batch, const mask_range *masks) {
    engine e;
    engine_open(&e, g, o);
    float *outputs = engine_run(&e, batch, masks);
    engine_close(&e);
    return outputs;
}

/* A sixth ablated, so that of some pairs of channels one is kept, of others both or none. */
static sampler masks_of(const graph *g) {
    return (sampler){.kind = SAMPLER_BERNOULLI, .seed = 5, .stream = 1, .alpha = .17, .n = g->components};
}

static void check_network(const graph *g, size_t k) {
    const sampler s = masks_of(g);
    const mask_range masks = {.count = MASKS, .n = g->components, .sampler = &s};
    const size_t count = MASKS * EXAMPLES, outputs = engine_outputs(g);
    example_batch batch = net_batch(g, EXAMPLES, k);
    engine_options o = options_for("cpu", "bf16");
    float *expected = outputs_of(g, options_for("reference", "bf16"), &batch, &masks);
    float *fp32 = outputs_of(g, options_for("cpu", "fp32"), &batch, &masks), *y = outputs_of(g, o, &batch, &masks);
    for (size_t output = 0; output < outputs; output++)
        CHECK_NEAR(rms_difference(y + output * count, expected + output * count, count), 0, .03);
    CHECK(largest_difference(y, fp32, count) > 1e-5); /* it was bf16 */
    o.memory = engine_memory(g, o, 0);                /* for one worker, though there are two threads */
    float *other = outputs_of(g, o, &batch, &masks);
    engine_same_bits(other, y, outputs * count);
    free(other);
    free(y);
    free(fp32);
    free(expected);
    net_batch_free(&batch);
}

static void check_networks(void) {
    for (size_t k = 0; k < NETS_NAMED + 4; k += REDUCED ? 5 : 1) {
        named_net net = net_number(k);
        test_begin("%s: the reference's outputs in bf16, to 3 %% rms, whatever threads and memory", net.name);
        check_network(net.g, k);
        graph_destroy(net.g);
    }
}

/* Networks sum in the same order and fuse the same products in every instruction set but the portable one, which fuses
 * none. Where the machine has AVX-512 BF16, its own instructions are compared with what is done elsewhere. */
static void check_isas(size_t k) {
    named_net net = net_number(k);
    const sampler s = masks_of(net.g);
    const mask_range masks = {.count = MASKS, .n = net.g->components, .sampler = &s};
    example_batch batch = net_batch(net.g, EXAMPLES, k);
    float *first = NULL;
    const char *first_name = NULL;
    for (size_t i = 0; i < CPU_ISAS_KNOWN; i++) {
        if (!cpu_isa_runs(&cpu_isas[i]) || !strcmp(cpu_isas[i].name, "portable")) continue;
        setenv("COAR_ISA", cpu_isas[i].name, 1);
        float *y = outputs_of(net.g, options_for("cpu", "bf16"), &batch, &masks);
        if (first) {
            test_begin("%s: the bits of %s in %s", net.name, first_name, cpu_isas[i].name);
            engine_same_bits(y, first, engine_outputs(net.g) * MASKS * EXAMPLES);
            free(y);
        } else {
            first = y;
            first_name = cpu_isas[i].name;
        }
    }
    unsetenv("COAR_ISA");
    free(first);
    net_batch_free(&batch);
    graph_destroy(net.g);
}

/* A reverse pass under a plan of bf16 is in fp32, and runs beside forward passes in bf16. */
static void check_reverse(size_t k) {
    named_net net = net_number(k);
    const sampler s = masks_of(net.g);
    const mask_range masks = {.count = MASKS, .n = net.g->components, .sampler = &s};
    example_batch batch = net_batch(net.g, EXAMPLES, k);
    float *gradients[2], *outputs[2], *forward;
    test_begin("%s: reverse passes have the bits of fp32, forward passes beside them those of bf16", net.name);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        engine e;
        engine_options o = options_for("cpu", bf16 ? "bf16" : "fp32");
        o.reverse = true;
        engine_open(&e, net.g, o);
        outputs[bf16] = calloc(MASKS * EXAMPLES, sizeof(float));
        forward = bf16 ? engine_run(&e, &batch, &masks) : NULL;
        gradients[bf16] = engine_reverse(&e, &batch, REVERSE_MASK, 0, &masks, outputs[bf16]);
        engine_close(&e);
    }
    engine_same_bits(gradients[1], gradients[0], (size_t)MASKS * EXAMPLES * net.g->components);
    engine_same_bits(outputs[1], outputs[0], MASKS * EXAMPLES);
    float *alone = outputs_of(net.g, options_for("cpu", "bf16"), &batch, &masks);
    engine_same_bits(forward, alone, MASKS * EXAMPLES);
    for (int bf16 = 0; bf16 < 2; bf16++) free(gradients[bf16]), free(outputs[bf16]);
    free(forward);
    free(alone);
    net_batch_free(&batch);
    graph_destroy(net.g);
}

/* ------------------------------------------------------------------------------------------------- plans */

static void check_plans(void) {
    named_net net = net_number(0);
    numerics_plan plan, again;
    const backend_interface *cpu;
    test_begin("plans: bf16 is kept through JSON, what CPUs have not is refused");
    CHECK_OK(plan_create(net.g, "cpu", "bf16", 0, &plan));
    CHECK_TEXT(plan.precision, "bf16");
    char *json = plan_to_json(&plan);
    CHECK_OK(plan_from_json(net.g, json, "test", &again));
    CHECK_TEXT(again.hash, plan.hash);
    plan_free(&again);
    char *at = strstr(json, "bf16");
    memcpy(at, "fp16", 4);
    CHECK_ERROR(plan_from_json(net.g, json, "test", &again), COAR_ERROR_MISMATCH, "'fp16'");
    free(json);
    plan_free(&plan);
    status_clear();
    CHECK_ERROR(plan_create(net.g, "cpu", "fp16", 0, &plan), COAR_ERROR_UNSUPPORTED, "give auto, fp32 or bf16");
    status_clear();
    CHECK_ERROR(plan_create(net.g, "cpu", "tf32", 0, &plan), COAR_ERROR_UNSUPPORTED, "'tf32'");
    CHECK_OK(plan_create(net.g, "cpu", "auto", 0, &plan));
    CHECK_TEXT(plan.precision, "fp32");
    plan_free(&plan);

    test_begin("--precision auto tries bf16 where the machine has its instructions, and nothing elsewhere");
    CHECK_OK(backend_find("cpu", NULL, &cpu));
    CHECK(!*cpu->precisions("cpu/portable") && !*cpu->precisions("cpu/avx2") && !*cpu->precisions("cpu/avx512"));
    CHECK_TEXT(*cpu->precisions("cpu/avx512bf16"), "bf16");
    graph_destroy(net.g);
}

int main(void) {
    lanes_each("products of awkward numbers, to the bit", check_products);
    check_networks();
    check_isas(0);
    check_isas(NETS_TRANSFORMERS);
    check_reverse(0);
    check_reverse(NETS_TRANSFORMERS);
    check_reverse(NETS_LANGUAGE);
    check_reverse(NETS_LANGUAGE + 1);
    check_plans();
    return test_end();
}
