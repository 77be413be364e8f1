/*
 * plan.c - the committed CPU rule, and the plan as canonical JSON. Rules of devices are in their folders (plan_device).
 *
 * Nothing here may depend on timing, memory, threads or the number of masks: the plan decides bits.
 */
#include "backend/plan.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_isa.h"
#include "core/files.h"

#define PLAN_VERSION 1

static const char *const form_names[] = {
    [FORM_PLAIN] = "plain",
    [FORM_DIRECT] = "direct",
    [FORM_COMPACTED] = "compacted",
    [FORM_WINOGRAD] = "winograd",
    [FORM_WINOGRAD_COMPACTED] = "winograd compacted",
};
enum { FORMS = sizeof form_names / sizeof *form_names }; /* FORM_NAMED has as many names as there are kernels */

#ifdef COAR_CUDA
extern const plan_device cuda_plan_device;
#endif

/* The device folder of a class, NULL when this build has none of it. */
static const plan_device *device_of(const char *device_class) {
#ifdef COAR_CUDA
    if (!strncmp(device_class, cuda_plan_device.prefix, strlen(cuda_plan_device.prefix))) return &cuda_plan_device;
#endif
    (void)device_class;
    return NULL;
}

static bool is_cpu(const numerics_plan *plan) {
    return !strncmp(plan->device_class, "cpu/", 4);
}

/* Classes of devices: their convolutions name a kernel. */
static bool is_device(const numerics_plan *plan) {
    return strcmp(plan->device_class, "reference") && !is_cpu(plan);
}

const char *plan_backend(const char *device_class) {
    static const char *const names[] = {"reference", "cpu", "cuda"};
    const size_t length = strcspn(device_class, "/");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == length && !strncmp(device_class, names[i], length)) return names[i];
    return NULL;
}

/* ---------------------------------------------------------------------------------- device classes */

static coar_status device_class(const char *backend, int device, char out[PLAN_CLASS_SIZE]) {
    (void)device;
    if (!strcmp(backend, "reference")) {
        snprintf(out, PLAN_CLASS_SIZE, "reference");
        return COAR_OK;
    }
#ifdef COAR_CUDA
    if (!strcmp(backend, "cuda")) return cuda_plan_device.device_class(device, out);
#endif
    if (strcmp(backend, "cpu")) return status_set(COAR_ERROR_USAGE, "no numerics plan for backend '%s'", backend);
    const cpu_isa *isa;
    TRY(cpu_isa_choose(&isa));
    snprintf(out, PLAN_CLASS_SIZE, "cpu/%s", isa->name);
    return COAR_OK;
}

coar_status plan_check_executable(const numerics_plan *plan, int device) {
    const char *class = plan->device_class, *layer = plan->layers ? plan->name[0] : "";
    const cpu_isa *forced, *isa = is_cpu(plan) ? cpu_isa_find(class + strlen("cpu/")) : NULL;
    const plan_device *folder = device_of(class);
    if (!strcmp(class, "reference")) return COAR_OK;
    if (folder) return folder->check(plan, device);
    if (!isa || !cpu_isa_kernels(isa))
        return status_set(COAR_ERROR_MISMATCH, "layer '%s': its plan is for device class %s, which this build lacks",
                          layer, class);
    if (!isa->machine_has())
        return status_set(COAR_ERROR_MISMATCH, "layer '%s': its plan needs %s, which this machine lacks", layer,
                          isa->needs);
    TRY(cpu_isa_forced(&forced));
    if (forced && forced != isa)
        return status_set(COAR_ERROR_MISMATCH, "layer '%s': its plan is for %s, but COAR_ISA=%s; unset COAR_ISA", layer,
                          class, forced->name);
    return COAR_OK;
}

/* Libraries' kernels have their library's name before a colon. */
static bool is_exact(const numerics_plan *plan, size_t i) {
    if (plan->form[i] != FORM_NAMED) return !plan_is_winograd(plan->form[i]);
    return plan->splits[i] == 1 && !strchr(plan->kernel[i], ':') && !strchr(plan->data[i], ':');
}

coar_status plan_check_exact(const numerics_plan *plan, const char *origin) {
    for (size_t i = 0; i < plan->layers; i++)
        if (!is_exact(plan, i))
            return status_set(
                COAR_ERROR_MISMATCH,
                "--exact: %s has layer '%s' in form '%s'; leave --exact out, or give --force or another --plan", origin,
                plan->name[i], plan->form[i] == FORM_NAMED ? plan->kernel[i] : form_names[plan->form[i]]);
    return COAR_OK;
}

