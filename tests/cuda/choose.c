/*
 * choose.c - the timed choice with a clock that the test sets: the fastest form that computes the layer wins, close
 * ones go to our kernels, wrong ones are found out; the cache file makes the second job start at once, and whatever
 * is wrong with it costs a line in the log and nothing else.
 */
#include "backend/cuda/cuda_choose.h"
#include "backend/cuda/cuda_plan_cache.h"
#include "core/files.h"
#include "layer_case.h"
#include "stand_ins/stand_ins.h"
#include "test.h"

#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#define CLASS "cuda/Stand-in 1/13.0/9.19.0/13.0.0"
#define CACHE_FILE "plan-cuda-Stand-in-1-13.0-9.19.0-13.0.0.json"

/* ------------------------------------------------------------------------------------- what is asked */

static char given[2];

static gpu_conv linear(gpu_type type, uint32_t pairs, uint32_t tokens, uint32_t in, uint32_t out) {
    gpu_conv c = layer_linear(type, pairs, tokens, in, out);
    c.x = c.weight = c.y = given;
    c.shift = (const float *)(const void *)given;
    c.mask.place = GPU_PLACE_PRE;
    return c;
}

static gpu_conv conv3x3(gpu_type type, uint32_t pairs, uint32_t side, uint32_t channels) {
    gpu_conv c = linear(type, pairs, 1, channels, channels);
    c.in_h = c.in_w = c.out_h = c.out_w = side;
    c.kernel_h = c.kernel_w = 3;
    c.pad = 1;
    c.scale = c.shift;
    c.residual = given; /* in place */
    c.activation = GPU_RELU;
    return c;
}

/* ------------------------------------------------------------------------------------- the clock, the log */

/* Milliseconds by the beginning of a form's name; the first that fits counts. */
typedef struct test_clock {
    struct {
        const char *prefix;
        uint32_t splits; /* 0 = any */
        float milliseconds;
    } entries[8];
    int calls;
} test_clock;

static coar_status tell_time(void *context, const char *form, uint32_t splits, cudaGraphExec_t launch,
                             cudaStream_t stream, float *milliseconds) {
    test_clock *t = context;
    (void)stream;
    t->calls++;
    CHECK(launch != NULL);
    for (size_t i = 0; i < sizeof t->entries / sizeof *t->entries && t->entries[i].prefix; i++) {
        const char *prefix = t->entries[i].prefix;
        if (strncmp(form, prefix, strlen(prefix)) || (t->entries[i].splits && t->entries[i].splits != splits)) continue;
        *milliseconds = t->entries[i].milliseconds;
        return COAR_OK;
    }
    *milliseconds = 100;
    return COAR_OK;
}

typedef struct test_log {
    char text[8192];
    uint64_t stop_after; /* progress of this much asks for a stop; 0 = never */
} test_log;

static void take_line(void *user, coar_log_level level, const char *line) {
    test_log *l = user;
    (void)level;
    const size_t used = strlen(l->text);
    snprintf(l->text + used, sizeof l->text - used, "%s\n", line);
}

static int take_progress(void *user, const coar_progress *p) {
    const test_log *l = user;
    return l->stop_after && p->done >= l->stop_after;
}

static test_log lines;
static const coar_callbacks callbacks = {.log = take_line, .progress = take_progress, .user = &lines};

static coar_status choose(test_clock *clock, cuda_choice *layers, size_t count) {
    const cuda_timer timer = {.time = tell_time, .context = clock};
    const cuda_choose_settings s = {
        .device_class = CLASS, .memory = (size_t)64 << 20, .timer = clock ? &timer : NULL, .callbacks = &callbacks};
    lines = (test_log){.stop_after = lines.stop_after};
    return cuda_choose(&s, layers, count);
}

/* A folder for the cache that is not there yet. */
static const char *fresh_cache(const char *name) {
    const char *folder = test_temporary(name);
    setenv("COAR_PLAN_CACHE", folder, 1);
    return folder;
}

static bool cuda_has_cudnn(void) {
    char version[CUDA_VERSION_SIZE];
    cuda_cudnn_version(version);
    return strcmp(version, "none") != 0;
}

static bool is_own(const char *form) {
    return strncmp(form, "cublaslt:", 9) && strncmp(form, "cudnn:", 6);
}

static bool log_has(const char *text) {
    if (strstr(lines.text, text)) return true;
    printf("# the log was: %s\n", lines.text);
    return false;
}

/* ------------------------------------------------------------------------------------------- the choice */

