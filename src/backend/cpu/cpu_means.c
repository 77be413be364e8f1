/*
 * cpu_means.c - sums of x over positions and examples, per masked channel, for `mean` ablation.
 *
 * The unablated model runs tile by tile in mixed form. An observer computes x where the mask would act: for PRE and
 * POST it runs the convolution once more without what comes after that place, for OUT it reads the result. Sums are
 * per lane in double, added up in the order of the examples, whoever computed them.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"

/* One tile's sums. */
typedef struct tile_sums {
    float *x;     /* [positions][channels][LANES] of the largest PRE or POST site */
    double *sums; /* [rows][LANES] */
} tile_sums;

typedef struct means_job {
    cpu_backend *b;
    tile_sums *tiles; /* [workers] */
    size_t first;     /* tile of tiles[0] */
} means_job;

static void add_values(const float *x, const cpu_layer *layer, double *sums) {
    const size_t positions = shape_positions(layer->out), values = (size_t)layer->out.c * LANES;
    sums += (size_t)layer->op->mask.row_first * LANES;
    for (size_t p = 0; p < positions; p++, x += values)
        for (size_t i = 0; i < values; i++) sums[i] += x[i];
}

/* x of a PRE or POST site: the convolution with nothing behind the mask's place. All components are kept, so the
 * epilogue of a POST site is scale and shift alone. */
static void compute_site(const cpu_backend *b, cpu_worker *w, size_t i, tile_sums *t) {
    const cpu_layer *layer = &b->layers[i];
    cpu_pack(b, w, i, &layer->form, false);
    if (layer->op->mask.place == PLACE_PRE) {
        const size_t adds = cpu_layer_zones(layer) * layer->out.c * LANES;
        for (size_t k = 0; k < (size_t)layer->out.c * LANES; k++) w->packed[i].mul[k] = 1;
        memset(w->packed[i].add, 0, adds * sizeof(float));
    }
    conv_args args = cpu_conv_args(b, w, i, &layer->form, false);
    args.output = t->x;
    args.residual = NULL;
    args.relu = false;
    args.activate = NULL;
    cpu_convolve(b, &layer->form, &args);
    add_values(t->x, layer, t->sums);
}

static void see(void *context, const cpu_backend *b, cpu_worker *w, size_t i, bool finished) {
    const mask_place place = b->layers[i].op->mask.place;
    tile_sums *t = context;
    if (!finished && (place == PLACE_PRE || place == PLACE_POST)) compute_site(b, w, i, t);
    if (finished && place == PLACE_OUT) add_values(cpu_value(w, b->layers[i].op->output), &b->layers[i], t->sums);
}

/* Lanes of tile `tile` that hold an example. */
static uint32_t tile_lanes(const cpu_backend *b, size_t tile) {
    const size_t left = b->examples - tile * LANES;
    return left < LANES ? (uint32_t)left : LANES;
}

static coar_status sum_tile(void *context, size_t task, int worker) {
    const means_job *job = context;
    cpu_backend *b = job->b;
    cpu_worker *w = &b->worker[worker];
    tile_sums *t = &job->tiles[task];
    const size_t tile = job->first + task;
    const tile_observer observer = {see, t};
    uint32_t example[LANES];
    for (uint32_t lane = 0; lane < LANES; lane++) example[lane] = lane % tile_lanes(b, tile);
    memset(t->sums, 0, (size_t)b->settings.graph->rows * LANES * sizeof *t->sums);
    cpu_keep_all(b, w);
    w->all_positions = true;
    w->log_sums = false;
    const bool full = tile_lanes(b, tile) == LANES;
    tile_images images = full ? cpu_group_images(b, tile) : cpu_rest_images(b, w, example);
    images.positions = SIZE_MAX; /* also of texts */
    cpu_tile_run(b, w, images, false, true, &observer);
    return COAR_OK;
}

static size_t largest_site(const cpu_backend *b) {
    size_t largest = 0;
    for (size_t i = 0; i < b->settings.graph->op_count; i++) {
        const cpu_layer *layer = &b->layers[i];
        const size_t size = shape_positions(layer->out) * layer->out.c;
        if ((layer->op->mask.place == PLACE_PRE || layer->op->mask.place == PLACE_POST) && size > largest)
            largest = size;
    }
    return largest;
}

static coar_status create_tiles(const cpu_backend *b, tile_sums *tiles) {
    for (size_t t = 0; t < b->workers; t++) {
        TRY(memory_new(largest_site(b), LANES * sizeof(float), "means: one layer's values", &tiles[t].x));
        TRY(memory_new(b->settings.graph->rows, LANES * sizeof(double), "means: sums per lane", &tiles[t].sums));
    }
    return COAR_OK;
}

coar_status cpu_row_sums(backend *base, double *sums) {
    coar_status status = COAR_OK;
    cpu_backend *b = (cpu_backend *)base;
    means_job job = {.b = b};
    const size_t tiles = (b->examples + LANES - 1) / LANES;
    TRY(memory_new(b->workers, sizeof *job.tiles, "means", &job.tiles));
    TRY_GOTO(create_tiles(b, job.tiles));
    for (job.first = 0; job.first < tiles; job.first += b->workers) {
        const size_t count = tiles - job.first < b->workers ? tiles - job.first : b->workers;
        TRY_GOTO(cpu_each_worker(b, count, sum_tile, &job));
        for (size_t t = 0; t < count; t++)
            for (uint32_t lane = 0; lane < tile_lanes(b, job.first + t); lane++)
                for (size_t row = 0; row < b->settings.graph->rows; row++)
                    sums[row] += job.tiles[t].sums[row * LANES + lane];
    }
done:
    for (size_t t = 0; t < b->workers; t++) {
        free(job.tiles[t].x);
        free(job.tiles[t].sums);
    }
    free(job.tiles);
    return status;
}
