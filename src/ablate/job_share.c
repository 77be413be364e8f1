/* job_share.c - see job_share.h. */
#include "ablate/job_share.h"

#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "comm/order.h"
#include "core/files.h"

/* In this order: what both sides read and write. */
typedef struct shared_job {
    const char *model, *data, *classes, *arch, *outputs, *ablation, *components, *only, *except, *backend, *plan;
    const char *model_sha256, *data_sha256, *classes_sha256;
    uint64_t *rows;  /* [count] */
    int32_t *labels; /* [count] */
    size_t count;
} shared_job;

static const size_t texts[] = {
    offsetof(shared_job, model),       offsetof(shared_job, data),          offsetof(shared_job, classes),
    offsetof(shared_job, arch),        offsetof(shared_job, outputs),       offsetof(shared_job, ablation),
    offsetof(shared_job, components),  offsetof(shared_job, only),          offsetof(shared_job, except),
    offsetof(shared_job, backend),     offsetof(shared_job, plan),          offsetof(shared_job, model_sha256),
    offsetof(shared_job, data_sha256), offsetof(shared_job, classes_sha256)};
enum { TEXTS = sizeof texts / sizeof *texts };

static const char **text_of(shared_job *s, size_t i) {
    return (const char **)((char *)s + texts[i]);
}

/* What the others have open: one process leads one job at a time. */
static packet open_there;

/* --------------------------------------------------------------------------------------------------- rank 0 */

static coar_status describe(const job *j, packet *p) {
    char outputs[OUTPUT_NAMES_SIZE];
    char *plan = plan_to_json(&j->plan);
    output_names_join(j->outputs, j->output_count, outputs);
    shared_job s = {.model = j->model->path,
                    .data = j->data->path,
                    .classes = j->texts.classes,
                    .arch = j->texts.arch,
                    .outputs = outputs,
                    .ablation = j->texts.ablation,
                    .components = component_set_name(j->model->set),
                    .only = j->texts.only,
                    .except = j->texts.except,
                    .backend = j->interface->name,
                    .plan = plan,
                    .model_sha256 = j->model->sha256,
                    .data_sha256 = j->data->sha256,
                    .classes_sha256 = j->model->classes_sha256};
    for (size_t i = 0; i < TEXTS; i++) packet_put_text(p, *text_of(&s, i));
    packet_put_array(p, j->rows, j->count, sizeof *j->rows);
    packet_put_array(p, j->labels, j->count, sizeof *j->labels);
    free(plan);
    return plan ? packet_check(p) : status_set(COAR_ERROR_MEMORY, "%s: not enough memory for its plan", j->model->path);
}

coar_status job_share(const job *j) {
    packet p = {0};
    coar_status status;
    if (comm_world()->size == 1) return COAR_OK;
    TRY_GOTO(describe(j, &p));
    if (p.size == open_there.size && !memcmp(p.data, open_there.data, p.size)) goto done;
    packet_free(&open_there);
    TRY_GOTO(order_give(ORDER_JOB, &p));
    TRY_GOTO(comm_agree(COAR_OK));
    open_there = p;
    p = (packet){0};
done:
    packet_free(&p);
    return status;
}

/* --------------------------------------------------------------------------------------------------- others */

/* Hashes are over contents: another name for the same file is no difference. */
static coar_status check_hash(const char *flag, const char *path, const char *here, const char *there) {
    if (!strcmp(here, there)) return COAR_OK;
    return status_set(COAR_ERROR_MISMATCH, "%s %s: is not the file that rank 0 has (SHA-256 %.12s..., there %.12s...)",
                      flag, path, here, there);
}

static coar_status check_file(const char *flag, const char *path, const char *there) {
    char here[65];
    if (!path || !there || !*there) return COAR_OK;
    TRY(file_sha256(path, here));
    return check_hash(flag, path, here, there);
}

/* Of the data set, for whose contents another one may not even fit the weights: `status` is what came of that. */
static coar_status check_data(const shared_job *s, const job_options *o, const job *j, coar_status status) {
    dataset *d = NULL;
    char message[1024];
    if (status == COAR_OK) return check_hash("--data", o->data, j->data->sha256, s->data_sha256);
    status_copy(message, sizeof message);
    status_clear();
    coar_status hashed = dataset_open(o->data, &d);
    if (hashed == COAR_OK) hashed = dataset_hash(d);
    if (hashed == COAR_OK) hashed = check_hash("--data", o->data, d->sha256, s->data_sha256);
    dataset_close(d);
    if (hashed == COAR_ERROR_MISMATCH) return hashed;
    status_clear();
    return status_set(status, "%s", message);
}

static coar_status read_job(packet *p, shared_job *s) {
    size_t labels;
    for (size_t i = 0; i < TEXTS; i++) *text_of(s, i) = packet_get_text(p);
    s->rows = packet_get_array(p, sizeof *s->rows, &s->count);
    s->labels = packet_get_array(p, sizeof *s->labels, &labels);
    TRY(packet_check(p));
    if (labels == s->count && s->count && s->model && s->data && s->data_sha256) return COAR_OK;
    return status_set(COAR_ERROR_INTERNAL, "the job of rank 0 is not whole");
}

static coar_status open_job(const shared_job *s, const job_own *own, job **out) {
    const job_options o = {.model = own->model ? own->model : s->model,
                           .data = own->data ? own->data : s->data,
                           .classes = own->classes ? own->classes : s->classes,
                           .arch = s->arch,
                           .outputs = s->outputs,
                           .ablation = s->ablation,
                           .components = s->components,
                           .only = s->only,
                           .except = s->except,
                           .rows = s->rows,
                           .row_labels = s->labels,
                           .row_count = s->count,
                           .backend = s->backend,
                           .devices = own->devices,
                           .plan_json = s->plan,
                           .plan_origin = "the plan of rank 0",
                           .plan_given = true,
                           .threads = own->threads,
                           .memory = own->memory};
    job *j = NULL;
    TRY(check_file("--model", o.model, s->model_sha256)); /* before weights are taken for something they are not */
    TRY(check_file("--classes", o.classes, s->classes_sha256));
    const coar_status status = check_data(s, &o, j, job_open(&o, &j));
    if (status == COAR_OK) {
        j->callbacks = own->callbacks; /* not before: what opening warns of, rank 0 has warned of */
        *out = j;
    } else {
        job_close(j);
    }
    return status;
}

coar_status job_follow(packet *p, const job_own *own, job **out) {
    shared_job s = {.count = 0};
    coar_status status;
    TRY_GOTO(read_job(p, &s));
    TRY_GOTO(open_job(&s, own, out));
done:
    free(s.rows);
    free(s.labels);
    return status;
}
