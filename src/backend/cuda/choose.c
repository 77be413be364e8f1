/*
 * choose.c - the numerics plan of a CUDA device: its class, and for each convolution a kernel, the number of its
 * partial sums; by timing also one for its data gradient.
 *
 * By rule, they follow from the layer's shape and the device, and are our kernels. Which of these computes a
 * convolution decides no bits (kernels.h), the number of partial sums does; so data gradients, which have none, need no
 * place in a plan by rule (layer.c). By timing, libraries compete (cuda_choose.h).
 */
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda_library_engine.h"

/* Fewer products than this in a partial sum do not pay for adding it up afterwards. */
#define SPLIT_PRODUCTS_MIN 512

static coar_status device_class(int device, char out[PLAN_CLASS_SIZE]) {
    cuda_device d;
    TRY(cuda_device_open(device, &d));
    memcpy(out, d.device_class, PLAN_CLASS_SIZE);
    return COAR_OK;
}

static uint64_t tiles(uint64_t size, uint64_t tile) {
    return (size + tile - 1) / tile;
}

static void set_kernel(numerics_plan *plan, size_t i, gpu_type type, int form, uint32_t splits) {
    plan->form[i] = FORM_NAMED;
    plan->splits[i] = splits;
    snprintf(plan->kernel[i], PLAN_FORM_SIZE, "%s", gpu_conv_form(type, form));
}

/* The tile that computes least beside the layer's own elements; of equals the largest, which reads least. */
static int best_form(const gpu_conv *c, uint64_t *tiles_of_best) {
    const uint64_t rows = (uint64_t)c->pairs * c->out_h * c->out_w;
    double least = 0;
    int best = 0;
    const char *name;
    *tiles_of_best = 1;
    for (int form = 0; (name = gpu_conv_form(c->type, form)); form++) {
        unsigned m, n;
        if (sscanf(name, "%ux%u", &m, &n) != 2 || !m || !n || !gpu_conv_can(c, form)) continue;
        const uint64_t count = tiles(rows, m) * tiles(c->out_channels, n);
        const double cost = (double)count * (m * n) * (1 + 16.0 / m + 16.0 / n); /* products, and what feeds them */
        if (least > 0 && cost >= least) continue;
        least = cost;
        best = form;
        *tiles_of_best = count;
    }
    return best;
}

int cuda_choose_own_form(const gpu_conv *c) {
    uint64_t count;
    return best_form(c, &count);
}

/* As many partial sums as fill the device, where there are enough products to share out. */
static uint32_t best_splits(const gpu_conv *c, uint64_t tile_count, int multiprocessors) {
    const uint64_t products = (uint64_t)c->in_channels * c->kernel_h * c->kernel_w;
    uint64_t splits = (uint64_t)multiprocessors / (tile_count ? tile_count : 1);
    if (splits > products / SPLIT_PRODUCTS_MIN) splits = products / SPLIT_PRODUCTS_MIN;
    if (splits > 8) splits = 8;
    return splits ? (uint32_t)splits : 1;
}

gpu_type cuda_type(const numerics_plan *plan) {
    static const gpu_type types[] = {[PRECISION_FP32] = GPU_F32,
                                     [PRECISION_TF32] = GPU_TF32,
                                     [PRECISION_BF16] = GPU_BF16,
                                     [PRECISION_FP16] = GPU_F16};
    precision p = PRECISION_FP32;
    (void)precision_parse(plan->precision, &p);
    return types[p];
}

static coar_status choose(const graph *g, int device, const plan_timing *timing, numerics_plan *plan) {
    cuda_device d;
    TRY(cuda_device_open(device, &d));
    cuda_backend shapes = {.type = cuda_type(plan), .settings = {.graph = g, .plan = plan}};
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        if (o->kind != OP_CONV) continue;
        const cuda_layer layer = {.op = o, .in = g->values[o->input[0]], .out = g->values[o->output], .splits = 1};
        const gpu_conv c = cuda_layer_conv(&shapes, &layer, CUDA_TYPICAL_PAIRS);
        uint64_t count;
        const int form = best_form(&c, &count);
        set_kernel(plan, i, c.type, form, best_splits(&c, count, d.multiprocessors));
    }
    return timing ? cuda_choose_plan(g, device, timing, plan) : COAR_OK;
}

/* A library's form is for one size of batches: without it, sums could depend on the memory of a job. */
static coar_status check_kernel(const numerics_plan *plan, size_t i, bool data) {
    int form;
    const cuda_engine *engine;
    TRY(cuda_engine_find(plan, i, data, &engine, &form));
    if (engine == &cuda_engine_own || (data ? plan->reverse_pairs : plan->pairs)) return COAR_OK;
    return status_set(COAR_ERROR_MISMATCH,
                      "layer '%s': kernel '%s' of its plan%s is for batches of one size, and the plan names none",
                      plan->name[i], data ? plan->data[i] : plan->kernel[i], data ? " for the data gradient" : "");
}

static coar_status check(const numerics_plan *plan, int device) {
    char class[PLAN_CLASS_SIZE];
    TRY(device_class(device, class));
    if (strcmp(class, plan->device_class))
        return status_set(COAR_ERROR_MISMATCH, "layer '%s': its plan is for device class %s, this machine's is %s",
                          plan->layers ? plan->name[0] : "", plan->device_class, class);
    for (size_t i = 0; i < plan->layers; i++) {
        if (plan->form[i] == FORM_NAMED) TRY(check_kernel(plan, i, false));
        if (plan->data[i][0]) TRY(check_kernel(plan, i, true));
    }
    return COAR_OK;
}

coar_status cuda_plan_direct(const graph *g, const char *class, numerics_plan *out) {
    TRY(plan_blank(g, out));
    snprintf(out->device_class, sizeof out->device_class, "%s", class);
    for (size_t i = 0; i < g->op_count; i++)
        if (g->ops[i].kind == OP_CONV) set_kernel(out, i, GPU_F32, 0, 1);
    return COAR_OK;
}

const plan_device cuda_plan_device = {
    .prefix = "cuda/",
    .device_class = device_class,
    .choose = choose,
    .check = check,
};
