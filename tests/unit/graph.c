/* graph.c - building and checking op lists, the buffer planner, the numerics plan. */
#include "test.h"

#include "backend/plan.h"
#include "core/files.h"
#include "nets.h"

/* ------------------------------------------------------------------------------------ graph_add */

static const float one_weight[4096];

static op conv(int input, uint32_t kernel, uint32_t stride, uint32_t pad) {
    return (op){.kind = OP_CONV,
                .name = "layer",
                .input = {input, -1, -1},
                .residual = -1,
                .kernel_h = kernel,
                .kernel_w = kernel,
                .stride = stride,
                .pad = pad,
                .weight = one_weight};
}

static void shapes(void) {
    test_begin("graph_add: shapes of every op");
    graph *g;
    int v;
    CHECK_OK(graph_create((shape){7, 10, 3}, 0, &g));
    static const struct {
        op o;
        uint32_t channels;
        shape expected;
    } cases[] = {
        {{.kind = OP_CONV, .kernel_h = 3, .kernel_w = 3, .stride = 2, .pad = 1}, 5, {4, 5, 5}},
        {{.kind = OP_CONV, .kernel_h = 7, .kernel_w = 7, .stride = 2, .pad = 3}, 4, {4, 5, 4}},
        {{.kind = OP_CONV, .kernel_h = 4, .kernel_w = 4, .stride = 4}, 6, {1, 2, 6}},
        {{.kind = OP_CONV, .kernel_h = 1, .kernel_w = 1, .stride = 2}, 6, {4, 5, 6}},
        {{.kind = OP_MAXPOOL, .kernel_h = 3, .kernel_w = 3, .stride = 2, .pad = 1}, 0, {4, 5, 3}},
        {{.kind = OP_AVGPOOL, .kernel_h = 7, .kernel_w = 10, .stride = 1}, 0, {1, 1, 3}},
        {{.kind = OP_SUBSAMPLE, .stride = 2, .pad = 1}, 6, {4, 5, 6}},
        {{.kind = OP_EMBED}, 0, {1, 71, 3}},
        {{.kind = OP_LAYERNORM, .eps = 1e-6f}, 0, {7, 10, 3}},
        {{.kind = OP_ATTENTION, .heads = 3}, 0, {7, 10, 3}},
        {{.kind = OP_SELECT}, 0, {1, 1, 3}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        op o = cases[i].o;
        o.residual = -1;
        o.weight = one_weight;
        CHECK_OK(graph_add(g, &o, cases[i].channels, &v));
        CHECK_INT(v, i + 1);
        CHECK_INT(g->ops[i].output, v);
        CHECK_INT(g->values[v].h, cases[i].expected.h);
        CHECK_INT(g->values[v].w, cases[i].expected.w);
        CHECK_INT(g->values[v].c, cases[i].expected.c);
    }
    CHECK_INT(graph_weight_count(g, &g->ops[0]), 5 * 3 * 9);
    CHECK_INT(graph_weight_count(g, &g->ops[7]), 71 * 3);
    CHECK_NEAR(graph_op_flops(g, &g->ops[0]), 2.0 * 20 * 5 * 3 * 9, 0);
    CHECK_NEAR(graph_op_flops(g, &g->ops[9]), 2.0 * 2 * 70 * 70 * 3, 0);
    graph_destroy(g);
}

/* A language model's input is for its tables of tokens alone, and its last op says what comes next. */
static void tokens(void) {
    test_begin("graph_add: tokens");
    graph *g;
    int v, head;
    CHECK_ERROR(graph_create((shape){1, 5, 1}, 1, &g), COAR_ERROR_INPUT, "vocabulary of 1");
    status_clear();
    CHECK_ERROR(graph_create((shape){1, 1, 1}, 9, &g), COAR_ERROR_INPUT, "texts of 1");
    status_clear();
    CHECK_OK(graph_create((shape){1, 5, 1}, 9, &g));
    op lookup = {.kind = OP_LOOKUP, .name = "lookup", .vocabulary = 9, .weight = one_weight, .shift = one_weight};
    op next = {.kind = OP_NEXT, .name = "next", .input = {1, 0}, .vocabulary = 9, .weight = one_weight};
    op linear = conv(0, 1, 1, 0);
    CHECK_ERROR(graph_add(g, &linear, 1, &v), COAR_ERROR_INTERNAL, "does not fit the graph's tokens");
    status_clear();
    lookup.vocabulary = 8;
    CHECK_ERROR(graph_add(g, &lookup, 6, &v), COAR_ERROR_INTERNAL, "does not fit the graph's tokens");
    status_clear();
    lookup.vocabulary = 9;
    CHECK_OK(graph_add(g, &lookup, 6, &v));
    CHECK_INT(g->values[v].w, 5);
    CHECK_INT(g->values[v].c, 6);
    CHECK_INT(graph_weight_count(g, &g->ops[0]), 9 * 6);
    linear.input[0] = v;
    linear.residual = 0;
    CHECK_ERROR(graph_add(g, &linear, 1, &v), COAR_ERROR_INTERNAL, "does not fit the graph's tokens");
    status_clear();
    CHECK_ERROR(graph_finish(g, v, 0), COAR_ERROR_INTERNAL, "what comes next");
    status_clear();
    CHECK_OK(graph_add(g, &next, 0, &head));
    CHECK_INT(g->values[head].c, NEXT_CHANNELS);
    CHECK_NEAR(graph_op_flops(g, &g->ops[1]), 2.0 * 5 * 6 * 9, 0);
    CHECK_INT(graph_weight_bytes(g), (9 * 6 + 5 * 6) * sizeof(float)); /* the head is tied to the table */
    CHECK_OK(graph_finish(g, head, 0));
    CHECK_INT(graph_input_bytes(g), 5 * sizeof(int32_t));
    CHECK(!graph_label_fits(g, 1) && graph_label_fits(g, 2) && graph_label_fits(g, 5) && !graph_label_fits(g, 6));
    graph_destroy(g);
}

static void refusals(void) {
    test_begin("graph_add: what does not fit is refused, naming the layer");
    graph *g;
    int v;
    CHECK_ERROR(graph_create((shape){0, 1, 1}, 0, &g), COAR_ERROR_INPUT, "input");
    status_clear();
    CHECK_ERROR(graph_create((shape){65536, 65536, 3}, 0, &g), COAR_ERROR_INPUT, "too large");
    status_clear();
    CHECK_OK(graph_create((shape){8, 8, 4}, 0, &g));
    op base = conv(0, 3, 1, 1);
    base.mask = (mask_site){.place = PLACE_PRE, .count = 6, .width = 1};
#define REFUSED(change, code, text)                                                                                    \
    do {                                                                                                               \
        op o = base;                                                                                                   \
        change;                                                                                                        \
        CHECK_ERROR(graph_add(g, &o, 6, &v), code, text);                                                              \
        CHECK(strstr(coar_last_error(), "layer"));                                                                     \
        status_clear();                                                                                                \
    } while (0)
    REFUSED(o.input[0] = 1, COAR_ERROR_INTERNAL, "before it is made");
    REFUSED(o.input[0] = -1, COAR_ERROR_INTERNAL, "before it is made");
    REFUSED(o.residual = 0, COAR_ERROR_INPUT, "another shape");
    REFUSED(o.residual = 9, COAR_ERROR_INTERNAL, "before it is made");
    REFUSED(o.stride = 0, COAR_ERROR_INPUT, "stride 0");
    REFUSED(o.kernel_h = 0, COAR_ERROR_INPUT, "kernel 0");
    REFUSED(o.pad = 3, COAR_ERROR_INPUT, "padding 3");
    REFUSED(o.kernel_h = o.kernel_w = 11, COAR_ERROR_INPUT, "no elements");
    REFUSED(o.kernel_h = o.kernel_w = UINT32_MAX, COAR_ERROR_INPUT, "too many weights");
    REFUSED(o.weight = NULL, COAR_ERROR_INTERNAL, "no weights");
    REFUSED(o.mask.count = 5, COAR_ERROR_INTERNAL, "do not make 6 channels");
    REFUSED(o.mask.width = 0, COAR_ERROR_INTERNAL, "do not make 6 channels");
    REFUSED((o.kind = OP_LAYERNORM, o.eps = NAN), COAR_ERROR_INPUT, "epsilon");
    REFUSED(o.kind = OP_LAYERNORM, COAR_ERROR_INTERNAL, "cannot act");
    REFUSED((o.kind = OP_ATTENTION, o.input[1] = o.input[2] = 0, o.heads = 3), COAR_ERROR_INPUT, "3 heads");
    REFUSED(o.kind = OP_AVGPOOL, COAR_ERROR_INPUT, "padded");
    REFUSED((o.kind = OP_SUBSAMPLE, o.pad = 3), COAR_ERROR_INPUT, "do not fit");
    CHECK_INT(g->op_count, 0);
    CHECK_INT(g->rows, 0);

    CHECK_OK(graph_add(g, &base, 6, &v));
    CHECK_ERROR(graph_finish(g, v, 6), COAR_ERROR_INPUT, "one vector");
    status_clear();
    op pool = {.kind = OP_AVGPOOL, .name = "pool", .input = {v}, .kernel_h = 8, .kernel_w = 8, .stride = 1};
    CHECK_OK(graph_add(g, &pool, 0, &v));
    op last = conv(v, 1, 1, 0);
    last.mask = (mask_site){.place = PLACE_OUT, .first = 5, .count = 2, .width = 2};
    CHECK_OK(graph_add(g, &last, 4, &v));
    CHECK_INT(g->ops[2].mask.row_first, 6);
    CHECK_INT(g->rows, 10);
    CHECK_ERROR(graph_finish(g, v, 7), COAR_ERROR_INTERNAL, "two layers");
    status_clear();
    g->ops[2].mask.first = 6;
    CHECK_ERROR(graph_finish(g, v, 7), COAR_ERROR_INTERNAL, "beyond");
    status_clear();
    CHECK_OK(graph_finish(g, v, 8));
    graph_destroy(g);
    graph_destroy(NULL);
}

/* -------------------------------------------------------------------------------------- planner */

/* By brute force: walks the ops and remembers which value each buffer holds; whatever an op reads must still be there.
 * An op may write where it reads only over its residual. */
static void check_buffers(const graph *g, const buffer_plan *plan) {
    int *holds = malloc(plan->buffers * sizeof *holds);
    for (size_t b = 0; b < plan->buffers; b++) holds[b] = -1;
    holds[plan->buffer[0]] = 0;
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        for (int k = 0; k < 3; k++) {
            if (o->input[k] < 0) continue;
            CHECK_INT(holds[plan->buffer[o->input[k]]], o->input[k]);
            CHECK(plan->buffer[o->input[k]] != plan->buffer[o->output]);
        }
        if (o->residual >= 0) CHECK_INT(holds[plan->buffer[o->residual]], o->residual);
        holds[plan->buffer[o->output]] = o->output;
        shape s = g->values[o->output];
        CHECK(plan->size[plan->buffer[o->output]] >= shape_positions(s) * s.c);
    }
    CHECK_INT(holds[plan->buffer[g->logits]], g->logits);
    CHECK_INT(holds[plan->buffer[0]], 0);
    free(holds);
}

