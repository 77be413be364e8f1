/*
 * cpu.h - the inside of the cpu backend: images in lanes.
 *
 * A tile is 32 lanes; a lane is one example under one mask. Two forms, chosen by the example's place among the run's
 * examples only (docs/design.md, section 3):
 *   group  32 examples of one mask: rows whose keep is 0 are not computed, and where the plan says FORM_COMPACTED they
 *          are left out of the op that reads them as well, as are heads;
 *   mixed  the examples beyond the last full group: each lane has its own mask, nothing is left out.
 * Both run the same kernels on the same packed layers; the keeps act in the convolution's epilogue. A reverse pass
 * needs every row, so there groups are mixed as well.
 *
 *   cpu.c         the backend interface: prepare, run, destroy
 *   cpu_layer.c   what never changes about an op: geometry, border zones, weights packed for all masks
 *   cpu_pack.c    an op under given masks: rows to compute, columns to read, epilogue
 *   cpu_tile.c    pixels or tokens into lanes, the op list over one tile
 *   cpu_language.c  the ends of a language model: lookup, and what it says of the next token
 *   cpu_memory.c  one plan of all memory; what does not fit
 *   cpu_peak.c    the most flops and bytes per second this machine can do
 *   cpu_profile.c where the time goes, op by op
 *   cpu_means.c   sums of x per masked channel, for `mean` ablation
 *   cpu_schedule  the steps of a reverse pass; what is kept for it, what is computed twice to save memory
 *   cpu_reverse.c run_reverse: tiles and lanes
 *   cpu_step.c    one step of a reverse pass
 *
 * Must not know: models, files, runs.
 */
#ifndef COAR_BACKEND_CPU_CPU_H
#define COAR_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "backend/cpu/cpu_schedule.h"
#include "kernels/cpu/kernels.h"

/* Taps of one axis that lie inside the image. */
typedef struct tap_span {
    uint32_t first, count;
} tap_span;

/* One axis of a convolution's output. Positions with the same taps inside the image form a zone: within it the channels
 * left out add the same constant. */
typedef struct border_axis {
    uint32_t *zone; /* [output size] */
    tap_span *span; /* [zones] */
    uint32_t zones; /* 1 (and no span) where nothing is left out of the input */
    double taps;    /* inside the image, over all output positions */
} border_axis;

/* A way to compute a convolution: kernels, and the weights in their order, packed once for all masks, tiles and workers
 * (kernels.h). */
typedef struct cpu_form {
    bool winograd;
    bool bf16;
    size_t points;    /* of the weights: taps, or Winograd's products */
    uint32_t columns; /* of a point: input channels, or in bf16 pairs of them */
    float *weight;    /* rows are output channels */
} cpu_form;

/* What never changes about an op. */
typedef struct cpu_layer {
    const op *op;
    shape in, out;
    /* Group form. Channels that `left_out` ablates are not stored in the output of a convolution or layer norm: its own
     * site, or that of an attention which alone reads it; NULL = all are stored. */
    const mask_site *left_out;
    int stored_by; /* the op whose rows are the channels that are stored in the output: this one, or the convolution that
                    * makes an attention's values; -1 = all are */
    int feeder;    /* OP_CONV: `stored_by` of the op that makes the input */
    size_t read;   /* positions of the output, from the first on, that the logits depend on: of a ViT's last block the
                    * class token alone. No others of an op that treats each by itself are computed, nor their gradients */
    border_axis rows, columns;
    /* OP_CONV */
    cpu_form form; /* of `run`, in the plan's precision */
    cpu_form fp32; /* of reverse passes, whose forward half is in fp32 as well; in a plan of fp32 the same */
    float
        *reverse_weight; /* data gradient: rows are input channels, points as of `fp32`; NULL without reverse passes */
    size_t *reverse_row; /* [I]: where each of them begins */
    /* OP_NEXT: form and fp32 as of a linear layer whose rows are the tokens; where losses are differentiated also
     * reverse_weight, chunk by chunk, and reverse_row [2][I], for all chunks but the last, and for that */
    size_t *next_row; /* [2][vocabulary]: where each row begins, of `form` and of `fp32` */
} cpu_layer;