static void fastest_wins(void) {
    static const gpu_type types[] = {GPU_F32, GPU_TF32, GPU_BF16, GPU_F16};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        cuda_choice layer = {.conv = linear(types[t], 7, 3, 24, 16)};
        test_clock clock = {.entries = {{"cublaslt:id=2", 0, 1}}};
        test_begin("the fastest wins, type %d", (int)types[t]);
        fresh_cache("fastest");
        remove(test_temporary("fastest/" CACHE_FILE));
        CHECK_OK(choose(&clock, &layer, 1));
        CHECK(!strncmp(layer.form, "cublaslt:id=2,", 14));
        CHECK_INT(layer.splits, 1);
        CHECK_NEAR(layer.milliseconds, 1, 0);
    }
}

static void ties(void) {
    cuda_choice layer = {.conv = linear(GPU_BF16, 6, 3, 24, 16)};
    test_clock close = {.entries = {{"cublaslt:id=2", 0, 1}, {gpu_conv_form(GPU_BF16, 1), 1, 1.019f}}};
    test_clock apart = {.entries = {{"cublaslt:id=2", 0, 1}, {gpu_conv_form(GPU_BF16, 1), 1, 1.021f}}};
    test_begin("within 2 %% ours comes first");
    fresh_cache("close");
    CHECK_OK(choose(&close, &layer, 1));
    CHECK_TEXT(layer.form, gpu_conv_form(GPU_BF16, 1));
    test_begin("beyond 2 %% the library does");
    fresh_cache("apart");
    CHECK_OK(choose(&apart, &layer, 1));
    CHECK(!is_own(layer.form));
}

static void partial_sums(void) {
    const char *name = gpu_conv_form(GPU_BF16, 0);
    cuda_choice layer = {.conv = conv3x3(GPU_BF16, 1, 3, 128)}; /* 1,152 products, one block */
    test_clock split = {.entries = {{name, 4, 1}, {name, 0, 2}}};
    test_clock same = {.entries = {{name, 0, 1}}};
    test_begin("partial sums are candidates where there are few blocks");
    fresh_cache("split");
    CHECK_OK(choose(&split, &layer, 1));
    CHECK_TEXT(layer.form, name);
    CHECK_INT(layer.splits, 4);
    test_begin("and come after whole sums of the same speed");
    fresh_cache("whole");
    CHECK_OK(choose(&same, &layer, 1));
    CHECK_INT(layer.splits, 1);
}

static void wrong_form(void) {
    cuda_choice layer = {.conv = linear(GPU_BF16, 5, 3, 24, 16)};
    test_clock clock = {.entries = {{"cublaslt:id=2", 0, 1}, {"cublaslt:id=1", 0, 2}}};
    test_begin("a form that computes something else is left out");
    fresh_cache("wrong");
    setenv("COAR_STANDIN_WRONG", "cublaslt:2", 1);
    cuda_forms_release();
    stand_in_reset();
    CHECK_OK(choose(&clock, &layer, 1));
    CHECK(!strncmp(layer.form, "cublaslt:id=1,", 14));
    CHECK(log_has("form 'cublaslt:id=2,") && log_has("is left out: pair"));
    unsetenv("COAR_STANDIN_WRONG");
    cuda_forms_release();
    stand_in_reset();
}

static void cudnn_too(void) {
    cuda_choice layer = {.conv = conv3x3(GPU_BF16, 4, 3, 8)};
    test_clock clock = {.entries = {{"cudnn:conv,engine=7,knobs=2:2", 0, 1}}};
    test_begin("cuDNN's engines are candidates");
    fresh_cache("cudnn");
    if (!cuda_has_cudnn()) {
        test_skip("this build was made without cuDNN's headers");
        return;
    }
    CHECK_OK(choose(&clock, &layer, 1));
    CHECK_TEXT(layer.form, "cudnn:conv,engine=7,knobs=2:2");
    test_begin("in fp16 one that loses NaN is left out");
    fresh_cache("nan");
    setenv("COAR_STANDIN_NAN", "dropped", 1);
    cuda_forms_release();
    stand_in_reset();
    CHECK_OK(choose(&clock, &layer, 1));
    CHECK_TEXT(layer.form, "cudnn:conv,engine=7,knobs=2:2");
    cuda_choice narrow = {.conv = conv3x3(GPU_F16, 4, 3, 8)};
    CHECK_OK(choose(&clock, &narrow, 1));
    CHECK(is_own(narrow.form));
    CHECK(log_has("is left out: channel 0 is a number where its input is NaN"));
    unsetenv("COAR_STANDIN_NAN");
    cuda_forms_release();
    stand_in_reset();
    cuda_choice kept = {.conv = conv3x3(GPU_F16, 4, 3, 8)};
    fresh_cache("nan kept");
    CHECK_OK(choose(&clock, &kept, 1));
    CHECK(!is_own(kept.form));
    test_begin("without cuDNN the others go on, with one line in the log");
    fresh_cache("without");
    cuda_forms_release();
    stand_in_fail("cudnnCreate", 0, 1);
    CHECK_OK(choose(&clock, &layer, 1));
    CHECK(is_own(layer.form));
    CHECK(log_has("cuDNN's forms are no candidates: cuDNN: cudnnCreate"));
    layer.conv.pairs = 5;
    CHECK_OK(choose(&clock, &layer, 1));
    CHECK(!strstr(lines.text, "no candidates"));
    cuda_forms_release();
}

