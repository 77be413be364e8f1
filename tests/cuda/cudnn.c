/*
 * cudnn.c - convolutions, linear layers and data gradients by cuDNN's graphs: every engine that is proposed computes
 * the layer with every epilogue; engines whose sums are not what they should be are never proposed; a form's text makes
 * the same plan again; and without engines there are no candidates, whatever the status says.
 */
#include "backend/cuda/cuda_libraries.h"
#include "layer_case.h"
#include "stand_ins/stand_ins.h"

#if COAR_HAVE_CUDNN

static cuda_handles *handles;

static const struct {
    const char *name;
    uint32_t pairs, side, in, out, kernel, stride, pad;
    layer_epilogue epilogue;
    bool transposed; /* the data gradient of what the other numbers say */
} cases[] = {
    {"3x3 PRE scale shift residual ReLU",
     3,
     5,
     16,
     8,
     3,
     1,
     1,
     {.place = GPU_PLACE_PRE, .scale = true, .shift = true, .residual = true, .activation = GPU_RELU}},
    {"3x3 stride 2 POST fill",
     2,
     6,
     8,
     16,
     3,
     2,
     1,
     {.place = GPU_PLACE_POST, .fill = true, .scale = true, .shift = true}},
    {"7x7 stride 2, colours, OUT",
     2,
     9,
     3,
     8,
     7,
     2,
     3,
     {.place = GPU_PLACE_OUT, .scale = true, .shift = true, .activation = GPU_RELU}},
    {"1x1 PRE fill residual in place",
     2,
     3,
     24,
     16,
     1,
     1,
     0,
     {.place = GPU_PLACE_PRE,
      .fill = true,
      .scale = true,
      .shift = true,
      .residual = true,
      .in_place = true,
      .activation = GPU_RELU}},
    {"1x1 PRE GELU", 3, 2, 16, 24, 1, 1, 0, {.place = GPU_PLACE_PRE, .shift = true, .activation = GPU_GELU_ERF}},
    {"1x1 POST GELU-tanh residual",
     2,
     2,
     16,
     8,
     1,
     1,
     0,
     {.place = GPU_PLACE_POST, .shift = true, .residual = true, .activation = GPU_GELU_TANH}},
    {"1x1 OUT fill QuickGELU",
     2,
     3,
     8,
     8,
     1,
     1,
     0,
     {.place = GPU_PLACE_OUT, .fill = true, .shift = true, .activation = GPU_QUICKGELU}},
    {"1x1 stride 2 bare", 2, 5, 8, 16, 1, 2, 0, {.place = GPU_PLACE_NONE}},
    {"logits", 5, 1, 40, 16, 1, 1, 0, {.shift = true, .wide = true}},
    {"data gradient of a 3x3", 3, 5, 16, 8, 3, 1, 1, {0}, true},
    {"data gradient of a 3x3 of stride 2, added", 2, 6, 8, 16, 3, 2, 1, {.residual = true, .in_place = true}, true},
    {"data gradient of a 1x1 of stride 2, pixels that it never read", 2, 5, 8, 24, 1, 2, 0, {0}, true},
    {"data gradient of a linear layer, added", 3, 3, 16, 10, 1, 1, 0, {.residual = true, .in_place = true}, true},
    {"data gradient of a linear layer", 3, 3, 24, 10, 1, 1, 0, {0}, true},
    {"data gradient of 12 channels, added", 2, 4, 12, 19, 3, 1, 1, {.residual = true, .in_place = true}, true},
};
enum { CASES = sizeof cases / sizeof *cases };

static gpu_conv shape_of(size_t i, gpu_type type) {
    const uint32_t k = cases[i].kernel, s = cases[i].stride, side = (cases[i].side + 2 * cases[i].pad - k) / s + 1;
    const bool back = cases[i].transposed;
    return (gpu_conv){.type = type,
                      .pairs = cases[i].pairs,
                      .transposed = back,
                      .in_h = back ? side : cases[i].side,
                      .in_w = back ? side : cases[i].side,
                      .in_channels = back ? cases[i].out : cases[i].in,
                      .out_h = back ? cases[i].side : side,
                      .out_w = back ? cases[i].side : side,
                      .out_channels = back ? cases[i].in : cases[i].out,
                      .kernel_h = k,
                      .kernel_w = k,
                      .stride = s,
                      .pad = cases[i].pad};
}

/* Engine 12 of the stand-in is proposed and refuses every plan; 4 is a Winograd one. */
static bool refuses_plans(const char *form) {
    return strstr(form, "engine=12") != NULL;
}

