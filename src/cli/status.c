/* status.c - coar status */
#include <stdio.h>

#include "cli/cli.h"

static const char *const states[] = {
    [COAR_PROCESS_WORKS] = "works", [COAR_PROCESS_ENDED] = "ended", [COAR_PROCESS_GONE] = "gone"};

/* ---------------------------------------------------------------------------------------------------- text */

/* Names come from files that others wrote: a terminal obeys control characters. */
static void print_name(const char *text) {
    for (; *text; text++) putchar((unsigned char)*text < ' ' || *text == 127 ? '?' : *text);
}

static void print_process(const coar_run_process *p) {
    printf("  ");
    print_name(p->host);
    printf(" pid %ld", p->pid);
    if (p->shards > 1) printf(" shard %u/%u", p->shard, p->shards);
    if (p->ranks) printf(" rank %u/%u", p->rank, p->ranks);
    if (*p->job) printf(" job ");
    print_name(p->job);
    printf(": %s, %llu units, %llu images, %.0f images/s, last beat %.0f s ago\n", states[p->state],
           (unsigned long long)p->units, (unsigned long long)p->images, p->rate, p->beat_seconds);
}

/* Shards with units left and nobody at work: the first ones by number. */
static void print_unattended(const coar_run_stage *s) {
    enum { SHOWN = 16 };
    size_t found = 0;
    for (size_t i = 0; i < s->shard_count; i++) {
        const coar_run_shard *k = &s->shards[i];
        if (k->processes || k->done == k->units || ++found > SHOWN) continue;
        printf("  nobody is at work");
        if (k->shards > 1) printf(" on shard %u/%u", k->shard, k->shards);
        printf(": %llu of its %llu units are left\n", (unsigned long long)(k->units - k->done),
               (unsigned long long)k->units);
    }
    if (found > SHOWN) printf("  nor on %zu shards more\n", found - SHOWN);
}

static void print_stage(const coar_run_stage *s) {
    print_name(s->name);
    printf(": %llu of %llu units (%.0f %%), %.0f images/s, %s left\n", (unsigned long long)s->done,
           (unsigned long long)s->units, 100 * s->fraction, s->rate, CLI_TIME(s->seconds_left));
    for (size_t i = 0; i < s->process_count; i++) print_process(&s->processes[i]);
    print_unattended(s);
}

static void print_text(const char *run, const coar_run_state *state) {
    printf("%s: %s\n", run, state->stage_count ? "under way" : "nothing is under way");
    for (size_t i = 0; i < state->stage_count; i++) print_stage(&state->stages[i]);
    if (state->part_count) printf("finished:");
    for (size_t i = 0; i < state->part_count; i++) {
        putchar(' ');
        print_name(state->parts[i]);
    }
    if (state->part_count) putchar('\n');
    if (state->stage_count && !state->file_clock) printf("(the folder is read-only: ages are by this host's clock)\n");
}

/* ---------------------------------------------------------------------------------------------------- JSON */

static void json_process(const coar_run_process *p, bool first) {
    printf("%s{\"host\":", first ? "" : ",");
    cli_json_text(p->host);
    printf(",\"pid\":%ld,\"shard\":%u,\"shards\":%u", p->pid, p->shard, p->shards);
    if (p->ranks) printf(",\"rank\":%u,\"ranks\":%u", p->rank, p->ranks);
    printf(",\"job\":");
    cli_json_text(p->job);
    printf(",\"state\":\"%s\",\"beat_seconds\":%.3f,\"units\":%llu,\"images\":%llu,\"seconds\":%.3f,"
           "\"images_per_second\":%.6g}",
           states[p->state], p->beat_seconds, (unsigned long long)p->units, (unsigned long long)p->images, p->seconds,
           p->rate);
}

static void json_stage(const coar_run_stage *s, bool first) {
    printf("%s{\"stage\":", first ? "" : ",");
    cli_json_text(s->name);
    printf(",\"units\":%llu,\"done\":%llu,\"fraction\":%.6g,\"images_per_second\":%.6g,\"seconds_left\":",
           (unsigned long long)s->units, (unsigned long long)s->done, s->fraction, s->rate);
    if (s->seconds_left < 0)
        printf("null");
    else
        printf("%.3f", s->seconds_left);
    printf(",\"processes\":[");
    for (size_t i = 0; i < s->process_count; i++) json_process(&s->processes[i], i == 0);
    printf("],\"shards\":[");
    for (size_t i = 0; i < s->shard_count; i++) {
        const coar_run_shard *k = &s->shards[i];
        printf("%s{\"shard\":%u,\"shards\":%u,\"units\":%llu,\"done\":%llu,\"processes\":%u}", i ? "," : "", k->shard,
               k->shards, (unsigned long long)k->units, (unsigned long long)k->done, k->processes);
    }
    printf("]}");
}

static void print_json(const char *run, const coar_run_state *state) {
    printf("{\"run\":");
    cli_json_text(run);
    printf(",\"file_clock\":%s,\"stages\":[", state->file_clock ? "true" : "false");
    for (size_t i = 0; i < state->stage_count; i++) json_stage(&state->stages[i], i == 0);
    printf("],\"finished\":[");
    for (size_t i = 0; i < state->part_count; i++) {
        if (i) putchar(',');
        cli_json_text(state->parts[i]);
    }
    printf("]}\n");
}

static int run(int count, char **arguments) {
    const char *path = NULL;
    int paths, json = 0;
    const cli_option options[] = {{"--json", OPTION_FLAG, &json, NULL, "as JSON"}, {NULL}};
    if (!cli_parse(&command_status, count, arguments, options, &path, 1, &paths)) return 2;
    if (!paths) return cli_usage_error(&command_status, "name a run file");
    coar_run_state *state = NULL;
    const coar_status status = coar_run_status(path, &state);
    if (status == COAR_OK) (json ? print_json : print_text)(path, state);
    coar_free(state);
    return cli_finish(status);
}

const cli_command command_status = {"status", "run.h5 [--json]", "how far a run is, and who works on it", run};