static void planner(void) {
    test_begin("buffer planner: 2,000 random graphs, no value is overwritten before its last use");
    size_t shared = 0, all = 0;
    for (uint64_t seed = 0; seed < 2000; seed++) {
        graph *g = net_random(seed);
        buffer_plan plan;
        CHECK_OK(buffer_plan_create(g, false, &plan));
        check_buffers(g, &plan);
        size_t total = 0;
        for (size_t b = 0; b < plan.buffers; b++) total += plan.size[b];
        CHECK_INT(plan.total, total);
        shared += total;
        buffer_plan_free(&plan);

        CHECK_OK(buffer_plan_create(g, true, &plan));
        CHECK_INT(plan.buffers, g->value_count);
        check_buffers(g, &plan);
        all += plan.total;
        buffer_plan_free(&plan);
        graph_destroy(g);
    }
    CHECK(shared < all * 6 / 10);

    test_begin("buffer planner: a residual chain needs the input, two full buffers and the logits");
    graph *g = net_basic(NET_FILTERS, 1);
    buffer_plan plan;
    CHECK_OK(buffer_plan_create(g, false, &plan));
    check_buffers(g, &plan);
    /* Block 1: the second convolution writes over its residual, the block's input. */
    CHECK_INT(plan.buffer[3], plan.buffer[1]);
    CHECK(plan.total <= 11 * 9 * (3 + 7 + 7) + 6 * 5 * 13 + 13);
    buffer_plan_free(&plan);
    graph_destroy(g);
}

