/* outputs.c - output functions of classifiers and of language models: their names, values and derivatives. */
#include "test.h"

#include "core/memory.h"
#include "graph/graph.h"

/* What output_parse looks at of a classifier's graph. */
static graph classifier(shape *logits, uint32_t classes) {
    *logits = (shape){1, 1, classes};
    return (graph){.values = logits, .value_count = 1};
}

static double value_of(const output_spec *spec, const float *logits, size_t stride, uint32_t classes, uint32_t label) {
    return output_value(spec, &(logits_view){logits, stride, classes, .label = label});
}

static void outputs(void) {
    shape last;
    const graph ten = classifier(&last, 10);
    test_begin("outputs: parsing");
    output_spec specs[OUTPUTS_MAX];
    size_t count;
    CHECK_OK(output_parse("margin,logit,logit:03,logit:3-5,loss", &ten, specs, &count));
    CHECK_INT(count, 5);
    CHECK_TEXT(specs[2].name, "logit:3");
    CHECK_TEXT(specs[3].name, "logit:3-5");
    CHECK_INT(specs[3].kind, OUTPUT_LOGIT_DIFFERENCE);
    CHECK_INT(specs[3].b, 5);
    static const char *const wrong[] = {"",
                                        "margin,",
                                        "Margin",
                                        "logit:",
                                        "logit:10",
                                        "logit:-1",
                                        "logit:3-",
                                        "logit:3-10",
                                        "logit:3-3",
                                        "logit:3x",
                                        "logit:+3",
                                        "margin,margin",
                                        "logit:3,logit:03",
                                        "logit:99999999999999999999",
                                        "marginmarginmarginmarginmarginmarginmarginmargin",
                                        "logit:0,logit:1,logit:2,logit:3,logit:4,logit:5,logit:6,logit:7,logit:8"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK_ERROR(output_parse(wrong[i], &ten, specs, &count), COAR_ERROR_USAGE, "output");
        status_clear();
    }
    const graph one = classifier(&last, 1);
    CHECK_ERROR(output_parse("margin", &one, specs, &count), COAR_ERROR_USAGE, "two classes");
    status_clear();

    test_begin("outputs: values");
    const graph three = classifier(&last, 3);
    CHECK_OK(output_parse("margin,logit,logit:1,logit:2-0,loss", &three, specs, &count));
    const float logits[] = {1, -7, 2.5f, -7, -0.5f, -7}; /* stride 2 */
    const double expected[3][5] = {{-1.5, 1, 2.5, -1.5, 0}, {1.5, 2.5, 2.5, -1.5, 0}, {-3, -0.5, 2.5, -1.5, 0}};
    for (uint32_t label = 0; label < 3; label++) {
        for (size_t k = 0; k < 4; k++) CHECK_NEAR(value_of(&specs[k], logits, 2, 3, label), expected[label][k], 0);
        double sum = exp(1) + exp(2.5) + exp(-0.5);
        CHECK_NEAR(value_of(&specs[4], logits, 2, 3, label), log(sum) - logits[2 * label], 1e-6);
    }
    const float large[] = {3000, 1000, 3000};
    CHECK_NEAR(value_of(&specs[4], large, 1, 3, 1), 2000 + log(2), 1e-3);
    CHECK_NEAR(value_of(&specs[0], large, 1, 3, 0), 0, 0);
    const float nan_last[] = {1, 2, NAN};
    for (size_t k = 0; k < 5; k++)
        if (k != 1 && k != 2) CHECK(isnan(value_of(&specs[k], nan_last, 1, 3, 0)));
}

static void output_gradients(void) {
    enum { CLASSES = 4, STRIDE = 3 };
    const float step = 0x1p-7f; /* exact beside the logits below */
    output_spec specs[OUTPUTS_MAX];
    size_t count;
    test_begin("outputs: gradients are those of central differences");
    shape last;
    const graph g = classifier(&last, CLASSES);
    CHECK_OK(output_parse("margin,logit,logit:1,logit:2-0,loss", &g, specs, &count));
    for (uint32_t label = 0; label < CLASSES; label++) {
        float logits[CLASSES * STRIDE] = {1.5f, -7, -7, -0.25f, -7, -7, 2.75f, -7, -7, 0.5f, -7, -7};
        for (size_t k = 0; k < count; k++) {
            float gradient[CLASSES * STRIDE];
            for (size_t i = 0; i < CLASSES * STRIDE; i++) gradient[i] = 1234.5f;
            output_gradient(&specs[k], &(logits_view){logits, STRIDE, CLASSES, .label = label}, gradient);
            for (uint32_t c = 0; c < CLASSES; c++) {
                float *logit = &logits[c * STRIDE];
                *logit += step;
                const double up = value_of(&specs[k], logits, STRIDE, CLASSES, label);
                *logit -= 2 * step;
                const double down = value_of(&specs[k], logits, STRIDE, CLASSES, label);
                *logit += step;
                CHECK_NEAR(gradient[c * STRIDE], (up - down) / (2 * step), k == 4 ? 1e-4 : 0);
                CHECK(gradient[c * STRIDE + 1] == 1234.5f && gradient[c * STRIDE + 2] == 1234.5f);
            }
        }
    }

    test_begin("outputs: of equal largest logits the first has the margin's gradient");
    const float equal[CLASSES] = {2, 3, 3, 3};
    const float expected[CLASSES][CLASSES] = {{1, -1, 0, 0}, {0, 1, -1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}};
    for (uint32_t label = 0; label < CLASSES; label++) {
        float gradient[CLASSES];
        output_gradient(&specs[0], &(logits_view){equal, 1, CLASSES, .label = label}, gradient);
        for (uint32_t c = 0; c < CLASSES; c++) CHECK_NEAR(gradient[c], expected[label][c], 0);
    }

    test_begin("outputs: the loss of large logits has a gradient");
    const float large[CLASSES] = {3000, 1000, 3000, -3000};
    float gradient[CLASSES];
    output_gradient(&specs[4], &(logits_view){large, 1, CLASSES, .label = 1}, gradient);
    const float shares[CLASSES] = {0.5f, -1, 0.5f, 0};
    for (uint32_t c = 0; c < CLASSES; c++) CHECK_NEAR(gradient[c], shares[c], 1e-7);
}

