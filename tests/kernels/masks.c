/* masks.c - kernels/cuda/masks.cu against src/core/sampler.c. Keeps are 1 or the gain: all comparisons are of bytes. */
#include "core/sampler.h"
#include "kernel_test.h"

/* What a site list does to rows: components in order, components of several rows, and components in no order. */
typedef enum row_order { IN_ORDER, HEADS, SCATTERED } row_order;

typedef struct layout {
    uint32_t n, rows, slots;
    row_order order;
} layout;

static const layout layouts[] = {{40, 40, 3, IN_ORDER},    {37, 36, 2, IN_ORDER},  {5, 45, 4, HEADS},
                                 {7, 30, 1, HEADS},        {97, 83, 2, SCATTERED}, {1, 1, 1, IN_ORDER},
                                 {1500, 1499, 2, IN_ORDER}};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static uint32_t *components_of(const layout *l) {
    uint32_t *component = kernel_buffer(l->rows * sizeof *component);
    for (uint32_t r = 0; r < l->rows; r++)
        component[r] = l->order == IN_ORDER ? r + (l->n - l->rows)
                       : l->order == HEADS  ? (uint32_t)((uint64_t)r * l->n / l->rows)
                                            : kernel_random(1, r, l->n);
    return component;
}

/* keep[slots][rows] out of packed masks [slots][mask_bytes(n)] */
static float *expected_keeps(const layout *l, const uint8_t *bits, const uint32_t *component, float gain) {
    float *keep = kernel_buffer((size_t)l->slots * l->rows * sizeof *keep);
    for (uint32_t s = 0; s < l->slots; s++)
        for (uint32_t r = 0; r < l->rows; r++) {
            const uint8_t byte = bits[s * mask_bytes(l->n) + component[r] / 8];
            keep[s * l->rows + r] = byte >> (component[r] % 8) & 1 ? 1 : gain;
        }
    return keep;
}

/* Masks first .. first + slots - 1 of a sampler, packed. */
static uint8_t *sample(const sampler *s, uint64_t first, uint32_t slots) {
    uint8_t *bits = kernel_buffer(slots * mask_bytes(s->n));
    for (uint32_t i = 0; i < slots; i++) sampler_mask(s, first + i, bits + i * mask_bytes(s->n), NULL);
    return bits;
}

static void check_bits(void) {
    for (size_t k = 0; k < LAYOUTS; k++) {
        const layout *l = &layouts[k];
        const sampler s = {.kind = SAMPLER_BERNOULLI, .seed = 11, .alpha = 0.4, .n = l->n};
        const uint8_t *bits = sample(&s, 0, l->slots);
        const uint32_t *component = components_of(l);
        for (int g = 0; g < 2; g++) {
            const float gain = g ? -0.25f : 0;
            const size_t bytes = (size_t)l->slots * l->rows * sizeof(float);
            float *keep = kernel_buffer(bytes);
            KERNEL_RUN(gpu_keep_from_bits_launch(bits, (uint32_t)mask_bytes(l->n), gain, component, l->rows, l->slots,
                                                 keep, 0));
            kernel_same_bytes("keeps", keep, expected_keeps(l, bits, component, gain), bytes);
        }
    }
    CHECK(gpu_keep_from_bits_launch(NULL, 1, 0, NULL, 0, 1, NULL, 0) == cudaErrorInvalidValue);
    CHECK(gpu_keep_from_bits_launch(NULL, 1, 0, NULL, 1, 65536, NULL, 0) == cudaErrorInvalidValue);
}

static void check_philox(void) {
    const struct {
        uint64_t seed, first;
        uint32_t stream;
        double alpha;
    } draws[] = {
        {0, 0, 0, 0.05},
        {0x123456789abcdef0u, 0xfffffffeu, 1, 0.5},       /* mask numbers cross 32 bits */
        {UINT64_MAX, (uint64_t)7 << 40, 5, 0.9999999999}, /* a threshold of 2^32: everything is ablated */
        {3, 99, 2, 1e-12},                                /* a threshold of 1 */
    };
    for (size_t k = 0; k < LAYOUTS; k++)
        for (size_t d = 0; d < sizeof draws / sizeof *draws; d++) {
            const layout *l = &layouts[k];
            const sampler s = {.kind = SAMPLER_BERNOULLI,
                               .seed = draws[d].seed,
                               .stream = draws[d].stream,
                               .alpha = draws[d].alpha,
                               .n = l->n};
            const uint32_t *component = components_of(l);
            const uint64_t *first = kernel_copy(&draws[d].first, sizeof *first);
            const uint64_t threshold = (uint64_t)ceil(s.alpha * 4294967296.0);
            const size_t bytes = (size_t)l->slots * l->rows * sizeof(float);
            float *keep = kernel_buffer(bytes);
            KERNEL_RUN(gpu_keep_from_philox_launch(s.seed, s.stream, first, threshold, 0.5f, component, l->rows,
                                                   l->slots, keep, 0));
            kernel_same_bytes("keeps", keep, expected_keeps(l, sample(&s, *first, l->slots), component, 0.5f), bytes);
        }
}

static void check_values(void) {
    for (size_t k = 0; k < LAYOUTS; k++) {
        const layout *l = &layouts[k];
        const uint32_t *component = components_of(l);
        const float *values = kernel_floats(kernel_values((size_t)l->slots * l->n, 12, KERNEL_FLOAT), l->slots * l->n);
        const size_t bytes = (size_t)l->slots * l->rows * sizeof(float);
        float *keep = kernel_buffer(bytes), *expected = kernel_buffer(bytes);
        for (uint32_t s = 0; s < l->slots; s++)
            for (uint32_t r = 0; r < l->rows; r++) expected[s * l->rows + r] = values[s * l->n + component[r]];
        KERNEL_RUN(gpu_keep_from_values_launch(values, l->n, component, l->rows, l->slots, keep, 0));
        kernel_same_bytes("keeps", keep, expected, bytes);
    }
}

static void tests(void) {
    kernel_check("keeps from bits", check_bits);
    kernel_check("keeps from Philox are the sampler's", check_philox);
    kernel_check("keeps from values", check_values);
}

int main(void) {
    return kernel_main(tests);
}