/* --------------------------------------------------------------------------------------- the rule */

/* The op that reads `value` as input k, where nobody else reads it; else NULL. */
static const op *only_reader(const graph *g, const uint32_t *reads, int value, int k) {
    if (reads[value] != 1 || value == g->logits) return NULL;
    for (size_t i = 0; i < g->op_count; i++)
        if (g->ops[i].input[k] == value) return &g->ops[i];
    return NULL;
}

static bool read_by_one(const graph *g, const uint32_t *reads, int value, int k, op_kind kind) {
    const op *reader = only_reader(g, reads, value, k);
    return reader && reader->kind == kind;
}

/* A convolution's ablated channel, when nothing is added to it. Attention passes a value's constant on, since its
 * weights sum to 1; its own mask would come in between. */
static bool can_compact_conv(const graph *g, const uint32_t *reads, const op *o) {
    const op *attention = only_reader(g, reads, o->output, 2);
    if (o->residual >= 0) return false;
    if (o->mask.place == PLACE_OUT) return read_by_one(g, reads, o->output, 0, OP_CONV);
    if (o->mask.place != PLACE_PRE) return false;
    if (attention) return attention->mask.place == PLACE_NONE && read_by_one(g, reads, attention->output, 0, OP_CONV);
    return read_by_one(g, reads, o->output, 0, OP_CONV);
}

bool plan_ablates_heads(const graph *g, const op *attention) {
    return attention->mask.width % (g->values[attention->output].c / attention->heads) == 0;
}

/* What attention makes of a channel of the values is all that these are for; of whole heads nobody wants the queries and
 * keys either. */
static bool can_compact_attention(const graph *g, const uint32_t *reads, const op *o) {
    if (o->mask.place != PLACE_OUT) return false;
    for (int k = plan_ablates_heads(g, o) ? 0 : 2; k < 3; k++) {
        const int value = o->input[k];
        if (value == 0 || reads[value] != 1) return false;
        const op *maker = &g->ops[graph_maker(value)];
        if (maker->kind != OP_CONV || maker->residual >= 0) return false;
    }
    return read_by_one(g, reads, o->output, 0, OP_CONV);
}

/* A layer norm may have several readers: the queries, keys and values of a block. */
static bool can_compact_norm(const graph *g, const op *o) {
    bool read = false;
    if (o->mask.place != PLACE_OUT || o->output == g->logits) return false;
    for (size_t i = 0; i < g->op_count; i++) {
        const op *reader = &g->ops[i];
        if (reader->residual == o->output || reader->input[1] == o->output || reader->input[2] == o->output)
            return false;
        if (reader->input[0] != o->output) continue;
        if (reader->kind != OP_CONV) return false;
        read = true;
    }
    return read;
}

/* An ablated channel can be left out of its readers, convolutions, when it is a known constant there and nobody else
 * wants it. */
static bool can_compact(const graph *g, const uint32_t *reads, const op *o) {
    if (o->kind == OP_ATTENTION) return can_compact_attention(g, reads, o);
    if (o->kind == OP_LAYERNORM) return can_compact_norm(g, o);
    return o->kind == OP_CONV && can_compact_conv(g, reads, o);
}

coar_status plan_blank(const graph *g, numerics_plan *plan) {
    *plan = (numerics_plan){.layers = g->op_count};
    snprintf(plan->precision, sizeof plan->precision, "fp32");
    snprintf(plan->remainder, sizeof plan->remainder, "mixed");
    TRY(memory_new(plan->layers, sizeof *plan->form, "numerics plan", &plan->form));
    TRY(memory_new(plan->layers, sizeof *plan->kernel, "numerics plan", &plan->kernel));
    TRY(memory_new(plan->layers, sizeof *plan->splits, "numerics plan", &plan->splits));
    TRY(memory_new(plan->layers, sizeof *plan->data, "numerics plan", &plan->data));
    TRY(memory_new(plan->layers, sizeof *plan->name, "numerics plan", &plan->name));
    for (size_t i = 0; i < plan->layers; i++) snprintf(plan->name[i], sizeof plan->name[i], "%s", g->ops[i].name);
    return COAR_OK;
}

void plan_free(numerics_plan *plan) {
    free(plan->form);
    free(plan->kernel);
    free(plan->splits);
    free(plan->data);
    free(plan->name);
    *plan = (numerics_plan){0};
}