/* A convolution under the masks of a tile; of a layer norm rows, row, constants. Lanes of a group are all alike. */
typedef struct cpu_packed {
    uint32_t rows;       /* computed */
    uint32_t *row;       /* [O]: the output channel each of them is */
    size_t *row_start;   /* [O]: where it begins in the layer's weights */
    uint32_t *channel;   /* [O]: where it is stored */
    uint32_t *column;    /* [kernel_w][stored input channels, or pairs] where the input leaves channels out: where
                                 * each column begins in a row (kernels.h); elsewhere NULL: the backend's `column` serves */
    uint32_t (*pair)[2]; /* [pairs] likewise, in bf16: where their channels are stored */
    uint32_t pairs;      /* how many: those with a channel stored */
    uint32_t constants;  /* not computed: known */
    uint32_t *constant_channel; /* [O] */
    float *constant;            /* [O] before residual and activation; of a layer that leaves out: after activation */
    float *mul, *add;           /* [rows][LANES], [zones][rows][LANES] (kernels.h) */
} cpu_packed;

enum { SHOWN_NONE = LANES }; /* more than any index into the rest */

/* What one thread works in. `run` and `run_reverse` share memory where they do not name the same array. */
typedef struct cpu_worker {
    cpu_packed *packed; /* [ops] */
    float **value;      /* [values]: where they live now */
    bool all_positions; /* in sums over positions: whether or not they are read */
    size_t positions;   /* of texts, in this tile: those behind them have no next token, and nobody sees them */
    bool log_sums;      /* an OP_NEXT's are wanted, as by losses; otherwise 0 */
    /* run */
    float *buffer;    /* all buffers of the plan, [size][LANES] each and lanes_room apart (buffer_start) */
    float *activated; /* [widest layer that leaves out, rounded up to LANES] */
    double *tap_sum;  /* [largest kernel that reads a layer that leaves out] */
    double flops;     /* executed in this call */
    /* run_reverse */
    float *regions;           /* [schedule.floats] */
    float *sums;              /* [widest site][LANES] */
    float *sum_mul, *sum_add; /* [widest site] */
    float *attention_reverse; /* attention_reverse_scratch */
    /* both */
    float *keep;              /* [n][LANES] */
    float *mask;              /* [n] */
    void *mask_scratch;       /* mask_range_scratch_max(n) bytes */
    float *out_mul, *out_add; /* [widest PLACE_OUT site][LANES] */
    float *attention;         /* attention_scratch */
    uint32_t *value_width;    /* [most heads]: attention_args.value_width */
    float *conv;              /* scratch of the layer whose form needs most */
    float *next;              /* cpu_next_scratch, of a language model */
    uint8_t *pixels;          /* [input elements][LANES], of element_bytes each: a mixed tile's */
    uint32_t shown[LANES];    /* which of the rest's examples each of its lanes shows; SHOWN_NONE */
    float *scale;             /* [LANES]: a mixed tile's example_batch.scale */
} cpu_worker;

/* What a tile shows. */
typedef struct tile_images {
    const uint8_t *pixels; /* [input elements][LANES]; of texts tokens, i32 likewise */
    const float *scale;    /* [LANES] the normalised image is multiplied by this; NULL = 1 */
    size_t positions;      /* of texts: all that the longest one's outputs depend on; else SIZE_MAX */
} tile_images;

typedef struct cpu_profile cpu_profile;

