/* gradient_units.c - see gradient_units.h. */
#include "ablate/gradient_units.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

enum {
    GROUP_LEAST = 16, /* passes given to a device at once, of 32 examples: more gain nothing and delay a stop, */
    GROUP_PAIRS = GROUP_LEAST * LEVELS_BLOCK, /* and of fewer examples as many as make this many pairs */
    FOLD_COLUMNS = 1024                       /* components of one task */
};

/* Buffers of one device for a group of S passes over E examples. */
typedef struct gradient_scratch {
    uint8_t *levels;  /* [S][n] */
    float *keeps;     /* [S][n] */
    float *gradients; /* [S][E][n] */
    float *outputs;   /* [S][E] */
} gradient_scratch;

static void close_scratch(unit_device *d) {
    gradient_scratch *s = d->scratch;
    if (!s) return;
    free(s->levels);
    free(s->keeps);
    free(s->gradients);
    free(s->outputs);
    free(s);
}

static coar_status open_scratch(unit_device *d) {
    gradient_scratch *s;
    const gradient_units *units = d->work->context;
    const size_t n = units->masks.n, group = d->work->pass.masks;
    TRY(memory_new(1, sizeof *s, "gradients", &s));
    d->scratch = s;
    TRY(memory_new(group * n, sizeof *s->levels, "masks", &s->levels));
    TRY(memory_new(group * n, sizeof *s->keeps, "masks", &s->keeps));
    TRY(memory_new(group * d->work->pass.examples, sizeof *s->outputs, "outputs", &s->outputs));
    return memory_new(group * d->work->pass.examples * n, sizeof *s->gradients, "gradients", &s->gradients);
}

/* ------------------------------------------------------------------------------------------------ the sums */

/* One group of passes into a state. */
typedef struct fold {
    const gradient_scratch *scratch;
    gradient_state state;
    size_t passes, examples, n;
    double slope; /* of a keep over its mask value: what makes derivatives those with respect to mask values */
    size_t finite[LEVELS_BLOCK]; /* of each example: the passes of this group before the first that is not finite */
} fold;

/* An example with a derivative or an output that is not finite has no sums any more: where the output overflowed,
 * derivatives are those of a limit, often finite ones. */
static void spoil(const fold *f, size_t e) {
    for (size_t l = 0; l < LEVELS; l++) {
        double *sums = f->state.sums + (l * f->examples + e) * f->n;
        for (size_t j = 0; j < f->n; j++) sums[j] = NAN;
        f->state.squares_of_example[l * f->examples + e] = NAN;
    }
}

/* The group's passes of one example, in order. */
static coar_status fold_example(void *context, size_t e, int worker) {
    fold *f = context;
    const size_t n = f->n, stride = f->examples * n;
    double *of_example = f->state.squares_of_example + e, *sums = f->state.sums + e * n;
    (void)worker;
    f->finite[e] = 0;
    if (isnan(*of_example)) return COAR_OK;
    for (size_t s = 0; s < f->passes; s++, f->finite[e]++) {
        const float *gradients = f->scratch->gradients + s * stride + e * n;
        const uint8_t *level = f->scratch->levels + s * n;
        double squares[LEVELS] = {0};
        for (size_t j = 0; j < n; j++) {
            const double g = f->slope * gradients[j];
            sums[level[j] * stride + j] += g;
            squares[level[j]] += g * g;
        }
        /* squares of floats do not overflow a double */
        if (!isfinite(squares[0] + squares[1] + squares[2] + f->scratch->outputs[s * f->examples + e])) {
            spoil(f, e);
            break;
        }
        for (size_t l = 0; l < LEVELS; l++) of_example[l * f->examples] += squares[l];
    }
    return COAR_OK;
}

/* Squares of FOLD_COLUMNS components over passes and examples, in order. */
static coar_status fold_columns(void *context, size_t task, int worker) {
    const fold *f = context;
    const size_t first = task * FOLD_COLUMNS, last = first + FOLD_COLUMNS < f->n ? first + FOLD_COLUMNS : f->n;
    (void)worker;
    for (size_t s = 0; s < f->passes; s++)
        for (size_t e = 0; e < f->examples; e++) {
            const float *gradients = f->scratch->gradients + (s * f->examples + e) * f->n;
            const uint8_t *level = f->scratch->levels + s * f->n;
            if (s >= f->finite[e]) continue;
            for (size_t j = first; j < last; j++) {
                const double g = f->slope * gradients[j];
                f->state.squares_of_component[level[j] * f->n + j] += g * g;
            }
        }
    return COAR_OK;
}

static coar_status fold_group(unit_device *d, gradient_state state, size_t passes, size_t examples) {
    const gradient_units *units = d->work->context;
    fold f = {.scratch = d->scratch,
              .state = state,
              .passes = passes,
              .examples = examples,
              .n = units->masks.n,
              .slope = 1 - (double)d->job->ablation.gain};
    TRY(thread_pool_run(d->pool, examples, fold_example, &f));
    return thread_pool_run(d->pool, (f.n + FOLD_COLUMNS - 1) / FOLD_COLUMNS, fold_columns, &f);
}

/* ------------------------------------------------------------------------------------------------ one unit */