static coar_status plan_hash(numerics_plan *plan) {
    char *json = plan_to_json(plan);
    if (!json) return status_set(COAR_ERROR_MEMORY, "numerics plan: not enough memory");
    sha256_hex(json, strlen(json), plan->hash);
    free(json);
    return COAR_OK;
}

/* What the cpu backend computes on every machine: where there are no instructions for bf16, by emulation. */
static bool cpu_has(precision p) {
    return p == PRECISION_FP32 || p == PRECISION_BF16;
}

/* "auto" is for whoever has examples to try; without them it is fp32. */
static coar_status settle_precision(const char *backend, const char *text, numerics_plan *plan) {
    precision p = PRECISION_FP32;
    if (text && strcmp(text, "auto") && !precision_parse(text, &p))
        return status_set(COAR_ERROR_USAGE, "precision '%s' is unknown: give auto, fp32, bf16, fp16 or tf32", text);
    if (!strcmp(backend, "cpu") && !cpu_has(p))
        return status_set(COAR_ERROR_UNSUPPORTED, "the cpu backend has no precision '%s': give auto, fp32 or bf16",
                          text);
    snprintf(plan->precision, sizeof plan->precision, "%s", precision_name(p));
    return COAR_OK;
}

/* What Winograd's kernels can compute. */
static bool can_transform(const op *o) {
    return o->kind == OP_CONV && o->kernel_h == 3 && o->kernel_w == 3 && o->stride == 1 && o->pad <= 2;
}

/* Where they are faster than the direct form (docs/performance.md): transforms cost as much as some six columns. */
static bool is_transformed(const graph *g, const op *o) {
    enum { CHANNELS_MIN = 8 };
    return can_transform(o) && g->values[o->input[0]].c >= CHANNELS_MIN && g->values[o->output].c >= CHANNELS_MIN;
}

static plan_form cpu_form(const graph *g, const uint32_t *reads, const op *o, bool exact) {
    const bool compacted = can_compact(g, reads, o);
    if (o->kind != OP_CONV) return compacted ? FORM_COMPACTED : FORM_PLAIN;
    if (!exact && is_transformed(g, o)) return compacted ? FORM_WINOGRAD_COMPACTED : FORM_WINOGRAD;
    return compacted ? FORM_COMPACTED : FORM_DIRECT;
}

static coar_status choose_forms(const graph *g, bool exact, int device, const plan_timing *timing,
                                numerics_plan *plan) {
    coar_status status = COAR_OK;
    uint32_t *reads = NULL;
    const plan_device *folder = device_of(plan->device_class);
    if (folder) return folder->choose(g, device, exact ? NULL : timing, plan);
    if (!is_cpu(plan)) return COAR_OK;
    TRY_GOTO(memory_new(g->value_count, sizeof *reads, "numerics plan", &reads));
    graph_count_reads(g, reads);
    for (size_t i = 0; i < plan->layers; i++) plan->form[i] = (uint8_t)cpu_form(g, reads, &g->ops[i], exact);
done:
    free(reads);
    return status;
}

coar_status plan_create(const graph *g, const char *backend, const char *precision, int exact, numerics_plan *out) {
    return plan_create_timed(g, backend, precision, exact, 0, NULL, out);
}

/* `exact`: CPUs transform nothing; a device's rule may choose partial sums. */
coar_status plan_create_timed(const graph *g, const char *backend, const char *precision, int exact, int device,
                              const plan_timing *timing, numerics_plan *out) {
    coar_status status = COAR_OK;
    numerics_plan plan = {0};
    *out = plan;
    TRY_GOTO(plan_blank(g, &plan));
    TRY_GOTO(settle_precision(backend, precision, &plan));
    TRY_GOTO(device_class(backend, device, plan.device_class));
    TRY_GOTO(choose_forms(g, exact, device, timing, &plan));
    for (size_t k = 0; exact && k < plan.layers; k++)
        if (plan.form[k] == FORM_NAMED) plan.splits[k] = 1;
    TRY_GOTO(plan_hash(&plan));
    *out = plan;
    plan = (numerics_plan){0};
done:
    plan_free(&plan);
    return status;
}

/* ------------------------------------------------------------------------------------------- JSON */

const char *plan_form_name(const numerics_plan *plan, size_t layer) {
    return plan->form[layer] == FORM_NAMED ? plan->kernel[layer] : form_names[plan->form[layer]];
}

static bool add_layer(const numerics_plan *plan, size_t i, cJSON *layer) {
    const bool named = plan->form[i] == FORM_NAMED;
    return cJSON_AddStringToObject(layer, "name", plan->name[i]) &&
           cJSON_AddStringToObject(layer, "form", plan_form_name(plan, i)) &&
           (!named || cJSON_AddNumberToObject(layer, "splits", plan->splits[i])) &&
           (!plan->data[i][0] || cJSON_AddStringToObject(layer, "data", plan->data[i]));
}

