/* cuda_cudnn.c - engines and plans for the graphs of cuda_cudnn_graph.c. See cuda_cudnn.h. */
#include "backend/cuda/cuda_cudnn_graph.h"

#include <stdio.h>

bool cuda_cudnn_can(const gpu_conv *c, cuda_cudnn_kind kind) {
    const bool rows = c->kernel_h == 1 && c->kernel_w == 1 && c->stride == 1 && c->pad == 0;
    if (c->type != GPU_BF16 && c->type != GPU_F16) return false;
    if (c->example || (!c->transposed && c->out_channels % 8)) return false;
    if (kind == CUDA_CUDNN_DGRAD) return c->transposed && (!c->residual || c->residual == c->y);
    return kind == CUDA_CUDNN_MATMUL ? rows : !c->transposed;
}

size_t cuda_cudnn_keep_bytes(const gpu_conv *c) {
    const size_t bytes = (size_t)c->pairs * gpu_stride(c->out_channels) * sizeof(float);
    return c->mask.place == GPU_PLACE_NONE ? 0 : (bytes + 255) / 256 * 256;
}

#if COAR_HAVE_CUDNN

#include <stdlib.h>
#include <string.h>

#include "backend/cuda/error.h"
#include "core/memory.h"

struct cuda_cudnn {
    const cudnn_functions *f;
    cudnnHandle_t handle; /* NULL: described, not here */
    cudnn_list list;      /* owns `device` */
    cudnnBackendDescriptor_t device;
};

void cuda_cudnn_version(char text[CUDA_VERSION_SIZE]) {
    const cudnn_functions *f;
    if (cuda_library_cudnn(&f) == COAR_OK) {
        cuda_text_version(f->cudnnGetVersion(), text);
    } else {
        status_clear();
        snprintf(text, CUDA_VERSION_SIZE, "none");
    }
}

