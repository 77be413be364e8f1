/*
 * cpu_step.c - one step of a reverse pass: an op forward, keeping what its reverse reads, or the reverse of an op.
 *
 * With u = mul x + add + residual, y = act(u), x = W * input, keep k, fill c (cpu_pack.c has mul and add), g = dL/du:
 *   PRE    mask  sum of g scale (x - c)          dL/dx = g mul
 *   POST   mask  sum of g (scale x + shift - c)  dL/d(scale x + shift) = g k
 *   OUT    mask  sum of dL/dy (x - c)            dL/dx = dL/dy k, x being the op's unmasked result
 * Influence is the sum of dL/dx, conductance that of dL/dx times the difference of x to the lane before. A kernel sums
 * over positions, for each channel and lane; the channels of a component are added here, in double, in order.
 * Must not know: which masks and examples the lanes are, in what order steps come, where regions lie.
 */
#include <string.h>

#include "backend/cpu/cpu.h"

static float *at(const reverse_tile *t, int region) {
    return region == REGION_NONE ? NULL : t->w->regions + t->b->schedule.regions[region].start;
}

static gradient_sum sum_at(const reverse_tile *t, int region, bool add) {
    return (gradient_sum){at(t, region), add};
}

/* ---------------------------------------------------------------------------------------- positions */

/* Of value v, not the input: those that are computed. Of its gradient these are there, and no others. */
static size_t value_positions(const reverse_tile *t, int v) {
    return cpu_positions(t->w, &t->b->layers[graph_maker(v)]);
}

/* Those of input k's gradient that the reverse of an op writes. The output does not depend on the others by way of this
 * op, though it may by way of another that reads the same value: a query is asked for where keys are not. */
static size_t positions_written(const reverse_tile *t, const cpu_layer *layer, int k) {
    const size_t all = value_positions(t, layer->op->input[k]), read = cpu_positions(t->w, layer);
    return k == 0 && cpu_is_positionwise(layer) && read < all ? read : all;
}

/* The gradient of value v, the first `written` positions of which are there: the others are zero. */
static void complete_gradient(const reverse_tile *t, float *gradient, int v, size_t written) {
    const size_t stride = (size_t)t->b->settings.graph->values[v].c * LANES, all = value_positions(t, v);
    if (written < all) memset(gradient + written * stride, 0, (all - written) * stride * sizeof *gradient);
}

/* ------------------------------------------------------------------------------------------ forward */

static void forward_convolution(const reverse_tile *t, const step *s) {
    const cpu_layer *layer = &t->b->layers[s->op];
    conv_args args = cpu_conv_args(t->b, t->w, s->op, &layer->fp32, false);
    args.linear = at(t, s->linear);
    args.positive = (uint8_t *)at(t, s->positive);
    cpu_convolve(t->b, &layer->fp32, &args);
}

static void forward(const reverse_tile *t, const step *s) {
    const op *o = t->b->layers[s->op].op;
    float *y = at(t, s->y);
    for (int k = 0; k < 3; k++)
        if (o->input[k] >= 0) t->w->value[o->input[k]] = at(t, s->x[k]);
    if (o->residual >= 0) t->w->value[o->residual] = at(t, s->residual);
    /* Before its mask, which an attention's reverse wants; a convolution keeps its sums besides. */
    t->w->value[o->output] = o->kind == OP_ATTENTION && s->linear != REGION_NONE ? at(t, s->linear) : y;
    if (o->kind == OP_CONV)
        forward_convolution(t, s);
    else if (o->kind == OP_NEXT)
        cpu_next(t->b, t->w, &t->b->layers[s->op], &t->b->layers[s->op].fp32, at(t, s->x[0]), at(t, s->x[1]), y);
    else
        cpu_run_op(t->b, t->w, s->op, false);
    if (o->mask.place == PLACE_OUT) cpu_mask_result(t->b, t->w, s->op, false, cpu_value(t->w, o->output), y);
}

