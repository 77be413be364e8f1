/*
 * bench.c - coar_bench: masked forward passes per second, as a run makes them, and what part of the machine's peak that
 * is. Timed from the generation of masks through forward passes to the output function; no files, and no packing of
 * weights, which is done once, at preparation. With `gradients`: forward passes with nothing ablated and reverse
 * passes, in turn, so that both see the same machine.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/auto_precision.h"
#include "ablate/job.h"
#include "ablate/memory_plan.h"
#include "core/files.h"
#include "core/log.h"
#include "core/options.h"
#include "core/philox.h"
#include "core/statistics.h"
#include "model/model.h"
#include "store/store.h"

enum {
    TILE_IMAGES = 32,   /* a lane tile: what one thread takes at a time, whoever the images belong to */
    REPETITIONS = 5,    /* medians want an odd number. Fewer where the time is over before */
    WHOLE_MAX = 4,      /* masks waited for, so that tiles are full: enough for 200 images a mask */
    BENCH_TOKENS = 128, /* of a text: about what the reference's stories have, where --tokens says nothing else */
    REVERSE_MAX = 4,    /* masks of one call of run_reverse: each has derivatives of every image and component */
};
#define DEFAULT_SECONDS 5.0

typedef struct bench {
    const coar_bench_options *o;
    model *model;
    thread_pool *pool;
    numerics_plan plan;
    const backend_interface *interface;
    backend *backend;
    output_spec outputs[OUTPUTS_MAX];
    size_t output_count;
    uint32_t batch;
    uint32_t masks_max; /* of one call of the backend: those of a work unit */
    sampler sampler;
    void *images; /* or texts */
    int32_t *labels;
    example_batch examples; /* the two above */
    uint8_t *ones;          /* dense: [masks_max][mask_bytes(n)] */
    float *results;         /* [outputs][masks_max][batch] */
    float *gradients;       /* [reverse_max][batch][n], when they are measured */
    uint64_t masks;         /* made so far */
    double profiled;        /* seconds of the passes that layers are told of */
} bench;

static coar_status open_model(const coar_bench_options *o, model **out) {
    model_options options = {.arch = o->arch, .classes = o->classes, .tokens = o->tokens, .tokens_max = BENCH_TOKENS};
    TRY(component_set_parse(o->components, &options.set));
    if (!o->model) return status_set(COAR_ERROR_USAGE, "--model: name weights or an architecture");
    return file_exists(o->model) ? model_open(o->model, &options, out) : model_random(o->model, &options, out);
}

static coar_status check_options(const coar_bench_options *o, double *alpha) {
    *alpha = o->alpha == 0 ? DEFAULT_ALPHA : o->alpha;
    if (!(*alpha > 0 && *alpha < 1))
        return status_set(COAR_ERROR_USAGE, "--alpha %g: must lie between 0 and 1", o->alpha);
    if (!(o->seconds >= 0)) return status_set(COAR_ERROR_USAGE, "--time %g: must not be negative", o->seconds);
    return COAR_OK;
}

/* Random pixels and labels, or texts that fill the context: no kernel's time depends on what they are. Freed with
 * close_bench. */
static coar_status make_examples(bench *b) {
    const graph *g = b->model->graph;
    const size_t size = graph_input_bytes(g) * b->batch;
    static const float mean[] = {0.5f, 0.5f, 0.5f, 0.5f}, deviation[] = {0.25f, 0.25f, 0.25f, 0.25f};
    TRY(memory_new(size + 16, 1, "images", &b->images));
    TRY(memory_new(b->batch, sizeof *b->labels, "labels", &b->labels));
    for (size_t i = 0; i < size; i += 16) {
        uint32_t words[4];
        philox_words(0, PHILOX_STREAM_CALIBRATION, 0, (uint32_t)(i / 16), words);
        for (size_t k = 0; g->vocabulary && k < 4; k++) words[k] %= g->vocabulary;
        memcpy((char *)b->images + i, words, sizeof words);
    }
    for (uint32_t e = 0; e < b->batch; e++)
        b->labels[e] = (int32_t)(g->vocabulary ? g->values[0].w : e % b->model->classes);
    b->examples =
        (example_batch){.inputs = b->images, .labels = b->labels, .count = b->batch, .mean = mean, .std = deviation};
    return COAR_OK;
}

