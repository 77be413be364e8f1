/*
 * pool.c - maximum and average over a window, channel by channel; their reverse.
 *
 * x [in position][C][32] -> y [out position][C][32]. Reads kernel_h * kernel_w vectors for each one written, mostly
 * from cache. The maximum ignores padding (graph.c, window_shape: padding never fills a window); the average has none,
 * and sums in fp32 in the order of the window.
 * In reverse: a maximum's dL/dx is first made zero (unless it is added to); then every dL/dy in order goes to its
 * window's maximum, the first of equals: reads and writes kernel_h * kernel_w vectors for each one read, mostly in cache.
 * An average's dL/dx sums over the windows of each position, in order: one vector read for each window, one written.
 */
#include <string.h>

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

/* Where a window's maximum is, as the number of its position: of equals the first, of NaNs the last (as PyTorch). */
INLINE ivec place_of_maximum(const pool_reverse_args *p, rectangle r, size_t at) {
    const size_t stride = (size_t)p->channels * LANES;
    vec largest = vec_load(p->input + (r.y0 * p->window.in_w + r.x0) * stride + at);
    ivec place = {0};
    int32_t number = 0;
    for (size_t y = r.y0; y < r.y1; y++)
        for (size_t x = r.x0; x < r.x1; x++, number++) {
            const vec value = vec_load(p->input + (y * p->window.in_w + x) * stride + at);
            const ivec wins = (value > largest) | (value != value);
            largest = vec_select(wins, value, largest);
            place = (wins & number) | (~wins & place);
        }
    return place;
}

/* Adds to dL/dx what the maximum of one window gets of its dL/dy. */
INLINE void send_to_maximum(const pool_reverse_args *p, rectangle r, size_t at, vec gradient) {
    const size_t stride = (size_t)p->channels * LANES;
    const ivec place = place_of_maximum(p, r, at);
    int32_t number = 0;
    for (size_t y = r.y0; y < r.y1; y++)
        for (size_t x = r.x0; x < r.x1; x++, number++) {
            float *to = p->output.values + (y * p->window.in_w + x) * stride + at;
            vec_store(to, vec_load(to) + (vec)((place == number) & (ivec)gradient));
        }
}

void KERNEL(cpu_maxpool_reverse)(const pool_reverse_args *p) {
    const window *g = &p->window;
    const size_t stride = (size_t)p->channels * LANES;
    const float *gradient = p->gradient;
    if (!p->output.add) memset(p->output.values, 0, (size_t)g->in_h * g->in_w * stride * sizeof *p->output.values);
    for (uint32_t y = 0; y < g->out_h; y++)
        for (uint32_t x = 0; x < g->out_w; x++, gradient += stride) {
            const rectangle r = covered(y, x, g);
            for (size_t at = 0; at < stride; at += VEC) send_to_maximum(p, r, at, vec_load(gradient + at));
        }
}

/* Along one axis without padding: the first window that covers a position, and the one after the last. */
INLINE void covering(uint32_t at, uint32_t kernel, uint32_t stride, uint32_t windows, uint32_t *first, uint32_t *end) {
    const uint32_t begun = at / stride + 1;
    *first = at < kernel ? 0 : (at - kernel) / stride + 1;
    *end = begun < windows ? begun : windows;
}

/* Position by position, so that dL/dx is gone through once. */
void KERNEL(cpu_avgpool_reverse)(const pool_reverse_args *p) {
    const window *g = &p->window;
    const size_t stride = (size_t)p->channels * LANES;
    const vec weight = vec_set1(1.0f / ((float)g->kernel_h * (float)g->kernel_w));
    float *to = p->output.values;
    for (uint32_t y = 0; y < g->in_h; y++)
        for (uint32_t x = 0; x < g->in_w; x++, to += stride) {
            uint32_t y0, y1, x0, x1;
            covering(y, g->kernel_h, g->stride, g->out_h, &y0, &y1);
            covering(x, g->kernel_w, g->stride, g->out_w, &x0, &x1);
            for (size_t at = 0; at < stride; at += VEC) {
                vec sum = p->output.add ? vec_load(to + at) : vec_zero();
                for (uint32_t wy = y0; wy < y1; wy++)
                    for (uint32_t wx = x0; wx < x1; wx++)
                        sum += vec_load(p->gradient + ((size_t)wy * g->out_w + wx) * stride + at) * weight;
                vec_store(to + at, sum);
            }
        }
}
