/*
 * conv.cu - the launchers of convolutions and linear layers: checks a gpu_conv, works out how its x is gathered,
 * and picks the kernel. Host code only; the kernels are in conv_mma.cuh, conv_f32.cu and conv_epilogue.cu.
 *
 * Limits: an image of x with its padding below 2^30 elements, the weight below 2^31; pairs * positions below 2^31,
 * output channels up to 2^22, and at most 2^31 blocks; a transpose's stride up to 255, since grids end at 65,535
 * phases. Offsets of images and of rows of y have 64 bits.
 */
#include "kernels/cuda/conv.cuh"

static const uint64_t SIZE_LIMIT = (uint64_t)1 << 31;

static const conv_form *forms_of(gpu_type type) {
    switch (type) {
    case GPU_F32:
        return conv_forms_f32();
    case GPU_TF32:
        return conv_forms_tf32();
    case GPU_BF16:
        return conv_forms_bf16();
    case GPU_F16:
        return conv_forms_f16();
    }
    static const conv_form none[] = {{}};
    return none;
}

/* NULL when there is none. */
static const conv_form *find_form(gpu_type type, int form) {
    const conv_form *f = forms_of(type);
    for (int i = 0; i < form && f->name; i++) f++;
    return form >= 0 && f->name ? f : NULL;
}

/* ------------------------------------------------------------------------------------------- shapes */

/* a * b, or SIZE_LIMIT where that is reached. */
static uint64_t product(uint64_t a, uint64_t b) {
    return a && b > (SIZE_LIMIT - 1) / a ? SIZE_LIMIT : a * b;
}

static uint64_t rows_of(const gpu_conv *c) {
    return product(product(c->out_h, c->out_w), c->pairs);
}
static uint64_t depth_of(const gpu_conv *c) {
    return product(product(c->kernel_h, c->kernel_w), gpu_stride(c->in_channels));
}
static uint32_t splits_of(const gpu_conv *c) {
    return c->splits ? c->splits : 1;
}

static bool output_fits(uint32_t in, uint32_t pad, uint32_t kernel, uint32_t stride, uint32_t out) {
    const uint64_t padded = (uint64_t)in + 2 * (uint64_t)pad;
    return in && kernel && stride && kernel <= padded && out == (padded - kernel) / stride + 1;
}

/* Blocks: as many as the smallest tiles make (conv_form); 1024: row numbers of a tile that reaches over the end must
 * not overflow. */
bool conv_result_in_range(const gpu_conv *c) {
    const uint64_t rows = rows_of(c), channels = c->out_channels;
    return channels && channels <= 1 << 22 && rows && rows < SIZE_LIMIT - 1024 &&
           product((rows + 63) / 64, (channels + 31) / 32) < SIZE_LIMIT;
}

/* A 1x1 convolution that moves nothing is its own transpose but for the weight, which has been turned already. */
static bool transposes(const gpu_conv *c) {
    return c->transposed && !(c->kernel_h == 1 && c->kernel_w == 1 && c->stride == 1 && c->pad == 0);
}

static uint32_t phase_size(uint32_t pixels, uint32_t stride) {
    return pixels / stride + (pixels % stride != 0);
}

/* Rows of one phase; the multiples of a phase's size may reach over the end of the result. */
static uint64_t phase_rows_of(const gpu_conv *c) {
    return product(product(phase_size(c->out_h, c->stride), phase_size(c->out_w, c->stride)), c->pairs);
}

static bool pixels_fit(const gpu_conv *c) {
    if (!c->transposed)
        return output_fits(c->in_h, c->pad, c->kernel_h, c->stride, c->out_h) &&
               output_fits(c->in_w, c->pad, c->kernel_w, c->stride, c->out_w);
    return !c->example && output_fits(c->out_h, c->pad, c->kernel_h, c->stride, c->in_h) &&
           output_fits(c->out_w, c->pad, c->kernel_w, c->stride, c->in_w) && c->stride <= 255 &&
           phase_rows_of(c) < SIZE_LIMIT - 1024;
}

static bool shape_in_range(const gpu_conv *c) {
    const uint64_t image =
        product(product((uint64_t)c->in_h + 2 * (uint64_t)c->pad, (uint64_t)c->in_w + 2 * (uint64_t)c->pad),
                c->in_channels < SIZE_LIMIT / 2 ? gpu_stride(c->in_channels) : SIZE_LIMIT);
    return conv_result_in_range(c) && c->in_channels && image < SIZE_LIMIT / 2 && pixels_fit(c) &&
           product(depth_of(c), gpu_stride(c->out_channels)) < SIZE_LIMIT;
}

/* ------------------------------------------------------------------------------------------ geometry */

/* The longest runs that x has under the kernel (conv.cuh), and the vectors that fit them. */
static conv_gather find_gather(const gpu_conv *c, conv_params *p) {
    const uint32_t pixel = gpu_stride(c->in_channels), line = pixel * c->in_w;
    uint32_t run = pixel, across = c->kernel_w;
    bool whole = false; /* K is one run */
    if (c->pad == 0) {
        run *= across;
        across = 1;
        whole = c->kernel_h == 1 || run == line; /* as wide as the image: kernel rows follow one another */
        if (whole) run *= c->kernel_h;
    }
    p->pixel = pixel;
    p->line = line;
    p->run = epilogue_divisor_of(run);
    p->across = epilogue_divisor_of(across);

    /* A vector must not cross from one run to the next, and all runs must begin at multiples of it. */
    const uint32_t vector = 16 / (uint32_t)gpu_type_size(c->type);
    const bool aligned = pixel % vector == 0 || (c->pad == 0 && pixel * c->stride % vector == 0 && line % vector == 0);
    if (!aligned || run % vector) return CONV_NARROW;
    return whole ? CONV_RUN : CONV_TAPS;
}

