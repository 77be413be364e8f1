/* cuda_form.c - see cuda_form.h. */
#include "backend/cuda/cuda_form.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/error.h"
#include "core/memory.h"

struct cuda_form {
    cuda_handles *handles;
    char signature[CUDA_SIGNATURE_SIZE], text[CUDA_FORM_SIZE];
    int own; /* number of our kernel; used when both plans are NULL */
    uint32_t splits;
    cuda_cudnn_plan *cudnn;
    cuda_cublaslt_plan *cublaslt;
    size_t workspace;
};

/* -------------------------------------------------------------------------------------- devices' libraries */

enum { DEVICES_MAX = 64 };

/* What the process keeps. cuDNN's handle carries the stream of the next launch, so launches by it take turns too. */
static struct {
    pthread_mutex_t mutex, launch;
    cuda_handles *handles[DEVICES_MAX];
    cuda_form **forms; /* [count] */
    size_t count, capacity;
} kept = {.mutex = PTHREAD_MUTEX_INITIALIZER, .launch = PTHREAD_MUTEX_INITIALIZER};

/* A library that is not there is no error: its reason is kept instead. */
static coar_status without(coar_status status, char *why, size_t size) {
    if (status != COAR_ERROR_UNSUPPORTED) return status;
    status_copy(why, size);
    status_clear();
    return COAR_OK;
}

static coar_status open_handles(int device, cuda_handles **out) {
    cuda_handles *h;
    TRY(memory_new(1, sizeof *h, "handles", &h));
    h->device = device;
    coar_status status = without(cuda_cudnn_open(&h->cudnn), h->cudnn_why, sizeof h->cudnn_why);
    if (status == COAR_OK) status = without(cuda_cublaslt_open(&h->cublaslt), h->cublaslt_why, sizeof h->cublaslt_why);
    if (status == COAR_OK) {
        *out = h;
        return COAR_OK;
    }
    cuda_cudnn_close(h->cudnn);
    free(h);
    return status;
}

coar_status cuda_handles_get(int device, cuda_handles **out) {
    coar_status status = COAR_OK;
    *out = NULL;
    if (device < 0 || device >= DEVICES_MAX)
        return status_set(COAR_ERROR_UNSUPPORTED, "CUDA device %d: at most %d devices are supported", device,
                          DEVICES_MAX);
    TRY_CUDA(cudaSetDevice(device), "CUDA device %d", device);
    pthread_mutex_lock(&kept.mutex);
    if (!kept.handles[device]) status = open_handles(device, &kept.handles[device]);
    *out = kept.handles[device];
    pthread_mutex_unlock(&kept.mutex);
    return status;
}

void cuda_forms_release(void) {
    pthread_mutex_lock(&kept.mutex);
    for (size_t i = 0; i < kept.count; i++) cuda_form_close(kept.forms[i]);
    free(kept.forms);
    kept.forms = NULL;
    kept.count = kept.capacity = 0;
    for (int device = 0; device < DEVICES_MAX; device++) {
        cuda_handles *h = kept.handles[device];
        kept.handles[device] = NULL;
        if (!h || cudaSetDevice(device) != cudaSuccess) continue;
        cuda_cudnn_close(h->cudnn);
        cuda_cublaslt_close(h->cublaslt);
        free(h);
    }
    pthread_mutex_unlock(&kept.mutex);
}

/* --------------------------------------------------------------------------------------------- signature */

void cuda_signature(const gpu_conv *c, char text[CUDA_SIGNATURE_SIZE]) {
    static const char *const types[] = {
        [GPU_F32] = "fp32", [GPU_TF32] = "tf32", [GPU_BF16] = "bf16", [GPU_F16] = "fp16"};
    static const char *const places[] = {"", " pre", " post", " out"};
    static const char *const activations[] = {[GPU_NONE] = "",
                                              [GPU_RELU] = " relu",
                                              [GPU_GELU_ERF] = " gelu",
                                              [GPU_GELU_TANH] = " gelu-tanh",
                                              [GPU_QUICKGELU] = " quickgelu"};
    snprintf(text, CUDA_SIGNATURE_SIZE, "%s %u %ux%ux%u > %ux%ux%u %ux%u/%u+%u%s%s%s%s%s%s%s%s%s", types[c->type],
             c->pairs, c->in_h, c->in_w, c->in_channels, c->out_h, c->out_w, c->out_channels, c->kernel_h, c->kernel_w,
             c->stride, c->pad, c->transposed ? " transposed" : "", places[c->mask.place],
             c->mask.place != GPU_PLACE_NONE && c->mask.fill ? " fill" : "", c->scale ? " scale" : "",
             c->shift ? " shift" : "",
             !c->residual          ? ""
             : c->residual == c->y ? " residual-in-place"
                                   : " residual",
             activations[c->activation], c->wide ? " wide" : "", c->example ? " example" : "");
}

