/*
 * backend.h - the contract between the runner and a device.
 *
 * A backend takes an op list, then examples, then masks, and returns outputs. Every op is implemented by every
 * backend; there is no silent fallback: what a backend cannot do is COAR_ERROR_UNSUPPORTED at prepare.
 * An output depends on nothing but (graph, numerics plan, example, mask): never on threads, memory, batch or
 * the masks beside it.
 * Must not know: models, files, runs.
 */
#ifndef COAR_BACKEND_BACKEND_H
#define COAR_BACKEND_BACKEND_H

#include "backend/device_link.h"
#include "backend/fit_device.h"
#include "backend/plan.h"
#include "core/sampler.h"
#include "core/threads.h"
#include "graph/graph.h"

typedef enum ablation_kind { ABLATION_ZERO, ABLATION_SCALE, ABLATION_MEAN } ablation_kind;

/* What mask bit 0 does: keep = gain (0 but for scale:G), and x becomes k x + (1 - k) fill. */
typedef struct ablation {
    ablation_kind kind;
    float gain;        /* G of scale:G, else 0 */
    const float *fill; /* [graph->rows], per masked channel; NULL = zeros. Borrowed: outlives the backend */
} ablation;

/* zero (also for NULL), mean, scale:G (G finite). For mean, fill stays NULL until the means are collected. */
coar_status ablation_parse(const char *text, ablation *out);

typedef struct backend_settings {
    const graph *graph;
    const numerics_plan *plan;
    ablation ablation;
    const output_spec *outputs;
    size_t output_count;
    thread_pool *pool;      /* borrowed */
    int device;             /* which of the backend's devices, from 0 */
    size_t memory;          /* bytes it may take in all. With `devices`: of that device's memory, 0 = what is free */
    uint32_t examples_max;  /* most examples of one bind */
    size_t masks_max;       /* most masks of one run */
    bool reverse;           /* run_reverse will be called: memory is planned for it too */
    uint32_t path_examples; /* most examples of one bind when REVERSE_CONDUCTANCE is asked for, 0 = it will not be */
} backend_settings;

/* One block of examples. All arrays are borrowed for the call only. */
typedef struct example_batch {
    const void *inputs; /* images: u8 [E][H][W][C]; tokens, of a language model: i32 [E][T], each in the vocabulary
                              * (what is behind an example's last one counts for nothing) */
    const int32_t
        *labels;    /* [E] classes; of a language model lengths. NULL for passes whose labels do not count (logits,
                              * row sums): those take all T positions of a text */
    uint32_t count; /* E */
    uint64_t first; /* index of the first among the run's examples (a multiple of 32) */
    const float *mean, *std; /* [C]: x = (pixel/255 - mean) / std. Not looked at for tokens, nor is `scale` */
    const float *scale;      /* [E]: x of example e is then multiplied by it; NULL = 1. For paths from the zero image */
} example_batch;

/* What a reverse pass sums up for component j. x: what the mask acts on, at every position and channel of the component
 * (graph.h, mask_site); y = k x + (1 - k) fill; L the output. */
typedef enum reverse_kind {
    REVERSE_MASK,        /* dL/dk = sum of dL/dy (x - fill). Right at k = 0 as well: nothing is divided by k */
    REVERSE_INFLUENCE,   /* sum of dL/dx = k dL/dy (docs/design.md, section 7: internal influence) */
    REVERSE_CONDUCTANCE, /* sum of dL/dx (x - x of the example before it); 0 for the first bound example. At most
                          * PATH_EXAMPLES_MAX may be bound (neuron conductance) */
} reverse_kind;

/* Of a path, at once: what any backend can hold beside each other. */
enum { PATH_EXAMPLES_MAX = 32 };

typedef struct backend backend;

/* Time of one layer under a plan: of one launch of it alone (time_layers), or of all that went through it (profile). */
typedef struct layer_time {
    size_t op;                 /* of the graph */
    uint64_t pairs;            /* (mask, example) pairs that the rest is of */
    uint32_t splits;           /* partial sums */
    double seconds;            /* profile: of all threads together, over their number, so that layers add up */
    double flops;              /* dense, direct form */
    double executed;           /* flops really executed, padding of tiles included; 0 = not known */
    double bytes;              /* activations and weights that it reads and writes, each once; 0 = not known */
    char shape[192];           /* what was computed, as text; a data gradient's says "transposed" */
    char form[PLAN_FORM_SIZE]; /* the kernel */
} layer_time;

