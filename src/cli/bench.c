/* bench.c - coar bench */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static void print_text(const coar_bench_result *r) {
    printf("%s, %s (%s), %s, %d threads, %u images a mask, alpha %g\n", r->model, r->backend, r->isa, r->precision,
           r->threads, r->batch, r->alpha);
    printf("  %.0f images/s (%.0f to %.0f over repetitions), %.1f masked passes/s\n", r->images_per_second,
           r->images_per_second_min, r->images_per_second_max, r->images_per_second / r->batch);
    printf("  %.1f GFLOP/s dense equivalent", r->images_per_second * r->flops_per_image * 1e-9);
    if (r->peak_flops > 0)
        printf(", %.1f %% of %s peak (%.1f GFLOP/s)", 100 * r->peak_fraction,
               strcmp(r->backend, "cuda") ? "this machine's measured" : "the GPU's data sheet's", r->peak_flops * 1e-9);
    printf("\n");
    if (r->reverse_cost > 0)
        printf("  %.1f reverse passes/s, %.0f images/s (%.0f to %.0f): each costs %.2f dense forward passes\n",
               r->reverse_per_second / r->batch, r->reverse_per_second, r->reverse_per_second_min,
               r->reverse_per_second_max, r->reverse_cost);
    printf("  %.1f %% of the dense flops executed; %.0f MiB planned\n", 100 * r->executed_fraction,
           r->memory_bytes / 1048576);
}

/* Layers are told before the result that they are printed behind. */
typedef struct layer_list {
    FILE *text; /* grows in memory */
    int json, count;
} layer_list;

static void add_layer(void *user, const coar_bench_layer *l) {
    layer_list *list = user;
    if (list->json)
        fprintf(list->text,
                "%s{\"name\":\"%s\",\"shape\":\"%s\",\"form\":\"%s\",\"splits\":%u,\"seconds\":%.6g,"
                "\"peak_fraction\":%.6g}",
                list->count ? "," : "", l->name, l->shape, l->form, l->splits, l->seconds, l->peak_fraction);
    else
        fprintf(list->text, "  %s: %s\n    %.1f us, %.1f %% of peak; %s, partial sums: %u\n", l->name, l->shape,
                1e6 * l->seconds, 100 * l->peak_fraction, l->form, l->splits);
    list->count++;
}

static void print_json(const coar_bench_result *r, const char *layers) {
    printf("{\"model\":\"%s\",\"backend\":\"%s\",\"isa\":\"%s\",\"precision\":\"%s\",\"threads\":%d,\"batch\":%u,"
           "\"alpha\":%g,"
           "\"images\":%llu,\"masks\":%llu,\"seconds\":%.6g,\"images_per_second\":%.6g,\"images_per_second_min\":%.6g,"
           "\"images_per_second_max\":%.6g,\"flops_per_image\":%.9g,\"peak_flops\":%.6g,\"peak_fraction\":%.6g,"
           "\"executed_fraction\":%.6g,\"memory_bytes\":%.0f",
           r->model, r->backend, r->isa, r->precision, r->threads, r->batch, r->alpha, (unsigned long long)r->images,
           (unsigned long long)r->masks, r->seconds, r->images_per_second, r->images_per_second_min,
           r->images_per_second_max, r->flops_per_image, r->peak_flops, r->peak_fraction, r->executed_fraction,
           r->memory_bytes);
    if (r->reverse_cost > 0)
        printf(",\"reverse_per_second\":%.6g,\"reverse_per_second_min\":%.6g,\"reverse_per_second_max\":%.6g,"
               "\"reverse_cost\":%.6g",
               r->reverse_per_second, r->reverse_per_second_min, r->reverse_per_second_max, r->reverse_cost);
    if (layers) printf(",\"layers\":[%s]", layers);
    puts("}");
}

static coar_status bench_and_print(coar_bench_options *o, int json, int layers) {
    coar_bench_result r;
    char *text = NULL;
    size_t size;
    layer_list list = {.json = json};
    if (layers) {
        list.text = open_memstream(&text, &size);
        if (!list.text) return COAR_ERROR_MEMORY;
        o->layer = add_layer;
        o->user = &list;
    }
    const coar_status status = coar_bench(o, &r);
    if (list.text) fclose(list.text);
    if (status == COAR_OK && json) {
        print_json(&r, text);
    } else if (status == COAR_OK) {
        print_text(&r);
        if (text) fputs(text, stdout);
    }
    free(text);
    return status;
}

static int run(int count, char **arguments) {
    coar_bench_options o = COAR_BENCH_INIT;
    int json = 0, layers = 0;
    const cli_option options[] = {
        {"--model", OPTION_TEXT, &o.model, "W|ARCH", "weights, or an architecture's name (random weights)"},
        {"--arch", OPTION_TEXT, &o.arch, "NAME,K=V", "as in coar ablate"},
        {"--components", OPTION_TEXT, &o.components, "SET", "filters, neurons, heads, blocks (the model's first)"},
        {"--alpha", OPTION_FRACTION, &o.alpha, "A", "expected fraction ablated (0.05)"},
        {"--dense", OPTION_FLAG, &o.dense, NULL, "no ablation"},
        {"--gradients", OPTION_FLAG, &o.gradients, NULL, "dense forward passes and reverse passes, in turn"},
        {"--batch", OPTION_U32, &o.batch, "N", "images per mask (200 at 32x32, 64 at 224x224)"},
        {"--precision", OPTION_TEXT, &o.precision, "P", "auto (default), fp32, tf32, bf16, fp16"},
        {"--backend", OPTION_TEXT, &o.backend, "NAME", "cuda, cpu or reference (the fastest present)"},
        {"--exact", OPTION_FLAG, &o.exact, NULL, "direct kernels only"},
        {"--threads", OPTION_INT, &o.threads, "T", "threads (one per core)"},
        {"--memory", OPTION_SIZE, &o.memory, "BYTES", "most memory to take"},
        {"--time", OPTION_SECONDS, &o.seconds, "TIME", "to measure for (a few seconds)"},
        {"--plan", OPTION_TEXT, &o.plan, "FILE|run.h5", "a numerics plan to take over"},
        {"--layers", OPTION_FLAG, &layers, NULL, "the form, time and share of peak of every layer (cuda)"},
        {"--json", OPTION_FLAG, &json, NULL, "results as JSON"},
        {NULL},
    };
    if (!cli_parse(&command_bench, count, arguments, options, NULL, 0, NULL)) return 2;
    if (!o.model) return cli_usage_error(&command_bench, "--model: name weights or an architecture");
    o.callbacks = cli_callbacks();
    return cli_finish(bench_and_print(&o, json, layers));
}

const cli_command command_bench = {"bench", "--model W.safetensors|ARCH [options]",
                                   "masked forward passes per second, and % of the machine's peak", run};
