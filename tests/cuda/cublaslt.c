/*
 * cublaslt.c - linear layers and their data gradients by cuBLASLt: every algorithm that is proposed computes the layer
 * with every epilogue in every precision, its text makes the same algorithm again, and texts that are none are refused.
 */
#include "layer_case.h"
#include "stand_ins/stand_ins.h"

static const gpu_type types[] = {GPU_F32, GPU_TF32, GPU_BF16, GPU_F16};
static const char *const type_names[] = {
    [GPU_F32] = "fp32", [GPU_TF32] = "tf32", [GPU_BF16] = "bf16", [GPU_F16] = "fp16"};

static cuda_handles *handles;

static const struct {
    const char *name;
    uint32_t pairs, tokens, in, out;
    layer_epilogue epilogue;
    bool transposed; /* from `in` channels of dy to `out` of dx */
} cases[] = {
    {"bare", 1, 1, 8, 8, {0}},
    {"odd sizes, PRE, bias", 3, 5, 19, 13, {.place = GPU_PLACE_PRE, .shift = true}},
    {"PRE with fill, GELU",
     2,
     4,
     24,
     32,
     {.place = GPU_PLACE_PRE, .fill = true, .shift = true, .activation = GPU_GELU_ERF}},
    {"POST, residual in place",
     2,
     3,
     16,
     24,
     {.place = GPU_PLACE_POST, .shift = true, .residual = true, .in_place = true}},
    {"OUT, scale, ReLU, residual",
     2,
     3,
     16,
     10,
     {.place = GPU_PLACE_OUT, .fill = true, .scale = true, .shift = true, .residual = true, .activation = GPU_RELU}},
    {"logits", 5, 1, 40, 10, {.shift = true, .wide = true}},
    {"data gradient", 3, 5, 19, 24, {0}, true},
    {"data gradient of odd sizes, added", 2, 3, 10, 13, {.residual = true, .in_place = true}, true},
};
enum { CASES = sizeof cases / sizeof *cases };

static void all_algorithms(void) {
    for (size_t i = 0; i < CASES; i++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            char forms[8][CUDA_FORM_SIZE];
            size_t count = 0;
            layer_case l;
            gpu_conv shape = layer_linear(types[t], cases[i].pairs, cases[i].tokens, cases[i].in, cases[i].out);
            shape.transposed = cases[i].transposed;
            test_begin("%s, %s", cases[i].name, type_names[types[t]]);
            layer_make(&l, &shape, &cases[i].epilogue, 7 * i + t);
            CHECK(cuda_cublaslt_can(&l.conv));
            CHECK_OK(cuda_cublaslt_propose(handles->cublaslt, &l.conv, 8, forms, &count));
            CHECK(count > 0);
            for (size_t k = 0; k < count; k++) {
                cuda_form *form = NULL;
                CHECK_OK(cuda_form_open(handles, &l.conv, forms[k], 1, &form));
                if (!form) continue;
                CHECK(cuda_form_workspace(form) <= cuda_form_workspace_max(&l.conv, forms[k]));
                layer_check(&l, form, forms[k]);
                cuda_form_close(form);
                if (l.conv.residual == l.conv.y && l.conv.residual) break; /* the residual is gone */
            }
            layer_free(&l);
        }
}

