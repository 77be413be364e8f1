/* bench.c - coar bench */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* ------------------------------------------------------------------------------------------------ numbers */

/* A rate with four digits at least: networks differ by a factor of a thousand. */
enum { RATE_SIZE = 32 };
static const char *rate_text(char text[RATE_SIZE], double rate) {
    snprintf(text, RATE_SIZE, "%.*f", rate < 10 ? 3 : rate < 100 ? 2 : rate < 1000 ? 1 : 0, rate);
    return text;
}
#define RATE(rate) rate_text((char[RATE_SIZE]){0}, rate)

static double ratio(double a, double b) {
    return b > 0 ? a / b : 0;
}

/* "-" where the number is not known. */
static const char *cell_text(char text[RATE_SIZE], double value) {
    if (value <= 0) return "-";
    snprintf(text, RATE_SIZE, "%.1f", value);
    return text;
}
#define CELL(value) cell_text((char[RATE_SIZE]){0}, value)

/* ----------------------------------------------------------------------------------------------- one layer */

/* Layers are told before the result that they are printed behind. */
typedef struct layer_list {
    FILE *text; /* grows in memory */
    int json, count;
} layer_list;

static void print_layer_json(FILE *f, const coar_bench_layer *l) {
    fprintf(f,
            "{\"name\":\"%s\",\"shape\":\"%s\",\"form\":\"%s\",\"splits\":%u,\"seconds\":%.6g,\"images\":%llu,"
            "\"time_fraction\":%.6g,\"flops\":%.6g,\"executed_flops\":%.6g,\"bytes\":%.6g,\"peak_fraction\":%.6g}",
            l->name, l->shape, l->form, l->splits, l->seconds, (unsigned long long)l->images, l->time_fraction,
            l->flops, l->executed_flops, l->bytes, l->peak_fraction);
}

/* Columns as print_layer_heads says. */
static void print_layer_text(FILE *f, const coar_bench_layer *l) {
    const double images = (double)l->images, executed = ratio(l->executed_flops, l->flops);
    fprintf(f, "%11.2f %6.1f %9s %7s %9s %7s %8s %7s   ", ratio(1e6 * l->seconds, images), 100 * l->time_fraction,
            CELL(ratio(l->flops, images) * 1e-6), CELL(100 * executed), CELL(ratio(l->flops, l->seconds) * 1e-9),
            CELL(100 * l->peak_fraction), CELL(100 * l->peak_fraction * executed),
            CELL(ratio(l->bytes, l->seconds) * 1e-9));
    if (!*l->name) fprintf(f, "masks, pixels, outputs, waiting");
    fprintf(f, "%s  %s  %s", l->name, l->shape, l->form);
    if (l->splits > 1) fprintf(f, ", partial sums: %u", l->splits);
    fputc('\n', f);
}

static void add_layer(void *user, const coar_bench_layer *l) {
    layer_list *list = user;
    if (list->json && list->count) fputc(',', list->text);
    (list->json ? print_layer_json : print_layer_text)(list->text, l);
    list->count++;
}

static void print_layer_heads(void) {
    printf("\n%11s %6s %9s %7s %9s %7s %8s %7s   layer\n", "us/image", "time %", "MFLOP", "done %", "GFLOP/s", "peak %",
           "busy %", "GB/s");
}

static void print_layer_legend(void) {
    printf("\nMFLOP, GFLOP/s and peak %% count an image's dense, direct form; done %%: of it really computed; busy %%: "
           "this of "
           "peak;\nGB/s: activations and weights, each once\n");
}

/* ---------------------------------------------------------------------------------------------- the whole */

static void print_machine(const coar_bench_result *r) {
    printf("  machine: %.1f GFLOP/s", r->peak_flops * 1e-9);
    if (r->peak_flops_one > 0) printf(" (one thread %.1f)", r->peak_flops_one * 1e-9);
    if (r->bandwidth > 0) printf(", memory %.1f GB/s (one thread %.1f)", r->bandwidth * 1e-9, r->bandwidth_one * 1e-9);
    printf(", %s\n", strcmp(r->backend, "cuda") ? "measured" : "by its data sheet");
}

