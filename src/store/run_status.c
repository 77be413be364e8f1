/*
 * run_status.c - coar_run_status: how far the stages under way are, by the records in their journals, and who works on
 * them, by the heartbeats beside these.
 *
 * Nothing is written but the time of the lock file and nothing is locked, so that it may be asked while the job runs,
 * from another host, and of a folder that is read-only. Journals grow meanwhile: every number was true at some moment.
 * Must not know: what a unit computes.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/memory.h"
#include "store/internal.h"

#define UNITS_MAX ((uint64_t)1 << 40) /* far above any job */

/* -------------------------------------------------------------------------------------------- units done */

typedef struct unit_counter {
    stage_progress *progress;
    size_t capacity; /* of progress->steps */
} unit_counter;

static coar_status count_record(void *context, const journal_record *record) {
    stage_progress *p = ((unit_counter *)context)->progress;
    uint64_t unit = record->unit;
    uint32_t steps = 1;
    if (p->last > 1) unit_number_parts(record->unit, &unit, &steps);
    if (unit < p->units && steps > p->steps[unit]) p->steps[unit] = steps;
    return COAR_OK;
}

/* finished: masks or passes in parts. Journals that began at another number are left over from before. */
static coar_status count_journal(const char *path, uint64_t finished, unit_counter *c) {
    coar_status status = COAR_OK;
    stage_progress *p = c->progress;
    journal_header header;
    bool valid;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return COAR_OK; /* its stage was finished meanwhile */
    TRY_GOTO(journal_read_header(file, path, NULL, &header, &valid));
    if (!valid || header.first_mask != finished || header.units > UNITS_MAX) goto done;
    if (header.units > p->units) {
        const size_t old = c->capacity;
        TRY_GOTO(memory_grow(&p->steps, &c->capacity, header.units, sizeof *p->steps, "table of work units"));
        memset(p->steps + old, 0, (c->capacity - old) * sizeof *p->steps);
        p->units = header.units;
    }
    if (header.steps > p->last) p->last = header.steps;
    TRY_GOTO(journal_skim(file, path, count_record, c));
done:
    close(file);
    return status;
}

coar_status stage_progress_read(const run_store *store, const char *name, uint64_t finished, stage_progress *out) {
    coar_status status = COAR_OK;
    stage_progress p = {.last = 1};
    unit_counter counter = {.progress = &p};
    name_list journals;
    char prefix[NAME_SIZE + 1];
    snprintf(prefix, sizeof prefix, "%s.", name);
    TRY(folder_list(store, prefix, ".journal", &journals));
    for (size_t i = 0; i < journals.count; i++) {
        char *path = folder_path(store, journals.names[i]);
        status = path ? count_journal(path, finished, &counter) : COAR_ERROR_MEMORY;
        free(path);
        TRY_GOTO(status);
    }
    for (uint64_t u = 0; u < p.units; u++) {
        p.done += p.steps[u] >= p.last;
        p.fraction += p.steps[u] < p.last ? (double)p.steps[u] / p.last : 1;
    }
    if (p.units) p.fraction /= (double)p.units;
    *out = p;
    p.steps = NULL;
done:
    free(p.steps);
    name_list_free(&journals);
    return status;
}

/* ---------------------------------------------------------------------------------------------- processes */

typedef struct stage_view { /* one stage under way */
    char name[NAME_SIZE];
    stage_progress progress;
    coar_run_process *processes;
    size_t process_count;
    coar_run_shard *shards;
    size_t shard_count;
    double rate, seconds_left;
} stage_view;

typedef struct run_view {
    run_store *store;
    stage_view *stages;
    size_t stage_count, stage_capacity;
    name_list parts;
    double now; /* folder_clock */
    bool file_clock;
} run_view;

static void view_free(run_view *v) {
    for (size_t i = 0; i < v->stage_count; i++) {
        free(v->stages[i].progress.steps);
        free(v->stages[i].processes);
        free(v->stages[i].shards);
    }
    free(v->stages);
    name_list_free(&v->parts);
    store_close(v->store);
}