/* The state that a unit begins with here: an interrupted process's, that of the passes in gradients.h5, or none. */
static coar_status find_state(unit_device *d, uint32_t output, unit_record *record) {
    const gradient_units *units = d->work->context;
    const gradient_grid *g = &units->grid;
    const size_t bytes = gradient_grid_payload(g, record->unit);
    if (stage_steps(d->stage, record->unit))
        return stage_read(d->stage, record->unit, &record->mark, record->payload, bytes);
    record->mark.steps = g->first_pass;
    if (g->first_pass)
        return store_read_gradient_state(units->store, d->job->outputs[output].name, g, record->unit, record->payload);
    memset(record->payload, 0, bytes);
    return COAR_OK;
}

/* A record is worth its bytes after half of the passes, and after all of them. */
static uint32_t next_record(const gradient_grid *g, uint32_t pass) {
    const uint32_t half = g->first_pass + (g->passes - g->first_pass + 1) / 2;
    return pass < half ? half : g->passes;
}

/* Passes first .. first + count - 1 of an output, for the bound block. */
static coar_status run_group(unit_device *d, uint32_t output, uint64_t block, uint32_t first, uint32_t count,
                             bool *device_failed) {
    const gradient_units *units = d->work->context;
    const gradient_scratch *s = d->scratch;
    const size_t n = units->masks.n;
    level_mask(&units->masks, block, first, count, s->levels);
    for (size_t i = 0; i < count * n; i++) s->keeps[i] = level_keep_with(s->levels[i], d->job->ablation.gain);
    const mask_range masks = {.count = count, .n = units->masks.n, .keeps = s->keeps};
    *device_failed = true;
    TRY(d->backend->interface->run_reverse(d->backend, REVERSE_MASK, output, &masks, s->gradients, s->outputs));
    *device_failed = false;
    return COAR_OK;
}

static uint8_t flag_of(gradient_state state, uint32_t examples) {
    for (uint32_t e = 0; e < examples; e++)
        if (isnan(state.squares_of_example[e])) return UNIT_NON_FINITE;
    return UNIT_DONE;
}

static coar_status compute(unit_device *d, unit_record *record, bool *device_failed) {
    const gradient_units *units = d->work->context;
    const uint32_t group = (uint32_t)d->work->pass.masks;
    uint32_t output, examples;
    uint64_t first;
    gradient_grid_unit(&units->grid, record->unit, &output, &first, &examples);
    const uint64_t block = first / LEVELS_BLOCK;
    const gradient_state state = gradient_state_of(record->payload, examples, units->grid.components);
    TRY(unit_bind(d, block, first, examples, device_failed));
    if (!record->mark.steps) TRY(find_state(d, output, record));
    uint32_t *done = &record->mark.steps;
    const uint32_t begin = *done, until = next_record(&units->grid, begin);
    for (bool stop = false; *done < until && !stop;) {
        const uint32_t count = until - *done < group ? until - *done : group;
        TRY(run_group(d, output, block, *done, count, device_failed));
        TRY(fold_group(d, state, count, examples));
        *done += count;
        stop = unit_tell(d, (uint64_t)(*done - begin) * examples);
    }
    record->mark.flag = flag_of(state, examples);
    return COAR_OK;
}

static uint64_t images(const unit_work *work, uint64_t unit, uint32_t steps) {
    const gradient_units *units = work->context;
    uint32_t output, examples;
    uint64_t first;
    gradient_grid_unit(&units->grid, unit, &output, &first, &examples);
    return steps > units->grid.first_pass ? (uint64_t)(steps - units->grid.first_pass) * examples : 0;
}

/* --------------------------------------------------------------------------------------------------- sizes */

static job_pass pass_of(const job *j, const gradient_grid *g, size_t group) {
    const size_t examples = g->examples < LEVELS_BLOCK ? (size_t)g->examples : LEVELS_BLOCK, n = g->components;
    const size_t state = gradient_grid_payload(g, 0), masks = n * (sizeof(float) + 1);
    /* one block of images, a state in hand and one on its way to the journal, one group's masks and derivatives */
    return (job_pass){.examples = (uint32_t)examples,
                      .masks = group,
                      .reverse = true,
                      .own = examples * dataset_example_bytes(j->data) + 2 * state +
                             group * (masks + examples * (n + 1) * sizeof(float))};
}

/* As many passes as fit, but no more than a minute or so of one core: a stop waits for the group in hand. */
static job_pass choose_pass(const job *j, const gradient_grid *g) {
    const size_t examples = g->examples < LEVELS_BLOCK ? (size_t)g->examples : LEVELS_BLOCK;
    const double most = 1e13,
                 flops = 2.5 * (double)examples * graph_flops(j->model->graph); /* of one reverse pass, about */
    size_t group = GROUP_LEAST;
    while (group < g->passes - g->first_pass && 2 * group * examples <= GROUP_PAIRS) group *= 2;
    while (group > 1 && (double)group * flops > most) group /= 2;
    job_pass pass = pass_of(j, g, group);
    while (group > 1 && !job_pass_fits(j, &pass)) pass = pass_of(j, g, group /= 2);
    return pass;
}

unit_work gradient_units_work(const job *j, const gradient_units *units) {
    static const unit_kind kind = {
        .name = "gradients", .open = open_scratch, .close = close_scratch, .compute = compute, .images = images};
    const gradient_grid *g = &units->grid;
    return (unit_work){.kind = &kind,
                       .progress = "gradients",
                       .context = units,
                       .units = gradient_grid_units(g),
                       .blocks = gradient_grid_blocks(g),
                       .steps = g->passes,
                       .payload_bytes = gradient_grid_payload,
                       .grid = g,
                       .pass = choose_pass(j, g),
                       .shards = 1};
}
