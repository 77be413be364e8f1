/* selftest_comm.c - coar selftest --comm */
#include <stdio.h>

#include "cli/cli.h"

static void print_case(void *user, const coar_comm_case *c) {
    const double rate = c->seconds > 0 ? (double)c->bytes / c->seconds / 1e9 : 0;
    if (*(int *)user)
        printf("{\"operation\":\"%s\",\"way\":\"%s\",\"bytes\":%llu,\"wrong\":%llu,\"seconds\":%.6g,\"passed\":%s}\n",
               c->operation, c->way, (unsigned long long)c->bytes, (unsigned long long)c->wrong, c->seconds,
               c->passed ? "true" : "false");
    else
        printf("%-6s %-5s %-9s %11llu bytes %6llu wrong %10.3f ms %8.3f GB/s\n", c->passed ? "ok" : "FAILED", c->way,
               c->operation, (unsigned long long)c->bytes, (unsigned long long)c->wrong, 1e3 * c->seconds, rate);
    fflush(stdout); /* a case may be the last before a machine hangs */
}

static void print_result(const coar_comm_result *r, int json) {
    if (json)
        printf("{\"ranks\":%d,\"nccl\":%s,\"cases\":%llu,\"failed\":%llu,\"seconds\":%.6g}\n", r->ranks,
               r->linked ? "true" : "false", (unsigned long long)r->cases, (unsigned long long)r->failed, r->seconds);
    else
        printf("selftest --comm: %d %s%s: %llu cases, %llu failed, %.1f s\n", r->ranks,
               r->ranks == 1 ? "rank" : "ranks", r->linked ? ", with NCCL" : "", (unsigned long long)r->cases,
               (unsigned long long)r->failed, r->seconds);
}

static int lead(const cli_comm_options *options, const char *devices) {
    int json = options->json;
    const coar_comm_options o = {.size = sizeof o,
                                 .backend = options->backend,
                                 .devices = devices,
                                 .bytes = options->bytes,
                                 .report = print_case,
                                 .user = &json,
                                 .callbacks = cli_silent_callbacks()};
    coar_comm_result r = {0};
    const coar_status status = coar_selftest_comm(&o, &r);
    if (status == COAR_OK) print_result(&r, json);
    const int code = cli_finish(status);
    return code ? code : r.failed > 0;
}

int cli_selftest_comm(const cli_comm_options *options) {
    const char *devices = *options->devices ? options->devices : NULL;
    coar_follow_options follow = COAR_FOLLOW_INIT;
    follow.devices = devices;
    if (!cli_ranks_begin()) return 1;
    return cli_ranks_end(cli_follows() ? cli_follow(follow) : lead(options, devices));
}
