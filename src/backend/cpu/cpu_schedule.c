/*
 * cpu_schedule.c - the steps of a reverse pass, and which stretches of memory they use when.
 */
#include "backend/cpu/cpu_schedule.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/kernels.h"

/* ------------------------------------------------------------------------------------ what ops need */

static bool is_smooth(activation act) {
    return act != ACT_NONE && act != ACT_RELU;
}

bool cpu_schedule_keeps_linear(const op *o) {
    if (o->kind == OP_ATTENTION) return o->mask.place == PLACE_OUT;
    return o->kind == OP_CONV && (o->mask.place != PLACE_NONE || is_smooth(o->act));
}

static bool keeps_positive(const op *o) {
    return o->kind == OP_CONV && o->act == ACT_RELU;
}

/* What an attention reads need not be kept for its reverse if its W x is: one multiply-add for each element makes it
 * again. */
static bool remakes(const graph *g, int value) {
    if (value <= 0) return false;
    const op *o = &g->ops[graph_maker(value)];
    return o->kind == OP_CONV && cpu_schedule_keeps_linear(o) && o->act == ACT_NONE && o->residual < 0 &&
           o->mask.place != PLACE_OUT;
}

/* The value that was added before an activation which is computed again from its argument. */
static bool reads_residual(const op *o) {
    return o->kind == OP_CONV && o->residual >= 0 && (is_smooth(o->act) || o->mask.place == PLACE_OUT);
}

/* Input k itself, for the reverse of this op. */
static bool reads_input(const op *o, int k) {
    return o->input[k] >= 0 && (o->kind == OP_ATTENTION || o->kind == OP_LAYERNORM || o->kind == OP_MAXPOOL ||
                                o->kind == OP_NORMALISE || o->kind == OP_NEXT);
}

static size_t elements(const graph *g, int value) {
    return shape_positions(g->values[value]) * g->values[value].c;
}

static size_t value_floats(const graph *g, int value) {
    return elements(g, value) * LANES;
}

/* ------------------------------------------------------------------------------------------- steps */

/* A schedule in the making. The arrays say where things lie at this moment; REGION_NONE = nowhere. */
typedef struct builder {
    const graph *g;
    cpu_schedule *schedule;
    size_t moment; /* of the step in hand */
    bool *wanted;  /* [values] */
    int *value;    /* [values] */
    int *gradient; /* [values] */
    int *linear;   /* [ops] */
    int *positive; /* [ops] */
    int *dlinear;  /* [ops] */
} builder;

static int new_region(builder *b, size_t floats) {
    cpu_schedule *s = b->schedule;
    s->regions[s->region_count] = (region){lanes_room((floats + 63) & ~(size_t)63), b->moment, b->moment, 0};
    return (int)s->region_count++;
}

/* The step in hand uses the region. */
static int use(builder *b, int region) {
    if (region != REGION_NONE) b->schedule->regions[region].last = b->moment;
    return region;
}

static step *new_step(builder *b, step_kind kind, size_t op) {
    step *s = &b->schedule->steps[b->schedule->step_count++];
    *s = (step){.kind = kind, .op = op};
    int *const places[] = {&s->residual, &s->y, &s->linear, &s->positive, &s->dy, &s->dlinear, &s->dresidual};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) *places[i] = REGION_NONE;
    for (int k = 0; k < 3; k++) s->x[k] = s->dx[k] = s->remade[k] = s->scratch[k] = REGION_NONE;
    b->moment++;
    return s;
}

static void add_input(builder *b) {
    step *s = new_step(b, STEP_INPUT, 0);
    s->y = b->value[0] = new_region(b, value_floats(b->g, 0));
}

static void add_forward(builder *b, size_t i, bool keeps) {
    const op *o = &b->g->ops[i];
    step *s = new_step(b, STEP_FORWARD, i);
    for (int k = 0; k < 3; k++)
        if (o->input[k] >= 0) s->x[k] = use(b, b->value[o->input[k]]);
    if (o->residual >= 0) s->residual = use(b, b->value[o->residual]);
    s->y = b->value[o->output] = new_region(b, value_floats(b->g, o->output));
    if (!keeps || !b->wanted[o->output]) return;
    if (cpu_schedule_keeps_linear(o)) s->linear = b->linear[i] = new_region(b, value_floats(b->g, o->output));
    if (keeps_positive(o)) s->positive = b->positive[i] = new_region(b, elements(b->g, o->output));
}