typedef struct cpu_backend {
    backend base;
    backend_settings settings;
    output_spec outputs[OUTPUTS_MAX];
    const cpu_kernels *kernels;
    logits_view logits;   /* of a lane; without values and label */
    size_t elements;      /* of an input image or text */
    size_t element_bytes; /* 1, or of tokens 4 */
    buffer_plan buffers;
    size_t *buffer_start;         /* [buffers.buffers], in floats of a worker's buffer */
    uint32_t *column;             /* [columns]: where each column begins when all are stored */
    size_t columns;               /* of the longest kernel row, forwards or in reverse */
    uint32_t (*pair)[2];          /* [pairs]: where the channels of each pair are when all are stored */
    size_t pairs;                 /* of the widest layer in bf16 */
    cpu_schedule_choice *choices; /* with settings.reverse: [choice_count] */
    size_t choice_count;
    size_t choice;         /* the one that is planned for */
    cpu_schedule schedule; /* made from it */
    cpu_layer *layers;     /* [ops] */
    size_t workers;
    cpu_worker *worker; /* [workers] */
    void *memory;       /* one allocation for all arrays */

    uint32_t examples;            /* bound now: E */
    uint8_t *groups;              /* [E / 32][input elements][LANES] of element_bytes each */
    uint8_t *rest;                /* [E mod 32][input elements] likewise */
    int32_t *labels;              /* [examples_max] */
    float *scale;                 /* [examples_max] */
    bool scaled;                  /* `scale` counts */
    float *zeros;                 /* [LANES] */
    float *pixel_mul, *pixel_add; /* [input channels]: x = pixel mul + add */
    double executed, dense;       /* flops of all runs: executed, and what dense passes would have taken */
    cpu_profile *profile;         /* NULL: nobody wants to know */
} cpu_backend;

/* --------------------------------------------------------------------------------------- cpu_layer.c */

/* Geometry and forms of every op, into b->layers. */
void cpu_layers_describe(cpu_backend *b);
/* Fills the arrays that cpu_memory.c has placed. */
coar_status cpu_layers_fill(cpu_backend *b);
/* Whether position p of the output depends on position p of the first input and of the residual alone. */
bool cpu_is_positionwise(const cpu_layer *layer);
/* Columns of a kernel row, all stored, of a form with so many in a point: the length of their list. */
static inline size_t cpu_layer_columns(const cpu_layer *layer, const cpu_form *form, uint32_t columns) {
    return (size_t)columns * (form->winograd ? 1 : layer->op->kernel_w);
}
/* Rows of its weights; 0 where it has none that are packed. */
static inline uint32_t cpu_layer_rows(const cpu_layer *layer) {
    return layer->op->kind == OP_CONV ? layer->out.c : layer->op->kind == OP_NEXT ? layer->op->vocabulary : 0;
}
static inline size_t cpu_layer_zones(const cpu_layer *layer) {
    return (size_t)layer->rows.zones * layer->columns.zones;
}

/* -------------------------------------------------------------------------------------- cpu_memory.c */

/* How much is spent on speed. */
typedef struct cpu_memory_way {
    size_t workers;
    size_t choice; /* of the schedules of a reverse pass */
} cpu_memory_way;

/* The way that needs least, and the fastest. */
cpu_memory_way cpu_memory_least(const cpu_backend *b);
cpu_memory_way cpu_memory_best(const cpu_backend *b);
/* The fastest of at most so many bytes; where none is, the least. */
cpu_memory_way cpu_memory_choose(cpu_backend *b, size_t allowed);
/* Bytes that a way takes; with `base` also places every array there. */
size_t cpu_memory_plan(cpu_backend *b, cpu_memory_way way, void *base);
/* Allocates b->memory and places everything, the fastest way that settings.memory allows: a worker for each thread;
 * rather a part of the network run twice than fewer workers. */
coar_status cpu_memory_allocate(cpu_backend *b);

static inline size_t cpu_larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* ---------------------------------------------------------------------------------------- cpu_pack.c */

/* Layer i under w->keep: its epilogue, which rows are computed, which columns are stored, for weights of `form`;
 * `group`: all lanes have one mask. The layers before i must have been through here already. */