static void refusals(void) {
    static const char *const bad[] = {
        "cublaslt:",
        "cublaslt:id=1",
        "cublaslt:id=1,tile=1,stages=1,splitk=1,reduction=0,swizzle=0,custom=0,inner=0,cluster=0,",
        "cublaslt:id=-1,tile=1,stages=1,splitk=1,reduction=0,swizzle=0,custom=0,inner=0,cluster=0",
        "cublaslt:id=1,tile=1,stages=1,splitk=1,reduction=0,swizzle=0,custom=0,inner=0,cluster=65536",
        "cublaslt:id=1,tile= 1,stages=1,splitk=1,reduction=0,swizzle=0,custom=0,inner=0,cluster=0",
        "cublaslt:id=99999999999999999999,tile=1,stages=1,splitk=1,reduction=0,swizzle=0,custom=0,inner=0,cluster=0",
        "cublaslt:id=1,tile=1,stages=1,splitk=2,reduction=1,swizzle=0,custom=0,inner=0,cluster=0",
        "cublaslt:tile=1,id=1,stages=1,splitk=1,reduction=0,swizzle=0,custom=0,inner=0,cluster=0",
    };
    static float any;
    gpu_conv c = layer_linear(GPU_BF16, 2, 4, 16, 16);
    cuda_form *form;
    c.x = c.weight = c.y = &any;
    test_begin("texts that name no algorithm");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_ERROR(cuda_form_open(handles, &c, bad[i], 1, &form), COAR_ERROR_UNSUPPORTED, "is no form of cuBLASLt's");
        CHECK(!form);
        status_clear();
    }
    test_begin("layers that are no product");
    gpu_conv strided = c, images = c;
    strided.stride = 2;
    images.example = (const uint32_t *)(const void *)&any;
    CHECK(cuda_cublaslt_can(&c) && !cuda_cublaslt_can(&strided) && !cuda_cublaslt_can(&images));
    gpu_conv elsewhere = c;
    elsewhere.transposed = true;
    CHECK(cuda_cublaslt_can(&elsewhere));
    elsewhere.residual = (const char *)&any + 1; /* a data gradient is added to what is there, or to nothing */
    CHECK(!cuda_cublaslt_can(&elsewhere));
    test_begin("a library's form has no partial sums of ours");
    CHECK_ERROR(cuda_form_open(handles, &c, "cublaslt:id=1", 2, &form), COAR_ERROR_UNSUPPORTED, "partial sums");
    status_clear();
}

/* A plan that was made for a batch is not used for another one. */
static void other_batch(void) {
    char forms[1][CUDA_FORM_SIZE];
    size_t count;
    layer_case l;
    cuda_form *form = NULL;
    const gpu_conv shape = layer_linear(GPU_BF16, 4, 2, 16, 16);
    const layer_epilogue bare = {.place = GPU_PLACE_NONE};
    test_begin("another number of pairs is refused");
    layer_make(&l, &shape, &bare, 5);
    CHECK_OK(cuda_cublaslt_propose(handles->cublaslt, &l.conv, 1, forms, &count));
    CHECK_OK(cuda_form_open(handles, &l.conv, forms[0], 1, &form));
    l.conv.pairs = 3;
    CHECK_ERROR(cuda_form_launch(form, &l.conv, NULL), COAR_ERROR_INTERNAL, "a plan for 4 pairs was given 3");
    status_clear();
    cuda_form_close(form);
    layer_free(&l);
}

static void kept(void) {
    char forms[1][CUDA_FORM_SIZE];
    size_t count;
    static float any;
    const cuda_form *first, *again, *other;
    gpu_conv c = layer_linear(GPU_BF16, 4, 2, 16, 16);
    c.x = c.weight = c.y = &any;
    test_begin("a form is made once for a signature");
    CHECK_OK(cuda_cublaslt_propose(handles->cublaslt, &c, 1, forms, &count));
    CHECK_OK(cuda_form_get(handles, &c, forms[0], 1, &first));
    CHECK_OK(cuda_form_get(handles, &c, forms[0], 1, &again));
    CHECK(first == again);
    c.pairs = 5;
    CHECK_OK(cuda_form_get(handles, &c, forms[0], 1, &other));
    CHECK(first != other);
}

int main(void) {
    test_begin("handles");
    CHECK_OK(cuda_handles_get(0, &handles));
    CHECK_TEXT(handles->cublaslt_why, "");
    all_algorithms();
    refusals();
    other_batch();
    kept();
    test_begin("nothing is left");
    cuda_forms_release();
    CHECK_INT(stand_in_leaks(), 0);
    return test_end();
}