static void add_output(builder *b) {
    step *s = new_step(b, STEP_OUTPUT, 0);
    const int logits = b->g->logits;
    s->y = use(b, b->value[logits]);
    s->dy = b->gradient[logits] = new_region(b, value_floats(b->g, logits));
}

/* Where a contribution to a value's gradient goes: the first one makes it. */
static int contribute(builder *b, int value, bool *add) {
    if (value < 0 || !b->wanted[value]) return REGION_NONE;
    *add = b->gradient[value] != REGION_NONE;
    if (!*add) b->gradient[value] = new_region(b, value_floats(b->g, value));
    return use(b, b->gradient[value]);
}

/* Whether the step before was a convolution that wrote the last contribution to this gradient. */
static bool follows_convolution(const builder *b, int gradient) {
    const step *before = &b->schedule->steps[b->schedule->step_count - 1];
    return before->kind == STEP_REVERSE && b->g->ops[before->op].kind == OP_CONV && before->dx[0] == gradient;
}

/* Consumes the gradient of y. It becomes the gradient of the residual where that is the first contribution, and
 * otherwise that of W x. */
static void add_epilogue(builder *b, size_t i) {
    const op *o = &b->g->ops[i];
    const int dy = b->gradient[o->output];
    const bool out = o->mask.place == PLACE_OUT, fused = !out && follows_convolution(b, dy);
    if (fused) {
        b->schedule->steps[b->schedule->step_count - 1].fused = true;
        b->moment--; /* both steps are one moment */
    }
    step *s = new_step(b, STEP_EPILOGUE, i);
    s->dy = use(b, dy);
    s->linear = use(b, b->linear[i]);
    s->positive = use(b, b->positive[i]);
    if (reads_residual(o)) s->residual = use(b, b->value[o->residual]);
    if (out) s->scratch[0] = new_region(b, value_floats(b->g, o->output));
    b->gradient[o->output] = REGION_NONE;
    bool taken = false;
    if (o->residual >= 0 && b->wanted[o->residual]) {
        taken = b->gradient[o->residual] == REGION_NONE;
        if (taken) b->gradient[o->residual] = dy;
        s->dresidual = use(b, b->gradient[o->residual]);
        s->add_residual = !taken;
    }
    if (b->wanted[o->input[0]]) s->dlinear = b->dlinear[i] = taken ? new_region(b, value_floats(b->g, o->output)) : dy;
}

static void add_convolution_reverse(builder *b, size_t i) {
    const op *o = &b->g->ops[i];
    if (!b->wanted[o->input[0]]) return;
    step *s = new_step(b, STEP_REVERSE, i);
    s->dlinear = use(b, b->dlinear[i]);
    s->dx[0] = contribute(b, o->input[0], &s->add[0]);
}

static void add_other_reverse(builder *b, size_t i) {
    const op *o = &b->g->ops[i];
    step *s = new_step(b, STEP_REVERSE, i);
    s->dy = use(b, b->gradient[o->output]);
    s->linear = use(b, b->linear[i]);
    if (o->kind == OP_NEXT) s->y = use(b, b->value[o->output]);
    b->gradient[o->output] = REGION_NONE;
    for (int k = 0; k < 3; k++) {
        const int value = o->input[k];
        if (o->kind == OP_ATTENTION && remakes(b->g, value) && b->linear[graph_maker(value)] != REGION_NONE) {
            s->remade[k] = use(b, b->linear[graph_maker(value)]);
            s->scratch[k] = new_region(b, value_floats(b->g, value));
        } else if (reads_input(o, k)) {
            s->x[k] = use(b, b->value[value]);
        }
        s->dx[k] = contribute(b, value, &s->add[k]);
    }
    if (o->kind == OP_LAYERNORM && o->mask.place == PLACE_OUT)
        s->scratch[0] = new_region(b, value_floats(b->g, o->output));
}

static void add_backward(builder *b, size_t start, size_t end) {
    for (size_t i = end; i-- > start;) {
        const op *o = &b->g->ops[i];
        if (b->gradient[o->output] == REGION_NONE) continue; /* no component, or no reader */
        if (o->kind == OP_CONV) {
            add_epilogue(b, i);
            add_convolution_reverse(b, i);
        } else {
            add_other_reverse(b, i);
        }
    }
}

