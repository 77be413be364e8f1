/*
 * cudnn_engine.c - engines, heuristics and plans of the stand-in for cuDNN. What is refused, and when, is what cuDNN
 * 9.19 does (seen with the real library on described devices):
 *   zero strides, graphs of pointwise operations alone:   heuristics succeed and offer nothing
 *   an operation in front of the convolution:             an engine is offered, its plan fails to compile
 *
 *   engine  takes                          sums              notes
 *    7      everything                     1 to 3 parts      tensor cores; knob TILE_SIZE 0 to 2
 *    1      no operand for each image      2 parts           tensor cores; wants a workspace
 *    4      3x3 of stride 1                1 part            Winograd: to be left out
 *   12      is offered first, and its plans are refused
 *
 * Must not know: memory, results.
 */
#include "cudnn_backend.h"

typedef struct engine {
    int64_t index;
    cudnnBackendNumericalNote_t notes[2];
    int64_t note_count, tiles; /* tiles: values of the knob; 0 = no knob */
    size_t parts;
} engine;

static const engine engines[] = {
    {12, {CUDNN_NUMERICAL_NOTE_TENSOR_CORE}, 1, 0, 1},
    {7, {CUDNN_NUMERICAL_NOTE_TENSOR_CORE}, 1, 3, 1},
    {4, {CUDNN_NUMERICAL_NOTE_TENSOR_CORE, CUDNN_NUMERICAL_NOTE_WINOGRAD}, 2, 0, 1},
    {1, {CUDNN_NUMERICAL_NOTE_TENSOR_CORE}, 1, 0, 2},
};

static const engine *find_engine(int64_t index) {
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++)
        if (engines[i].index == index) return &engines[i];
    return NULL;
}

/* -------------------------------------------------------------------------------------------- what a graph is */

static const descriptor *graph_operation(const descriptor *graph, int64_t i) {
    return descriptor_reference(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, i);
}

static int64_t graph_operations(const descriptor *graph) {
    return descriptor_count(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS);
}

/* A dimension of more than one element whose elements are all the same. */
static bool has_zero_stride(const descriptor *d) {
    const tensor t = tensor_of(d);
    for (int i = 0; i < t.dimensions; i++)
        if (t.stride[i] == 0) return true;
    return false;
}

/* [N,K,1,1] or [B,1,N] beside a result of more than one image. */
static bool differs_by_image(const descriptor *d, const descriptor *result) {
    const tensor t = tensor_of(d), y = tensor_of(result);
    return t.dimension[0] > 1 && tensor_elements(&t) < tensor_elements(&y);
}

typedef struct pattern {
    int64_t sums, first_sum;
    bool zero_strides, by_image, is_3x3;
} pattern;

static pattern pattern_of(const descriptor *graph) {
    pattern p = {.first_sum = -1};
    for (int64_t i = 0; i < graph_operations(graph); i++) {
        const descriptor *o = graph_operation(graph, i);
        const operation_parts parts = operation_parts_of(o);
        if (operation_is_sum(o)) {
            if (!p.sums++) p.first_sum = i;
            const tensor w = tensor_of(parts.inputs[1]);
            p.is_3x3 = w.dimensions == 4 && w.dimension[2] == 3 && w.dimension[3] == 3;
        }
        for (int k = 0; k < 2 && parts.inputs[k]; k++) {
            p.zero_strides = p.zero_strides || has_zero_stride(parts.inputs[k]);
            p.by_image =
                p.by_image || (!operation_is_sum(o) && k == 1 && differs_by_image(parts.inputs[k], parts.output));
        }
    }
    return p;
}

/* Whether any engine is offered for it. */
static bool takes(const engine *e, const pattern *p) {
    if (p->sums != 1 || p->zero_strides) return false;
    if (e->index == 1) return !p->by_image;
    return e->index != 4 || p->is_3x3;
}

/* --------------------------------------------------------------------------------------------------- engines */

cudnnStatus_t cudnn_finalize_engine(descriptor *d) {
    const engine *e = find_engine(descriptor_integer(d, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, 0, -1));
    const pattern p = pattern_of(descriptor_reference(d, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, 0));
    const cudnnBackendBehaviorNote_t behaviour = CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION;
    if (!e || !takes(e, &p)) return cudnn_answer(CUDNN_STATUS_NOT_SUPPORTED, "this engine does not take the graph");
    descriptor_set(d, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, e->note_count, e->notes);
    descriptor_set(d, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE, e->index == 7, &behaviour);
    return CUDNN_STATUS_SUCCESS;
}