static coar_status take_plan(bench *b) {
    char *json;
    TRY(store_plan_file(b->o->plan, &json));
    const coar_status status = plan_from_json(b->model->graph, json, b->o->plan, &b->plan);
    free(json);
    TRY(status);
    const char *backend = plan_backend(b->plan.device_class);
    if (!backend || strcmp(backend, b->interface->name))
        return status_set(COAR_ERROR_MISMATCH, "--plan %s: is for device class %s, not for the %s backend", b->o->plan,
                          b->plan.device_class, b->interface->name);
    if (b->o->precision && strcmp(b->o->precision, "auto") && strcmp(b->o->precision, b->plan.precision))
        return status_set(COAR_ERROR_MISMATCH, "--precision %s: the plan of %s is in %s; leave --precision out",
                          b->o->precision, b->o->plan, b->plan.precision);
    if (b->o->exact) TRY(plan_check_exact(&b->plan, b->o->plan));
    return plan_check_executable(&b->plan, 0);
}

/* As for a run: a lower precision where the first examples allow it. Reverse passes that are fp32 whatever the plan says
 * are compared with forward passes in fp32. */
static coar_status settle_plan(bench *b, const backend_settings *settings) {
    const coar_bench_options *o = b->o;
    const bool fp32 = o->gradients && b->interface->reverse_in_fp32;
    if (o->plan) TRY(take_plan(b));
    if (fp32 && ((o->precision && strcmp(o->precision, "auto") && strcmp(o->precision, "fp32")) ||
                 (o->plan && strcmp(b->plan.precision, "fp32"))))
        return status_set(COAR_ERROR_UNSUPPORTED,
                          "--gradients: reverse passes of the %s backend are fp32, and so is what they are compared "
                          "with: give --precision fp32 or a plan in it",
                          b->interface->name);
    if (o->plan) return COAR_OK;
    const graph *g = b->model->graph;
    const char *precision = fp32 ? "fp32" : o->precision;
    const plan_timing timing = {.pool = b->pool, .memory = settings->memory, .callbacks = o->callbacks};
    const bool tries = (!precision || !strcmp(precision, "auto")) && b->interface->precisions;
    TRY(plan_create_timed(g, b->interface->name, precision, o->exact, 0, tries ? NULL : &timing, &b->plan));
    if (!tries) return COAR_OK;
    example_batch some = b->examples;
    if (some.count > AUTO_EXAMPLES) some.count = AUTO_EXAMPLES;
    TRY(auto_precision(b->interface, settings, &some, 0, b->sampler.alpha, o->exact, &timing, &b->plan));
    if (strcmp(b->plan.precision, "fp32")) return COAR_OK;
    plan_free(&b->plan);
    return plan_create_timed(g, b->interface->name, "fp32", o->exact, 0, &timing, &b->plan);
}

/* The fewest masks of a call that give every thread a tile. */
static uint32_t least_masks(const bench *b) {
    const uint32_t images = TILE_IMAGES * (uint32_t)thread_pool_size(b->pool), masks = (images - 1) / b->batch + 1;
    return masks < b->masks_max ? masks : b->masks_max;
}

static uint32_t reverse_max(const bench *b) {
    const uint32_t least = least_masks(b);
    return least > REVERSE_MAX ? least : REVERSE_MAX < b->masks_max ? REVERSE_MAX : b->masks_max;
}

/* Everything but the backend. */
static coar_status make_buffers(bench *b) {
    const coar_bench_options *o = b->o;
    const uint32_t n = b->model->graph->components;
    uint32_t unit_examples;
    unit_size(graph_flops(b->model->graph), b->batch, &b->masks_max, &unit_examples);
    TRY(make_examples(b));
    TRY(memory_new((size_t)b->masks_max * b->batch, b->output_count * sizeof *b->results, "outputs", &b->results));
    if (o->gradients) TRY(memory_new((size_t)reverse_max(b) * b->batch, n * sizeof(float), "gradients", &b->gradients));
    if (!o->dense && !o->gradients) return COAR_OK;
    TRY(memory_new(b->masks_max, mask_bytes(n), "masks", &b->ones));
    memset(b->ones, 0xff, b->masks_max * mask_bytes(n));
    return COAR_OK;
}