/* -------------------------------------------------------------------------------------------- one form */

static bool is_cudnn(const char *text) {
    return !strncmp(text, "cudnn:", strlen("cudnn:"));
}
static bool is_cublaslt(const char *text) {
    return !strncmp(text, "cublaslt:", strlen("cublaslt:"));
}

bool cuda_form_is_library(const char *text) {
    return is_cudnn(text) || is_cublaslt(text);
}

static coar_status open_own(const gpu_conv *c, cuda_form *form) {
    const char *name;
    gpu_conv split = *c;
    split.splits = form->splits;
    for (int i = 0; (name = gpu_conv_form(c->type, i)); i++) {
        if (strcmp(name, form->text)) continue;
        if (!gpu_conv_can(&split, i)) break;
        form->own = i;
        form->workspace = gpu_conv_workspace(&split);
        return COAR_OK;
    }
    return status_set(COAR_ERROR_UNSUPPORTED, "this build and device have no kernel '%s' for %s", form->text,
                      form->signature);
}

static coar_status open_library(const gpu_conv *c, cuda_form *form) {
    const cuda_handles *h = form->handles;
    const bool cudnn = is_cudnn(form->text);
    const char *why = cudnn ? h->cudnn_why : h->cublaslt_why;
    if (why[0]) return status_set(COAR_ERROR_UNSUPPORTED, "form '%s' cannot be computed here: %s", form->text, why);
    if (form->splits > 1)
        return status_set(COAR_ERROR_UNSUPPORTED, "form '%s' cannot be split into %u partial sums", form->text,
                          form->splits);
    if (cudnn) {
        TRY(cuda_cudnn_plan_create(h->cudnn, c, form->text, CUDA_LIBRARY_WORKSPACE, &form->cudnn));
        form->workspace = cuda_cudnn_plan_workspace(form->cudnn);
    } else {
        TRY(cuda_cublaslt_plan_create(h->cublaslt, c, form->text, &form->cublaslt));
        form->workspace = cuda_cublaslt_plan_workspace(form->cublaslt);
    }
    return COAR_OK;
}

coar_status cuda_form_open(cuda_handles *h, const gpu_conv *c, const char *text, uint32_t splits, cuda_form **out) {
    coar_status status = COAR_OK;
    cuda_form *form = NULL;
    *out = NULL;
    TRY(memory_new(1, sizeof *form, "form", &form));
    form->handles = h;
    form->splits = splits ? splits : 1;
    cuda_signature(c, form->signature);
    snprintf(form->text, sizeof form->text, "%s", text);
    TRY_GOTO(cuda_form_is_library(text) ? open_library(c, form) : open_own(c, form));
    *out = form;
    form = NULL;
done:
    cuda_form_close(form);
    return status;
}

void cuda_form_close(cuda_form *form) {
    if (!form) return;
    cuda_cudnn_plan_destroy(form->cudnn);
    cuda_cublaslt_plan_destroy(form->cublaslt);
    free(form);
}

const char *cuda_form_text(const cuda_form *form) {
    return form->text;
}

size_t cuda_form_workspace(const cuda_form *form) {
    return form->workspace;
}

size_t cuda_form_workspace_max(const gpu_conv *c, const char *text) {
    return is_cudnn(text)      ? cuda_cudnn_keep_bytes(c) + CUDA_LIBRARY_WORKSPACE
           : is_cublaslt(text) ? cuda_cublaslt_workspace_max(c)
                               : gpu_conv_workspace(c);
}