/* ---------------------------------------------------------------------------------------- segments */

/* floats[c]: of the values that ops before c make and ops from c on read. */
static coar_status measure_crossings(const graph *g, size_t **floats) {
    size_t *last;
    TRY(memory_new(g->op_count, sizeof **floats, "reverse pass", floats));
    TRY(memory_new(g->value_count, sizeof *last, "reverse pass", &last));
    for (size_t i = 0; i < g->op_count; i++) {
        for (int k = 0; k < 3; k++)
            if (g->ops[i].input[k] >= 0) last[g->ops[i].input[k]] = i;
        if (g->ops[i].residual >= 0) last[g->ops[i].residual] = i;
    }
    for (size_t v = 0; v < g->value_count; v++) /* made by op v - 1; the input is there from the start */
        for (size_t c = v ? v : 1; c <= last[v]; c++) (*floats)[c] += value_floats(g, (int)v);
    free(last);
    return COAR_OK;
}

/* What an op keeps for its reverse, in floats; a value that two ops keep is counted twice. */
static size_t kept_floats(const graph *g, const bool *wanted, size_t i) {
    const op *o = &g->ops[i];
    size_t floats = 0;
    if (!wanted[o->output]) return 0;
    if (cpu_schedule_keeps_linear(o)) floats += value_floats(g, o->output);
    if (keeps_positive(o)) floats += elements(g, o->output);
    if (reads_residual(o)) floats += value_floats(g, o->residual);
    for (int k = 0; k < 3; k++)
        if (reads_input(o, k) && !(o->kind == OP_ATTENTION && remakes(g, o->input[k])))
            floats += value_floats(g, o->input[k]);
    return floats;
}

/* Where a graph may be cut. */
typedef struct cut_list {
    size_t *at;   /* [count]: the op behind the cut; at[0] = 0 */
    size_t *kept; /* [count]: floats that the ops from this cut to the next keep */
    size_t count;
} cut_list;

static void cut_list_free(cut_list *cuts) {
    free(cuts->at);
    free(cuts->kept);
}

/* Cuts lie where fewer values cross than at both neighbours (or as many): between blocks, not within their branches. */
static coar_status find_cuts(const graph *g, cut_list *cuts) {
    coar_status status = COAR_OK;
    size_t *crossing = NULL;
    bool *wanted = NULL;
    *cuts = (cut_list){0};
    TRY_GOTO(measure_crossings(g, &crossing));
    TRY_GOTO(memory_new(g->value_count, sizeof *wanted, "reverse pass", &wanted));
    TRY_GOTO(memory_new(g->op_count, sizeof *cuts->at, "reverse pass", &cuts->at));
    TRY_GOTO(memory_new(g->op_count, sizeof *cuts->kept, "reverse pass", &cuts->kept));
    graph_find_wanted(g, wanted);
    for (size_t i = 0; i < g->op_count; i++) {
        const bool cut = i == 0 || ((i == 1 || crossing[i] <= crossing[i - 1]) &&
                                    (i + 1 == g->op_count || crossing[i] <= crossing[i + 1]));
        if (cut) cuts->at[cuts->count++] = i;
        cuts->kept[cuts->count - 1] += kept_floats(g, wanted, i);
    }
done:
    free(wanted);
    free(crossing);
    if (status != COAR_OK) cut_list_free(cuts);
    return status;
}

/* Marks the cuts in use when the last segment begins at cut `last`: going back from there, a segment grows until it
 * would keep more than the last one does. */
static void choose_cuts(const cut_list *cuts, size_t last, bool *in_use) {
    size_t most = 0, kept = 0;
    memset(in_use, 0, cuts->count * sizeof *in_use);
    in_use[0] = in_use[last] = true;
    for (size_t c = last; c < cuts->count; c++) most += cuts->kept[c];
    for (size_t c = last; c-- > 0;) {
        kept += cuts->kept[c];
        if (kept > most && !in_use[c + 1]) {
            in_use[c + 1] = true;
            kept = cuts->kept[c];
        }
    }
}

/* ---------------------------------------------------------------------------------------- schedules */