/* A configuration as heuristics make it; `d` becomes part of them. */
static descriptor *make_configuration(const descriptor *heuristics, const engine *e, int64_t tile) {
    descriptor *graph = descriptor_reference(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, 0);
    descriptor *device = descriptor_reference(heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, 0);
    descriptor *made = descriptor_create(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    descriptor *configuration = descriptor_create(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    descriptor_set(made, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
    descriptor_set(made, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &e->index);
    if (device) descriptor_set(made, CUDNN_ATTR_ENGINE_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &device);
    made->finalized = cudnn_finalize_engine(made) == CUDNN_STATUS_SUCCESS;
    descriptor_set(configuration, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &made);
    if (e->tiles) {
        const cudnnBackendKnobType_t type = CUDNN_KNOB_TYPE_TILE_SIZE;
        descriptor *knob = descriptor_create(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        descriptor_set(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
        descriptor_set(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &tile);
        knob->finalized = true;
        knob->object.alive = false; /* the library's own, not the caller's to destroy */
        descriptor_set(configuration, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &knob);
    }
    configuration->finalized = true;
    made->object.alive = configuration->object.alive = false;
    return configuration;
}

cudnnStatus_t cudnn_finalize_heuristics(descriptor *d) {
    const pattern p = pattern_of(descriptor_reference(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, 0));
    const bool fallback = descriptor_enum(d, CUDNN_ATTR_ENGINEHEUR_MODE, -1) == CUDNN_HEUR_MODE_FALLBACK;
    descriptor *found[16] = {0};
    int64_t count = 0;
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++) {
        const engine *e = &engines[i];
        if (!takes(e, &p) || (fallback && e->index != 7)) continue;
        const int64_t tiles = e->tiles && !fallback ? e->tiles : 1;
        for (int64_t tile = 0; tile < tiles; tile++) found[count++] = make_configuration(d, e, tile);
    }
    descriptor_set(d, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, count, found);
    return CUDNN_STATUS_SUCCESS;
}

/* ----------------------------------------------------------------------------------------------------- plans */

static const descriptor *plan_configuration(const descriptor *plan) {
    return descriptor_reference(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, 0);
}

static const descriptor *plan_engine(const descriptor *plan) {
    return descriptor_reference(plan_configuration(plan), CUDNN_ATTR_ENGINECFG_ENGINE, 0);
}

int64_t cudnn_plan_engine(const descriptor *plan) {
    return descriptor_integer(plan_engine(plan), CUDNN_ATTR_ENGINE_GLOBAL_INDEX, 0, -1);
}

const descriptor *cudnn_plan_graph(const descriptor *plan) {
    return descriptor_reference(plan_engine(plan), CUDNN_ATTR_ENGINE_OPERATION_GRAPH, 0);
}

int64_t cudnn_plan_workspace(const descriptor *plan) {
    return descriptor_integer(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, 0, 0);
}

/* The knob's setting: -1 = it has another knob, or the value is out of range. */
static int64_t plan_tile(const descriptor *plan) {
    const descriptor *configuration = plan_configuration(plan);
    const engine *e = find_engine(cudnn_plan_engine(plan));
    int64_t tile = 0;
    for (int64_t i = 0; i < descriptor_count(configuration, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES); i++) {
        const descriptor *knob = descriptor_reference(configuration, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, i);
        tile = descriptor_integer(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, 0, -1);
        if (descriptor_enum(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, -1) != CUDNN_KNOB_TYPE_TILE_SIZE || tile < 0 ||
            tile >= e->tiles)
            return -1;
    }
    return tile;
}

size_t cudnn_plan_parts(const descriptor *plan) {
    return find_engine(cudnn_plan_engine(plan))->parts + (size_t)plan_tile(plan);
}

cudnnStatus_t cudnn_finalize_plan(descriptor *d) {
    const descriptor *graph = cudnn_plan_graph(d);
    const pattern p = pattern_of(graph);
    if (cudnn_plan_engine(d) == 12) return cudnn_answer(CUDNN_STATUS_NOT_SUPPORTED, "this engine refuses the plan");
    if (p.first_sum != 0)
        return cudnn_answer(CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED, "an operation in front of the sums");
    if (plan_tile(d) < 0) return cudnn_answer(CUDNN_STATUS_BAD_PARAM, "this engine has no such knob or value");
    const tensor y = tensor_of(operation_parts_of(graph_operation(graph, 0)).output);
    const int64_t bytes = cudnn_plan_engine(d) == 1 ? tensor_elements(&y) * 4 : 0; /* partial sums */
    descriptor_set(d, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &bytes);
    return CUDNN_STATUS_SUCCESS;
}