/* A text of 3 of 4 tokens: what the positions behind its second say counts for nothing. */
static void text_outputs(void) {
    enum { TOKENS = 4, COUNT = TOKENS * NEXT_CHANNELS, STRIDE = 2, LENGTH = 3 };
    const float said[TOKENS][NEXT_CHANNELS] = {
        {1.5f, 2, 3, 7}, {-0.5f, -1.25f, 0.75f, 2}, {NAN, 9, 9, 9}, {9, NAN, 9, 9}};
    static const double expected[] = {0.125, 1.375, 0.5}; /* margin, loss, logit */
    float values[COUNT * STRIDE], gradient[COUNT * STRIDE];
    output_spec specs[OUTPUTS_MAX];
    size_t count;
    graph *g = NULL;
    const float *table = calloc(50, sizeof *table);
    op lookup = {.kind = OP_LOOKUP, .name = "tokens", .vocabulary = 10, .weight = table, .shift = table};
    op next = {.kind = OP_NEXT, .name = "head", .vocabulary = 10, .weight = table};
    test_begin("outputs of a text: means over the positions that have a next token");
    CHECK_OK(graph_create((shape){1, TOKENS, 1}, 10, &g));
    CHECK_OK(graph_own(g, (void *)table));
    CHECK_OK(graph_add(g, &lookup, 5, &next.input[0]));
    int logits;
    CHECK_ERROR(graph_finish(g, next.input[0], 0), COAR_ERROR_INTERNAL, "what comes next");
    status_clear();
    lookup.vocabulary = 9;
    CHECK_ERROR(graph_add(g, &lookup, 5, &logits), COAR_ERROR_INTERNAL, "does not fit the graph's tokens");
    status_clear();
    CHECK_OK(graph_add(g, &next, 0, &logits));
    CHECK_OK(graph_finish(g, logits, 0));
    CHECK_OK(output_parse("margin,loss,logit", g, specs, &count));
    CHECK_INT(graph_logits(g, STRIDE).count, COUNT);
    CHECK_INT(graph_input_bytes(g), TOKENS * sizeof(int32_t));
    CHECK(!graph_label_fits(g, 1) && graph_label_fits(g, 2) && graph_label_fits(g, TOKENS) &&
          !graph_label_fits(g, TOKENS + 1));
    for (size_t i = 0; i < COUNT; i++) values[i * STRIDE] = said[i / NEXT_CHANNELS][i % NEXT_CHANNELS];
    logits_view view = graph_logits(g, STRIDE);
    view.values = values;
    view.label = LENGTH;
    for (size_t k = 0; k < count; k++) {
        CHECK_NEAR(output_value(&specs[k], &view), expected[k], 1e-7);
        output_gradient(&specs[k], &view, gradient);
        for (size_t i = 0; i < COUNT; i++) {
            float *value = &values[i * STRIDE], is = *value;
            *value = is + 0.5f;
            const double up = output_value(&specs[k], &view);
            *value = is - 0.5f;
            CHECK_NEAR(gradient[i * STRIDE], isnan(is) ? 0 : up - output_value(&specs[k], &view), 1e-6);
            *value = is;
        }
    }
    CHECK_ERROR(output_parse("logit:3", g, specs, &count), COAR_ERROR_USAGE, "a language model has no classes");
    status_clear();
    graph_destroy(g);
    CHECK_ERROR(graph_create((shape){1, 1, 1}, 10, &g), COAR_ERROR_INPUT, "not possible");
    status_clear();
}

int main(void) {
    outputs();
    output_gradients();
    text_outputs();
    return test_end();
}
