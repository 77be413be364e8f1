/*
 * stage.c - a stage as a set of units: which are done, how far the others are, and in which journal their payloads are.
 * Must not know: what a payload holds.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "store/internal.h"

/* ------------------------------------------------------------------------------------------------ journals */

static coar_status add_journal(store_stage *stage, const run_store *run, const char *name) {
    TRY(memory_grow(&stage->journals, &stage->journal_capacity, stage->journal_count + 1, sizeof *stage->journals,
                    "journals"));
    stage_journal *j = &stage->journals[stage->journal_count];
    *j = (stage_journal){.run = run, .name = strdup(name), .path = folder_path(run, name)};
    stage->journal_count++;
    if (!j->name || !j->path) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", stage->store->folder);
    if (stage->journal_count <= UINT16_MAX) return COAR_OK; /* unit_entry.journal */
    return status_set(COAR_ERROR_INPUT, "%s: more than %d journals of stage %s", stage->store->folder, UINT16_MAX,
                      stage->name);
}

/* The journal of an index, open for reading until another one is asked for. */
static coar_status journal_file(store_stage *stage, size_t index, int *file) {
    if (index == stage->own && stage->own_file >= 0) {
        *file = stage->own_file;
        return COAR_OK;
    }
    if (stage->cached_file < 0 || stage->cached != index) {
        if (stage->cached_file >= 0) close(stage->cached_file);
        stage->cached_file = open(stage->journals[index].path, O_RDONLY | O_CLOEXEC);
        stage->cached = index;
        if (stage->cached_file < 0)
            return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot open", stage->journals[index].path);
    }
    *file = stage->cached_file;
    return COAR_OK;
}

/* This process's own journal and heartbeat: STAGE.HOST-PID-N with the first N that is free. */
static coar_status create_own(store_stage *stage) {
    coar_status status = COAR_OK;
    char process[96], name[256];
    char *alive = NULL;
    process_name(process);
    for (unsigned n = 0;; n++) {
        snprintf(name, sizeof name, "%s.%s-%u.journal", stage->name, process, n);
        char *path = folder_path(stage->store, name);
        if (!path) return COAR_ERROR_MEMORY;
        int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        int error = errno;
        if (file < 0 && error != EEXIST) status_set_errno(COAR_ERROR_IO, error, "%s: cannot create", path);
        free(path);
        if (file < 0 && error == EEXIST) continue;
        if (file < 0) return COAR_ERROR_IO;
        stage->own_file = file;
        break;
    }
    stage->own = stage->journal_count;
    TRY_GOTO(add_journal(stage, stage->store, name));
    flock(stage->own_file, LOCK_EX | LOCK_NB); /* where it works; the heartbeat is enough elsewhere */
    TRY_GOTO(journal_begin(stage->own_file, stage->journals[stage->own].path, &stage->header));
    stage->own_end = stage->journals[stage->own].position = JOURNAL_HEADER_BYTES;
    stage->journals[stage->own].used = true;
    strcpy(name + strlen(name) - strlen("journal"), "alive");
    if (!(alive = folder_path(stage->store, name))) {
        status = COAR_ERROR_MEMORY;
        goto done;
    }
    TRY_GOTO(heartbeat_create(alive, &stage->options, &stage->heartbeat));
    TRY_GOTO(folder_sync(stage->store)); /* the journal's name must outlive a power cut, too */
done:
    free(alive);
    return status;
}

typedef struct visit_context {
    store_stage *stage;
    size_t journal;
} visit_context;

/* Steps at which a unit is done. */
static uint32_t last_step(const store_stage *stage) {
    return stage->options.steps ? stage->options.steps : 1;
}

uint64_t unit_number(uint64_t unit, uint32_t steps) {
    return unit | (uint64_t)steps << 32;
}

void unit_number_parts(uint64_t number, uint64_t *unit, uint32_t *steps) {
    *unit = number & UINT32_MAX;
    *steps = (uint32_t)(number >> 32);
}

static coar_status compare_records(store_stage *stage, const unit_entry *entry, size_t journal,
                                   const journal_record *r) {
    coar_status status = COAR_OK;
    uint8_t *a = NULL, *b = NULL;
    journal_record old = {r->unit, entry->offset, r->length, entry->crc, entry->flag};
    int file;
    bool same = entry->crc == r->crc && entry->flag == r->flag;
    if (same) {
        TRY_GOTO(memory_new((size_t)r->length, 1, "record", &a));
        TRY_GOTO(memory_new((size_t)r->length, 1, "record", &b));
        TRY_GOTO(journal_file(stage, entry->journal - 1u, &file));
        TRY_GOTO(journal_payload(file, stage->journals[entry->journal - 1u].path, &old, a));
        TRY_GOTO(journal_file(stage, journal, &file));
        TRY_GOTO(journal_payload(file, stage->journals[journal].path, r, b));
        same = !memcmp(a, b, (size_t)r->length);
    }
    if (!same)
        status =
            status_set(COAR_ERROR_INPUT,
                       "%s: unit %" PRIu64 " is not what %s holds for it: two machines disagree; remove the file of "
                       "the one you do not trust, or --force to start over",
                       stage->journals[journal].path, r->unit, stage->journals[entry->journal - 1u].path);
done:
    free(b);
    free(a);
    return status;
}