/* ---------------------------------------------------------------------------------------- plans */

static void check_forms(const graph *g, const numerics_plan *plan, const int *expected) {
    for (size_t i = 0; i < g->op_count; i++) {
        if (plan->form[i] != expected[i])
            test_fail(__FILE__, __LINE__, "%s: form %d, expected %d", g->ops[i].name, plan->form[i], expected[i]);
    }
}

static void plan_rule(void) {
    test_begin("numerics plan: the CPU rule");
    setenv("COAR_ISA", "portable", 1);
    enum { P = FORM_PLAIN, D = FORM_DIRECT, C = FORM_COMPACTED, W = FORM_WINOGRAD, WC = FORM_WINOGRAD_COMPACTED };
    graph *g = net_basic(NET_FILTERS, 1);
    numerics_plan plan;
    CHECK_OK(plan_create(g, "cpu", "auto", 0, &plan));
    CHECK_TEXT(plan.device_class, "cpu/portable");
    CHECK_TEXT(plan.precision, "fp32");
    /* The stem is read by a convolution and as residual: direct. In blocks the first convolution is compacted. Where
     * both sides have eight channels or more, and the stride is 1, Winograd's form is the faster one. */
    check_forms(g, &plan, (const int[]){D, C, D, P, C, W, WC, W, P, D});
    plan_free(&plan);
    CHECK_OK(plan_create(g, "cpu", "auto", 1, &plan));
    check_forms(g, &plan, (const int[]){D, C, D, P, C, D, C, D, P, D});
    plan_free(&plan);
    CHECK_OK(plan_create(g, "reference", NULL, 0, &plan));
    CHECK_TEXT(plan.device_class, "reference");
    check_forms(g, &plan, (const int[]){P, P, P, P, P, P, P, P, P, P});
    plan_free(&plan);
    graph_destroy(g);

    g = net_basic(NET_BLOCKS, 1); /* no PRE masks */
    CHECK_OK(plan_create(g, "cpu", "fp32", 1, &plan));
    check_forms(g, &plan, (const int[]){D, D, D, P, D, D, D, D, P, D});
    plan_free(&plan);
    graph_destroy(g);

    g = net_transformer(NET_FILTERS, ACT_GELU_ERF, 1);
    CHECK_OK(plan_create(g, "cpu", "fp32", 0, &plan));
    /* patches embed | norm q k v attention out norm up down | ... | norm select head; `up` has one conv reader, and so has
     * what attention makes of v */
    check_forms(g, &plan, (const int[]){D, P, P, D, D, C, P, D, P, C, D, P, D, D, C, P, D, P, C, D, P, P, D});
    plan_free(&plan);
    graph_destroy(g);

    g = net_transformer(NET_HEADS, ACT_GELU_ERF, 1);
    CHECK_OK(plan_create(g, "cpu", "fp32", 0, &plan));
    check_forms(g, &plan, (const int[]){D, P, P, D, D, D, C, D, P, D, D, P, D, D, D, C, D, P, D, D, P, P, D});
    plan_free(&plan);
    graph_destroy(g);

    g = net_transformer(NET_INPUTS, ACT_GELU_ERF, 1); /* norms, channels of attention, hidden units */
    CHECK_OK(plan_create(g, "cpu", "fp32", 0, &plan));
    check_forms(g, &plan, (const int[]){D, P, C, D, D, D, C, D, C, C, D, C, D, D, D, C, D, C, C, D, P, P, D});
    plan_free(&plan);
    graph_destroy(g);

    g = net_clip(NET_FILTERS, 1); /* the second convolution is read by the mean token, which wants all channels */
    CHECK_OK(plan_create(g, "cpu", "fp32", 0, &plan));
    check_forms(g, &plan, (const int[]){C, D, P, D, D, C, P, D, P, P, D});
    plan_free(&plan);
    graph_destroy(g);
    unsetenv("COAR_ISA");
}

