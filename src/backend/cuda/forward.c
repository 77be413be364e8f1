/*
 * forward.c - the op list over one batch: each op becomes one launch. Only enqueues; may be captured into a graph.
 * Must not know: where memory comes from, masks but for their keeps, runs.
 */
#include <string.h>

#include "backend/cuda/cuda.h"

void *cuda_value(const cuda_pass *pass, int value) {
    const cuda_backend *b = pass->b;
    if (value < 0) return NULL;
    if (value == b->settings.graph->logits) return pass->batch->logits;
    if (value == 0 && !b->gathers) return b->input;
    if (pass->batch->mode == CUDA_REVERSE) return cuda_tape_at(pass, b->tape.value[value]);
    return pass->batch->buffer[b->buffers.buffer[value]];
}

coar_status cuda_launched(const cuda_pass *pass, const cuda_layer *layer, cudaError_t error) {
    if (error == cudaSuccess && pass->checked) error = cudaStreamSynchronize(pass->stream);
    const op *o = layer->op;
    return cuda_error(error, "layer '%s' (%s%s, %u x %u x %u to %u x %u x %u, batch of %u, %s, compute stream)",
                      o->name, op_kind_name(o->kind), pass->backwards ? " backwards" : "", layer->in.h, layer->in.w,
                      layer->in.c, layer->out.h, layer->out.w, layer->out.c, pass->pairs,
                      pass->b->settings.plan->precision);
}

gpu_mask cuda_mask_args(const cuda_pass *pass, const cuda_layer *layer) {
    static const gpu_place places[] = {[PLACE_NONE] = GPU_PLACE_NONE,
                                       [PLACE_PRE] = GPU_PLACE_PRE,
                                       [PLACE_POST] = GPU_PLACE_POST,
                                       [PLACE_OUT] = GPU_PLACE_OUT};
    const cuda_backend *b = pass->b;
    const mask_site *m = &layer->op->mask;
    if (m->place == PLACE_NONE) return (gpu_mask){.place = GPU_PLACE_NONE};
    return (gpu_mask){.place = places[m->place],
                      .keep = pass->batch->keep + m->row_first,
                      .fill = b->fill ? b->fill + m->row_first : NULL,
                      .slot = pass->slot,
                      .rows = b->settings.graph->rows};
}

gpu_conv cuda_conv_args(const cuda_pass *pass, const cuda_layer *layer) {
    const cuda_backend *b = pass->b;
    const op *o = layer->op;
    const bool saving = pass->batch->mode == CUDA_REVERSE;
    gpu_conv c = saving ? cuda_layer_saving(b, layer, pass->pairs) : cuda_layer_conv(b, layer, pass->pairs);
    c.x = cuda_value(pass, o->input[0]);
    c.example = o->input[0] == 0 && !b->gathers ? pass->example : NULL;
    c.residual = cuda_value(pass, o->residual);
    c.y = cuda_value(pass, o->output);
    c.mask = cuda_mask_args(pass, layer);
    c.workspace = pass->batch->workspace;
    if (saving) c.linear = cuda_tape_at(pass, b->tape.step[layer - b->layers].kept);
    return c;
}

/* -------------------------------------------------------------------------------- one function per op */

static coar_status launch_conv(const cuda_pass *pass, const cuda_layer *layer) {
    const gpu_conv c = cuda_conv_args(pass, layer);
    if (pass->batch->mode == CUDA_REVERSE)
        return cuda_launched(pass, layer, gpu_conv_launch(&c, layer->saving_form, pass->stream));
    TRY(layer->engine->launch(pass->b, layer, &c, pass->stream));
    return cuda_launched(pass, layer, cudaSuccess);
}

gpu_pool cuda_pool_args(const cuda_pass *pass, const cuda_layer *layer) {
    const op *o = layer->op;
    return (gpu_pool){.type = pass->b->type,
                      .maximum = o->kind == OP_MAXPOOL,
                      .pairs = pass->pairs,
                      .in_h = layer->in.h,
                      .in_w = layer->in.w,
                      .out_h = layer->out.h,
                      .out_w = layer->out.w,
                      .channels = layer->out.c,
                      .kernel_h = o->kernel_h,
                      .kernel_w = o->kernel_w,
                      .stride = o->stride,
                      .pad = o->pad,
                      .x = cuda_value(pass, o->input[0]),
                      .y = cuda_value(pass, o->output)};
}

static coar_status launch_pool(const cuda_pass *pass, const cuda_layer *layer) {
    const gpu_pool p = cuda_pool_args(pass, layer);
    return cuda_launched(pass, layer, gpu_pool_launch(&p, pass->stream));
}

gpu_subsample cuda_subsample_args(const cuda_pass *pass, const cuda_layer *layer) {
    const op *o = layer->op;
    return (gpu_subsample){.type = pass->b->type,
                           .pairs = pass->pairs,
                           .in_h = layer->in.h,
                           .in_w = layer->in.w,
                           .out_h = layer->out.h,
                           .out_w = layer->out.w,
                           .in_channels = layer->in.c,
                           .out_channels = layer->out.c,
                           .stride = o->stride,
                           .before = o->pad,
                           .x = cuda_value(pass, o->input[0]),
                           .y = cuda_value(pass, o->output)};
}

static coar_status launch_subsample(const cuda_pass *pass, const cuda_layer *layer) {
    const gpu_subsample s = cuda_subsample_args(pass, layer);
    return cuda_launched(pass, layer, gpu_subsample_launch(&s, pass->stream));
}