static void print_text(const coar_bench_result *r) {
    printf("%s, %s (%s), %s, %d threads, %u images a mask, alpha %g\n", r->model, r->backend, r->isa, r->precision,
           r->threads, r->batch, r->alpha);
    if (r->peak_flops > 0) print_machine(r);
    printf("  %s images/s (%s to %s over repetitions), %s masked passes/s\n", RATE(r->images_per_second),
           RATE(r->images_per_second_min), RATE(r->images_per_second_max), RATE(r->images_per_second / r->batch));
    printf("  %.1f GFLOP/s dense equivalent", r->images_per_second * r->flops_per_image * 1e-9);
    if (r->peak_flops > 0) printf(", %.1f %% of peak", 100 * r->peak_fraction);
    printf("\n");
    if (r->reverse_cost > 0)
        printf("  %s reverse passes/s, %s images/s (%s to %s): each costs %.2f dense forward passes\n",
               RATE(r->reverse_per_second / r->batch), RATE(r->reverse_per_second), RATE(r->reverse_per_second_min),
               RATE(r->reverse_per_second_max), r->reverse_cost);
    printf("  %.1f %% of the dense flops executed; %.0f MiB planned\n", 100 * r->executed_fraction,
           r->memory_bytes / 1048576);
}

static void print_json(const coar_bench_result *r, const char *layers) {
    printf("{\"model\":\"%s\",\"backend\":\"%s\",\"isa\":\"%s\",\"precision\":\"%s\",\"threads\":%d,\"batch\":%u,"
           "\"alpha\":%g,"
           "\"images\":%llu,\"masks\":%llu,\"seconds\":%.6g,\"images_per_second\":%.6g,\"images_per_second_min\":%.6g,"
           "\"images_per_second_max\":%.6g,\"masked_passes_per_second\":%.6g,\"flops_per_image\":%.9g,"
           "\"peak_flops\":%.6g,\"peak_flops_one\":%.6g,\"bandwidth\":%.6g,\"bandwidth_one\":%.6g,"
           "\"peak_fraction\":%.6g,\"executed_fraction\":%.6g,\"memory_bytes\":%.0f",
           r->model, r->backend, r->isa, r->precision, r->threads, r->batch, r->alpha, (unsigned long long)r->images,
           (unsigned long long)r->masks, r->seconds, r->images_per_second, r->images_per_second_min,
           r->images_per_second_max, r->images_per_second / r->batch, r->flops_per_image, r->peak_flops,
           r->peak_flops_one, r->bandwidth, r->bandwidth_one, r->peak_fraction, r->executed_fraction, r->memory_bytes);
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
        if (text) {
            print_layer_heads();
            fputs(text, stdout);
            print_layer_legend();
        }
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
        {"--classes", OPTION_TEXT, &o.classes, "FILE", "of a CLIP: class embeddings (.npy)"},
        {"--components", OPTION_TEXT, &o.components, "SET", "filters, neurons, heads, blocks (the model's first)"},
        {"--alpha", OPTION_FRACTION, &o.alpha, "A", "expected fraction ablated (0.05)"},
        {"--dense", OPTION_FLAG, &o.dense, NULL, "no ablation"},
        {"--gradients", OPTION_FLAG, &o.gradients, NULL, "dense forward passes and reverse passes, in turn"},
        {"--batch", OPTION_U32, &o.batch, "N", "images per mask (200 at 32x32, 64 at 224x224), or texts (32)"},
        {"--tokens", OPTION_U32, &o.tokens, "T", "of a text (128, or the model's context where that is less)"},
        {"--precision", OPTION_TEXT, &o.precision, "P", "auto (default), fp32, tf32, bf16, fp16"},
        {"--backend", OPTION_TEXT, &o.backend, "NAME", "cuda, cpu or reference (the fastest present)"},
        CLI_ISA_OPTION,
        {"--exact", OPTION_FLAG, &o.exact, NULL, "direct kernels only"},
        {"--threads", OPTION_INT, &o.threads, "T", "threads (one per core)"},
        {"--memory", OPTION_SIZE, &o.memory, "BYTES", "most memory to take"},
        {"--time", OPTION_SECONDS, &o.seconds, "TIME", "to measure for (a few seconds)"},
        {"--plan", OPTION_TEXT, &o.plan, "FILE|run.h5", "a numerics plan to take over"},
        {"--layers", OPTION_FLAG, &layers, NULL, "also every layer: its form, time, share of peak, bytes"},
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