char *plan_to_json(const numerics_plan *plan) {
    char *text = NULL;
    cJSON *root = cJSON_CreateObject(), *layers;
    bool complete = cJSON_AddNumberToObject(root, "version", PLAN_VERSION) &&
                    cJSON_AddStringToObject(root, "device_class", plan->device_class) &&
                    cJSON_AddStringToObject(root, "precision", plan->precision) &&
                    cJSON_AddStringToObject(root, "remainder", plan->remainder) &&
                    (!plan->pairs || cJSON_AddNumberToObject(root, "pairs", plan->pairs)) &&
                    (!plan->reverse_pairs || cJSON_AddNumberToObject(root, "reverse_pairs", plan->reverse_pairs)) &&
                    (layers = cJSON_AddArrayToObject(root, "layers"));
    for (size_t i = 0; complete && i < plan->layers; i++) {
        cJSON *layer = cJSON_CreateObject();
        complete = add_layer(plan, i, layer);
        if (complete)
            cJSON_AddItemToArray(layers, layer);
        else
            cJSON_Delete(layer);
    }
    if (complete) text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    return text;
}

/* The text of a member, NULL when it is missing or no text. */
static const char *member_text(const cJSON *object, const char *key) {
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
}

bool plan_class_of(const char *json, char out[PLAN_CLASS_SIZE]) {
    cJSON *root = cJSON_Parse(json);
    const char *text = member_text(root, "device_class");
    const bool found = text && strlen(text) < PLAN_CLASS_SIZE;
    if (found) snprintf(out, PLAN_CLASS_SIZE, "%s", text);
    cJSON_Delete(root);
    return found;
}

static coar_status read_text(const cJSON *root, const char *key, const char *origin, char *out, size_t size) {
    const char *text = member_text(root, key);
    if (!text || strlen(text) >= size)
        return status_set(COAR_ERROR_INPUT, "%s: the plan's '%s' is missing or wrong", origin, key);
    snprintf(out, size, "%s", text);
    return COAR_OK;
}

static bool is_kernel_name(const char *text) {
    return text && *text && strlen(text) < PLAN_FORM_SIZE;
}

/* A convolution of a device: whether there are such kernels is for the machine that is to execute it. */
static coar_status read_named(const cJSON *layer, size_t i, const char *origin, numerics_plan *plan) {
    const char *form = member_text(layer, "form"), *data = member_text(layer, "data");
    const cJSON *splits = cJSON_GetObjectItemCaseSensitive(layer, "splits");
    const double count = cJSON_IsNumber(splits) ? splits->valuedouble : 0;
    if (cJSON_GetArraySize(layer) != (data ? 4 : 3) || !is_kernel_name(form) || (data && !is_kernel_name(data)) ||
        !(count >= 1) || count > PLAN_SPLITS_MAX || count != (uint32_t)count)
        return status_set(COAR_ERROR_INPUT,
                          "%s: layer '%s' of the plan must have a kernel's name, splits from 1 to %d, and as 'data' a "
                          "kernel's name or nothing",
                          origin, plan->name[i], PLAN_SPLITS_MAX);
    snprintf(plan->kernel[i], PLAN_FORM_SIZE, "%s", form);
    if (data) snprintf(plan->data[i], PLAN_FORM_SIZE, "%s", data);
    plan->splits[i] = (uint32_t)count;
    plan->form[i] = FORM_NAMED;
    return COAR_OK;
}

static coar_status read_layer(const graph *g, const uint32_t *reads, const cJSON *layer, size_t i, const char *origin,
                              numerics_plan *plan) {
    const op *o = &g->ops[i];
    const char *name = member_text(layer, "name"), *form = member_text(layer, "form");
    const bool named = is_device(plan) && o->kind == OP_CONV;
    if (!name || !form || (!named && cJSON_GetArraySize(layer) != 2))
        return status_set(COAR_ERROR_INPUT, "%s: layer %zu of the plan must have a name and a form", origin, i);
    if (strcmp(name, plan->name[i]))
        return status_set(COAR_ERROR_MISMATCH, "%s: the plan has layer '%s' where the model has '%s'", origin, name,
                          plan->name[i]);
    if (named) return read_named(layer, i, origin, plan);
    int f = 0;
    while (f < FORMS && strcmp(form, form_names[f])) f++;
    bool reference = !strcmp(plan->device_class, "reference"), cpu = is_cpu(plan);
    bool allowed = f == FORM_PLAIN                ? reference || o->kind != OP_CONV
                   : f == FORM_DIRECT             ? cpu && o->kind == OP_CONV
                   : f == FORM_COMPACTED          ? cpu && can_compact(g, reads, o)
                   : f == FORM_WINOGRAD           ? cpu && can_transform(o)
                   : f == FORM_WINOGRAD_COMPACTED ? cpu && can_transform(o) && can_compact(g, reads, o)
                                                  : false;
    if (!allowed)
        return status_set(COAR_ERROR_MISMATCH, "%s: layer '%s' cannot be computed in the plan's form '%s'", origin,
                          name, form);
    plan->form[i] = (uint8_t)f;
    return COAR_OK;
}

