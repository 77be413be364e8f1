/*
 * reverse.c - the op list over one batch, backwards: from dL/dlogits to the sums of every component. Each op becomes a
 * launch or a few (a masked attention five); one that no component is above or in becomes none. Only enqueues; may be
 * captured into a graph.
 *
 * A convolution is two launches: everything behind W x (activation, residual, mask and its sums, scale) by a kernel of
 * ours, which reads what the forward pass kept and no library can; then W' by the engine that the plan names, ours or a
 * library's.
 *
 * What the forward pass left, and where gradients go, is on the tape (cuda_tape.h). A value that several ops read gets
 * its gradient from each of them in the order of the reverse pass: the first writes, the others add.
 *
 * Must not know: where memory comes from, runs, what is done with the sums.
 */
#include "backend/cuda/cuda.h"

void *cuda_tape_at(const cuda_pass *pass, size_t place) {
    return place == CUDA_NOWHERE ? NULL : pass->batch->tape + place * pass->batch->pairs;
}

float cuda_loss_scale(const cuda_backend *b) {
    return b->precision == PRECISION_FP16 ? GRADIENT_SCALE_FP16 : 1;
}

/* One call of cuda_reverse. */
typedef struct walk {
    const cuda_pass *pass;
    reverse_kind kind;
    size_t output;
    float *sums; /* [pairs][n] */
} walk;

/* ------------------------------------------------------------------------------------------- gradients */

static const cuda_tape_step *step_of(const cuda_pass *pass, const cuda_layer *layer) {
    return &pass->b->tape.step[layer - pass->b->layers];
}

/* dL/dvalue; NULL where nobody wants it, and for -1. */
static void *gradient_of(const cuda_pass *pass, int value) {
    return value < 0 ? NULL : cuda_tape_at(pass, pass->b->tape.gradient[value]);
}

/* --------------------------------------------------------------------------------------- behind W x */

/* The part of gpu_reverse that sums up what the op's mask acts on; without a mask there is nothing to sum. */
static gpu_reverse sums_of(const walk *w, const cuda_layer *layer) {
    static const gpu_reverse_kind kinds[] = {[REVERSE_MASK] = GPU_REVERSE_MASK,
                                             [REVERSE_INFLUENCE] = GPU_REVERSE_INFLUENCE,
                                             [REVERSE_CONDUCTANCE] = GPU_REVERSE_CONDUCTANCE};
    const cuda_backend *b = w->pass->b;
    const mask_site *m = &layer->op->mask;
    if (m->place == PLACE_NONE) return (gpu_reverse){.kind = GPU_REVERSE_NONE};
    return (gpu_reverse){.kind = kinds[w->kind],
                         .example = w->pass->example,
                         .width = m->width,
                         .components = b->settings.graph->components,
                         .unscale = 1 / cuda_loss_scale(b),
                         .sums = w->sums + m->first,
                         .workspace = w->pass->batch->workspace};
}

/* The mask of an attention or a layer norm: its sums, and in place of dL/dy the gradient of the result before it. */
static coar_status unmask(const walk *w, const cuda_layer *layer) {
    const cuda_pass *pass = w->pass;
    const op *o = layer->op;
    if (o->mask.place == PLACE_NONE) return COAR_OK;
    const gpu_conv c = {.type = pass->b->type,
                        .pairs = pass->pairs,
                        .out_h = layer->out.h,
                        .out_w = layer->out.w,
                        .out_channels = layer->out.c,
                        .linear = cuda_tape_at(pass, step_of(pass, layer)->kept),
                        .mask = cuda_mask_args(pass, layer)};
    gpu_reverse r = sums_of(w, layer);
    r.dy = r.dlinear = gradient_of(pass, o->output);
    return cuda_launched(pass, layer, gpu_reverse_launch(&c, &r, pass->stream));
}

/* ---------------------------------------------------------------------------------- one function per op */

/* Everything behind W x. A residual whose gradient takes the place of dL/dy has it already where nothing changes it on
 * the way. */
static coar_status reverse_epilogue(const walk *w, const cuda_layer *layer, void *dlinear) {
    const cuda_pass *pass = w->pass;
    const op *o = layer->op;
    gpu_reverse r = sums_of(w, layer);
    r.dy = gradient_of(pass, o->output);
    r.dlinear = dlinear;
    r.dresidual = gradient_of(pass, o->residual);
    r.add = step_of(pass, layer)->add_residual;
    if (r.dresidual == r.dy && o->act == ACT_NONE && o->mask.place != PLACE_OUT) r.dresidual = NULL;
    if (cuda_tape_is_plain(o) && r.dlinear == r.dy) r.dlinear = NULL;
    if (!r.dlinear && !r.dresidual && r.kind == GPU_REVERSE_NONE) return COAR_OK;
    const gpu_conv c = cuda_conv_args(pass, layer);
    return cuda_launched(pass, layer, gpu_reverse_launch(&c, &r, pass->stream));
}