/* Data gradients are layers like others. Ours are left where a library's is wrong (engine 7), or refused (12). */
static void data_gradients(void) {
    cuda_choice layer = {.conv = conv3x3(GPU_BF16, 4, 3, 8)}, product = {.conv = linear(GPU_F32, 4, 3, 16, 24)};
    const char *own = gpu_conv_form(GPU_BF16, 0);
    test_clock clock = {.entries = {{"cudnn:dgrad,engine=7,knobs=2:2", 0, 1}, {"cublaslt:id=2", 0, 1}}};
    test_clock fast = {.entries = {{"cudnn:dgrad,engine=7", 0, 1}, {"cudnn:dgrad,engine=12", 0, .5f}, {own, 0, 2}}};
    layer.conv.transposed = product.conv.transposed = true;
    layer.conv.scale = layer.conv.shift = product.conv.shift = NULL;
    layer.conv.mask.place = product.conv.mask.place = GPU_PLACE_NONE;
    layer.conv.activation = GPU_NONE;
    test_begin("a data gradient by cuBLASLt");
    fresh_cache("product");
    CHECK_OK(choose(&clock, &product, 1));
    CHECK(!strncmp(product.form, "cublaslt:id=2,", 14));
    if (!cuda_has_cudnn()) return;
    test_begin("a data gradient by cuDNN");
    fresh_cache("gradient");
    CHECK_OK(choose(&clock, &layer, 1));
    CHECK_TEXT(layer.form, "cudnn:dgrad,engine=7,knobs=2:2");
    test_begin("where a library's data gradient is wrong, or refused, ours is taken");
    fresh_cache("wrong gradient");
    setenv("COAR_STANDIN_WRONG", "cudnn:7", 1);
    cuda_forms_release();
    stand_in_reset();
    CHECK_OK(choose(&fast, &layer, 1));
    CHECK_TEXT(layer.form, own);
    CHECK(log_has("form 'cudnn:dgrad,engine=7") && log_has("is left out: pair"));
    unsetenv("COAR_STANDIN_WRONG");
    cuda_forms_release();
    stand_in_reset();
}

static void with_events(void) {
    cuda_choice layer = {.conv = conv3x3(GPU_F16, 2, 3, 8)};
    test_begin("CUDA's events as the clock");
    fresh_cache("events");
    CHECK_OK(choose(NULL, &layer, 1));
    CHECK(layer.form[0] && layer.milliseconds > 0);
}

static void images_by_example(void) {
    cuda_choice layer = {.conv = conv3x3(GPU_BF16, 7, 3, 8)};
    test_clock clock = {.entries = {{gpu_conv_form(GPU_BF16, 0), 0, 1}}};
    test_begin("a layer that reads its images through `example` is ours");
    fresh_cache("example");
    layer.conv.example = (const uint32_t *)(const void *)given;
    layer.conv.residual = NULL;
    CHECK_OK(choose(&clock, &layer, 1));
    CHECK(is_own(layer.form));
}

static void too_little_memory(void) {
    cuda_choice layer = {.conv = conv3x3(GPU_BF16, 4, 3, 8)};
    test_clock clock = {.calls = 0};
    const cuda_timer timer = {.time = tell_time, .context = &clock};
    const cuda_choose_settings s = {.device_class = CLASS, .memory = 4096, .timer = &timer, .callbacks = &callbacks};
    test_begin("too little memory for a trial");
    fresh_cache("memory");
    CHECK_ERROR(cuda_choose(&s, &layer, 1), COAR_ERROR_MEMORY, "give more --memory, or --exact");
    status_clear();
    CHECK_INT(clock.calls, 0);
}

/* -------------------------------------------------------------------------------------------- the cache */