static void add_steps(builder *b, const cut_list *cuts, size_t last, const bool *in_use) {
    const size_t ops = b->g->op_count, kept_from = cuts->at[last];
    add_input(b);
    for (size_t i = 0; i < ops; i++) add_forward(b, i, i >= kept_from);
    add_output(b);
    add_backward(b, kept_from, ops);
    for (size_t c = last, end = kept_from; c-- > 0;) {
        if (!in_use[c]) continue;
        const size_t start = cuts->at[c];
        if (start == 0) add_input(b);
        for (size_t i = start; i < end; i++) add_forward(b, i, true);
        add_backward(b, start, end);
        end = start;
    }
}

static coar_status builder_create(const graph *g, builder *b) {
    int **const of_values[] = {&b->value, &b->gradient}, **const of_ops[] = {&b->linear, &b->positive, &b->dlinear};
    TRY(memory_new(g->value_count, sizeof *b->wanted, "reverse pass", &b->wanted));
    graph_find_wanted(g, b->wanted);
    for (size_t k = 0; k < 2; k++) {
        TRY(memory_new(g->value_count, sizeof(int), "reverse pass", of_values[k]));
        for (size_t v = 0; v < g->value_count; v++) (*of_values[k])[v] = REGION_NONE;
    }
    for (size_t k = 0; k < 3; k++) {
        TRY(memory_new(g->op_count, sizeof(int), "reverse pass", of_ops[k]));
        for (size_t i = 0; i < g->op_count; i++) (*of_ops[k])[i] = REGION_NONE;
    }
    return COAR_OK;
}

static void builder_free(builder *b) {
    free(b->wanted);
    free(b->value);
    free(b->gradient);
    free(b->linear);
    free(b->positive);
    free(b->dlinear);
}

/* The schedule whose last segment begins at cut `last`. */
static coar_status create(const graph *g, const cut_list *cuts, size_t last, cpu_schedule *out) {
    coar_status status = COAR_OK;
    cpu_schedule s = {0};
    builder b = {.g = g, .schedule = &s};
    bool *in_use = NULL;
    *out = s;
    TRY_GOTO(builder_create(g, &b));
    TRY_GOTO(memory_new(cuts->count, sizeof *in_use, "reverse pass", &in_use));
    /* An op runs forward at most twice and has two steps back; a step makes at most six regions. */
    TRY_GOTO(memory_new(4 * g->op_count + 3, sizeof *s.steps, "reverse pass", &s.steps));
    TRY_GOTO(memory_new(6 * (4 * g->op_count + 3), sizeof *s.regions, "reverse pass", &s.regions));
    choose_cuts(cuts, last, in_use);
    add_steps(&b, cuts, last, in_use);
    TRY_GOTO(regions_place(s.regions, s.region_count, &s.floats));
    *out = s;
    s = (cpu_schedule){0};
done:
    free(in_use);
    builder_free(&b);
    cpu_schedule_free(&s);
    return status;
}

void cpu_schedule_free(cpu_schedule *schedule) {
    free(schedule->steps);
    free(schedule->regions);
    *schedule = (cpu_schedule){0};
}

coar_status cpu_schedule_create(const graph *g, size_t kept_from, cpu_schedule *out) {
    cut_list cuts;
    size_t last = 0;
    TRY(find_cuts(g, &cuts));
    while (last + 1 < cuts.count && cuts.at[last] < kept_from) last++;
    const coar_status status = create(g, &cuts, last, out);
    cut_list_free(&cuts);
    return status;
}

coar_status cpu_schedule_choices(const graph *g, cpu_schedule_choice **choices, size_t *count) {
    coar_status status = COAR_OK;
    cpu_schedule_choice *found = NULL;
    size_t found_count = 0;
    cut_list cuts;
    *choices = NULL;
    TRY(find_cuts(g, &cuts));
    TRY_GOTO(memory_new(cuts.count, sizeof *found, "reverse pass", &found));
    for (size_t c = 0; c < cuts.count; c++) {
        cpu_schedule s;
        TRY_GOTO(create(g, &cuts, c, &s));
        if (!found_count || s.floats < found[found_count - 1].floats)
            found[found_count++] = (cpu_schedule_choice){cuts.at[c], s.floats};
        cpu_schedule_free(&s);
    }
    *choices = found;
    *count = found_count;
    found = NULL;
done:
    free(found);
    cut_list_free(&cuts);
    return status;
}
