/*
 * tile_output.h - where a position's rows go: through a convolution's epilogue, or as they are.
 */
#ifndef COAR_KERNELS_CPU_TILE_OUTPUT_H
#define COAR_KERNELS_CPU_TILE_OUTPUT_H

#include "kernels/cpu/product.h"

/* At one position; rows count from 0, lanes too. */
typedef struct tile_output {
    const uint32_t *channel; /* of each row; NULL: row o is channel o */
    const float *mul, *add;  /* NULL, as all that follows but y: the sums themselves are (added to) y */
    const float *residual;   /* or NULL */
    bool relu;
    float *linear;     /* or NULL */
    uint8_t *positive; /* or NULL */
    float *y;
    bool add_to_y;
} tile_output;

_Static_assert(TILE_LANES % 8 == 0 && LANES <= 32, "a tile's bits are whole bytes of one word");

/* TILE_LANES of them. */
INLINE void put_bits(uint8_t *to, uint32_t bits) {
    UNROLL for (uint32_t i = 0; i < TILE_LANES; i += 8) to[i / 8] = (uint8_t)(bits >> i);
}

/* The linear part of an epilogue, which every form has; more: the residual, or NULL. */
INLINE vec scale_sum(vec sum, vec mul, const float *add, const float *more) {
    vec y = vec_fma(sum, mul, vec_load(add));
    if (more) y += vec_load(more);
    return y;
}

/* Row o, TILE_LANES lanes from `lane` on. */
INLINE void put_sums(const tile_output *out, uint32_t o, uint32_t lane, const vec sums[TILE_VECTORS]) {
    const size_t at = (size_t)(out->channel ? out->channel[o] : o) * LANES + lane, row = (size_t)o * LANES + lane;
    uint32_t bits = 0;
    if (!out->mul) {
        UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) vec_put(out->y + at + v * VEC, out->add_to_y, sums[v]);
        return;
    }
    UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) {
        const uint32_t i = v * VEC;
        if (out->linear) vec_store(out->linear + at + i, sums[v]);
        const vec y = scale_sum(sums[v], vec_load(out->mul + row + i), out->add + row + i,
                                out->residual ? out->residual + at + i : NULL);
        if (out->positive) bits |= vec_bits(~(y <= vec_zero())) << i;
        vec_store(out->y + at + i, out->relu ? vec_relu(y) : y);
    }
    if (out->positive) put_bits(out->positive + at / 8, bits);
}

INLINE tile_output conv_output(const conv_args *c, uint32_t y, uint32_t x) {
    const size_t at = ((size_t)y * c->window.out_w + x) * c->out_channels * LANES;
    const size_t zone = c->mul ? (size_t)c->zone_y[y] * c->zones_x + c->zone_x[x] : 0;
    return (tile_output){
        .channel = c->mul ? c->channel : NULL,
        .mul = c->mul,
        .add = c->mul ? c->add + zone * c->rows * LANES : NULL,
        .residual = c->residual ? c->residual + at : NULL,
        .relu = c->relu,
        .linear = c->linear ? c->linear + at : NULL,
        .positive = c->positive ? c->positive + at / 8 : NULL,
        .y = c->output + at,
    };
}

INLINE tile_output conv_reverse_output(const conv_reverse_args *c, uint32_t y, uint32_t x) {
    const size_t at = ((size_t)y * c->window.in_w + x) * c->in_channels * LANES;
    return (tile_output){.y = c->output.values + at, .add_to_y = c->output.add};
}

#endif
