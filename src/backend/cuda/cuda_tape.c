/* cuda_tape.c - see cuda_tape.h. */
#include "backend/cuda/cuda_tape.h"

#include <stdlib.h>

#include "graph/regions.h"
#include "kernels/cuda/kernels.h"

#define ALIGNMENT 256 /* of device memory, as kernels.h wants it */

/* Where an item's place is to be written. */
typedef struct request {
    size_t item;
    size_t *place;
} request;

typedef struct builder {
    const graph *g;
    size_t element;
    bool copied_input;
    cuda_tape *tape;
    bool *wanted;     /* [value_count]: graph_find_wanted */
    size_t *value;    /* [value_count] item */
    size_t *gradient; /* [value_count] item of dL/dvalue; NO_ITEM: none has begun */
    region *items;    /* [item_count] in bytes: from the op that makes it to the last that reads it */
    size_t item_count;
    request *requests; /* [request_count] */
    size_t request_count;
} builder;

#define NO_ITEM ((size_t)-1)

/* ----------------------------------------------------------------------------------------------- items */

static size_t forward_time(size_t op) {
    return op + 1;
}

static size_t seed_time(const builder *b) {
    return b->g->op_count + 1;
}

static size_t reverse_time(const builder *b, size_t op) {
    return 2 * b->g->op_count + 1 - op;
}

static size_t bytes_of(const builder *b, int value) {
    const shape s = b->g->values[value];
    return shape_positions(s) * gpu_stride(s.c) * b->element;
}

static size_t add_item(builder *b, size_t birth, size_t bytes) {
    const size_t aligned = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    b->items[b->item_count] = (region){.size = aligned, .first = birth, .last = birth};
    return b->item_count++;
}

static void use_item(builder *b, size_t item, size_t time) {
    if (item != NO_ITEM && b->items[item].last < time) b->items[item].last = time;
}

/* *place is set once all items have theirs. */
static void request_place(builder *b, size_t item, size_t *place) {
    *place = CUDA_NOWHERE;
    if (item != NO_ITEM) b->requests[b->request_count++] = (request){item, place};
}

/* -------------------------------------------------------------------------------------- forward lifetimes */

static bool has_site(const op *o) {
    return o->mask.place != PLACE_NONE;
}

/* Values of the forward pass, as far as the forward pass itself reads them. */
static void walk_forward(builder *b) {
    const graph *g = b->g;
    b->value[0] = b->copied_input ? add_item(b, 0, bytes_of(b, 0)) : NO_ITEM;
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        for (int k = 0; k < 3; k++)
            if (o->input[k] >= 0) use_item(b, b->value[o->input[k]], forward_time(i));
        if (o->residual >= 0) use_item(b, b->value[o->residual], forward_time(i));
        b->value[o->output] = o->output == g->logits ? NO_ITEM : add_item(b, forward_time(i), bytes_of(b, o->output));
    }
}

/* -------------------------------------------------------------------------------------- what reverse reads */

bool cuda_tape_is_plain(const op *o) {
    return !has_site(o) && !o->scale && o->act == ACT_NONE;
}

/* ReLU's derivative follows from the sign of its result: as long as no mask came behind it, and but for the logits,
 * which are not stored like other values. */
static bool reads_result(const graph *g, const op *o) {
    return o->act == ACT_RELU && o->mask.place != PLACE_OUT && o->output != g->logits;
}

/* The argument of any other activation is computed again, from W x and the residual; so is what OUT acts on. */
static bool reads_argument(const graph *g, const op *o) {
    return o->mask.place == PLACE_OUT || (o->act != ACT_NONE && !reads_result(g, o));
}

static void keep(builder *b, size_t op, size_t bytes, size_t *place) {
    const size_t kept = add_item(b, forward_time(op), bytes);
    use_item(b, kept, reverse_time(b, op));
    request_place(b, kept, place);
}

/* The result before the mask, and the sums of exponentials; q, k and v. */
static void keep_attention(builder *b, size_t i) {
    const op *o = &b->g->ops[i];
    cuda_tape_step *step = &b->tape->step[i];
    const size_t positions = shape_positions(b->g->values[o->output]);
    if (has_site(o)) {
        keep(b, i, bytes_of(b, o->output), &step->kept);
    } else {
        use_item(b, b->value[o->output], reverse_time(b, i));
        request_place(b, b->value[o->output], &step->kept);
    }
    keep(b, i, positions * o->heads * sizeof(float), &step->logsum);
    for (int k = 0; k < 3; k++) use_item(b, b->value[o->input[k]], reverse_time(b, i));
}

/* Extends the lives of what the reverse pass reads at op i. */
static void keep_for_reverse(builder *b, size_t i) {
    const op *o = &b->g->ops[i];
    const size_t now = reverse_time(b, i);
    cuda_tape_step *step = &b->tape->step[i];
    switch (o->kind) {
    case OP_CONV:
        if (has_site(o) || reads_argument(b->g, o)) keep(b, i, bytes_of(b, o->output), &step->kept);
        if (reads_result(b->g, o)) use_item(b, b->value[o->output], now);
        if (reads_argument(b->g, o) && o->residual >= 0) use_item(b, b->value[o->residual], now);
        break;
    case OP_ATTENTION:
        keep_attention(b, i);
        break;
    case OP_NORMALISE:
    case OP_NEXT:
        use_item(b, b->value[o->input[0]], now);
        break;
    case OP_LAYERNORM:
        use_item(b, b->value[o->input[0]], now);
        if (has_site(o)) request_place(b, add_item(b, now, bytes_of(b, o->output)), &step->kept);
        break;
    case OP_MAXPOOL:
        use_item(b, b->value[o->input[0]], now);
        use_item(b, b->value[o->output], now);
        break;
    case OP_AVGPOOL:
    case OP_SUBSAMPLE:
    case OP_EMBED:
    case OP_SELECT:
    case OP_MEAN_TOKEN:
    case OP_LOOKUP:
        break;
    }
}