gpu_embed cuda_embed_args(const cuda_pass *pass, const cuda_layer *layer) {
    const op *o = layer->op;
    return (gpu_embed){.type = pass->b->type,
                       .pairs = pass->pairs,
                       .tokens = (uint32_t)shape_positions(layer->out),
                       .channels = layer->out.c,
                       .table = layer->weight,
                       .x = cuda_value(pass, o->input[0]),
                       .y = cuda_value(pass, o->output)};
}

static coar_status launch_embed(const cuda_pass *pass, const cuda_layer *layer) {
    const gpu_embed e = cuda_embed_args(pass, layer);
    return cuda_launched(pass, layer, gpu_embed_launch(&e, pass->stream));
}

gpu_layernorm cuda_layernorm_args(const cuda_pass *pass, const cuda_layer *layer) {
    const op *o = layer->op;
    return (gpu_layernorm){.type = pass->b->type,
                           .pairs = pass->pairs,
                           .positions = (uint32_t)shape_positions(layer->out),
                           .channels = layer->out.c,
                           .gamma = layer->weight,
                           .beta = layer->shift,
                           .eps = o->eps,
                           .x = cuda_value(pass, o->input[0]),
                           .y = cuda_value(pass, o->output),
                           .mask = cuda_mask_args(pass, layer)};
}

static coar_status launch_layernorm(const cuda_pass *pass, const cuda_layer *layer) {
    const gpu_layernorm l = cuda_layernorm_args(pass, layer);
    return cuda_launched(pass, layer, gpu_layernorm_launch(&l, pass->stream));
}

gpu_attention cuda_attention_args(const cuda_pass *pass, const cuda_layer *layer) {
    const op *o = layer->op;
    const bool saving = pass->batch->mode == CUDA_REVERSE;
    const cuda_tape_step *step = saving ? &pass->b->tape.step[layer - pass->b->layers] : NULL;
    return (gpu_attention){.type = pass->b->type,
                           .pairs = pass->pairs,
                           .tokens = (uint32_t)shape_positions(layer->out),
                           .heads = o->heads,
                           .width = layer->out.c / o->heads,
                           .causal = o->causal,
                           .q = cuda_value(pass, o->input[0]),
                           .k = cuda_value(pass, o->input[1]),
                           .v = cuda_value(pass, o->input[2]),
                           .y = cuda_value(pass, o->output),
                           .mask = cuda_mask_args(pass, layer),
                           .result = saving ? cuda_tape_at(pass, step->kept) : NULL,
                           .logsum = saving ? cuda_tape_at(pass, step->logsum) : NULL};
}

static coar_status launch_attention(const cuda_pass *pass, const cuda_layer *layer) {
    gpu_attention a = cuda_attention_args(pass, layer);
    if (a.result == a.y) a.result = NULL; /* without a mask it is one value */
    return cuda_launched(pass, layer, gpu_attention_launch(&a, pass->stream));
}

static coar_status launch_select(const cuda_pass *pass, const cuda_layer *layer) {
    const op *o = layer->op;
    return cuda_launched(pass, layer,
                         gpu_select_launch(pass->b->type, pass->pairs, (uint32_t)shape_positions(layer->in),
                                           layer->in.c, cuda_value(pass, o->input[0]), cuda_value(pass, o->output),
                                           pass->stream));
}

static coar_status launch_mean_token(const cuda_pass *pass, const cuda_layer *layer) {
    const gpu_embed e = cuda_embed_args(pass, layer);
    return cuda_launched(pass, layer, gpu_mean_token_launch(&e, pass->stream));
}

static coar_status launch_lookup(const cuda_pass *pass, const cuda_layer *layer) {
    const gpu_lookup l = {.type = pass->b->type,
                          .pairs = pass->pairs,
                          .tokens = (uint32_t)shape_positions(layer->out),
                          .channels = layer->out.c,
                          .table = layer->weight,
                          .position = layer->shift,
                          .token = pass->b->inputs,
                          .example = pass->example,
                          .y = cuda_value(pass, layer->op->output)};
    return cuda_launched(pass, layer, gpu_lookup_launch(&l, pass->stream));
}

static coar_status launch_normalise(const cuda_pass *pass, const cuda_layer *layer) {
    const op *o = layer->op;
    return cuda_launched(pass, layer,
                         gpu_unit_launch(pass->b->type, pass->pairs * (uint32_t)shape_positions(layer->in), layer->in.c,
                                         cuda_value(pass, o->input[0]), cuda_value(pass, o->output), pass->stream));
}

coar_status cuda_forward(const cuda_pass *pass) {
    static coar_status (*const launches[])(const cuda_pass *, const cuda_layer *) = {
        [OP_CONV] = launch_conv,           [OP_MAXPOOL] = launch_pool,        [OP_AVGPOOL] = launch_pool,
        [OP_SUBSAMPLE] = launch_subsample, [OP_EMBED] = launch_embed,         [OP_MEAN_TOKEN] = launch_mean_token,
        [OP_LOOKUP] = launch_lookup,       [OP_LAYERNORM] = launch_layernorm, [OP_ATTENTION] = launch_attention,
        [OP_SELECT] = launch_select,       [OP_NORMALISE] = launch_normalise, [OP_NEXT] = cuda_next_forward,
    };
    for (size_t i = 0; i < pass->b->settings.graph->op_count; i++) {
        const cuda_layer *layer = &pass->b->layers[i];
        TRY(launches[layer->op->kind](pass, layer));
        if (pass->see) TRY(pass->see(pass->context, pass, layer));
    }
    return COAR_OK;
}
