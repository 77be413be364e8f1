/*
 * winograd_error.c - the elementary error of Winograd's form beside that of the direct form: 3x3 convolutions of as many
 * channels as networks have, against sums in double. Inputs are like activations after ReLU, weights have either sign.
 *
 * Prints a line for each, "# error 64 channels (avx2): direct RMS LARGEST, winograd RMS LARGEST", in units of the outputs' root
 * mean square; bench/accuracy.py makes the table of docs/performance.md from them.
 */
#include "lanes.h"

/* An output's error depends on how many channels are summed up, not on how many outputs or positions there are. */
enum { SIDE = 8, ROWS = 12, TAPS = 9, POSITIONS = SIDE * SIDE, CHANNELS_MAX = 512 };

typedef struct layer {
    const cpu_kernels *k;
    uint32_t channels;
    const float *x, *weight; /* [POSITIONS][channels][LANES], [ROWS][channels][TAPS] */
    double *expected;        /* [POSITIONS][ROWS][LANES] */
} layer;

typedef struct errors {
    double rms, largest;
} errors;

static void add_tap(const layer *l, uint32_t y, uint32_t x, uint32_t tap) {
    const uint32_t iy = y + tap / 3 - 1, ix = x + tap % 3 - 1; /* above and left of the image: very large */
    if (iy >= SIDE || ix >= SIDE) return;
    const float *from = l->x + (size_t)(iy * SIDE + ix) * l->channels * LANES;
    double *to = l->expected + (size_t)(y * SIDE + x) * ROWS * LANES;
    for (uint32_t o = 0; o < ROWS; o++)
        for (uint32_t i = 0; i < l->channels; i++) {
            const double weight = l->weight[((size_t)o * l->channels + i) * TAPS + tap];
            for (uint32_t lane = 0; lane < LANES; lane++) to[o * LANES + lane] += weight * from[i * LANES + lane];
        }
}

static layer make_layer(const cpu_kernels *k, uint32_t channels) {
    layer l = {k, channels, NULL, lanes_weights((size_t)ROWS * channels * TAPS),
               lanes_doubles(POSITIONS * ROWS * LANES)};
    float *x = lanes_values((size_t)POSITIONS * channels);
    for (size_t i = 0; i < (size_t)POSITIONS * channels * LANES; i++) x[i] = fmaxf(x[i], 0);
    l.x = x;
    for (uint32_t p = 0; p < POSITIONS; p++)
        for (uint32_t tap = 0; tap < TAPS; tap++) add_tap(&l, p / SIDE, p % SIDE, tap);
    return l;
}

static errors measure(const layer *l, bool winograd) {
    static float ones[ROWS * LANES] __attribute__((aligned(64))), zeros[ROWS * LANES] __attribute__((aligned(64)));
    static const uint32_t zone[SIDE];
    const cpu_kernels *k = l->k;
    const window w = {SIDE, SIDE, SIDE, SIDE, 3, 3, 1, 1};
    const size_t points = winograd ? WINOGRAD_POINTS : TAPS;
    const uint32_t columns = l->channels * (winograd ? 1 : w.kernel_w);
    float *packed = lanes_weights(conv_packed_size(ROWS, l->channels, points, k->tile_rows)), *y;
    uint32_t channel[ROWS], column[3 * CHANNELS_MAX];
    size_t row[ROWS];
    for (size_t i = 0; i < ROWS * LANES; i++) ones[i] = 1;
    for (uint32_t r = 0; r < ROWS; r++) {
        row[r] = conv_row(r, l->channels, points, k->tile_rows);
        channel[r] = r;
    }
    for (uint32_t c = 0; c < columns; c++) column[c] = c * k->tile_rows;
    (winograd ? k->winograd_pack : k->conv_pack)(&w, l->channels, ROWS, l->weight, packed);
    conv_args args = {.window = w,
                      .in_channels = l->channels,
                      .out_channels = ROWS,
                      .input = l->x,
                      .output = y = lanes_output(POSITIONS * ROWS),
                      .rows = ROWS,
                      .weight = packed,
                      .row = row,
                      .column = column,
                      .tap = (size_t)l->channels * k->tile_rows,
                      .channel = channel,
                      .mul = ones,
                      .add = zeros,
                      .zone_y = zone,
                      .zone_x = zone,
                      .zones_x = 1,
                      .scratch = winograd ? lanes_output(k->winograd_scratch(l->channels) / LANES) : NULL};
    (winograd ? k->winograd : k->conv)(&args);
    double squares = 0, power = 0, largest = 0;
    for (size_t i = 0; i < (size_t)POSITIONS * ROWS * LANES; i++) {
        const double error = fabs(y[i] - l->expected[i]);
        if (!(error <= largest)) largest = error; /* NaN stays */
        squares += error * error;
        power += l->expected[i] * l->expected[i];
    }
    return (errors){sqrt(squares / power), largest / sqrt(power / (POSITIONS * ROWS * LANES))};
}

/* Errors grow with the root of the number of summands; bounds are about twice what was measured. */
static void check_errors(const cpu_kernels *k) {
    for (uint32_t channels = 16; channels <= CHANNELS_MAX; channels *= 2) {
        const layer l = make_layer(k, channels);
        const errors direct = measure(&l, false), winograd = measure(&l, true);
        const double root = sqrt(channels);
        printf("# error %u channels (%s): direct %.1e %.1e, winograd %.1e %.1e\n", channels, k->isa, direct.rms,
               direct.largest, winograd.rms, winograd.largest);
        CHECK_NEAR(direct.rms, 0, 7e-8 * root);
        CHECK_NEAR(direct.largest, 0, 6e-7 * root);
        CHECK_NEAR(winograd.rms, 0, 4e-7 * root);
        CHECK_NEAR(winograd.largest, 0, 6e-6 * root);
        lanes_release();
    }
}

int main(void) {
    lanes_each("3x3 convolutions: Winograd's error beside the direct form's", check_errors);
    return test_end();
}