static coar_status take_record(void *pointer, const journal_record *r) {
    visit_context *context = pointer;
    store_stage *stage = context->stage;
    uint64_t unit = r->unit;
    uint32_t steps = 1;
    if (stage->options.steps) unit_number_parts(r->unit, &unit, &steps);
    /* Another number of masks: its last units are cut differently, or lie outside. */
    if (unit >= stage->options.units || steps > last_step(stage) || !steps ||
        r->length != stage->options.payload_bytes(stage->options.context, unit)) {
        stage->misfits++;
        return COAR_OK;
    }
    unit_entry *entry = &stage->entries[unit];
    if (steps < entry->steps) return COAR_OK; /* an earlier state of the chain */
    if (steps == entry->steps) return compare_records(stage, entry, context->journal, r);
    *entry = (unit_entry){r->offset, r->crc, steps, (uint16_t)(context->journal + 1), r->flag};
    stage->done += steps == last_step(stage);
    return COAR_OK;
}

static coar_status scan_journal(store_stage *stage, size_t index) {
    const coar_callbacks *callbacks = stage->options.callbacks;
    stage_journal *j = &stage->journals[index];
    visit_context context = {stage, index};
    journal_header header;
    int file = open(j->path, O_RDONLY | O_CLOEXEC);  /* its own: comparing records moves the cached one */
    if (file < 0 && errno == ENOENT) return COAR_OK; /* its stage was finished and it was removed meanwhile */
    if (file < 0) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot open", j->path);
    coar_status status = COAR_OK;
    if (!j->position) {
        bool valid;
        TRY_GOTO(journal_read_header(file, j->path, callbacks, &header, &valid));
        if (!valid) goto done;
        j->used = header.first_mask == stage->header.first_mask && !memcmp(header.identity, stage->header.identity, 16);
        if (memcmp(header.identity, stage->header.identity, 16))
            log_warning(callbacks, "%s: belongs to another stage file than %s.json; left out", j->path, stage->name);
        j->position = JOURNAL_HEADER_BYTES;
    }
    if (j->used) TRY_GOTO(journal_scan(file, j->path, callbacks, &j->position, take_record, &context));
done:
    close(file);
    return status;
}

/* What the journals of one run's folder have gained. */
static coar_status refresh_from(store_stage *stage, const run_store *run) {
    coar_status status = COAR_OK;
    char prefix[NAME_SIZE + 1];
    name_list list;
    snprintf(prefix, sizeof prefix, "%s.", stage->name);
    TRY(folder_list(run, prefix, ".journal", &list));
    for (size_t i = 0; i < list.count; i++) {
        size_t index = 0;
        while (index < stage->journal_count &&
               (stage->journals[index].run != run || strcmp(stage->journals[index].name, list.names[i])))
            index++;
        if (index == stage->own && stage->own_file >= 0) continue;
        if (index == stage->journal_count) TRY_GOTO(add_journal(stage, run, list.names[i]));
        TRY_GOTO(scan_journal(stage, index));
    }
done:
    name_list_free(&list);
    return status;
}

coar_status stage_refresh(store_stage *stage) {
    const run_store *store = stage->store;
    TRY(refresh_from(stage, store));
    for (size_t i = 0; i < store->source_count; i++) TRY(refresh_from(stage, store->sources[i]));
    return COAR_OK;
}

coar_status stage_take_in(store_stage *stage) {
    return stage_refresh(stage);
}

/* A journal of a process that is gone, with its heartbeat. */
static void remove_journal(const char *path) {
    char *alive = string_format("%.*salive", (int)(strlen(path) - strlen("journal")), path);
    unlink(path);
    if (alive) unlink(alive);
    free(alive);
}

void stage_remove_journals(store_stage *stage) {
    for (size_t i = 0; i < stage->journal_count; i++) {
        const stage_journal *j = &stage->journals[i];
        if (j->run != stage->store) continue; /* another run's */
        if (i == stage->own)
            unlink(j->path); /* its heartbeat stays until stage_close */
        else if (!liveness_journal(stage->store, j->name))
            remove_journal(j->path);
    }
}

