/* bench.c - coar bench */
#include <stdio.h>

#include "cli/cli.h"

static void print_text(const coar_bench_result *r) {
    printf("%s, %s (%s), %s, %d threads, %u images a mask, alpha %g\n", r->model, r->backend, r->isa, r->precision,
           r->threads, r->batch, r->alpha);
    printf("  %.0f images/s (%.0f to %.0f over repetitions), %.1f masked passes/s\n", r->images_per_second,
           r->images_per_second_min, r->images_per_second_max, r->images_per_second / r->batch);
    printf("  %.1f GFLOP/s dense equivalent, %.1f %% of this machine's measured peak (%.1f GFLOP/s)\n",
           r->images_per_second * r->flops_per_image * 1e-9, 100 * r->peak_fraction, r->peak_flops * 1e-9);
    printf("  %.1f %% of the dense flops executed; %.0f MiB planned\n", 100 * r->executed_fraction,
           r->memory_bytes / 1048576);
}

static void print_json(const coar_bench_result *r) {
    printf("{\"model\":\"%s\",\"backend\":\"%s\",\"isa\":\"%s\",\"precision\":\"%s\",\"threads\":%d,\"batch\":%u,"
           "\"alpha\":%g,"
           "\"images\":%llu,\"masks\":%llu,\"seconds\":%.6g,\"images_per_second\":%.6g,\"images_per_second_min\":%.6g,"
           "\"images_per_second_max\":%.6g,\"flops_per_image\":%.9g,\"peak_flops\":%.6g,\"peak_fraction\":%.6g,"
           "\"executed_fraction\":%.6g,\"memory_bytes\":%.0f}\n",
           r->model, r->backend, r->isa, r->precision, r->threads, r->batch, r->alpha, (unsigned long long)r->images,
           (unsigned long long)r->masks, r->seconds, r->images_per_second, r->images_per_second_min,
           r->images_per_second_max, r->flops_per_image, r->peak_flops, r->peak_fraction, r->executed_fraction,
           r->memory_bytes);
}

static int run(int count, char **arguments) {
    coar_bench_options o = COAR_BENCH_INIT;
    int json = 0;
    const cli_option options[] = {
        {"--model", OPTION_TEXT, &o.model, "W|ARCH", "weights, or an architecture's name (random weights)"},
        {"--arch", OPTION_TEXT, &o.arch, "NAME,K=V", "as in coar ablate"},
        {"--components", OPTION_TEXT, &o.components, "SET", "filters, neurons, heads, blocks (the model's first)"},
        {"--alpha", OPTION_FRACTION, &o.alpha, "A", "expected fraction ablated (0.05)"},
        {"--dense", OPTION_FLAG, &o.dense, NULL, "no ablation"},
        {"--batch", OPTION_U32, &o.batch, "N", "images per mask (200 at 32x32, 64 at 224x224)"},
        {"--precision", OPTION_TEXT, &o.precision, "P", "auto (default) or fp32"},
        {"--backend", OPTION_TEXT, &o.backend, "NAME", "cpu (default) or reference"},
        {"--exact", OPTION_FLAG, &o.exact, NULL, "direct kernels only"},
        {"--threads", OPTION_INT, &o.threads, "T", "threads (one per core)"},
        {"--memory", OPTION_SIZE, &o.memory, "BYTES", "most memory to take"},
        {"--time", OPTION_SECONDS, &o.seconds, "TIME", "to measure for (a few seconds)"},
        {"--json", OPTION_FLAG, &json, NULL, "results as JSON"},
        {NULL},
    };
    if (!cli_parse(&command_bench, count, arguments, options, NULL, 0, NULL)) return 2;
    if (!o.model) return cli_usage_error(&command_bench, "--model: name weights or an architecture");
    o.callbacks = cli_callbacks();
    coar_bench_result r;
    coar_status status = coar_bench(&o, &r);
    if (status == COAR_OK) json ? print_json(&r) : print_text(&r);
    return cli_finish(status);
}

const cli_command command_bench = {"bench", "--model W.safetensors|ARCH [options]",
                                   "masked forward passes per second, and % of the machine's peak", run};