/* What figures are compared with. First of all, so that the memory it takes is given back before the network's. */
static coar_status measure_machine(bench *b, coar_bench_result *r) {
    coar_status status = COAR_OK;
    const backend_interface *i = b->interface;
    thread_pool *one = NULL;
    if (i->peak) TRY(i->peak(&b->plan, b->pool, &r->peak_flops));
    if (!i->bandwidth) return COAR_OK; /* a device: no threads */
    log_info(b->o->callbacks, "memory: %zu MiB, the process's own included, while its bandwidth is measured",
             (memory_resident() + i->bandwidth_memory(b->pool)) >> 20);
    TRY(i->bandwidth(&b->plan, b->pool, &r->bandwidth, &r->bandwidth_one));
    r->peak_flops_one = r->peak_flops;
    if (thread_pool_size(b->pool) == 1) return COAR_OK;
    TRY_GOTO(thread_pool_create(1, &one));
    TRY_GOTO(i->peak(&b->plan, one, &r->peak_flops_one));
done:
    if (one) thread_pool_destroy(one);
    return status;
}

static coar_status prepare(bench *b, coar_bench_result *r) {
    const coar_bench_options *o = b->o;
    const graph *g = b->model->graph;
    const shape input = g->values[0];
    memory_plan memory;
    if (input.c > 4) return status_set(COAR_ERROR_UNSUPPORTED, "coar bench: images of %u channels", input.c);
    b->batch = o->batch ? o->batch : g->vocabulary ? TILE_IMAGES : shape_positions(input) > 64 * 64 ? 64 : 200;
    TRY(backend_find(o->backend, o->callbacks, &b->interface));
    if (o->layer && !b->interface->time_layers && !b->interface->profile)
        return status_set(COAR_ERROR_UNSUPPORTED, "--layers: the %s backend does not time single layers",
                          b->interface->name);
    TRY(thread_pool_create(o->threads, &b->pool));
    TRY(output_parse("margin", b->model->graph, b->outputs, &b->output_count));
    if (o->tokens && !g->vocabulary)
        return status_set(COAR_ERROR_USAGE, "--tokens %u: %s takes images", o->tokens, b->model->path);
    if (o->gradients && !b->interface->run_reverse)
        return status_set(COAR_ERROR_UNSUPPORTED, "--gradients: the %s backend has no reverse pass",
                          b->interface->name);
    TRY(make_buffers(b));
    backend_settings settings = {.graph = g,
                                 .plan = &b->plan,
                                 .outputs = b->outputs,
                                 .output_count = b->output_count,
                                 .pool = b->pool,
                                 .memory = o->memory || b->interface->devices ? o->memory : memory_default(),
                                 .examples_max = b->batch,
                                 .masks_max = b->masks_max,
                                 .reverse = o->gradients != 0};
    TRY(settle_plan(b, &settings));
    TRY(memory_plan_make(b->interface, memory_plan_process(g), 0, &settings, &memory));
    memory_plan_tell(&memory, &settings, b->interface->devices != NULL, o->callbacks);
    r->memory_bytes = (double)(memory.process + memory.job);
    TRY(measure_machine(b, r));
    TRY(b->interface->prepare(&settings, &b->backend));
    return b->interface->bind(b->backend, &b->examples);
}

/* Runs `count` new masks; *seconds from their generation to the outputs. */
static coar_status time_masks(bench *b, size_t count, double *seconds) {
    const double start = clock_seconds();
    mask_range range = {.count = count, .n = b->model->graph->components, .first = b->masks};
    if (b->ones)
        range.bits = b->ones;
    else
        range.sampler = &b->sampler;
    TRY(b->interface->run(b->backend, &range, b->results));
    b->masks += count;
    *seconds = clock_seconds() - start;
    return COAR_OK;
}

/* The same for reverse passes of the first output, under masks of the sampler: no kernel's time depends on them. */
static coar_status time_reverse(bench *b, size_t count, double *seconds) {
    const double start = clock_seconds();
    const mask_range range = {
        .count = count, .n = b->model->graph->components, .sampler = &b->sampler, .first = b->masks};
    TRY(b->interface->run_reverse(b->backend, REVERSE_MASK, 0, &range, b->gradients, b->results));
    b->masks += count;
    *seconds = clock_seconds() - start;
    return COAR_OK;
}

/* Behind the passes that touched the memory. */
static coar_status begin_profile(bench *b) {
    return b->o->layer && b->interface->profile ? b->interface->profile(b->backend) : COAR_OK;
}

/* Median, least and greatest of one number for each of `count` repetitions, which are sorted. */
static void summarise(double *numbers, int count, double *median, double *least, double *greatest) {
    qsort(numbers, (size_t)count, sizeof *numbers, double_ascending);
    *least = numbers[0];
    *median = (numbers[(count - 1) / 2] + numbers[count / 2]) / 2;
    *greatest = numbers[count - 1];
}