/* Stages of one kind go on from each other: "ablate-", "gradients-"; "" for others. */
static const char *kind_of(const char *name) {
    static const char *const kinds[] = {ABLATE_STAGE, GRADIENTS_STAGE};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strncmp(name, kinds[i], strlen(kinds[i]))) return kinds[i];
    return "";
}

/* Journals of dead processes that began before masks now finished were finished: a kill came before their removal. */
static coar_status remove_leftovers(store_stage *stage) {
    coar_status status = COAR_OK;
    char prefix[NAME_SIZE + 1];
    name_list list;
    const char *kind = kind_of(stage->name); /* then those of earlier FIRSTs, too */
    snprintf(prefix, sizeof prefix, "%s%s", *kind ? kind : stage->name, *kind ? "" : ".");
    TRY(folder_list(stage->store, prefix, ".journal", &list));
    for (size_t i = 0; i < list.count && status == COAR_OK; i++) {
        journal_header header;
        bool valid = false;
        char *path = folder_path(stage->store, list.names[i]);
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (file >= 0) {
            status = journal_read_header(file, path, NULL, &header, &valid);
            close(file);
        }
        if (valid && header.first_mask < stage->header.first_mask && !liveness_journal(stage->store, list.names[i]))
            remove_journal(path);
        free(path);
    }
    name_list_free(&list);
    return status;
}

/* Files of the stage that end so. */
static coar_status discard_files(run_store *store, const char *name, const char *suffix) {
    char prefix[NAME_SIZE + 1];
    name_list list;
    snprintf(prefix, sizeof prefix, "%s.", name);
    TRY(folder_list(store, prefix, suffix, &list));
    for (size_t i = 0; i < list.count; i++) {
        char *path = folder_path(store, list.names[i]);
        if (path) unlink(path);
        free(path);
    }
    name_list_free(&list);
    return COAR_OK;
}

coar_status store_discard_stage(run_store *store, const char *name) {
    coar_status status;
    TRY(name_check("stage", name));
    TRY(folder_lock(store));
    TRY_GOTO(liveness_check(store, name, 0, 1));
    TRY_GOTO(discard_files(store, name, ".journal"));
    TRY_GOTO(discard_files(store, name, ".alive"));
    TRY_GOTO(discard_files(store, name, "json"));
done:
    folder_unlock(store);
    return status;
}

/* --------------------------------------------------------------------------------------------------- stage */

/* ablate-FIRST begins where the finished masks end, gradients-FIRST where the finished passes do. */
static coar_status check_first(const store_stage *stage) {
    char expected[NAME_SIZE];
    const char *kind = kind_of(stage->name);
    snprintf(expected, sizeof expected, "%s%" PRIu64, kind, stage->header.first_mask);
    if (!*kind || !strcmp(stage->name, expected)) return COAR_OK;
    return status_set(COAR_ERROR_BUSY,
                      "%s: another process has finished %s up to %" PRIu64 " meanwhile: give the same command again",
                      stage->store->path, strcmp(kind, ABLATE_STAGE) ? "passes" : "masks", stage->header.first_mask);
}

static coar_status register_stage(store_stage *stage, const stage_options *options) {
    TRY(stage_settle(stage, options));
    TRY(stage_masks_finished(stage->store, stage->name, &stage->header.first_mask));
    TRY(check_first(stage));
    if (!options->force_resume) TRY(liveness_check(stage->store, stage->name, options->shard, options->shards));
    TRY(remove_leftovers(stage));
    return create_own(stage);
}

coar_status stage_open(run_store *store, const stage_options *options, store_stage **out) {
    coar_status status = COAR_OK;
    store_stage *stage = NULL;
    TRY(name_check("stage", options->name));
    if (!options->shards || options->shard >= options->shards)
        return status_set(COAR_ERROR_USAGE, "--shard %u/%u: K must be below S, counted from 0", options->shard,
                          options->shards);
    if (options->steps && options->units > UINT32_MAX) /* unit_number */
        return status_set(COAR_ERROR_USAGE, "%s: %" PRIu64 " work units are too many", store->path, options->units);
    TRY(memory_new(1, sizeof *stage, "stage", &stage));
    pthread_mutex_init(&stage->mutex, NULL);
    stage->store = store;
    stage->options = *options;
    stage->options.name = stage->options.plan_json = NULL; /* the caller's; the rest is borrowed as store.h says */
    stage->options.settings = NULL;
    snprintf(stage->name, sizeof stage->name, "%s", options->name);
    stage->header.units = options->units;
    stage->header.steps = options->steps;
    stage->header.masks = options->masks;
    stage->own_file = stage->cached_file = -1;
    TRY_GOTO(memory_new(options->units, sizeof *stage->entries, "table of work units", &stage->entries));

    TRY_GOTO(folder_lock(store));
    status = register_stage(stage, options);
    folder_unlock(store);
    TRY_GOTO(status);
    TRY_GOTO(stage_refresh(stage));
    if (stage->misfits)
        log_info(options->callbacks, "%s: %" PRIu64 " saved units are of another number of %s and are left out",
                 store->path, stage->misfits, options->steps ? "passes" : "masks");
    *out = stage;
    stage = NULL;
done:
    stage_close(stage);
    return status;
}