static void differentiate_output(const reverse_tile *t, const step *s) {
    const float *logits = at(t, s->y);
    float *gradient = at(t, s->dy);
    for (uint32_t lane = 0; lane < LANES; lane++) {
        logits_view view = t->b->logits;
        view.values = logits + lane;
        view.label = t->label[lane];
        output_gradient(t->spec, &view, gradient + lane);
        if (t->output[lane]) *t->output[lane] = output_value(t->spec, &view);
    }
}

/* -------------------------------------------------------------------------------------------- sites */

/* What a kernel is to sum up for the site of a layer. */
static void begin_site(const reverse_tile *t, const cpu_layer *layer, epilogue_reverse_args *args) {
    static const sum_kind kinds[] = {
        [REVERSE_MASK] = SUM_PRODUCT, [REVERSE_INFLUENCE] = SUM_GRADIENT, [REVERSE_CONDUCTANCE] = SUM_DIFFERENCE};
    const op *o = layer->op;
    const float *fill = t->b->settings.ablation.fill;
    for (uint32_t c = 0; c < layer->out.c; c++) {
        const float scale = o->scale ? o->scale[c] : 1, shift = o->shift ? o->shift[c] : 0;
        const float f = fill ? fill[o->mask.row_first + c] : 0;
        t->w->sum_mul[c] = o->mask.place == PLACE_OUT ? 1 : scale;
        t->w->sum_add[c] = o->mask.place == PLACE_POST ? shift - f : o->mask.place == PLACE_PRE ? -scale * f : -f;
    }
    memset(t->w->sums, 0, (size_t)layer->out.c * LANES * sizeof *t->w->sums);
    args->kind = kinds[t->kind];
    args->a = t->w->sum_mul;
    args->b = t->w->sum_add;
    args->sums = t->w->sums;
}

/* Sums of channel c times this [LANES] are those over dL/dx; NULL = 1. */
static const float *sum_factor(const reverse_tile *t, const cpu_layer *layer, uint32_t c) {
    const mask_site *m = &layer->op->mask;
    if (t->kind == REVERSE_MASK) return NULL;
    if (m->place == PLACE_OUT || (m->place == PLACE_POST && t->kind == REVERSE_INFLUENCE))
        return t->w->keep + (size_t)(m->first + c / m->width) * LANES;
    return t->w->packed[layer - t->b->layers].mul + (size_t)c * LANES;
}

/* Sums of channels -> gradients of components. */
static void end_site(const reverse_tile *t, const cpu_layer *layer) {
    const mask_site *m = &layer->op->mask;
    for (uint32_t j = 0; j < m->count; j++) {
        double total[LANES] = {0};
        for (uint32_t c = j * m->width; c < (j + 1) * m->width; c++) {
            const float *sums = t->w->sums + (size_t)c * LANES, *factor = sum_factor(t, layer, c);
            for (int lane = 0; lane < LANES; lane++)
                total[lane] += factor ? (double)sums[lane] * factor[lane] : sums[lane];
        }
        for (int lane = 0; lane < LANES; lane++)
            if (t->gradients[lane]) t->gradients[lane][m->first + j] = (float)total[lane];
    }
}

/* An OUT site: from the gradient of its result to that of x, in place. x: the unmasked result. */
static void reverse_mask(const reverse_tile *t, const cpu_layer *layer, const float *x, float *gradient) {
    cpu_out_keeps(t->b, t->w, (size_t)(layer - t->b->layers), false);
    epilogue_reverse_args args = {
        .positions = cpu_positions(t->w, layer),
        .channels = layer->out.c,
        .gradient = gradient,
        .x = x,
        .mul = t->w->out_mul,
        .add = t->w->out_add,
        .output = gradient,
    };
    begin_site(t, layer, &args);
    t->b->kernels->epilogue_reverse(&args);
    end_site(t, layer);
}

/* ------------------------------------------------------------------------------------- convolutions */