static void check_forms(const layer_case *l, cuda_cudnn_kind kind) {
    char forms[16][CUDA_FORM_SIZE];
    size_t count = 0, offered = 0, computed = 0;
    CHECK_OK(cuda_cudnn_propose(handles->cudnn, &l->conv, kind, 16, forms, &count, &offered));
    CHECK(count > 0 && offered >= count);
    for (size_t k = 0; k < count; k++) {
        cuda_form *form = NULL;
        CHECK(!strstr(forms[k], "engine=4"));
        if (refuses_plans(forms[k])) {
            CHECK_ERROR(cuda_form_open(handles, &l->conv, forms[k], 1, &form), COAR_ERROR_UNSUPPORTED,
                        "cuDNN: finalize");
            status_clear();
            continue;
        }
        if (computed && l->conv.residual && l->conv.residual == l->conv.y) break; /* the residual is gone */
        CHECK_OK(cuda_form_open(handles, &l->conv, forms[k], 1, &form));
        if (!form) continue;
        CHECK(cuda_form_workspace(form) <= cuda_form_workspace_max(&l->conv, forms[k]));
        layer_check(l, form, forms[k]);
        cuda_form_close(form);
        computed++;
    }
    CHECK(computed > 0);
}

static void all_engines(void) {
    static const gpu_type types[] = {GPU_BF16, GPU_F16};
    for (size_t i = 0; i < CASES; i++)
        for (size_t t = 0; t < 2; t++) {
            const gpu_conv shape = shape_of(i, types[t]);
            for (int kind = 0; kind < CUDA_CUDNN_KINDS; kind++) {
                static const char *const names[] = {"convolution", "product", "data gradient"};
                layer_case l;
                if (!cuda_cudnn_can(&shape, (cuda_cudnn_kind)kind)) continue;
                test_begin("%s, %s, as a %s", cases[i].name, t ? "fp16" : "bf16", names[kind]);
                layer_make(&l, &shape, &cases[i].epilogue, 11 * i + t);
                check_forms(&l, (cuda_cudnn_kind)kind);
                layer_free(&l);
            }
        }
}

static void which_layers(void) {
    static uint32_t any;
    const gpu_conv c = shape_of(0, GPU_BF16), one = shape_of(4, GPU_F16);
    gpu_conv fp32 = c, odd = c, images = c, strided = one, back = c, turned = one;
    test_begin("which layers are put as graphs");
    fp32.type = GPU_F32;
    odd.out_channels = 12;
    images.example = &any;
    strided.stride = 2;
    CHECK(cuda_cudnn_can(&c, CUDA_CUDNN_CONV) && !cuda_cudnn_can(&c, CUDA_CUDNN_MATMUL));
    CHECK(cuda_cudnn_can(&one, CUDA_CUDNN_CONV) && cuda_cudnn_can(&one, CUDA_CUDNN_MATMUL));
    CHECK(cuda_cudnn_can(&strided, CUDA_CUDNN_CONV) && !cuda_cudnn_can(&strided, CUDA_CUDNN_MATMUL));
    CHECK(!cuda_cudnn_can(&fp32, CUDA_CUDNN_CONV) && !cuda_cudnn_can(&odd, CUDA_CUDNN_CONV));
    CHECK(!cuda_cudnn_can(&images, CUDA_CUDNN_CONV));
    back.transposed = turned.transposed = true;
    CHECK(cuda_cudnn_can(&back, CUDA_CUDNN_DGRAD) && !cuda_cudnn_can(&c, CUDA_CUDNN_DGRAD));
    CHECK(!cuda_cudnn_can(&back, CUDA_CUDNN_CONV) && !cuda_cudnn_can(&back, CUDA_CUDNN_MATMUL));
    CHECK(cuda_cudnn_can(&turned, CUDA_CUDNN_DGRAD) && cuda_cudnn_can(&turned, CUDA_CUDNN_MATMUL));
    back.residual = &any; /* added to what is there, or to nothing */
    CHECK(!cuda_cudnn_can(&back, CUDA_CUDNN_DGRAD));
    back.y = &any;
    CHECK(cuda_cudnn_can(&back, CUDA_CUDNN_DGRAD));
}

static void refusals(void) {
    static const char *const bad[] = {
        "cudnn:",
        "cudnn:conv",
        "cudnn:conv,engine=",
        "cudnn:conv,engine=7,",
        "cudnn:conv,engine=7,knobs=",
        "cudnn:conv,engine=7,knobs=2",
        "cudnn:conv,engine=7,knobs=2:",
        "cudnn:conv,engine=7,knobs=2:1/",
        "cudnn:conv,engine=7 ",
        "cudnn:conv,engine= 7",
        "cudnn:pool,engine=7",
        "cudnn:matmul,engine=7",
        "cudnn:dgrad,engine=7",
    };
    char many[CUDA_FORM_SIZE] = "cudnn:conv,engine=7,knobs=2:0";
    static float any;
    gpu_conv c = shape_of(0, GPU_BF16);
    cuda_form *form;
    c.x = c.weight = c.y = &any;
    test_begin("texts that name no plan");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_ERROR(cuda_form_open(handles, &c, bad[i], 1, &form), COAR_ERROR_UNSUPPORTED, "is no form of cuDNN's");
        status_clear();
    }
    for (int i = 0; i < 50; i++) strcat(many, "/2:0"); /* more knobs than there are */
    CHECK_ERROR(cuda_form_open(handles, &c, many, 1, &form), COAR_ERROR_UNSUPPORTED, "is no form of cuDNN's");
    status_clear();
    test_begin("an engine whose sums are not to be had by text either");
    CHECK_ERROR(cuda_form_open(handles, &c, "cudnn:conv,engine=4", 1, &form), COAR_ERROR_UNSUPPORTED,
                "does not keep fp32 sums");
    status_clear();
    test_begin("engines and knobs that this cuDNN does not have");
    CHECK_ERROR(cuda_form_open(handles, &c, "cudnn:conv,engine=99", 1, &form), COAR_ERROR_UNSUPPORTED,
                "cuDNN: finalize");
    status_clear();
    CHECK_ERROR(cuda_form_open(handles, &c, "cudnn:conv,engine=7,knobs=2:99", 1, &form), COAR_ERROR_UNSUPPORTED,
                "cuDNN: finalize");
    status_clear();
}