typedef struct backend_interface {
    const char *name;

    /* What `--precision auto` tries beside fp32 on devices of a class, the fastest first, NULL at the end. NULL: fp32 is
     * all there is. */
    const char *const *(*precisions)(const char *device_class);

    /* Whether reverse passes, and the forward passes they are made of, are in fp32 under any plan. */
    bool reverse_in_fp32;

    /* How many devices it can run on (backend_settings.device is below that). No device, or no driver, is
     * COAR_ERROR_UNSUPPORTED in one line; *count is then above 0 where there is or may be one that cannot be used. NULL:
     * one, the machine itself. */
    coar_status (*devices)(int *count);

    /* Bytes that prepare would take at least, and with settings.memory. A device or the reference says as `best` what it
     * has use for at most, whatever is allowed. */
    coar_status (*memory)(const backend_settings *s, size_t *least, size_t *best);

    /* Copies and packs what it needs from the graph (which must outlive the backend). */
    coar_status (*prepare)(const backend_settings *s, backend **out);

    coar_status (*bind)(backend *b, const example_batch *batch);

    /* outputs[output_count][S][E] for the bound examples. */
    coar_status (*run)(backend *b, const mask_range *masks, float *outputs);

    /* gradients[S][E][n]: the reverse pass of output `output` (an index into settings.outputs) under each mask, for the
     * bound examples. outputs[S][E]: that output itself; may be NULL. Masks are taken in any form, usually as keeps.
     * Values are of the plan's precision (fp32 with reverse_in_fp32) with nothing compacted, and depend on nothing but (graph, plan, example,
     * mask). Where an output has a kink the derivative is that of PyTorch: 0 for ReLU at 0, the first of equal largest
     * logits and pixels. ReLU lets the gradient of a NaN pass, as there; but derivatives are NaN only where that costs
     * nothing (an influence reads no x, and the margin's derivative is +-1 whatever the logits are). So that a NaN in
     * the forward pass is not lost, callers judge a pair by its output as well as by its derivatives. NULL: not
     * possible. */
    coar_status (*run_reverse)(backend *b, reverse_kind kind, size_t output, const mask_range *masks, float *gradients,
                               float *outputs);

    /* The logits of the unablated model for the bound examples: logits[E][graph_logits count]. */
    coar_status (*logits)(backend *b, float *logits);

    /* Adds to sums[graph->rows], for the unablated model and the bound examples, the sum over examples and positions
     * of x at each masked channel, in double and in example order (bits do not depend on threads). The caller divides
     * by examples * positions (backend_row_positions). */
    coar_status (*collect_row_sums)(backend *b, double *sums);

    void (*destroy)(backend *b);

    /* Flops executed by `run` so far, and what a dense direct-form pass would have taken. */
    void (*work)(const backend *b, double *executed, double *dense);

    /* Measures the flops per second that the device can do at most under this plan, on all threads of the pool:
     * multiply-adds in registers. Takes about a second. NULL: not known for this backend. */
    coar_status (*peak)(const numerics_plan *plan, thread_pool *pool, double *flops);

    /* Measures the bytes per second that are read from memory and written to it, as STREAM's triad counts them: by the
     * threads of the pool together, and by one. Takes half a second, and memory of several times the last cache until
     * it returns. NULL: not known for this backend. */
    coar_status (*bandwidth)(const numerics_plan *plan, thread_pool *pool, double *bytes, double *bytes_one);
    /* Bytes that it takes meanwhile. */
    size_t (*bandwidth_memory)(const thread_pool *pool);

    /* Times every convolution in the plan's form, alone; with `reverse` also every data gradient, behind them.
     * *times[*count] in the order of the ops, malloc'ed. NULL: for a backend with `profile`, or none of both. */
    coar_status (*time_layers)(const graph *g, const numerics_plan *plan, const plan_timing *t, bool reverse,
                               layer_time **times, size_t *count);

    /* From now on `run` and `run_reverse` add up the time of every op, from nothing. NULL: for a backend with
     * time_layers, or none of both. */
    coar_status (*profile)(backend *b);
    /* What they added up: every op of `run`; or of `run_reverse`, its ops forward and then, in the same order, the
     * reverse of those that have one. *times[*count], malloc'ed. */
    coar_status (*profiled)(const backend *b, bool reverse, layer_time **times, size_t *count);

    /* One of its devices for a fit, which takes at most `memory` bytes there (0 = what is free). NULL: fits are the
     * CPU's. */
    coar_status (*fit_device)(int device, size_t memory, fit_device **out);

    /* How its devices talk to those of other processes. NULL: they do not. */
    const device_links *links;
} backend_interface;

/* First member of every backend's own struct. The functions of one backend are called by one thread at a time, not
 * always the same one; backends of different devices run at once, each with a pool of its own. */
struct backend {
    const backend_interface *interface;
};

extern const backend_interface backend_reference;
extern const backend_interface backend_cpu;
extern const backend_interface backend_cuda; /* in builds with CUDA */

/* "cpu", "reference", "cuda"; NULL = the fastest that is part of this build and has a device. A backend without a
 * device is an error when it is named, and passed over when it is not; a device that is there, or may be, and cannot be
 * used gets a warning then. */
coar_status backend_find(const char *name, const coar_callbacks *callbacks, const backend_interface **out);

/* What every bind checks first: no more examples than prepared for, labels below the number of classes. */
coar_status backend_check_batch(const backend_settings *s, const example_batch *batch);

/* What every run checks first: masks of as many components as the graph has. */
coar_status backend_check_masks(const backend_settings *s, const mask_range *masks);

/* What every run_reverse checks first, with `examples` bound: the masks, that it was prepared for, the output, the
 * length of a path. */
coar_status backend_check_reverse(const backend_settings *s, uint32_t examples, reverse_kind kind, size_t output,
                                  const mask_range *masks);

/* positions over which row r's x is averaged: [graph->rows]. */
void backend_row_positions(const graph *g, uint32_t *positions);

/* Real-valued keeps of mask s of a range: keep[n]; bit 1 = 1, bit 0 = gain; keeps are taken as they are.
 * `scratch`: sampler_scratch(range->sampler) + mask_bytes(n) bytes. */
void mask_range_keeps(const mask_range *range, size_t s, float gain, float *keep, void *scratch);

/* No range over n components needs more scratch than this: what a backend sets aside at prepare. */
size_t mask_range_scratch_max(uint32_t n);

#endif