static void second_time(void) {
    cuda_choice layers[3] = {{.conv = linear(GPU_BF16, 4, 3, 24, 16)},
                             {.conv = conv3x3(GPU_BF16, 4, 3, 8)},
                             {.conv = linear(GPU_BF16, 4, 3, 24, 16)}};
    cuda_choice again[3];
    test_clock clock = {.entries = {{"cublaslt:id=2", 0, 1}}};
    memcpy(again, layers, sizeof again);
    test_begin("layers alike are measured once");
    fresh_cache("second/deep/down");
    CHECK_OK(choose(&clock, layers, 3));
    CHECK(log_has("measuring 2 kinds of layers on " CLASS));
    CHECK_TEXT(layers[2].form, layers[0].form);
    CHECK(file_exists(test_temporary("second/deep/down/" CACHE_FILE)));
    test_begin("the second job measures nothing");
    clock.calls = 0;
    const size_t products = stand_in_count("cublasLtMatmul");
    CHECK_OK(choose(&clock, again, 3));
    CHECK_INT(clock.calls, 0);
    CHECK_INT(stand_in_count("cublasLtMatmul"), products);
    for (int i = 0; i < 3; i++) {
        CHECK_TEXT(again[i].form, layers[i].form);
        CHECK_INT(again[i].splits, layers[i].splits);
        CHECK_NEAR(again[i].milliseconds, layers[i].milliseconds, 0);
    }
    test_begin("another batch is another layer");
    again[0].conv.pairs = 5;
    CHECK_OK(choose(&clock, again, 1));
    CHECK(clock.calls > 0);
}

static void write_cache(const char *text) {
    CHECK_OK(file_write(test_temporary("damaged/" CACHE_FILE), text, strlen(text)));
}

static void damaged(void) {
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "null",
        "{\"version\":1}",
        "{\"version\":2,\"device_class\":\"" CLASS "\",\"layers\":{}}",
        "{\"version\":1,\"device_class\":\"cuda/other\",\"layers\":{}}",
        "{\"version\":1,\"device_class\":\"" CLASS "\",\"layers\":[]}",
        "{\"version\":1,\"device_class\":\"" CLASS
        "\",\"layers\":{\"x\":{\"form\":7,\"splits\":1,\"milliseconds\":1}}}",
        "{\"version\":1,\"device_class\":\"" CLASS
        "\",\"layers\":{\"x\":{\"form\":\"f\",\"splits\":1.5,\"milliseconds\":1}}}",
        "{\"version\":1,\"device_class\":\"" CLASS
        "\",\"layers\":{\"x\":{\"form\":\"f\",\"splits\":65,\"milliseconds\":1}}}",
        "{\"version\":1,\"device_class\":\"" CLASS
        "\",\"layers\":{\"x\":{\"form\":\"f\",\"splits\":1,\"milliseconds\":-1}}}",
        "{\"version\":1,\"device_class\":\"" CLASS "\",\"layers\":{\"x\":{\"splits\":1,\"milliseconds\":1}}}",
    };
    cuda_choice layer = {.conv = linear(GPU_BF16, 3, 2, 16, 16)};
    test_clock clock = {.entries = {{"cublaslt:id=2", 0, 1}}};
    fresh_cache("damaged");
    mkdir(test_temporary("damaged"), 0777);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        test_begin("damaged cache %zu is ignored, and replaced", i);
        write_cache(bad[i]);
        clock.calls = 0;
        CHECK_OK(choose(&clock, &layer, 1));
        CHECK(log_has("not a plan cache of " CLASS));
        CHECK(clock.calls > 0 && !strncmp(layer.form, "cublaslt:id=2,", 14));
        clock.calls = 0;
        CHECK_OK(choose(&clock, &layer, 1));
        CHECK_INT(clock.calls, 0);
    }
}

static void unknown_form(void) {
    char signature[CUDA_SIGNATURE_SIZE], text[1024];
    cuda_choice layer = {.conv = linear(GPU_BF16, 3, 2, 16, 24)};
    test_clock clock = {.entries = {{"cublaslt:id=2", 0, 1}}};
    test_begin("a cached form that this machine does not have is measured again");
    fresh_cache("damaged");
    cuda_signature(&layer.conv, signature);
    snprintf(text, sizeof text,
             "{\"version\":1,\"device_class\":\"" CLASS
             "\",\"layers\":{\"%s\":{\"form\":\"no such kernel\",\"splits\":1,\"milliseconds\":1}}}",
             signature);
    write_cache(text);
    CHECK_OK(choose(&clock, &layer, 1));
    CHECK(log_has("have no kernel 'no such kernel'"));
    CHECK(!strncmp(layer.form, "cublaslt:id=2,", 14));
}