/* A workspace above what every launch may take. */
static void large_workspace(void) {
    static float any;
    gpu_conv c = shape_of(7, GPU_BF16);
    cuda_form *form;
    c.x = c.weight = c.y = &any;
    c.pairs = 1 << 17;
    test_begin("a plan that wants too much workspace is refused");
    CHECK_ERROR(cuda_form_open(handles, &c, "cudnn:conv,engine=1", 1, &form), COAR_ERROR_UNSUPPORTED,
                "wants a workspace of");
    status_clear();
}

/* What a described device answers: no handle, no launch. */
static void described(void) {
    cuda_cudnn *d = NULL;
    cuda_cudnn_answer answer;
    static float any;
    gpu_conv c = shape_of(0, GPU_BF16);
    c.x = c.weight = c.y = &any;
    test_begin("plans for a described device");
    CHECK_OK(cuda_cudnn_open_described("{\"deviceVer\":900}", &d));
    CHECK_OK(cuda_cudnn_ask(d, &c, CUDA_CUDNN_CONV, 3, &answer));
    CHECK(answer.offered > answer.admitted && answer.admitted >= answer.planned && answer.planned > 0);
    CHECK(!strncmp(answer.form, "cudnn:conv,engine=7", 19));
    CHECK(strstr(answer.why, "cuDNN: finalize")); /* engine 12 */
    cuda_cudnn_close(d);
}

static void failures(void) {
    cuda_cudnn *d;
    test_begin("a failure to open is told with cuDNN's words");
    stand_in_fail("cudnnCreate", 0, CUDNN_STATUS_NOT_INITIALIZED);
    CHECK_ERROR(cuda_cudnn_open(&d), COAR_ERROR_UNSUPPORTED, "cuDNN: cudnnCreate: ");
    status_clear();
    CHECK(!d);
    test_begin("no memory is no refusal");
    stand_in_fail("cudnnCreate", 0, CUDNN_STATUS_ALLOC_FAILED);
    CHECK_ERROR(cuda_cudnn_open(&d), COAR_ERROR_MEMORY, "cuDNN: cudnnCreate: ");
    status_clear();
}

/* The n-th call of each function fails, for every n until the work succeeds: nothing is left behind, and nothing is
 * used. */
static void every_call_fails(void) {
    static const char *const calls[] = {"cudnnBackendCreateDescriptor", "cudnnBackendSetAttribute",
                                        "cudnnBackendFinalize", "cudnnBackendGetAttribute"};
    static float any;
    gpu_conv c = shape_of(0, GPU_BF16);
    c.x = c.weight = c.y = &any;
    for (size_t k = 0; k < sizeof calls / sizeof *calls; k++) {
        coar_status status = COAR_ERROR_INTERNAL;
        unsigned n = 0;
        test_begin("every %s in turn fails", calls[k]);
        for (; status != COAR_OK && n < 1000; n++) {
            cuda_cudnn_plan *plan;
            stand_in_fail(calls[k], n, CUDNN_STATUS_INTERNAL_ERROR);
            status = cuda_cudnn_plan_create(handles->cudnn, &c, "cudnn:conv,engine=7,knobs=2:1", SIZE_MAX, &plan);
            CHECK((status == COAR_OK) == (plan != NULL));
            cuda_cudnn_plan_destroy(plan);
            status_clear();
        }
        CHECK(n > 1 && n < 1000);
        stand_in_fail(calls[k], 1u << 30, 0);
    }
}

int main(void) {
    test_begin("handles");
    CHECK_OK(cuda_handles_get(0, &handles));
    CHECK_TEXT(handles->cudnn_why, "");
    all_engines();
    which_layers();
    refusals();
    large_workspace();
    described();
    failures();
    every_call_fails();
    test_begin("nothing is left");
    cuda_forms_release();
    CHECK_INT(stand_in_leaks(), 0);
    return test_end();
}

#else

int main(void) {
    test_begin("cuDNN");
    test_skip("this build was made without cuDNN's headers");
    return test_end();
}

#endif