static derive_kernel derivative(const cpu_backend *b, activation act) {
    switch (act) {
    case ACT_NONE:
    case ACT_RELU: /* by the bits that were kept */
        return NULL;
    case ACT_GELU_ERF:
        return b->kernels->gelu_erf_reverse;
    case ACT_GELU_TANH:
        return b->kernels->gelu_tanh_reverse;
    case ACT_QUICKGELU:
        return b->kernels->quickgelu_reverse;
    }
    return NULL;
}

static bool in_epilogue(const cpu_layer *layer) {
    return layer->op->mask.place == PLACE_PRE || layer->op->mask.place == PLACE_POST;
}

/* Of a convolution but for an OUT site. */
static epilogue_reverse_args epilogue_args(const reverse_tile *t, const step *s) {
    const cpu_layer *layer = &t->b->layers[s->op];
    const cpu_packed *p = &t->w->packed[s->op];
    epilogue_reverse_args args = {
        .positions = cpu_positions(t->w, layer),
        .channels = layer->out.c,
        .gradient = at(t, s->dy),
        .positive = (const uint8_t *)at(t, s->positive),
        .derive = derivative(t->b, layer->op->act),
        .x = at(t, s->linear),
        .mul = p->mul,
        .add = p->add,
        .residual_input = at(t, s->residual),
        .output = at(t, s->dlinear),
        .residual = sum_at(t, s->dresidual, s->add_residual),
    };
    if (in_epilogue(layer)) begin_site(t, layer, &args);
    return args;
}

/* The unmasked result of a convolution with an OUT site, from what was kept of it. */
static float *remake_result(const reverse_tile *t, const step *s) {
    const cpu_layer *layer = &t->b->layers[s->op];
    const cpu_packed *p = &t->w->packed[s->op];
    const size_t positions = cpu_positions(t->w, layer);
    const activate_kernel activate = cpu_activation(t->b, layer->op->act);
    float *x = at(t, s->scratch[0]);
    t->b->kernels->scale_channels(at(t, s->linear), positions, layer->out.c, p->mul, p->add, at(t, s->residual), x);
    if (activate) activate(x, positions * layer->out.c * LANES);
    return x;
}

/* What is left to do when the kernel has run. */
static void end_epilogue(const reverse_tile *t, const step *s) {
    const cpu_layer *layer = &t->b->layers[s->op];
    if (in_epilogue(layer)) end_site(t, layer);
    if (s->dresidual != REGION_NONE && !s->add_residual)
        complete_gradient(t, at(t, s->dresidual), layer->op->residual, cpu_positions(t->w, layer));
}

static void reverse_epilogue(const reverse_tile *t, const step *s) {
    const cpu_layer *layer = &t->b->layers[s->op];
    if (layer->op->mask.place == PLACE_OUT) reverse_mask(t, layer, remake_result(t, s), at(t, s->dy));
    const epilogue_reverse_args args = epilogue_args(t, s);
    t->b->kernels->epilogue_reverse(&args);
    end_epilogue(t, s);
}

/* Whether the reverse of a convolution has the next step, an epilogue, run on its results piecemeal: only where these are
 * all that there is of the gradient. */
static bool runs_next(const reverse_tile *t, const step *s) {
    const cpu_layer *layer = &t->b->layers[s->op];
    return s->fused && positions_written(t, layer, 0) == value_positions(t, layer->op->input[0]);
}

/* The data gradient, and in one go the epilogue of the next step where that is possible. */
static void reverse_convolution(const reverse_tile *t, const step *s) {
    const cpu_layer *layer = &t->b->layers[s->op];
    const bool next = runs_next(t, s);
    conv_reverse_args args = {
        .window = cpu_tile_window(t->w, layer),
        .in_channels = layer->in.c,
        .out_channels = layer->out.c,
        .weight = layer->reverse_weight,
        .row = layer->reverse_row,
        .column = t->b->column,
        .tap = (size_t)layer->out.c * t->b->kernels->tile_rows,
        .scratch = t->w->conv,
        .gradient = at(t, s->dlinear),
        .output = sum_at(t, s->dx[0], s->add[0]),
    };
    epilogue_reverse_args then;
    if (next) {
        then = epilogue_args(t, s + 1);
        args.then = &then;
    }
    (layer->fp32.winograd ? t->b->kernels->winograd_reverse : t->b->kernels->conv_reverse)(&args);
    if (next) end_epilogue(t, s + 1);
}