/* Seconds to measure for in all. */
static double time_allowed(const bench *b) {
    return b->o->seconds > 0 ? b->o->seconds : DEFAULT_SECONDS;
}

/* Masks of a call, at most `most`, from the seconds that the least take: as many as fit into a repetition, so many that
 * their images fill whole tiles where a few do that. Examples beyond the last 32 share tiles across masks, and a call of
 * one mask of 200 would time lanes that are not there in a run. */
static size_t fitting_masks(const bench *b, uint32_t most, double wanted, double seconds) {
    const uint32_t least = least_masks(b);
    uint32_t whole = 1; /* masks that fill whole tiles */
    while ((uint64_t)whole * b->batch % TILE_IMAGES) whole *= 2;
    const double fitting = wanted / seconds * least;
    const uint32_t count = fitting > most ? most : fitting > least ? (uint32_t)fitting : least;
    if (count >= whole) return count - count % whole;
    return whole <= WHOLE_MAX && whole <= most ? whole : count;
}

static coar_status measure(bench *b, coar_bench_result *r) {
    const double wanted = time_allowed(b) / REPETITIONS;
    double seconds, rates[REPETITIONS];
    progress progress;
    TRY(time_masks(b, least_masks(b), &seconds)); /* touches the memory */
    if (seconds < wanted) TRY(time_masks(b, least_masks(b), &seconds));
    TRY(begin_profile(b));
    const size_t count = fitting_masks(b, b->masks_max, wanted, seconds);
    progress_begin(&progress, b->o->callbacks, "bench", "images", 0, (uint64_t)count * REPETITIONS * b->batch);
    int made = 0;
    while (made < REPETITIONS && (!made || r->seconds < time_allowed(b))) {
        size_t done = 0;
        double spent = 0;
        do { /* a fast network takes several calls */
            TRY(time_masks(b, count, &seconds));
            done += count;
            spent += seconds;
        } while (spent + seconds / 2 < wanted);
        rates[made] = (double)done * b->batch / spent;
        r->masks += done;
        r->seconds += spent;
        made++;
        if (progress_update(&progress, r->masks * b->batch))
            return status_set(COAR_STOPPED, "coar bench: stopped after %d of %d repetitions", made, REPETITIONS);
    }
    r->images = r->masks * b->batch;
    b->profiled = r->seconds;
    summarise(rates, made, &r->images_per_second, &r->images_per_second_min, &r->images_per_second_max);
    return COAR_OK;
}

/* Forward and reverse passes in turn, as many masks of each. A repetition's ratio is that of its own times. */
static coar_status measure_gradients(bench *b, coar_bench_result *r) {
    const double wanted = time_allowed(b) / REPETITIONS;
    double forward, reverse, rates[REPETITIONS], reverse_rates[REPETITIONS], ratios[REPETITIONS], least, greatest;
    progress progress;
    TRY(time_masks(b, least_masks(b), &forward)); /* touches the memory */
    TRY(time_reverse(b, least_masks(b), &reverse));
    TRY(begin_profile(b));
    const size_t count = fitting_masks(b, reverse_max(b), wanted, forward + reverse);
    progress_begin(&progress, b->o->callbacks, "bench", "repetitions", 0, REPETITIONS);
    int made = 0;
    while (made < REPETITIONS && (!made || r->seconds < time_allowed(b))) {
        size_t done = 0;
        double spent = 0, spent_reverse = 0;
        do {
            TRY(time_masks(b, count, &forward));
            TRY(time_reverse(b, count, &reverse));
            done += count;
            spent += forward;
            spent_reverse += reverse;
        } while (spent + spent_reverse < wanted);
        rates[made] = (double)done * b->batch / spent;
        reverse_rates[made] = (double)done * b->batch / spent_reverse;
        ratios[made] = spent_reverse / spent;
        r->masks += done;
        r->seconds += spent + spent_reverse;
        b->profiled += spent_reverse;
        if (progress_update(&progress, (uint64_t)++made))
            return status_set(COAR_STOPPED, "coar bench: stopped after %d of %d repetitions", made, REPETITIONS);
    }
    r->images = r->masks * b->batch;
    summarise(rates, made, &r->images_per_second, &r->images_per_second_min, &r->images_per_second_max);
    summarise(reverse_rates, made, &r->reverse_per_second, &r->reverse_per_second_min, &r->reverse_per_second_max);
    summarise(ratios, made, &r->reverse_cost, &least, &greatest);
    return COAR_OK;
}

