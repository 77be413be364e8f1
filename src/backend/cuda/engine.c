/*
 * engine.c - who computes a convolution: one table, asked by the prefix of the plan's kernel name; and the project's
 * own kernels as the last of its entries.
 */
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda_cublaslt.h"
#include "backend/cuda/cuda_cudnn.h"
#include "backend/cuda/cuda_library_engine.h"

static const cuda_engine *const engines[] = {
    &cuda_engine_cudnn,
    &cuda_engine_cublaslt,
    &cuda_engine_own,
};

static const cuda_engine *find_engine(gpu_type type, const char *kernel, int *form) {
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++) {
        const size_t length = strlen(engines[i]->prefix);
        if (!strncmp(kernel, engines[i]->prefix, length) && engines[i]->find(type, kernel + length, form))
            return engines[i];
    }
    return NULL;
}

coar_status cuda_engine_find(const numerics_plan *plan, size_t i, bool data, const cuda_engine **engine, int *form) {
    const char *kernel = data ? plan->data[i] : plan->kernel[i];
    *engine = find_engine(cuda_type(plan), kernel, form);
    if (*engine) return COAR_OK;
    return status_set(COAR_ERROR_MISMATCH, "layer '%s': this build has no kernel '%s' of its plan%s", plan->name[i],
                      kernel, data ? " for the data gradient" : "");
}

void cuda_library_versions(char *text, size_t size) {
    char cudnn[CUDA_VERSION_SIZE], cublas[CUDA_VERSION_SIZE];
    cuda_cudnn_version(cudnn);
    cuda_cublaslt_version(cublas);
    snprintf(text, size, "%s/%s", cudnn, cublas);
}

/* ------------------------------------------------------------------------------------- our kernels */

static bool own_find(gpu_type type, const char *kernel, int *form) {
    const char *name;
    for (int i = 0; (name = gpu_conv_form(type, i)); i++)
        if (!strcmp(name, kernel)) {
            *form = i;
            return true;
        }
    return false;
}

static size_t own_workspace(const cuda_backend *b, const cuda_layer *layer, const gpu_conv *c) {
    (void)b, (void)layer;
    return gpu_conv_workspace(c);
}

static int own_form(const cuda_layer *layer, const gpu_conv *c) {
    return c->transposed ? layer->data_form : layer->form;
}

static coar_status own_prepare(cuda_backend *b, cuda_layer *layer, const gpu_conv *c) {
    const int form = own_form(layer, c);
    (void)b;
    if (gpu_conv_can(c, form)) return COAR_OK;
    return status_set(COAR_ERROR_MISMATCH, "layer '%s': kernel '%s' of its plan does not run on this device",
                      layer->op->name, gpu_conv_form(c->type, form));
}

static coar_status own_launch(const cuda_backend *b, const cuda_layer *layer, const gpu_conv *c, cudaStream_t stream) {
    const int form = own_form(layer, c);
    (void)b;
    const cudaError_t error = gpu_conv_launch(c, form, stream);
    if (error == cudaSuccess) return COAR_OK;
    return cuda_error(error, "layer '%s': kernel '%s', %u x %u x %u to %u x %u x %u, batch of %u (compute stream)",
                      layer->op->name, gpu_conv_form(c->type, form), c->in_h, c->in_w, c->in_channels, c->out_h,
                      c->out_w, c->out_channels, c->pairs);
}

const cuda_engine cuda_engine_own = {
    .prefix = "",
    .find = own_find,
    .workspace = own_workspace,
    .prepare = own_prepare,
    .launch = own_launch,
};