static coar_run_process process_of(const process_sign *sign, process_life life, double age) {
    coar_run_process p = {.pid = sign->pid,
                          .shard = sign->shard,
                          .shards = sign->shards,
                          .rank = sign->rank,
                          .ranks = sign->ranks,
                          .state = life >= ALIVE_HERE ? COAR_PROCESS_WORKS
                                   : sign->ended      ? COAR_PROCESS_ENDED
                                                      : COAR_PROCESS_GONE,
                          .beat_seconds = age > 0 ? age : 0,
                          .units = sign->units,
                          .images = sign->images,
                          .seconds = sign->seconds,
                          .rate = sign->seconds > 0 ? (double)sign->images / sign->seconds : 0};
    snprintf(p.host, sizeof p.host, "%s", sign->host);
    snprintf(p.job, sizeof p.job, "%s", sign->job);
    return p;
}

static coar_status read_processes(const run_view *v, stage_view *s) {
    coar_status status = COAR_OK;
    name_list list;
    char prefix[NAME_SIZE + 1];
    snprintf(prefix, sizeof prefix, "%s.", s->name);
    TRY(folder_list(v->store, prefix, ".alive", &list));
    TRY_GOTO(memory_new(list.count, sizeof *s->processes, "processes", &s->processes));
    for (size_t i = 0; i < list.count; i++) {
        process_sign sign;
        double when;
        const process_life life = liveness_look(v->store, list.names[i], v->now, &sign, &when);
        if (life != UNKNOWN) s->processes[s->process_count++] = process_of(&sign, life, v->now - when);
    }
done:
    name_list_free(&list);
    return status;
}

/* ------------------------------------------------------------------------------------------------- shards */

/* How the stage is divided now: as the processes at work say, else as the one that was last. */
static uint32_t shards_of(const stage_view *s) {
    const coar_run_process *best = NULL;
    for (size_t i = 0; i < s->process_count; i++) {
        const coar_run_process *p = &s->processes[i];
        const bool works = p->state == COAR_PROCESS_WORKS, best_works = best && best->state == COAR_PROCESS_WORKS;
        if (!best || works > best_works || (works == best_works && p->beat_seconds < best->beat_seconds)) best = p;
    }
    return best ? best->shards : 1;
}

/* Whether the process takes units of the shard. */
static bool works_on(const coar_run_process *p, const coar_run_shard *shard) {
    return p->state == COAR_PROCESS_WORKS &&
           (p->shards == 1 || (p->shards == shard->shards && p->shard == shard->shard));
}

/* Seconds that the shard takes yet at the pace so far; negative where that is not known. */
static double time_left(const stage_view *s, const coar_run_shard *shard) {
    double pace = 0; /* units a second */
    for (size_t i = 0; i < s->process_count; i++) {
        const coar_run_process *p = &s->processes[i];
        if (works_on(p, shard) && p->seconds > 0) pace += (double)p->units / p->seconds;
    }
    return pace > 0 ? (double)(shard->units - shard->done) / pace : -1;
}

