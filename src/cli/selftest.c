/* selftest.c - coar selftest */
#include <stdio.h>

#include "cli/cli.h"

static void print_case(void *user, const coar_selftest_case *c) {
    const int json = *(int *)user;
    if (json) {
        printf("{\"case\":\"%s\",\"precision\":\"%s\",\"slots\":%u,\"examples\":%u,\"computed\":%s,\"compared\":%llu,"
               "\"wrong\":%llu,\"largest\":%.6g,\"rms\":%.6g,\"rms_limit\":%.6g,\"seconds\":%.6g,\"passed\":%s}\n",
               c->name, c->precision, c->slots, c->examples, c->status == COAR_OK ? "true" : "false",
               (unsigned long long)c->compared, (unsigned long long)c->wrong, c->largest, c->rms, c->rms_limit,
               c->seconds, c->passed ? "true" : "false");
    } else {
        printf("%-6s %s  %-58s %2u x %-2u", c->passed ? "ok" : "FAILED", c->precision, c->name, c->slots, c->examples);
        if (c->status != COAR_OK)
            printf(" not computed: %s", c->message);
        else
            printf(" %5llu compared %4llu wrong  largest %.1e  rms %.1e of %.0e", (unsigned long long)c->compared,
                   (unsigned long long)c->wrong, c->largest, c->rms, c->rms_limit);
        if (c->seconds > 0) printf("  %9.3f ms", 1e3 * c->seconds);
        printf("\n");
    }
    fflush(stdout); /* a case may be the last before the machine hangs */
}

static void print_result(const coar_selftest_result *r, int json) {
    if (json)
        printf("{\"backend\":\"%s\",\"device_class\":\"%s\",\"cases\":%llu,\"failed\":%llu,\"seconds\":%.6g}\n",
               r->backend, r->device_class, (unsigned long long)r->cases, (unsigned long long)r->failed, r->seconds);
    else
        printf("selftest: %s (%s): %llu cases, %llu failed, %.1f s\n", r->backend, r->device_class,
               (unsigned long long)r->cases, (unsigned long long)r->failed, r->seconds);
}

static int run(int count, char **arguments) {
    coar_selftest_options o = COAR_SELFTEST_INIT;
    cli_comm_options comm = {.json = 0};
    int json = 0, between_ranks = 0, device_given = 0;
    const cli_option options[] = {
        {"--backend", OPTION_TEXT, &o.backend, "NAME", "cpu or cuda (the fastest present)"},
        CLI_ISA_OPTION,
        {"--precision", OPTION_TEXT, &o.precision, "LIST", "fp32, tf32, bf16, fp16 (all that the backend has)"},
        {"--only", OPTION_TEXT, &o.only, "GLOB", "cases by name, as in 'conv 3x3*'"},
        {"--quick", OPTION_FLAG, &o.quick, NULL, "small shapes and networks alone"},
        {"--device", OPTION_NUMBER, &o.device, "D", "which GPU (0; of several ranks each takes its own)",
         &device_given},
        {"--threads", OPTION_INT, &o.threads, "T", "threads (one per core)"},
        {"--memory", OPTION_SIZE, &o.memory, "BYTES", "most memory to take"},
        {"--comm", OPTION_FLAG, &between_ranks, NULL,
         "what the ranks of mpirun say to each other instead, by MPI and NCCL"},
        {"--bytes", OPTION_SIZE, &comm.bytes, "BYTES", "with --comm: the most that is sent at once (64M)"},
        {"--json", OPTION_FLAG, &json, NULL, "one line of JSON for each case, and one for all"},
        {NULL},
    };
    if (!cli_parse(&command_selftest, count, arguments, options, NULL, 0, NULL)) return 2;
    if (between_ranks) {
        comm.backend = o.backend;
        comm.json = json;
        if (device_given) snprintf(comm.devices, sizeof comm.devices, "%d", o.device);
        return cli_selftest_comm(&comm);
    }
    o.callbacks = cli_silent_callbacks();
    o.report = print_case;
    o.user = &json;
    coar_selftest_result r = {0};
    const coar_status status = coar_selftest(&o, &r);
    if (status == COAR_OK) print_result(&r, json);
    const int code = cli_finish(status);
    return code ? code : r.failed > 0;
}

const cli_command command_selftest = {"selftest", "[options]",
                                      "compare every op and whole networks with the reference, on this machine", run};