coar_status cuda_form_launch(const cuda_form *form, const gpu_conv *c, cudaStream_t stream) {
    if (form->cublaslt) return cuda_cublaslt_launch(form->cublaslt, c, c->workspace, stream);
    if (form->cudnn) {
        pthread_mutex_lock(&kept.launch);
        coar_status status = cuda_cudnn_launch(form->handles->cudnn, form->cudnn, c, c->workspace, stream);
        pthread_mutex_unlock(&kept.launch);
        return status;
    }
    gpu_conv split = *c;
    split.splits = form->splits;
    return cuda_error(gpu_conv_launch(&split, form->own, stream), "kernel '%s' for %s", form->text, form->signature);
}

/* ------------------------------------------------------------------------------------------- kept forms */

static cuda_form *find_kept(const cuda_handles *h, const char *signature, const char *text, uint32_t splits) {
    for (size_t i = 0; i < kept.count; i++) {
        cuda_form *f = kept.forms[i];
        if (f->handles == h && f->splits == splits && !strcmp(f->signature, signature) && !strcmp(f->text, text))
            return f;
    }
    return NULL;
}

coar_status cuda_form_keep(cuda_form *form) {
    coar_status status = COAR_OK;
    cuda_form *spare = form;
    pthread_mutex_lock(&kept.mutex);
    if (!find_kept(form->handles, form->signature, form->text, form->splits)) {
        status = memory_grow(&kept.forms, &kept.capacity, kept.count + 1, sizeof *kept.forms, "forms");
        if (status == COAR_OK) kept.forms[kept.count++] = form, spare = NULL;
    }
    pthread_mutex_unlock(&kept.mutex);
    cuda_form_close(spare); /* another thread was faster */
    return status;
}

static const cuda_form *look_up(const cuda_handles *h, const gpu_conv *c, const char *text, uint32_t splits) {
    char signature[CUDA_SIGNATURE_SIZE];
    cuda_signature(c, signature);
    pthread_mutex_lock(&kept.mutex);
    const cuda_form *form = find_kept(h, signature, text, splits ? splits : 1);
    pthread_mutex_unlock(&kept.mutex);
    return form;
}

coar_status cuda_form_get(cuda_handles *h, const gpu_conv *c, const char *text, uint32_t splits,
                          const cuda_form **out) {
    *out = look_up(h, c, text, splits);
    if (*out) return COAR_OK;
    cuda_form *form;
    TRY(cuda_form_open(h, c, text, splits, &form));
    TRY(cuda_form_keep(form));
    *out = look_up(h, c, text, splits);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------ many at once */

typedef struct build {
    cuda_handles *handles;
    const cuda_form_wanted **missing; /* [count] each text and signature once */
} build;

static coar_status build_one(void *context, size_t task, int worker) {
    const build *b = context;
    const cuda_form_wanted *w = b->missing[task];
    const cuda_form *form;
    (void)worker;
    TRY_CUDA(cudaSetDevice(b->handles->device), "CUDA device %d", b->handles->device);
    return cuda_form_get(b->handles, &w->conv, w->text, w->splits, &form);
}

static bool same_form(const cuda_form_wanted *a, const cuda_form_wanted *b) {
    char first[CUDA_SIGNATURE_SIZE], second[CUDA_SIGNATURE_SIZE];
    if (a->splits != b->splits || strcmp(a->text, b->text)) return false;
    cuda_signature(&a->conv, first);
    cuda_signature(&b->conv, second);
    return !strcmp(first, second);
}

coar_status cuda_forms_build(cuda_handles *h, const cuda_form_wanted *wanted, size_t count, thread_pool *pool,
                             const coar_callbacks *callbacks) {
    coar_status status = COAR_OK;
    build b = {.handles = h};
    size_t missing = 0, slow = 0;
    TRY(memory_new(count, sizeof *b.missing, "forms", &b.missing));
    for (size_t i = 0; i < count; i++) {
        bool again = look_up(h, &wanted[i].conv, wanted[i].text, wanted[i].splits) != NULL;
        for (size_t j = 0; j < missing && !again; j++) again = same_form(b.missing[j], &wanted[i]);
        if (again) continue;
        b.missing[missing++] = &wanted[i];
        slow += is_cudnn(wanted[i].text);
    }
    if (slow) log_info(callbacks, "cuDNN: building %zu execution plans", slow);
    if (pool) {
        TRY_GOTO(thread_pool_run(pool, missing, build_one, &b));
    } else {
        for (size_t i = 0; i < missing; i++) TRY_GOTO(build_one(&b, i, 0));
    }
done:
    free(b.missing);
    return status;
}