static coar_status read_shards(stage_view *s) {
    const stage_progress *p = &s->progress;
    const uint32_t shards = shards_of(s);
    /* more shards than units: those behind have none */
    s->shard_count = shards < p->units ? shards : (size_t)p->units;
    TRY(memory_new(s->shard_count, sizeof *s->shards, "shards", &s->shards));
    for (uint64_t u = 0; u < p->units; u++) {
        coar_run_shard *shard = &s->shards[u % shards];
        shard->units++;
        shard->done += p->steps[u] >= p->last;
    }
    s->seconds_left = p->done == p->units ? 0 : -1;
    for (size_t k = 0; k < s->shard_count; k++) {
        coar_run_shard *shard = &s->shards[k];
        shard->shard = (uint32_t)k;
        shard->shards = shards;
        for (size_t i = 0; i < s->process_count; i++) shard->processes += works_on(&s->processes[i], shard);
        const double left = shard->done < shard->units ? time_left(s, shard) : -1;
        if (left > s->seconds_left) s->seconds_left = left;
    }
    for (size_t i = 0; i < s->process_count; i++)
        if (s->processes[i].state == COAR_PROCESS_WORKS) s->rate += s->processes[i].rate;
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------- stages */

/* Adds the stage unless nobody has begun it or nothing is left of it but its settings. */
static coar_status add_stage(run_view *v, const char *name) {
    uint64_t finished;
    TRY(memory_grow(&v->stages, &v->stage_capacity, v->stage_count + 1, sizeof *v->stages, "stages"));
    stage_view *s = &v->stages[v->stage_count++];
    *s = (stage_view){.process_count = 0};
    snprintf(s->name, sizeof s->name, "%s", name);
    TRY(stage_masks_finished(v->store, name, &finished));
    TRY(stage_progress_read(v->store, name, finished, &s->progress));
    if (!s->progress.units) {
        v->stage_count--;
        return COAR_OK;
    }
    TRY(read_processes(v, s));
    return read_shards(s);
}

/* Files of finished stages; tables are there from the beginning. */
static coar_status read_parts(run_view *v) {
    TRY(folder_list(v->store, "", ".h5", &v->parts));
    size_t kept = 0;
    for (size_t i = 0; i < v->parts.count; i++) {
        char *name = v->parts.names[i];
        if (strcmp(name, TABLES_FILE))
            v->parts.names[kept++] = name;
        else
            free(name);
    }
    v->parts.count = kept;
    return COAR_OK;
}

static coar_status read_view(run_view *v) {
    coar_status status = COAR_OK;
    name_list stages;
    v->file_clock = folder_clock(v->store, &v->now);
    TRY(stage_names(v->store, &stages));
    for (size_t i = 0; i < stages.count; i++) TRY_GOTO(add_stage(v, stages.names[i]));
    status = read_parts(v);
done:
    name_list_free(&stages);
    return status;
}

/* ------------------------------------------------------------------------------------------------- result */

/* Carved out of one block: measured first (a without a base), then placed. */
static coar_run_state *place(const run_view *v, arena *a) {
    coar_run_state *block;
    coar_run_stage *stages;
    char(*parts)[COAR_PART_NAME];
    arena_place(a, 1, sizeof *block, &block);
    arena_place(a, v->stage_count, sizeof *stages, &stages);
    arena_place(a, v->parts.count, sizeof *parts, &parts);
    for (size_t i = 0; i < v->stage_count; i++) {
        const stage_view *s = &v->stages[i];
        coar_run_process *processes;
        coar_run_shard *shards;
        arena_place(a, s->process_count, sizeof *processes, &processes);
        arena_place(a, s->shard_count, sizeof *shards, &shards);
        if (!stages || !processes || !shards) continue;
        memcpy(processes, s->processes, s->process_count * sizeof *processes);
        memcpy(shards, s->shards, s->shard_count * sizeof *shards);
        stages[i] = (coar_run_stage){.units = s->progress.units,
                                     .done = s->progress.done,
                                     .fraction = s->progress.fraction,
                                     .rate = s->rate,
                                     .seconds_left = s->seconds_left,
                                     .processes = processes,
                                     .process_count = s->process_count,
                                     .shards = shards,
                                     .shard_count = s->shard_count};
        snprintf(stages[i].name, sizeof stages[i].name, "%s", s->name);
    }
    if (!block) return NULL;
    for (size_t i = 0; i < v->parts.count; i++) snprintf(parts[i], sizeof *parts, "%s", v->parts.names[i]);
    *block = (coar_run_state){.stages = stages,
                              .stage_count = v->stage_count,
                              .parts = (const char(*)[COAR_PART_NAME])parts,
                              .part_count = v->parts.count,
                              .file_clock = v->file_clock};
    return block;
}

static coar_status make_result(const run_view *v, coar_run_state **out) {
    arena a = {.base = NULL};
    place(v, &a);
    if (a.used == SIZE_MAX) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", v->store->path);
    a.size = a.used;
    a.used = 0;
    TRY(memory_new(a.size, 1, "state of the run", &a.base));
    *out = place(v, &a);
    return COAR_OK;
}

coar_status coar_run_status(const char *run, coar_run_state **state) {
    coar_status status = COAR_OK;
    run_view v = {.store = NULL};
    status_clear();
    if (!run) return status_set(COAR_ERROR_USAGE, "status: name a run file");
    TRY_GOTO(run_look(run, &v.store));
    TRY_GOTO(read_view(&v));
    if (state) TRY_GOTO(make_result(&v, state));
done:
    view_free(&v);
    return status;
}
