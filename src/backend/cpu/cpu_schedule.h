/*
 * cpu_schedule.h - a reverse pass as a list of steps, and where everything they read and write lies.
 *
 * One reverse pass over a tile is a forward pass over the op list, the output's gradient with respect to the logits,
 * and the ops backwards. What the way back needs of the way forth is kept, or, to save memory, made again: the op list
 * is cut into segments. The forward pass keeps what the last segment needs, and of the others only the values that
 * later ops read; the way back runs the ops of each earlier segment once more, this time keeping what it needs
 * (one level of checkpointing). The numbers are the same either way.
 *
 * All of this is fixed once for a graph. A `region` is a stretch of memory with a lifetime in steps; lifetimes follow
 * from what the steps read, so nothing else says what crosses a cut: residuals, or queries and keys whose attention
 * comes later, simply live longer.
 *
 * Must not know: how a step computes, masks, threads.
 */
#ifndef COAR_BACKEND_CPU_CPU_SCHEDULE_H
#define COAR_BACKEND_CPU_CPU_SCHEDULE_H

#include "graph/graph.h"
#include "graph/regions.h"

typedef enum step_kind {
    STEP_INPUT,    /* pixels -> value 0 */
    STEP_FORWARD,  /* an op; with linear and positive, where it has them, when its reverse follows in this segment */
    STEP_OUTPUT,   /* logits -> the output, and its gradient with respect to them */
    STEP_EPILOGUE, /* OP_CONV: gradient of y -> gradient of the sums W x and of the residual; sums of its site */
    STEP_REVERSE,  /* OP_CONV: gradient of W x -> of x. Other ops: gradient of y -> of the inputs; sums of the site */
} step_kind;

enum { REGION_NONE = -1 };

/* Where a step finds and puts things: indices of regions, REGION_NONE = there is none. Gradients have the size of their
 * values. `add`: something is there already, which the step adds to. */
typedef struct step {
    step_kind kind;
    bool fused; /* STEP_REVERSE of a convolution: the next step, an epilogue, may run on its results piecemeal */
    size_t op;
    int x[3];      /* values of the inputs: those STEP_FORWARD reads, or the reverse of this op reads */
    int residual;  /* value, likewise */
    int y;         /* value, written; STEP_OUTPUT: the logits; STEP_REVERSE of OP_NEXT reads its own */
    int linear;    /* x of the site: W x of an OP_CONV, the unmasked result of an OP_ATTENTION */
    int positive;  /* one bit for each element of y: y > 0 or NaN, where the activation is ReLU */
    int dy;        /* gradient of y; STEP_EPILOGUE may write over it */
    int dlinear;   /* gradient of W x: STEP_EPILOGUE writes it, STEP_REVERSE of OP_CONV reads it */
    int dx[3];     /* gradients of the inputs */
    int dresidual; /* STEP_EPILOGUE: gradient of the residual */
    bool add[3], add_residual;
    int remade[3];  /* STEP_REVERSE of OP_ATTENTION: linear of the op before, from which x[k] is made again */
    int scratch[3]; /* room for that; elsewhere [0] is room for x of an OUT site */
} step;

typedef struct cpu_schedule {
    step *steps;
    size_t step_count;
    region *regions;
    size_t region_count;
    size_t floats; /* of one worker: what all regions take */
} cpu_schedule;

/* A way to schedule a graph: ops from `kept_from` on are the last segment, the rest is run twice. */
typedef struct cpu_schedule_choice {
    size_t kept_from, floats;
} cpu_schedule_choice;

/* The ways that are worth having, malloc'ed: the fewest repeated operations first, each smaller than those before. */
coar_status cpu_schedule_choices(const graph *g, cpu_schedule_choice **choices, size_t *count);

coar_status cpu_schedule_create(const graph *g, size_t kept_from, cpu_schedule *out);
void cpu_schedule_free(cpu_schedule *schedule);

/* Whether op o keeps `linear` for its reverse. */
bool cpu_schedule_keeps_linear(const op *o);

#endif