/* --------------------------------------------------------------------------------------- other ops */

static void reverse_pool(const reverse_tile *t, const step *s) {
    const cpu_layer *layer = &t->b->layers[s->op];
    const pool_reverse_args args = {
        .window = cpu_layer_window(layer),
        .channels = layer->in.c,
        .input = at(t, s->x[0]),
        .gradient = at(t, s->dy),
        .output = sum_at(t, s->dx[0], s->add[0]),
    };
    (layer->op->kind == OP_MAXPOOL ? t->b->kernels->maxpool_reverse : t->b->kernels->avgpool_reverse)(&args);
}

static void reverse_subsample(const reverse_tile *t, const step *s) {
    const cpu_layer *layer = &t->b->layers[s->op];
    const subsample_reverse_args args = {
        .in_h = layer->in.h,
        .in_w = layer->in.w,
        .out_h = layer->out.h,
        .out_w = layer->out.w,
        .stride = layer->op->stride,
        .in_channels = layer->in.c,
        .out_channels = layer->out.c,
        .before = layer->op->pad,
        .gradient = at(t, s->dy),
        .output = sum_at(t, s->dx[0], s->add[0]),
    };
    t->b->kernels->subsample_reverse(&args);
}

/* The forward op once more, where its unmasked result is wanted. */
static void reverse_layernorm(const reverse_tile *t, const step *s) {
    const cpu_layer *layer = &t->b->layers[s->op];
    const op *o = layer->op;
    const layernorm_reverse_args args = {
        .positions = cpu_positions(t->w, layer),
        .channels = layer->in.c,
        .gamma = o->weight,
        .eps = o->eps,
        .input = at(t, s->x[0]),
        .gradient = at(t, s->dy),
        .output = sum_at(t, s->dx[0], s->add[0]),
    };
    if (o->mask.place == PLACE_OUT) {
        t->w->value[o->input[0]] = at(t, s->x[0]);
        t->w->value[o->output] = at(t, s->scratch[0]);
        cpu_run_op(t->b, t->w, s->op, false);
        reverse_mask(t, layer, at(t, s->scratch[0]), at(t, s->dy));
    }
    if (args.output.values) t->b->kernels->layernorm_reverse(&args);
}

/* Query, key or value: where it is, or made again from W x of the op before. */
static const float *attention_input(const reverse_tile *t, const step *s, int k) {
    const op *o = t->b->layers[s->op].op;
    if (s->remade[k] == REGION_NONE) return at(t, s->x[k]);
    const size_t before = graph_maker(o->input[k]);
    const cpu_layer *maker = &t->b->layers[before];
    const cpu_packed *p = &t->w->packed[before];
    float *x = at(t, s->scratch[k]);
    t->b->kernels->scale_channels(at(t, s->remade[k]), cpu_positions(t->w, maker), maker->out.c, p->mul, p->add, NULL,
                                  x);
    return x;
}