void stage_close(store_stage *stage) {
    if (!stage) return;
    bool kept = false; /* our journal, for others to go on from */
    if (stage->own_file >= 0) {
        const char *path = stage->own < stage->journal_count ? stage->journals[stage->own].path : NULL;
        if (path && stage->own_end <= JOURNAL_HEADER_BYTES) unlink(path);
        kept = path && file_exists(path);
        close(stage->own_file);
    }
    if (stage->cached_file >= 0) close(stage->cached_file);
    heartbeat_end(stage->heartbeat, kept);
    for (size_t i = 0; i < stage->journal_count; i++) {
        free(stage->journals[i].name);
        free(stage->journals[i].path);
    }
    free(stage->journals);
    free(stage->entries);
    pthread_mutex_destroy(&stage->mutex);
    free(stage);
}

double stage_memory(uint64_t units) {
    return (double)units * (sizeof(unit_entry) + 1); /* and a flag of the part's `done` */
}

uint64_t stage_first_mask(const store_stage *stage) {
    return stage->header.first_mask;
}

bool stage_has(const store_stage *stage, uint64_t unit) {
    return unit < stage->options.units && stage->entries[unit].steps == last_step(stage);
}

uint32_t stage_steps(store_stage *stage, uint64_t unit) {
    pthread_mutex_lock(&stage->mutex);
    const uint32_t steps = unit < stage->options.units ? stage->entries[unit].steps : 0;
    pthread_mutex_unlock(&stage->mutex);
    return steps;
}

uint64_t stage_done_count(const store_stage *stage) {
    return stage->done;
}

static coar_status append(store_stage *stage, uint64_t unit, unit_mark mark, const void *payload, size_t bytes) {
    const uint64_t number = stage->options.steps ? unit_number(unit, mark.steps) : unit;
    journal_record record;
    if (unit >= stage->options.units || bytes != stage->options.payload_bytes(stage->options.context, unit))
        return status_set(COAR_ERROR_INTERNAL, "%s: unit %" PRIu64 " of stage %s: %zu bytes are not its size",
                          stage->store->path, unit, stage->name, bytes);
    TRY(journal_append(stage->own_file, stage->journals[stage->own].path, &stage->own_end, number, mark.flag, payload,
                       bytes, &record));
    return take_record(&(visit_context){stage, stage->own}, &record);
}

coar_status stage_append(store_stage *stage, uint64_t unit, unit_mark mark, const void *payload, size_t bytes) {
    pthread_mutex_lock(&stage->mutex);
    const coar_status status = append(stage, unit, mark, payload, bytes);
    const bool done = status == COAR_OK && stage_has(stage, unit);
    pthread_mutex_unlock(&stage->mutex);
    if (done) heartbeat_unit(stage->heartbeat);
    return status;
}

void stage_tell(store_stage *stage, uint64_t images, double seconds) {
    heartbeat_tell(stage->heartbeat, images, seconds);
}

static coar_status read_record(store_stage *stage, uint64_t unit, unit_mark *mark, void *payload, size_t bytes) {
    int file;
    const unit_entry *entry = unit < stage->options.units ? &stage->entries[unit] : NULL;
    if (!entry || !entry->journal || bytes != stage->options.payload_bytes(stage->options.context, unit))
        return status_set(COAR_ERROR_INTERNAL, "%s: unit %" PRIu64 " of stage %s is not there to be read",
                          stage->store->path, unit, stage->name);
    journal_record record = {unit, entry->offset, bytes, entry->crc, entry->flag};
    TRY(journal_file(stage, entry->journal - 1u, &file));
    TRY(journal_payload(file, stage->journals[entry->journal - 1u].path, &record, payload));
    *mark = (unit_mark){.steps = entry->steps, .flag = entry->flag};
    return COAR_OK;
}

coar_status stage_read(store_stage *stage, uint64_t unit, unit_mark *mark, void *payload, size_t bytes) {
    pthread_mutex_lock(&stage->mutex);
    const coar_status status = read_record(stage, unit, mark, payload, bytes);
    pthread_mutex_unlock(&stage->mutex);
    return status;
}