static void plan_rule_limits(void) {
    test_begin("numerics plan: no compaction where a residual is added, nor of the logits");
    setenv("COAR_ISA", "portable", 1);
    graph *g;
    numerics_plan plan;
    int v;
    CHECK_OK(graph_create((shape){1, 1, 4}, 0, &g));
    for (uint32_t i = 0; i < 4; i++) { /* a chain of masked layers; the second adds the input */
        op o = conv((int)i, 1, 1, 0);
        o.mask = (mask_site){.place = PLACE_PRE, .first = 4 * i, .count = 4, .width = 1};
        if (i == 1) o.residual = 0;
        CHECK_OK(graph_add(g, &o, 4, &v));
    }
    CHECK_OK(graph_finish(g, 3, 16)); /* the logits are read once more, by the last layer */
    CHECK_OK(plan_create(g, "cpu", "auto", 0, &plan));
    check_forms(g, &plan, (const int[]){FORM_COMPACTED, FORM_DIRECT, FORM_DIRECT, FORM_DIRECT});
    plan_free(&plan);
    graph_destroy(g);

    test_begin("numerics plan: no compaction of what is divided by its length, which is that of all channels");
    CHECK_OK(graph_create((shape){1, 1, 4}, 0, &g));
    op first = conv(0, 1, 1, 0), unit = {.kind = OP_NORMALISE, .residual = -1};
    first.mask = (mask_site){.place = PLACE_PRE, .count = 4, .width = 1};
    CHECK_OK(graph_add(g, &first, 4, &v));
    unit.input[0] = v;
    CHECK_OK(graph_add(g, &unit, 0, &v));
    const op last = conv(v, 1, 1, 0);
    CHECK_OK(graph_add(g, &last, 4, &v));
    CHECK_OK(graph_finish(g, v, 4));
    CHECK_OK(plan_create(g, "cpu", "auto", 0, &plan));
    check_forms(g, &plan, (const int[]){FORM_DIRECT, FORM_PLAIN, FORM_DIRECT});
    plan_free(&plan);
    graph_destroy(g);
    unsetenv("COAR_ISA");
}