static coar_status reverse_conv(const walk *w, const cuda_layer *layer) {
    const cuda_pass *pass = w->pass;
    const cuda_tape_step *step = step_of(pass, layer);
    void *dlinear = cuda_tape_at(pass, step->linear);
    TRY(reverse_epilogue(w, layer, dlinear));
    if (!dlinear) return COAR_OK;
    gpu_conv c = cuda_layer_transposed(pass->b, layer, pass->pairs);
    c.x = dlinear;
    c.y = gradient_of(pass, layer->op->input[0]);
    c.residual = step->add[0] ? c.y : NULL;
    c.workspace = pass->batch->workspace;
    TRY(layer->data_engine->launch(pass->b, layer, &c, pass->stream));
    return cuda_launched(pass, layer, cudaSuccess);
}

static coar_status reverse_pool(const walk *w, const cuda_layer *layer) {
    const cuda_pass *pass = w->pass;
    const gpu_pool p = cuda_pool_args(pass, layer);
    return cuda_launched(pass, layer,
                         gpu_pool_reverse_launch(&p, gradient_of(pass, layer->op->output),
                                                 gradient_of(pass, layer->op->input[0]), step_of(pass, layer)->add[0],
                                                 pass->stream));
}

static coar_status reverse_subsample(const walk *w, const cuda_layer *layer) {
    const cuda_pass *pass = w->pass;
    const gpu_subsample s = cuda_subsample_args(pass, layer);
    return cuda_launched(pass, layer,
                         gpu_subsample_reverse_launch(&s, gradient_of(pass, layer->op->output),
                                                      gradient_of(pass, layer->op->input[0]),
                                                      step_of(pass, layer)->add[0], pass->stream));
}

static coar_status reverse_embed(const walk *w, const cuda_layer *layer) {
    const cuda_pass *pass = w->pass;
    const gpu_embed e = cuda_embed_args(pass, layer);
    return cuda_launched(pass, layer,
                         gpu_embed_reverse_launch(&e, gradient_of(pass, layer->op->output),
                                                  gradient_of(pass, layer->op->input[0]), step_of(pass, layer)->add[0],
                                                  pass->stream));
}

/* With a mask, the result before it is computed again, if anybody reads it. */
static coar_status reverse_layernorm(const walk *w, const cuda_layer *layer) {
    const cuda_pass *pass = w->pass;
    void *dx = gradient_of(pass, layer->op->input[0]);
    gpu_layernorm l = cuda_layernorm_args(pass, layer);
    if (l.mask.place != GPU_PLACE_NONE) {
        l.mask = (gpu_mask){.place = GPU_PLACE_NONE};
        l.y = cuda_tape_at(pass, step_of(pass, layer)->kept);
        if (w->kind != REVERSE_INFLUENCE) TRY(cuda_launched(pass, layer, gpu_layernorm_launch(&l, pass->stream)));
    }
    TRY(unmask(w, layer));
    if (!dx) return COAR_OK;
    return cuda_launched(pass, layer,
                         gpu_layernorm_reverse_launch(&l, gradient_of(pass, layer->op->output), dx,
                                                      step_of(pass, layer)->add[0], pass->stream));
}

static coar_status reverse_attention(const walk *w, const cuda_layer *layer) {
    const cuda_pass *pass = w->pass;
    const op *o = layer->op;
    const cuda_tape_step *step = step_of(pass, layer);
    TRY(unmask(w, layer));
    const gpu_attention a = cuda_attention_args(pass, layer);
    const gpu_attention_reverse r = {.dresult = gradient_of(pass, o->output),
                                     .dq = gradient_of(pass, o->input[0]),
                                     .dk = gradient_of(pass, o->input[1]),
                                     .dv = gradient_of(pass, o->input[2]),
                                     .add_q = step->add[0],
                                     .add_k = step->add[1],
                                     .add_v = step->add[2],
                                     .workspace = pass->batch->workspace};
    if (!r.dq && !r.dk && !r.dv) return COAR_OK;
    return cuda_launched(pass, layer, gpu_attention_reverse_launch(&a, &r, pass->stream));
}