void cpu_pack(const cpu_backend *b, cpu_worker *w, size_t i, const cpu_form *form, bool group);
/* Likewise of a layer norm, in a group that leaves out what it ablates: which channels are stored. */
void cpu_pack_norm(const cpu_backend *b, cpu_worker *w, size_t i);
activate_kernel cpu_activation(const cpu_backend *b, activation act);

/* ---------------------------------------------------------------------------------------- cpu_tile.c */

/* Sees op i of the tile in hand, before it runs (finished = false) and after. */
typedef struct tile_observer {
    void (*see)(void *context, const cpu_backend *b, cpu_worker *w, size_t i, bool finished);
    void *context;
} tile_observer;

/* Where value v of the tile in hand lives: [positions][stored channels][LANES]. NULL for -1. */
static inline float *cpu_value(const cpu_worker *w, int v) {
    return v < 0 ? NULL : w->value[v];
}
/* A convolution in one of its layer's forms. */
void cpu_convolve(const cpu_backend *b, const cpu_form *form, const conv_args *args);
/* Positions of a layer's output that are computed: the first so many. */
static inline size_t cpu_positions(const cpu_worker *w, const cpu_layer *layer) {
    const size_t all = w->all_positions ? shape_positions(layer->out) : layer->read;
    return all < w->positions ? all : w->positions;
}
/* The arguments of convolution i of the tile in hand, as it was packed. */
conv_args cpu_conv_args(const cpu_backend *b, const cpu_worker *w, size_t i, const cpu_form *form, bool group);
window cpu_layer_window(const cpu_layer *layer);
/* The same over the positions that are computed. */
window cpu_tile_window(const cpu_worker *w, const cpu_layer *layer);
/* The normalised images, or the tokens as numbers, into x [input elements][LANES]. */
void cpu_load_images(const cpu_backend *b, tile_images images, float *x);
/* Op i but for the mask of an OUT site; not a convolution. */
void cpu_run_op(const cpu_backend *b, cpu_worker *w, size_t i, bool group);
/* PLACE_OUT: what the stored channels of op i's result are multiplied by and what is added, into w->out_mul and
 * w->out_add. Returns how many there are. */
uint32_t cpu_out_keeps(const cpu_backend *b, const cpu_worker *w, size_t i, bool group);
/* PLACE_OUT: from op i's result x to y = k x + (1 - k) fill, which may be x. */
void cpu_mask_result(const cpu_backend *b, const cpu_worker *w, size_t i, bool group, const float *x, float *y);
/* The op list on a tile; the logits are then at cpu_value(graph->logits). `fresh`: the keeps are not those of the
 * worker's last tile. `observer` may be NULL. */
void cpu_tile_run(const cpu_backend *b, cpu_worker *w, tile_images images, bool group, bool fresh,
                  const tile_observer *observer);

/* ------------------------------------------------------------------------------------ cpu_language.c
 *
 * x [positions][width][LANES], tokens [T][LANES] (value 0), what an OP_NEXT leaves [positions][NEXT_CHANNELS][LANES]. */

/* OP_LOOKUP. */
void cpu_lookup(const cpu_layer *layer, size_t positions, const float *tokens, float *output);
/* OP_NEXT, in one of its layer's forms. Uses w->next and w->conv. */
void cpu_next(const cpu_backend *b, const cpu_worker *w, const cpu_layer *layer, const cpu_form *form, const float *x,
              const float *tokens, float *output);
/* dL/dx of it, from the gradient of what it left, y. The part through the log of the sums where w->log_sums are. */
void cpu_next_reverse(const cpu_backend *b, const cpu_worker *w, const cpu_layer *layer, const float *x,
                      const float *tokens, const float *y, const float *gradient, gradient_sum output);