static void no_place(void) {
    cuda_choice layer = {.conv = linear(GPU_BF16, 3, 2, 16, 8)};
    test_clock clock = {.entries = {{"cublaslt:id=2", 0, 1}}};
    test_begin("a cache that cannot be written costs a line");
    setenv("COAR_PLAN_CACHE", "/dev/null/coar", 1);
    CHECK_OK(choose(&clock, &layer, 1));
    CHECK(log_has("the next job measures its layers again"));
    test_begin("without any folder in the environment too, silently");
    unsetenv("COAR_PLAN_CACHE");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    CHECK_OK(choose(&clock, &layer, 1));
    CHECK(!strstr(lines.text, "cache"));
}

static void two_processes(void) {
    cuda_plan_cache *mine, *theirs, *both;
    cuda_choice a = {.conv = linear(GPU_BF16, 3, 2, 16, 8), .form = "ours", .splits = 1, .milliseconds = 1};
    cuda_choice b = {.conv = linear(GPU_BF16, 4, 2, 16, 8), .form = "theirs", .splits = 2, .milliseconds = .1f};
    cuda_choice found = {.conv = b.conv};
    test_begin("what another process has measured meanwhile stays");
    fresh_cache("two");
    CHECK_OK(cuda_plan_cache_open(CLASS, NULL, &mine));
    CHECK_OK(cuda_plan_cache_open(CLASS, NULL, &theirs));
    CHECK_OK(cuda_plan_cache_add(mine, &a));
    CHECK_OK(cuda_plan_cache_add(theirs, &b));
    cuda_plan_cache_save(theirs);
    cuda_plan_cache_save(mine);
    CHECK_OK(cuda_plan_cache_open(CLASS, NULL, &both));
    CHECK(cuda_plan_cache_find(both, &found));
    CHECK_TEXT(found.form, "theirs");
    CHECK_INT(found.splits, 2);
    CHECK(found.milliseconds == b.milliseconds);
    found.conv = a.conv;
    CHECK(cuda_plan_cache_find(both, &found));
    CHECK_TEXT(found.form, "ours");
    cuda_plan_cache_close(mine);
    cuda_plan_cache_close(theirs);
    cuda_plan_cache_close(both);
}

static void stopped(void) {
    cuda_choice layers[2] = {{.conv = linear(GPU_BF16, 2, 2, 16, 8)}, {.conv = linear(GPU_BF16, 2, 2, 16, 16)}};
    test_clock clock = {.entries = {{"cublaslt:id=2", 0, 1}}};
    test_begin("a stop keeps what was measured");
    fresh_cache("stopped");
    lines.stop_after = 1;
    CHECK_ERROR(choose(&clock, layers, 2), COAR_STOPPED, "1 of 2");
    status_clear();
    lines.stop_after = 0;
    clock.calls = 0;
    CHECK_OK(choose(&clock, layers, 1));
    CHECK_INT(clock.calls, 0);
}

/* ----------------------------------------------------------------------------------------- given forms */

static void given_forms(void) {
    const char *name = gpu_conv_form(GPU_BF16, 0);
    cuda_choice layer = {.conv = conv3x3(GPU_BF16, 2, 3, 8), .splits = 1};
    test_clock clock = {.entries = {{name, 0, .25f}}};
    const cuda_timer timer = {.time = tell_time, .context = &clock};
    const cuda_choose_settings s = {
        .device_class = CLASS, .memory = (size_t)64 << 20, .timer = &timer, .callbacks = &callbacks};
    test_begin("the time of a given form");
    snprintf(layer.form, sizeof layer.form, "%s", name);
    CHECK_OK(cuda_choose_time(&s, &layer, 1));
    CHECK_NEAR(layer.milliseconds, .25, 0);
    snprintf(layer.form, sizeof layer.form, "no such kernel");
    CHECK_ERROR(cuda_choose_time(&s, &layer, 1), COAR_ERROR_UNSUPPORTED, "no such kernel");
    status_clear();
}

int main(void) {
    fastest_wins();
    ties();
    partial_sums();
    wrong_form();
    cudnn_too();
    data_gradients();
    with_events();
    images_by_example();
    too_little_memory();
    second_time();
    damaged();
    unknown_form();
    two_processes();
    stopped();
    given_forms();
    no_place();
    test_begin("nothing is left");
    cuda_forms_release();
    CHECK_INT(stand_in_leaks(), 0);
    return test_end();
}