static void describe(const bench *b, double alpha, coar_bench_result *r) {
    const char *class = b->plan.device_class, *isa = strchr(class, '/');
    double executed, dense;
    snprintf(r->model, sizeof r->model, "%s", b->model->arch);
    snprintf(r->backend, sizeof r->backend, "%s", b->interface->name);
    snprintf(r->isa, sizeof r->isa, "%.15s", isa ? isa + 1 : class);
    snprintf(r->precision, sizeof r->precision, "%s", b->plan.precision);
    r->threads = thread_pool_size(b->pool);
    r->batch = b->batch;
    r->alpha = b->ones ? 0 : alpha;
    r->flops_per_image = graph_flops(b->model->graph);
    b->interface->work(b->backend, &executed, &dense);
    r->executed_fraction = executed / dense;
    if (r->peak_flops > 0) r->peak_fraction = r->images_per_second * r->flops_per_image / r->peak_flops;
}

/* *all: the seconds of which each layer's are a part. */
static coar_status time_layers(bench *b, layer_time **times, size_t *count, double *all) {
    const bool reverse = b->o->gradients != 0;
    const plan_timing timing = {.pool = b->pool, .memory = b->o->memory, .callbacks = b->o->callbacks};
    *all = b->profiled;
    if (b->interface->profiled) return b->interface->profiled(b->backend, reverse, times, count);
    b->interface->destroy(b->backend); /* a layer alone is timed at the batch that fills the device */
    b->backend = NULL;
    TRY(b->interface->time_layers(b->model->graph, &b->plan, &timing, reverse, times, count));
    *all = 0;
    for (size_t i = 0; i < *count; i++) *all += (*times)[i].seconds;
    return COAR_OK;
}

static coar_status tell_layers(bench *b, double peak_flops) {
    const coar_bench_options *o = b->o;
    layer_time *times;
    size_t count;
    double all, left;
    TRY(time_layers(b, &times, &count, &all));
    left = all;
    for (size_t i = 0; i < count; i++) {
        const layer_time *t = &times[i];
        const coar_bench_layer layer = {
            .name = b->model->graph->ops[t->op].name,
            .shape = t->shape,
            .form = t->form,
            .splits = t->splits,
            .seconds = t->seconds,
            .peak_fraction = peak_flops > 0 && t->seconds > 0 ? t->flops / t->seconds / peak_flops : 0,
            .images = t->pairs,
            .time_fraction = t->seconds / all,
            .flops = t->flops,
            .executed_flops = t->executed,
            .bytes = t->bytes,
        };
        left -= t->seconds;
        o->layer(o->user, &layer);
    }
    if (b->interface->profiled && count) {
        const coar_bench_layer rest = {.name = "",
                                       .shape = "",
                                       .form = "",
                                       .seconds = left,
                                       .images = times[0].pairs,
                                       .time_fraction = left / all};
        o->layer(o->user, &rest);
    }
    free(times);
    return COAR_OK;
}

static void close_bench(bench *b) {
    if (b->backend) b->interface->destroy(b->backend);
    if (b->pool) thread_pool_destroy(b->pool);
    plan_free(&b->plan);
    model_destroy(b->model);
    free(b->images);
    free(b->labels);
    free(b->ones);
    free(b->results);
    free(b->gradients);
}

coar_status coar_bench(const coar_bench_options *options, coar_bench_result *result) {
    status_clear();
    coar_bench_options taken;
    TRY(options_take(&taken, sizeof taken, options, "COAR_BENCH_INIT"));
    const coar_bench_options *o = &taken;
    coar_status status;
    bench b = {.o = o};
    coar_bench_result r = {0};
    double alpha = 0;
    TRY_GOTO(check_options(o, &alpha));
    TRY_GOTO(open_model(o, &b.model));
    b.sampler = (sampler){.kind = SAMPLER_BERNOULLI, .alpha = alpha, .n = b.model->graph->components};
    TRY_GOTO(prepare(&b, &r));
    TRY_GOTO(o->gradients ? measure_gradients(&b, &r) : measure(&b, &r));
    describe(&b, alpha, &r);
    if (o->layer) TRY_GOTO(tell_layers(&b, r.peak_flops));
    if (result) *result = r;
done:
    close_bench(&b);
    return status;
}