/* Only plans that depend on it have the member: "pairs" or "reverse_pairs". */
static coar_status read_pairs(const cJSON *root, const char *member, const char *origin, const numerics_plan *plan,
                              uint32_t *out) {
    const cJSON *pairs = cJSON_GetObjectItemCaseSensitive(root, member);
    const double count = cJSON_IsNumber(pairs) ? pairs->valuedouble : 0;
    if (!pairs) return COAR_OK;
    if (!is_device(plan) || !(count >= 1) || count > UINT32_MAX || count != (uint32_t)count)
        return status_set(COAR_ERROR_INPUT, "%s: the plan's '%s' must be a batch's size, of a device's plan", origin,
                          member);
    *out = (uint32_t)count;
    return COAR_OK;
}

/* Strict: a field that is not known here could have decided bits. */
static coar_status read_plan(const graph *g, const uint32_t *reads, const cJSON *root, const char *origin,
                             numerics_plan *plan) {
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(root, "version");
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(root, "layers"), *layer;
    if (!cJSON_IsNumber(version) || version->valuedouble != PLAN_VERSION)
        return status_set(COAR_ERROR_INPUT, "%s: not a numerics plan of version %d", origin, PLAN_VERSION);
    TRY(read_text(root, "device_class", origin, plan->device_class, sizeof plan->device_class));
    TRY(read_text(root, "precision", origin, plan->precision, sizeof plan->precision));
    TRY(read_text(root, "remainder", origin, plan->remainder, sizeof plan->remainder));
    precision p;
    const bool known = precision_parse(plan->precision, &p) && (cpu_has(p) || !is_cpu(plan));
    if (!known || strcmp(plan->remainder, "mixed"))
        return status_set(COAR_ERROR_MISMATCH,
                          "%s: the plan's precision '%s' with remainder '%s' is not part of this build", origin,
                          plan->precision, plan->remainder);
    TRY(read_pairs(root, "pairs", origin, plan, &plan->pairs));
    TRY(read_pairs(root, "reverse_pairs", origin, plan, &plan->reverse_pairs));
    if (!cJSON_IsArray(layers) || cJSON_GetArraySize(root) != 5 + !!plan->pairs + !!plan->reverse_pairs)
        return status_set(COAR_ERROR_INPUT, "%s: the plan has no layers, or fields that are not known", origin);
    if ((size_t)cJSON_GetArraySize(layers) != plan->layers)
        return status_set(COAR_ERROR_MISMATCH, "%s: the plan has %d layers, the model has %zu", origin,
                          cJSON_GetArraySize(layers), plan->layers);
    size_t i = 0;
    cJSON_ArrayForEach(layer, layers) TRY(read_layer(g, reads, layer, i++, origin, plan));
    return COAR_OK;
}

coar_status plan_from_json(const graph *g, const char *json, const char *origin, numerics_plan *out) {
    coar_status status = COAR_OK;
    numerics_plan plan = {0};
    uint32_t *reads = NULL;
    *out = plan;
    cJSON *root = cJSON_ParseWithOpts(json, NULL, true);
    if (!root) {
        status = status_set(COAR_ERROR_INPUT, "%s: the plan is not JSON", origin);
        goto done;
    }
    TRY_GOTO(plan_blank(g, &plan));
    TRY_GOTO(memory_new(g->value_count, sizeof *reads, "numerics plan", &reads));
    graph_count_reads(g, reads);
    TRY_GOTO(read_plan(g, reads, root, origin, &plan));
    TRY_GOTO(plan_hash(&plan));
    *out = plan;
    plan = (numerics_plan){0};
done:
    cJSON_Delete(root);
    free(reads);
    plan_free(&plan);
    return status;
}