static void reverse_attention(const reverse_tile *t, const step *s) {
    const cpu_layer *layer = &t->b->layers[s->op];
    const op *o = layer->op;
    if (o->mask.place == PLACE_OUT) reverse_mask(t, layer, at(t, s->linear), at(t, s->dy));
    const uint32_t queries = (uint32_t)cpu_positions(t->w, layer);
    const attention_reverse_args args = {
        .tokens = o->causal ? queries : (uint32_t)shape_positions(layer->in),
        .queries = queries,
        .heads = o->heads,
        .head_width = layer->in.c / o->heads,
        .causal = o->causal,
        .q = attention_input(t, s, 0),
        .k = attention_input(t, s, 1),
        .v = attention_input(t, s, 2),
        .gradient = at(t, s->dy),
        .output_q = sum_at(t, s->dx[0], s->add[0]),
        .output_k = sum_at(t, s->dx[1], s->add[1]),
        .output_v = sum_at(t, s->dx[2], s->add[2]),
        .scratch = t->w->attention_reverse,
    };
    if (args.output_q.values || args.output_k.values || args.output_v.values) t->b->kernels->attention_reverse(&args);
}

static void reverse(const reverse_tile *t, const step *s) {
    const cpu_layer *layer = &t->b->layers[s->op];
    const gradient_sum dx = sum_at(t, s->dx[0], s->add[0]);
    const uint32_t channels = layer->in.c;
    switch (layer->op->kind) {
    case OP_CONV:
        reverse_convolution(t, s);
        break;
    case OP_MAXPOOL:
    case OP_AVGPOOL:
        reverse_pool(t, s);
        break;
    case OP_SUBSAMPLE:
        reverse_subsample(t, s);
        break;
    case OP_EMBED:
        t->b->kernels->embed_reverse(at(t, s->dy), (uint32_t)shape_positions(layer->out), channels, dx);
        break;
    case OP_LAYERNORM:
        reverse_layernorm(t, s);
        break;
    case OP_ATTENTION:
        reverse_attention(t, s);
        break;
    case OP_SELECT:
        t->b->kernels->select_reverse(at(t, s->dy), positions_written(t, layer, 0), channels, dx);
        break;
    case OP_MEAN_TOKEN:
        t->b->kernels->mean_token_reverse(at(t, s->dy), (uint32_t)shape_positions(layer->out), channels, dx);
        break;
    case OP_NORMALISE:
        t->b->kernels->l2norm_reverse(at(t, s->x[0]), at(t, s->dy), cpu_positions(t->w, layer), channels, dx);
        break;
    case OP_NEXT:
        cpu_next_reverse(t->b, t->w, layer, at(t, s->x[0]), at(t, s->x[1]), at(t, s->y), at(t, s->dy), dx);
        break;
    case OP_LOOKUP:
        break; /* what makes tokens has no mask before it: nobody wants its gradient */
    }
    for (int k = 0; k < 3; k++)
        if (s->dx[k] != REGION_NONE && !s->add[k])
            complete_gradient(t, at(t, s->dx[k]), layer->op->input[k], positions_written(t, layer, k));
}

static void run_step(const reverse_tile *t, const step *s) {
    switch (s->kind) {
    case STEP_INPUT:
        cpu_load_images(t->b, t->images, at(t, s->y));
        break;
    case STEP_FORWARD:
        forward(t, s);
        break;
    case STEP_OUTPUT:
        differentiate_output(t, s);
        break;
    case STEP_EPILOGUE:
        reverse_epilogue(t, s);
        break;
    case STEP_REVERSE:
        reverse(t, s);
        break;
    }
}

void cpu_step_all(const reverse_tile *t) {
    const cpu_schedule *schedule = &t->b->schedule;
    t->w->all_positions = false;
    t->w->positions = t->images.positions;
    t->w->log_sums = t->spec->kind == OUTPUT_LOSS;
    for (size_t i = 0; i < t->b->settings.graph->op_count; i++)
        if (t->b->layers[i].op->kind == OP_CONV) cpu_pack(t->b, t->w, i, &t->b->layers[i].fp32, false);
    for (size_t i = 0; i < schedule->step_count; i++) {
        const double start = cpu_profile_clock(t->b);
        run_step(t, &schedule->steps[i]);
        cpu_profile_step(t->b, t->w, &schedule->steps[i], start);
        if (runs_next(t, &schedule->steps[i])) i++; /* a fused epilogue is done */
    }
}