epilogue conv_epilogue_of(const gpu_conv *c) {
    epilogue e = {};
    e.scale = c->scale;
    e.shift = c->shift;
    e.residual = c->residual;
    e.y = c->y;
    e.linear = c->linear;
    e.mask = c->mask;
    e.activation = c->activation;
    e.wide = c->wide;
    e.rows = (uint32_t)rows_of(c);
    e.channels = c->out_channels;
    e.stride = gpu_stride(c->out_channels);
    e.positions = epilogue_divisor_of(c->out_h * c->out_w);
    return e;
}

/* The runs of a transpose are pixels: its taps are not side by side in x. */
static conv_gather find_phases(const gpu_conv *c, conv_params *p) {
    const uint32_t pixel = gpu_stride(c->in_channels), height = phase_size(c->out_h, c->stride);
    const uint32_t width = phase_size(c->out_w, c->stride), vector = 16 / (uint32_t)gpu_type_size(c->type);
    p->pixel = pixel;
    p->line = pixel * c->in_w;
    p->run = epilogue_divisor_of(pixel);
    p->across = epilogue_divisor_of(c->kernel_w);
    p->rows = (uint32_t)phase_rows_of(c);
    p->out_h = c->out_h;
    p->kernel_h = c->kernel_h;
    p->kernel_w = c->kernel_w;
    p->phase_pixels = epilogue_divisor_of(height * width);
    p->phase_w = epilogue_divisor_of(width);
    p->adds_alone = c->residual == c->y && !c->shift && !c->linear && c->activation == GPU_NONE &&
                    c->mask.place == GPU_PLACE_NONE && !p->partial;
    return pixel % vector ? CONV_TRANSPOSED_NARROW : CONV_TRANSPOSED;
}

static conv_gather describe(const gpu_conv *c, conv_params *p) {
    *p = {};
    p->tail = conv_epilogue_of(c);
    p->x = c->x;
    p->weight = c->weight;
    p->example = c->example;
    p->splits = splits_of(c);
    p->partial = p->splits > 1 ? c->workspace : NULL;
    p->rows = p->tail.rows;
    p->columns = p->tail.stride;
    p->depth = (uint32_t)depth_of(c);
    p->in_h = c->in_h;
    p->in_w = c->in_w;
    p->out_w = epilogue_divisor_of(c->out_w);
    p->stride = c->stride;
    p->pad = c->pad;
    const conv_gather gather = transposes(c) ? find_phases(c, p) : find_gather(c, p);
    p->image = (size_t)p->line * c->in_h;
    const bool side_by_side = c->kernel_h == 1 && c->kernel_w == 1 && c->stride == 1; /* as linear layers */
    p->dense = gather == CONV_RUN && !c->example && (side_by_side || p->depth == p->image);
    return gather;
}

/* ----------------------------------------------------------------------------------------- launchers */

const char *gpu_conv_form(gpu_type type, int form) {
    const conv_form *f = find_form(type, form);
    return f ? f->name : NULL;
}

bool gpu_conv_can(const gpu_conv *c, int form) {
    const conv_form *f = find_form(c->type, form);
    if (!f || !shape_in_range(c)) return false;
    const uint32_t unit = 128 / (uint32_t)gpu_type_size(c->type); /* conv_unit */
    const uint64_t units = (depth_of(c) + unit - 1) / unit, splits = splits_of(c);
    if (splits > units || splits > 65535 || product(units, splits) >= SIZE_LIMIT) return false;
    conv_params p;
    return f->launch[describe(c, &p)] != NULL;
}

size_t gpu_conv_workspace(const gpu_conv *c) {
    if (splits_of(c) == 1) return 0;
    return sizeof(float) * splits_of(c) * rows_of(c) * gpu_stride(c->out_channels);
}

/* Members that both launchers read. */
static bool epilogue_valid(const gpu_conv *c) {
    const gpu_mask *mask = &c->mask;
    return c->y && !(c->wide && c->residual == c->y) && (unsigned)c->activation <= GPU_QUICKGELU &&
           (mask->place == GPU_PLACE_NONE || (mask->keep && mask->slot));
}

cudaError_t gpu_conv_launch(const gpu_conv *c, int form, cudaStream_t stream) {
    if (!gpu_conv_can(c, form) || !epilogue_valid(c) || !c->x || !c->weight) return cudaErrorInvalidValue;
    if (splits_of(c) > 1 && !c->workspace) return cudaErrorInvalidValue;
    conv_params p;
    const conv_gather gather = describe(c, &p);
    const cudaError_t error = find_form(c->type, form)->launch[gather](p, stream);
    if (error != cudaSuccess || !p.partial) return error;
    return conv_finish_launch(c->type, p.tail, p.partial, p.splits, stream);
}

cudaError_t gpu_epilogue_launch(const gpu_conv *c, const float *sums, cudaStream_t stream) {
    if (!conv_result_in_range(c) || !epilogue_valid(c) || !sums) return cudaErrorInvalidValue;
    return conv_finish_launch(c->type, conv_epilogue_of(c), sums, 1, stream);
}