/* An OP_NEXT's forms, and how long the lists must be that serve all layers. */
void cpu_next_describe(cpu_backend *b, cpu_layer *layer, bool bf16);
/* Floats of a worker's scratch: w->next, w->conv; of reverse_weight. */
size_t cpu_next_scratch(void);
size_t cpu_next_conv_scratch(const cpu_backend *b, const cpu_layer *layer);
size_t cpu_next_reverse_size(const cpu_backend *b, const cpu_layer *layer);
void cpu_next_pack_reverse(const cpu_backend *b, const cpu_layer *layer, float *packed);
/* Fills next_row, and reverse_row where there is one. */
void cpu_next_list_rows(const cpu_backend *b, const cpu_layer *layer);

/* ------------------------------------------------------------------------------------- cpu_reverse.c */

coar_status cpu_run_reverse(backend *b, reverse_kind kind, size_t output, const mask_range *masks, float *gradients,
                            float *outputs);

/* ---------------------------------------------------------------------------------------- cpu_step.c */

/* A tile of a reverse pass. Lanes without a row are computed and not stored. */
typedef struct reverse_tile {
    const cpu_backend *b;
    cpu_worker *w;
    reverse_kind kind;
    const output_spec *spec;
    tile_images images;
    uint32_t label[LANES];
    float *gradients[LANES]; /* [n] each; NULL = nobody wants them */
    float *output[LANES];    /* one number each; NULL likewise */
} reverse_tile;

/* All steps of the schedule, under the keeps in w->keep. */
void cpu_step_all(const reverse_tile *t);

/* --------------------------------------------------------------------------------------- cpu_means.c */

coar_status cpu_row_sums(backend *b, double *sums);

/* ---------------------------------------------------------------------------------------- cpu_peak.c */

coar_status cpu_peak(const numerics_plan *plan, thread_pool *pool, double *flops);
size_t cpu_bandwidth_memory(const thread_pool *pool);
coar_status cpu_bandwidth(const numerics_plan *plan, thread_pool *pool, double *bytes, double *bytes_one);

/* ------------------------------------------------------------------------------------- cpu_profile.c */

coar_status cpu_profile_begin(backend *b);
coar_status cpu_profile_sums(const backend *b, bool reverse, layer_time **times, size_t *count);
void cpu_profile_free(cpu_profile *profile);
/* Nothing happens in these while nothing is profiled. */
const tile_observer *cpu_profile_observer(const cpu_backend *b, bool group);
void cpu_profile_count(const cpu_backend *b, bool reverse, uint64_t pairs);
double cpu_profile_clock(const cpu_backend *b);
void cpu_profile_step(const cpu_backend *b, const cpu_worker *w, const step *s, double start);

/* -------------------------------------------------------------------------------------------- cpu.c */

/* The kernels of a plan's device class. */
coar_status cpu_find_kernels(const numerics_plan *plan, const cpu_kernels **out);
/* Runs `count` tasks; `worker` (of each call of `task`) indexes b->worker. */
coar_status cpu_each_worker(const cpu_backend *b, size_t count, thread_task task, void *context);
/* Images of a tile of bound examples: full group g, or lanes of the rest ([LANES] indices into it). */
tile_images cpu_group_images(const cpu_backend *b, size_t g);
tile_images cpu_rest_images(const cpu_backend *b, cpu_worker *w, const uint32_t *example);
/* Every component kept, in every lane. */
void cpu_keep_all(const cpu_backend *b, cpu_worker *w);
/* Mask s in every lane; masks == NULL: everything is kept. */
void cpu_keep_mask(const cpu_backend *b, cpu_worker *w, const mask_range *masks, size_t s);
/* Pairs (mask, example of the rest) first .. first + lanes - 1, in the order of masks, one in each lane; the last lanes
 * repeat the last pair. example[LANES]: which they show. */
void cpu_keep_pairs(const cpu_backend *b, cpu_worker *w, const mask_range *masks, size_t first, uint32_t lanes,
                    uint32_t *example);

#endif
