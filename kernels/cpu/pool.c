/*
 * pool.c - maximum and average over a window, channel by channel.
 *
 * x [in position][C][32] -> y [out position][C][32]. Reads kernel_h * kernel_w vectors for each one written, mostly
 * from cache. The maximum ignores padding (graph.c, window_shape: padding never fills a window); the average has none, and sums in
 * fp32 in the order of the window.
 */
#include "kernels/cpu/simd.h"

/* Window positions inside the image, [y0, y1) x [x0, x1). */
typedef struct rectangle {
    size_t y0, y1, x0, x1;
} rectangle;

static size_t clip_start(uint32_t at, const window *g) {
    size_t start = (size_t)at * g->stride;
    return start > g->pad ? start - g->pad : 0;
}

static size_t clip_end(uint32_t at, const window *g, uint32_t kernel, uint32_t size) {
    size_t end = (size_t)at * g->stride + kernel - g->pad; /* pad < kernel */
    return end < size ? end : size;
}

static rectangle covered(uint32_t y, uint32_t x, const window *g) {
    return (rectangle){clip_start(y, g), clip_end(y, g, g->kernel_h, g->in_h), clip_start(x, g),
                       clip_end(x, g, g->kernel_w, g->in_w)};
}

INLINE vec reduce(const pool_args *p, rectangle r, size_t at, bool maximum) {
    const size_t stride = (size_t)p->channels * LANES;
    vec result = vec_load(p->input + (r.y0 * p->window.in_w + r.x0) * stride + at);
    for (size_t y = r.y0; y < r.y1; y++)
        for (size_t x = r.x0; x < r.x1; x++) {
            if (y == r.y0 && x == r.x0) continue;
            vec value = vec_load(p->input + (y * p->window.in_w + x) * stride + at);
            if (!maximum) {
                result += value;
            } else {                                 /* NaN wins, as in the frameworks */
                vec larger = vec_max(result, value); /* value where they are unordered */
                result = vec_select(result != result, result, larger);
            }
        }
    return result;
}

INLINE void pool(const pool_args *p, bool maximum) {
    const window *g = &p->window;
    const size_t stride = (size_t)p->channels * LANES;
    const vec weight = vec_set1(1.0f / ((float)g->kernel_h * (float)g->kernel_w));
    for (uint32_t y = 0; y < g->out_h; y++)
        for (uint32_t x = 0; x < g->out_w; x++) {
            rectangle r = covered(y, x, g);
            float *output = p->output + ((size_t)y * g->out_w + x) * stride;
            for (size_t at = 0; at < stride; at += VEC) {
                vec result = reduce(p, r, at, maximum);
                if (!maximum) result *= weight;
                vec_store(output + at, result);
            }
        }
}

void KERNEL(cpu_maxpool)(const pool_args *p) {
    pool(p, true);
}
void KERNEL(cpu_avgpool)(const pool_args *p) {
    pool(p, false);
}