/* ------------------------------------------------------------------------------------------- gradients */

/* What an output begins with. A language model's stays fp32: products read what is made of it (kernels.h,
 * gpu_next_gradient_launch). */
static size_t seed_bytes(const builder *b) {
    const shape s = b->g->values[b->g->logits];
    return b->g->vocabulary ? shape_positions(s) * s.c * sizeof(float) : bytes_of(b, b->g->logits);
}

/* Op i gives `value` a part of its gradient; returns whether there was one already. */
static bool give_gradient(builder *b, size_t i, int value) {
    const bool begun = b->gradient[value] != NO_ITEM;
    if (!begun) b->gradient[value] = add_item(b, reverse_time(b, i), bytes_of(b, value));
    use_item(b, b->gradient[value], reverse_time(b, i));
    return begun;
}

/* The gradient of a sum is that of its terms. Where the residual has none yet, and the sum's is read by nobody after
 * this op, it takes over its place. Returns whether it did. */
static bool give_residual(builder *b, size_t i, cuda_tape_step *step) {
    const op *o = &b->g->ops[i];
    if (o->residual < 0 || !b->wanted[o->residual]) return false;
    if (b->gradient[o->residual] == NO_ITEM) {
        b->gradient[o->residual] = b->gradient[o->output];
        return true;
    }
    step->add_residual = give_gradient(b, i, o->residual);
    return false;
}

/* dL/d(W x) is written over dL/dy, element by element, unless that is the residual's gradient now, or that of the
 * input, which is written while it is read. */
static void place_linear(builder *b, size_t i, cuda_tape_step *step) {
    const op *o = &b->g->ops[i];
    const bool taken = give_residual(b, i, step);
    size_t linear = b->gradient[o->output];
    if (!b->wanted[o->input[0]]) return;
    if (taken && (!cuda_tape_is_plain(o) || o->input[0] == o->residual))
        linear = add_item(b, reverse_time(b, i), bytes_of(b, o->output));
    request_place(b, linear, &step->linear);
}

static void walk_reverse(builder *b) {
    const graph *g = b->g;
    if (!b->wanted[g->logits]) return;
    b->gradient[g->logits] = add_item(b, seed_time(b), seed_bytes(b));
    for (size_t i = g->op_count; i-- > 0;) {
        const op *o = &g->ops[i];
        cuda_tape_step *step = &b->tape->step[i];
        if (b->gradient[o->output] == NO_ITEM) continue;
        step->active = true;
        use_item(b, b->gradient[o->output], reverse_time(b, i));
        keep_for_reverse(b, i);
        if (o->kind == OP_CONV) place_linear(b, i, step);
        for (int k = 0; k < 3; k++)
            if (o->input[k] >= 0 && b->wanted[o->input[k]]) step->add[k] = give_gradient(b, i, o->input[k]);
    }
}

/* ------------------------------------------------------------------------------------------- building */

static coar_status allocate(builder *b) {
    const graph *g = b->g;
    const size_t most = 2 * g->value_count + 2 * g->op_count; /* a value, its gradient; two more of an op */
    TRY(memory_new(g->value_count, sizeof *b->tape->value, "tape", &b->tape->value));
    TRY(memory_new(g->value_count, sizeof *b->tape->gradient, "tape", &b->tape->gradient));
    TRY(memory_new(g->op_count, sizeof *b->tape->step, "tape", &b->tape->step));
    TRY(memory_new(g->value_count, sizeof *b->wanted, "tape", &b->wanted));
    TRY(memory_new(g->value_count, sizeof *b->value, "tape", &b->value));
    TRY(memory_new(g->value_count, sizeof *b->gradient, "tape", &b->gradient));
    TRY(memory_new(most, sizeof *b->items, "tape", &b->items));
    return memory_new(most, sizeof *b->requests, "tape", &b->requests);
}

coar_status cuda_tape_create(const graph *g, size_t element, bool copied_input, cuda_tape *out) {
    coar_status status = COAR_OK;
    builder b = {.g = g, .element = element, .copied_input = copied_input, .tape = out};
    *out = (cuda_tape){0};
    TRY_GOTO(allocate(&b));
    for (size_t v = 0; v < g->value_count; v++) b.gradient[v] = NO_ITEM;
    for (size_t i = 0; i < g->op_count; i++)
        out->step[i].kept = out->step[i].logsum = out->step[i].linear = CUDA_NOWHERE;
    graph_find_wanted(g, b.wanted);
    walk_forward(&b);
    walk_reverse(&b);
    for (size_t v = 0; v < g->value_count; v++) {
        request_place(&b, b.value[v], &out->value[v]);
        request_place(&b, b.gradient[v], &out->gradient[v]);
    }
    TRY_GOTO(regions_place(b.items, b.item_count, &out->bytes));
    for (size_t k = 0; k < b.request_count; k++) *b.requests[k].place = b.items[b.requests[k].item].start;
done:
    free(b.requests);
    free(b.items);
    free(b.gradient);
    free(b.value);
    free(b.wanted);
    return status;
}

void cuda_tape_free(cuda_tape *t) {
    free(t->value);
    free(t->gradient);
    free(t->step);
    *t = (cuda_tape){0};
}