static void plan_device_classes(void) {
    test_begin("numerics plan: COAR_ISA, precision, what this machine can execute");
    graph *g = net_basic(NET_FILTERS, 1);
    numerics_plan plan;
    static const struct {
        const char *isa;
        coar_status code;
    } wrong[] = {{"", COAR_ERROR_USAGE}, {"sse9", COAR_ERROR_USAGE}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("COAR_ISA", wrong[i].isa, 1);
        CHECK_ERROR(plan_create(g, "cpu", "auto", 0, &plan), wrong[i].code, "COAR_ISA");
        CHECK(!plan.form);
        status_clear();
    }
    unsetenv("COAR_ISA");
    CHECK_ERROR(plan_create(g, "cpu", "fp16", 0, &plan), COAR_ERROR_UNSUPPORTED, "fp16");
    status_clear();
    CHECK_ERROR(plan_create(g, "cpu", "int8", 0, &plan), COAR_ERROR_USAGE, "int8");
    status_clear();

    CHECK_OK(plan_create(g, "cpu", "auto", 0, &plan)); /* whatever this machine has, it can execute */
    CHECK_OK(plan_check_executable(&plan, 0));
    snprintf(plan.device_class, sizeof plan.device_class, "cpu/portable");
    CHECK_OK(plan_check_executable(&plan, 0));
    snprintf(plan.device_class, sizeof plan.device_class, "opencl/none"); /* of no build */
    CHECK_ERROR(plan_check_executable(&plan, 0), COAR_ERROR_MISMATCH, "layer 'conv0'");
    status_clear();
    setenv("COAR_ISA", "portable", 1);
    snprintf(plan.device_class, sizeof plan.device_class, "cpu/avx2");
    CHECK_ERROR(plan_check_executable(&plan, 0), COAR_ERROR_MISMATCH, "conv0");
    status_clear();
    unsetenv("COAR_ISA");
    plan_free(&plan);
    graph_destroy(g);
}