/* json NULL: the current device. */
static coar_status open_device(const char *json, cuda_cudnn **out) {
    coar_status status = COAR_OK;
    cuda_cudnn *d = NULL;
    *out = NULL;
    TRY(memory_new(1, sizeof *d, "cuDNN", &d));
    TRY_GOTO(cuda_library_cudnn(&d->f));
    d->list.f = d->f;
    if (!json) cudnn_list_check(&d->list, d->f->cudnnCreate(&d->handle), "cudnnCreate");
    d->device = cudnn_list_make(&d->list, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    if (json)
        cudnn_list_set(&d->list, d->device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                       (int64_t)strlen(json), json);
    else
        cudnn_list_set(&d->list, d->device, CUDNN_ATTR_DEVICEPROP_HANDLE, CUDNN_TYPE_HANDLE, 1, &d->handle);
    cudnn_list_finalize(&d->list, d->device);
    TRY_GOTO(d->list.status);
    *out = d;
    d = NULL;
done:
    cuda_cudnn_close(d);
    return status;
}

coar_status cuda_cudnn_open(cuda_cudnn **out) {
    return open_device(NULL, out);
}

coar_status cuda_cudnn_open_described(const char *json, cuda_cudnn **out) {
    return open_device(json, out);
}

void cuda_cudnn_close(cuda_cudnn *d) {
    if (!d) return;
    cudnn_list_free(&d->list);
    if (d->handle) d->f->cudnnDestroy(d->handle);
    free(d);
}

/* --------------------------------------------------------------------------------- engines and their names */

enum { KNOBS_MAX = CUDNN_KNOB_TYPE_COUNTS };

/* An engine and the settings of its knobs: what the text of a form says. */
typedef struct engine_choice {
    cuda_cudnn_kind kind;
    int64_t engine;
    size_t knobs;
    int64_t type[KNOBS_MAX], value[KNOBS_MAX];
} engine_choice;

static const char *const kind_names[CUDA_CUDNN_KINDS] = {
    [CUDA_CUDNN_CONV] = "conv", [CUDA_CUDNN_MATMUL] = "matmul", [CUDA_CUDNN_DGRAD] = "dgrad"};

/* False when the text has no room. */
static bool choice_format(const engine_choice *e, char form[CUDA_FORM_SIZE]) {
    int used = snprintf(form, CUDA_FORM_SIZE, "cudnn:%s,engine=%lld", kind_names[e->kind], (long long)e->engine);
    for (size_t i = 0; i < e->knobs && used < CUDA_FORM_SIZE; i++)
        used += snprintf(form + used, CUDA_FORM_SIZE - (size_t)used, "%s%lld:%lld",
                         i ? "/" : ",knobs=", (long long)e->type[i], (long long)e->value[i]);
    return used < CUDA_FORM_SIZE;
}

static bool choice_parse(const char *text, engine_choice *e) {
    int kind = 0;
    if (!cuda_text_skip(&text, "cudnn:")) return false;
    while (kind < CUDA_CUDNN_KINDS && !cuda_text_skip(&text, kind_names[kind])) kind++;
    if (kind == CUDA_CUDNN_KINDS) return false;
    *e = (engine_choice){.kind = (cuda_cudnn_kind)kind};
    if (!cuda_text_skip(&text, ",engine=") || !cuda_text_integer(&text, &e->engine)) return false;
    if (!*text) return true;
    if (!cuda_text_skip(&text, ",knobs=")) return false;
    do {
        if (e->knobs == KNOBS_MAX || !cuda_text_integer(&text, &e->type[e->knobs]) || !cuda_text_skip(&text, ":") ||
            !cuda_text_integer(&text, &e->value[e->knobs]))
            return false;
        e->knobs++;
    } while (cuda_text_skip(&text, "/"));
    return !*text;
}

/* ------------------------------------------------------------------------------------------ propositions */

/* Reads up to `max` values of an attribute; the number read, 0 after a failure. cuDNN counts those that there are,
 * which may be more than it wrote. */
static int64_t read_attribute(cudnn_list *l, cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                              cudnnBackendAttributeType_t type, int64_t max, void *values) {
    int64_t count = 0;
    if (l->status != COAR_OK) return 0;
    cudnn_list_check(l, l->f->cudnnBackendGetAttribute(descriptor, name, type, max, &count, values), "attribute");
    return l->status != COAR_OK ? 0 : count < max ? count : max;
}

/* Reads descriptors, into ones that are made for them. */
static int64_t read_descriptors(cudnn_list *l, cudnnBackendDescriptor_t from, cudnnBackendAttributeName_t name,
                                cudnnBackendDescriptorType_t type, int64_t max, cudnnBackendDescriptor_t *out) {
    for (int64_t i = 0; i < max; i++) out[i] = cudnn_list_make(l, type);
    return read_attribute(l, from, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, max, out);
}

/* Sums must be fp32, in an order that is the same every time and for every element (docs/design.md, section 6). */
static bool engine_admitted(cudnn_list *l, cudnnBackendDescriptor_t engine) {
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    const int64_t count = read_attribute(l, engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                         CUDNN_NUMERICAL_NOTE_TYPE_COUNT, notes);
    for (int64_t i = 0; i < count; i++)
        if (notes[i] != CUDNN_NUMERICAL_NOTE_TENSOR_CORE && notes[i] != CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP)
            return false;
    return l->status == COAR_OK;
}

/* Reads a configuration; false when it is not admitted, or a failure is in l->status. */
static bool read_choice(cudnn_list *l, cudnnBackendDescriptor_t configuration, engine_choice *e) {
    cudnnBackendDescriptor_t engine, knobs[KNOBS_MAX];
    read_descriptors(l, configuration, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1, &engine);
    read_attribute(l, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &e->engine);
    if (!engine_admitted(l, engine)) return false;
    e->knobs = (size_t)read_descriptors(l, configuration, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                                        CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, KNOBS_MAX, knobs);
    for (size_t i = 0; i < e->knobs; i++) {
        cudnnBackendKnobType_t type = CUDNN_KNOB_TYPE_COUNTS;
        read_attribute(l, knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
        read_attribute(l, knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &e->value[i]);
        e->type[i] = type;
    }
    return l->status == COAR_OK;
}

/* What propose gathers. */
typedef struct proposals {
    cuda_cudnn_kind kind;
    size_t max, count, offered;
    char (*forms)[CUDA_FORM_SIZE];
} proposals;

static void add_proposal(proposals *p, const engine_choice *e) {
    char form[CUDA_FORM_SIZE];
    if (p->count == p->max || !choice_format(e, form)) return;
    for (size_t i = 0; i < p->count; i++)
        if (!strcmp(p->forms[i], form)) return;
    snprintf(p->forms[p->count++], CUDA_FORM_SIZE, "%s", form);
}

static coar_status ask_heuristics(const cuda_cudnn *d, cudnnBackendDescriptor_t graph, cudnnBackendHeurMode_t mode,
                                  proposals *p) {
    enum { CONFIGURATIONS_MAX = 32 };
    cudnnBackendDescriptor_t configurations[CONFIGURATIONS_MAX];
    cudnn_list l = {.f = d->f};
    cudnnBackendDescriptor_t heuristics = cudnn_list_make(&l, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    cudnn_list_refer(&l, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    cudnn_list_set(&l, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    cudnn_list_refer(&l, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, d->device);
    cudnn_list_finalize(&l, heuristics);
    const int64_t found = read_descriptors(&l, heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                           CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CONFIGURATIONS_MAX, configurations);
    for (int64_t i = 0; i < found && l.status == COAR_OK; i++) {
        engine_choice e = {.kind = p->kind};
        p->offered++;
        if (read_choice(&l, configurations[i], &e)) add_proposal(p, &e);
    }
    cudnn_list_free(&l);
    return l.status;
}

coar_status cuda_cudnn_propose(const cuda_cudnn *d, const gpu_conv *c, cuda_cudnn_kind kind, size_t max,
                               char (*forms)[CUDA_FORM_SIZE], size_t *count, size_t *offered) {
    /* the fallbacks are slow engines that take nearly everything */
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    proposals p = {.kind = kind, .max = max, .forms = forms};
    cudnn_list l = {.f = d->f};
    uint32_t tensors;
    cudnnBackendDescriptor_t graph = cudnn_graph_build(&l, c, kind, &tensors);
    coar_status status = l.status;
    for (size_t i = 0; i < sizeof modes / sizeof *modes && status == COAR_OK && !p.count; i++)
        status = ask_heuristics(d, graph, modes[i], &p);
    cudnn_list_free(&l);
    *count = p.count;
    *offered = p.offered;
    return status;
}

/* -------------------------------------------------------------------------------------------------- plans */

struct cuda_cudnn_plan {
    cudnn_list list; /* owns everything that `plan` was made from */
    cudnnBackendDescriptor_t plan;
    uint32_t tensors; /* 1 << id of those that a launch gives */
    uint32_t pairs;
    size_t keep_bytes, workspace; /* the keeps come first in the workspace */
};

static cudnnBackendDescriptor_t build_configuration(const cuda_cudnn *d, cudnn_list *l, cudnnBackendDescriptor_t graph,
                                                    const engine_choice *e) {
    cudnnBackendDescriptor_t knobs[KNOBS_MAX];
    cudnnBackendDescriptor_t engine = cudnn_list_make(l, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    cudnn_list_refer(l, engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph);
    cudnn_list_set(l, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &e->engine);
    cudnn_list_refer(l, engine, CUDNN_ATTR_ENGINE_DEVICEPROP, d->device);
    cudnn_list_finalize(l, engine);
    if (!engine_admitted(l, engine) && l->status == COAR_OK) /* the text may be anybody's */
        l->status = status_set(COAR_ERROR_UNSUPPORTED, "engine %lld of cuDNN does not keep fp32 sums in a fixed order",
                               (long long)e->engine);
    for (size_t i = 0; i < e->knobs; i++) {
        const cudnnBackendKnobType_t type = (cudnnBackendKnobType_t)e->type[i];
        knobs[i] = cudnn_list_make(l, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        cudnn_list_set(l, knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
        cudnn_list_set(l, knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &e->value[i]);
        cudnn_list_finalize(l, knobs[i]);
    }
    cudnnBackendDescriptor_t configuration = cudnn_list_make(l, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    cudnn_list_refer(l, configuration, CUDNN_ATTR_ENGINECFG_ENGINE, engine);
    if (e->knobs)
        cudnn_list_set(l, configuration, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                       (int64_t)e->knobs, knobs);
    cudnn_list_finalize(l, configuration);
    return configuration;
}

coar_status cuda_cudnn_plan_create(const cuda_cudnn *d, const gpu_conv *c, const char *form, size_t workspace_max,
                                   cuda_cudnn_plan **out) {
    coar_status status = COAR_OK;
    cuda_cudnn_plan *p = NULL;
    engine_choice e;
    int64_t bytes = 0;
    *out = NULL;
    if (!choice_parse(form, &e) || !cuda_cudnn_can(c, e.kind))
        return status_set(COAR_ERROR_UNSUPPORTED, "'%s' is no form of cuDNN's for this layer", form);
    TRY(memory_new(1, sizeof *p, "cuDNN plan", &p));
    *p = (cuda_cudnn_plan){.list = {.f = d->f}, .pairs = c->pairs, .keep_bytes = cuda_cudnn_keep_bytes(c)};
    cudnn_list *l = &p->list;
    cudnnBackendDescriptor_t graph = cudnn_graph_build(l, c, e.kind, &p->tensors);
    cudnnBackendDescriptor_t configuration = build_configuration(d, l, graph, &e);
    p->plan = cudnn_list_make(l, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    cudnn_list_refer(l, p->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
    cudnn_list_refer(l, p->plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, d->device);
    cudnn_list_finalize(l, p->plan);
    read_attribute(l, p->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &bytes);
    TRY_GOTO(l->status);
    if (bytes < 0 || (uint64_t)bytes > workspace_max) {
        status = status_set(COAR_ERROR_UNSUPPORTED, "'%s' wants a workspace of %lld bytes; %zu are allowed", form,
                            (long long)bytes, workspace_max);
        goto done;
    }
    p->workspace = p->keep_bytes + (size_t)bytes;
    *out = p;
    p = NULL;
done:
    cuda_cudnn_plan_destroy(p);
    return status;
}

void cuda_cudnn_plan_destroy(cuda_cudnn_plan *plan) {
    if (!plan) return;
    cudnn_list_free(&plan->list);
    free(plan);
}

size_t cuda_cudnn_plan_workspace(const cuda_cudnn_plan *plan) {
    return plan->workspace;
}

/* ------------------------------------------------------------------------------------------------- launch */

/* The addresses of a launch: what the plan's tensors are this time. */
static coar_status execute(cuda_cudnn *d, const cuda_cudnn_plan *p, const gpu_conv *c, float *keep, void *scratch) {
    const void *const address[CUDNN_TENSORS] = {
        [CUDNN_X] = c->x,
        [CUDNN_WEIGHT] = c->weight,
        [CUDNN_Y] = c->y,
        [CUDNN_SCALE] = c->scale,
        [CUDNN_SHIFT] = c->shift,
        [CUDNN_KEEP] = keep,
        [CUDNN_FILL] = c->mask.fill,
        [CUDNN_RESIDUAL] = c->residual,
    };
    int64_t ids[CUDNN_TENSORS], count = 0;
    const void *given[CUDNN_TENSORS];
    for (int64_t id = 0; id < CUDNN_TENSORS; id++)
        if (p->tensors >> id & 1) ids[count] = id, given[count++] = address[id];
    cudnn_list l = {.f = d->f};
    cudnnBackendDescriptor_t pack = cudnn_list_make(&l, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    cudnn_list_set(&l, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids);
    cudnn_list_set(&l, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, given);
    cudnn_list_set(&l, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &scratch);
    cudnn_list_finalize(&l, pack);
    if (l.status == COAR_OK) cudnn_list_check(&l, d->f->cudnnBackendExecute(d->handle, p->plan, pack), "execute");
    cudnn_list_free(&l);
    return l.status;
}

coar_status cuda_cudnn_launch(cuda_cudnn *d, const cuda_cudnn_plan *plan, const gpu_conv *c, void *workspace,
                              cudaStream_t stream) {
    float *keep = workspace;
    if (!d->handle || c->pairs != plan->pairs)
        return status_set(COAR_ERROR_INTERNAL, "cuDNN: a plan for %u pairs was given %u", plan->pairs, c->pairs);
    if (plan->keep_bytes)
        TRY_CUDA(gpu_keep_gather_launch(&c->mask, c->pairs, c->out_channels, keep, stream), "keeps for cuDNN");
    cudnn_list l = {.f = d->f};
    cudnn_list_check(&l, d->f->cudnnSetStream(d->handle, stream), "cudnnSetStream");
    TRY(l.status);
    return execute(d, plan, c, keep, (char *)workspace + plan->keep_bytes);
}

/* --------------------------------------------------------------------------------------------- questions */

/* A refusal becomes part of the answer. */
static coar_status note_refusal(coar_status status, cuda_cudnn_answer *answer) {
    if (status != COAR_ERROR_UNSUPPORTED) return status;
    status_copy(answer->why, sizeof answer->why);
    status_clear();
    return COAR_OK;
}

coar_status cuda_cudnn_ask(const cuda_cudnn *d, const gpu_conv *c, cuda_cudnn_kind kind, size_t tries,
                           cuda_cudnn_answer *answer) {
    enum { FORMS_MAX = 32 };
    char forms[FORMS_MAX][CUDA_FORM_SIZE];
    *answer = (cuda_cudnn_answer){.offered = 0};
    TRY(note_refusal(cuda_cudnn_propose(d, c, kind, FORMS_MAX, forms, &answer->admitted, &answer->offered), answer));
    for (size_t i = 0; i < answer->admitted && i < tries; i++) {
        cuda_cudnn_plan *plan = NULL;
        TRY(note_refusal(cuda_cudnn_plan_create(d, c, forms[i], SIZE_MAX, &plan), answer));
        if (!plan) continue;
        if (!answer->planned++) {
            snprintf(answer->form, sizeof answer->form, "%s", forms[i]);
            answer->workspace = cuda_cudnn_plan_workspace(plan);
        }
        cuda_cudnn_plan_destroy(plan);
    }
    return COAR_OK;
}

#else /* without cuDNN's headers nothing can be opened, and what needs something opened is refused alike */

static coar_status refused(void) {
    const cudnn_functions *f;
    return cuda_library_cudnn(&f);
}

coar_status cuda_cudnn_open(cuda_cudnn **out) {
    *out = NULL;
    return refused();
}

coar_status cuda_cudnn_open_described(const char *json, cuda_cudnn **out) {
    (void)json;
    *out = NULL;
    return refused();
}

void cuda_cudnn_close(cuda_cudnn *d) {
    (void)d;
}

void cuda_cudnn_version(char text[CUDA_VERSION_SIZE]) {
    snprintf(text, CUDA_VERSION_SIZE, "none");
}

coar_status cuda_cudnn_propose(const cuda_cudnn *d, const gpu_conv *c, cuda_cudnn_kind kind, size_t max,
                               char (*forms)[CUDA_FORM_SIZE], size_t *count, size_t *offered) {
    (void)d, (void)c, (void)kind, (void)max, (void)forms;
    *count = *offered = 0;
    return refused();
}

coar_status cuda_cudnn_plan_create(const cuda_cudnn *d, const gpu_conv *c, const char *form, size_t workspace_max,
                                   cuda_cudnn_plan **out) {
    (void)d, (void)c, (void)form, (void)workspace_max;
    *out = NULL;
    return refused();
}

void cuda_cudnn_plan_destroy(cuda_cudnn_plan *plan) {
    (void)plan;
}

size_t cuda_cudnn_plan_workspace(const cuda_cudnn_plan *plan) {
    (void)plan;
    return 0;
}

coar_status cuda_cudnn_launch(cuda_cudnn *d, const cuda_cudnn_plan *plan, const gpu_conv *c, void *workspace,
                              cudaStream_t stream) {
    (void)d, (void)plan, (void)c, (void)workspace, (void)stream;
    return refused();
}

coar_status cuda_cudnn_ask(const cuda_cudnn *d, const gpu_conv *c, cuda_cudnn_kind kind, size_t tries,
                           cuda_cudnn_answer *answer) {
    (void)d, (void)c, (void)kind, (void)tries;
    *answer = (cuda_cudnn_answer){.offered = 0};
    return refused();
}

#endif