static coar_status reverse_select(const walk *w, const cuda_layer *layer) {
    const cuda_pass *pass = w->pass;
    return cuda_launched(pass, layer,
                         gpu_select_reverse_launch(pass->b->type, pass->pairs, (uint32_t)shape_positions(layer->in),
                                                   layer->in.c, gradient_of(pass, layer->op->output),
                                                   gradient_of(pass, layer->op->input[0]), step_of(pass, layer)->add[0],
                                                   pass->stream));
}

static coar_status reverse_mean_token(const walk *w, const cuda_layer *layer) {
    const cuda_pass *pass = w->pass;
    const gpu_embed e = cuda_embed_args(pass, layer);
    return cuda_launched(pass, layer,
                         gpu_mean_token_reverse_launch(&e, gradient_of(pass, layer->op->output),
                                                       gradient_of(pass, layer->op->input[0]),
                                                       step_of(pass, layer)->add[0], pass->stream));
}

static coar_status reverse_normalise(const walk *w, const cuda_layer *layer) {
    const cuda_pass *pass = w->pass;
    const op *o = layer->op;
    return cuda_launched(pass, layer,
                         gpu_unit_reverse_launch(pass->b->type, pass->pairs * (uint32_t)shape_positions(layer->in),
                                                 layer->in.c, cuda_value(pass, o->input[0]),
                                                 gradient_of(pass, o->output), gradient_of(pass, o->input[0]),
                                                 step_of(pass, layer)->add[0], pass->stream));
}

static coar_status reverse_next(const walk *w, const cuda_layer *layer) {
    const cuda_pass *pass = w->pass;
    return cuda_next_reverse(pass, layer, w->output, gradient_of(pass, layer->op->output),
                             gradient_of(pass, layer->op->input[0]), step_of(pass, layer)->add[0]);
}

/* An OP_LOOKUP has no entry: no component lies in front of it. */
coar_status cuda_reverse(const cuda_pass *pass, reverse_kind kind, size_t output, float *sums) {
    static coar_status (*const launches[])(const walk *, const cuda_layer *) = {
        [OP_CONV] = reverse_conv,           [OP_MAXPOOL] = reverse_pool,        [OP_AVGPOOL] = reverse_pool,
        [OP_SUBSAMPLE] = reverse_subsample, [OP_EMBED] = reverse_embed,         [OP_MEAN_TOKEN] = reverse_mean_token,
        [OP_LAYERNORM] = reverse_layernorm, [OP_ATTENTION] = reverse_attention, [OP_SELECT] = reverse_select,
        [OP_NORMALISE] = reverse_normalise, [OP_NEXT] = reverse_next,
    };
    cuda_pass backwards = *pass;
    backwards.backwards = true;
    const walk w = {.pass = &backwards, .kind = kind, .output = output, .sums = sums};
    for (size_t i = pass->b->settings.graph->op_count; i-- > 0;) {
        const cuda_layer *layer = &pass->b->layers[i];
        if (pass->b->tape.step[i].active) TRY(launches[layer->op->kind](&w, layer));
    }
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------- workspace */

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Sums of an op's mask: a launch as far as its size goes, for which all places are alike. */
static size_t sums_workspace(const cuda_backend *b, const cuda_layer *layer, uint32_t pairs) {
    const mask_site *m = &layer->op->mask;
    const gpu_reverse r = {.kind = GPU_REVERSE_MASK, .width = m->width, .components = b->settings.graph->components};
    const gpu_conv c = {.type = b->type,
                        .pairs = pairs,
                        .out_h = layer->out.h,
                        .out_w = layer->out.w,
                        .out_channels = layer->out.c,
                        .mask = {.place = GPU_PLACE_PRE}};
    return m->place == PLACE_NONE ? 0 : gpu_reverse_workspace(&c, &r);
}

size_t cuda_reverse_workspace(const cuda_backend *b, uint32_t pairs) {
    size_t most = 0;
    for (size_t i = 0; i < b->settings.graph->op_count; i++) {
        const cuda_layer *layer = &b->layers[i];
        const op *o = layer->op;
        most = larger(most, sums_workspace(b, layer, pairs));
        if (o->kind == OP_ATTENTION)
            most = larger(most, shape_positions(layer->out) * o->heads * pairs * sizeof(float));
        if (o->kind == OP_NEXT) most = larger(most, cuda_next_workspace(b, layer, pairs));
        if (o->kind != OP_CONV) continue;
        const gpu_conv forward = cuda_layer_saving(b, layer, pairs), back = cuda_layer_transposed(b, layer, pairs);
        most = larger(most, gpu_conv_workspace(&forward));
        if (cuda_layer_wants_transposed(b, layer)) most = larger(most, layer->data_engine->workspace(b, layer, &back));
    }
    return most;
}