/* `text` with the first `from` replaced by `to`; malloc'ed. */
static char *replaced(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    if (!at) {
        test_fail(__FILE__, __LINE__, "%s is not in the plan", from);
        return strdup(text);
    }
    return string_format("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

static void plan_json(void) {
    test_begin("numerics plan: JSON round trip, and refusals");
    setenv("COAR_ISA", "portable", 1);
    graph *g = net_basic(NET_FILTERS, 1);
    snprintf(g->ops[1].name, sizeof g->ops[1].name, "odd \"name\"\n\\");
    numerics_plan plan, again;
    CHECK_OK(plan_create(g, "cpu", "auto", 0, &plan));
    char *json = plan_to_json(&plan), hash[65];
    CHECK(json && !strncmp(json, "{\"version\":1,\"device_class\":\"cpu/portable\",", 43));
    CHECK(!strchr(json, '\n'));
    sha256_hex(json, strlen(json), hash);
    CHECK_TEXT(plan.hash, hash);
    CHECK_OK(plan_from_json(g, json, "plan.json", &again));
    char *json_again = plan_to_json(&again);
    CHECK_TEXT(json_again, json);
    CHECK_TEXT(again.hash, plan.hash);
    CHECK(!memcmp(again.form, plan.form, plan.layers));
    free(json_again);
    plan_free(&again);

    static const struct {
        const char *from, *to, *text;
        coar_status code;
    } changes[] = {
        {"\"version\":1", "\"version\":2", "version 1", COAR_ERROR_INPUT},
        {"\"version\":1,", "", "version 1", COAR_ERROR_INPUT},
        {"{", "", "JSON", COAR_ERROR_INPUT},
        {"]}", "]}x", "JSON", COAR_ERROR_INPUT},
        {"\"fp32\"", "\"fp16\"", "fp16", COAR_ERROR_MISMATCH},
        {"\"fp32\"", "32", "precision", COAR_ERROR_INPUT},
        {"\"fp32\"", "\"fp32fp32\"", "precision", COAR_ERROR_INPUT},
        {"\"mixed\"", "\"tile\"", "tile", COAR_ERROR_MISMATCH},
        {"\"remainder\"", "\"extra\":1,\"remainder\"", "not known", COAR_ERROR_INPUT},
        {"\"layers\":[", "\"layers\":1,\"l\":[", "no layers", COAR_ERROR_INPUT},
        {"\"layers\":[", "\"layers\":[{},", "layers, the model has", COAR_ERROR_MISMATCH},
        {"\"conv0\"", "\"conv9\"", "'conv9' where the model has 'conv0'", COAR_ERROR_MISMATCH},
        {"\"name\":\"conv0\"", "\"name\":7", "layer 0", COAR_ERROR_INPUT},
        {"\"conv4\",\"form\":\"compacted\"", "\"conv4\",\"form\":\"winograd\"", "'conv4'", COAR_ERROR_MISMATCH},
        {"\"direct\"", "\"winograd compacted\"", "'conv0'", COAR_ERROR_MISMATCH},
        {"\"direct\"", "\"compacted\"", "'conv0'", COAR_ERROR_MISMATCH},
        {"\"plain\"", "\"direct\"", "'subsample3'", COAR_ERROR_MISMATCH},
        {"\"compacted\"", "\"plain\"", "odd", COAR_ERROR_MISMATCH},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char *changed = replaced(json, changes[i].from, changes[i].to);
        CHECK_ERROR(plan_from_json(g, changed, "plan.json", &again), changes[i].code, changes[i].text);
        CHECK(!strncmp(coar_last_error(), "plan.json", 9));
        CHECK(!again.form && !again.name);
        status_clear();
        free(changed);
    }

    /* Dropping the compaction is a plan that can be executed; its hash tells it apart. */
    char *direct = replaced(json, "\"compacted\"", "\"direct\"");
    CHECK_OK(plan_from_json(g, direct, "plan.json", &again));
    CHECK(strcmp(again.hash, plan.hash));
    plan_free(&again);
    free(direct);
    free(json);
    plan_free(&plan);
    graph_destroy(g);
    unsetenv("COAR_ISA");
}

int main(void) {
    shapes();
    refusals();
    tokens();
    planner();
    plan_rule();
    plan_rule_limits();
    plan_device_classes();
    plan_json();
    return test_end();
}
