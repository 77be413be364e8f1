/* plan.c - coar plan: what a job will take, as text or JSON, and as a Slurm script. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/ablate_options.h"
#include "cli/cli.h"

typedef struct plan_options {
    coar_plan_options plan;
    coar_slurm_options slurm;
    ablate_texts texts;
    const char *form;
    int json, force, rate_given;
} plan_options;

/* ------------------------------------------------------------------------------------------------ numbers */

enum { TEXT_SIZE = 32 };

static const char *time_text(char text[TEXT_SIZE], double s) {
    if (s < 120)
        snprintf(text, TEXT_SIZE, "%.1f s", s);
    else if (s < 2 * 3600)
        snprintf(text, TEXT_SIZE, "%.1f min", s / 60);
    else if (s < 48 * 3600)
        snprintf(text, TEXT_SIZE, "%.1f h", s / 3600);
    else
        snprintf(text, TEXT_SIZE, "%.1f days", s / 86400);
    return text;
}
#define TIME(seconds) time_text((char[TEXT_SIZE]){0}, seconds)

static const char *size_text(char text[TEXT_SIZE], double bytes) {
    static const char *const units[] = {"B", "KB", "MB", "GB", "TB", "PB"};
    size_t unit = 0;
    for (; bytes >= 1000 && unit + 1 < sizeof units / sizeof *units; unit++) bytes /= 1000;
    snprintf(text, TEXT_SIZE, bytes < 10 && unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return text;
}
#define SIZE(bytes) size_text((char[TEXT_SIZE]){0}, bytes)

/* --------------------------------------------------------------------------------------------------- text */

static void print_job(const coar_plan_result *p) {
    printf("%s: %llu examples, %u components; ", p->arch, (unsigned long long)p->examples, p->components);
    if (p->passes) printf("%u reverse passes, ", p->passes);
    printf("%llu masks, %u output%s\n", (unsigned long long)p->masks, p->outputs, p->outputs == 1 ? "" : "s");
    printf("%.4g MFLOP and %s of weights; work units of %u masks x %u examples\n", p->flops_per_image * 1e-6,
           SIZE(p->weight_bytes), p->unit_masks, p->unit_examples);
    printf("one device: %.4g masked images/s", p->rate);
    if (p->passes) printf(", %.4g images/s differentiated", p->reverse_rate);
    printf(", fits at %.3g operations/s", p->fit_rate);
    if (p->measured)
        printf("; measured here, %s, %s\n\n", p->device_class, p->precision);
    else
        printf("; as given\n\n");
}

static void print_stages(const coar_plan_result *p) {
    printf("%-10s %9s %13s %10s %10s %10s %10s\n", "stage", "units", "images", "start", "work", "finish", "memory");
    for (int s = 0; s < COAR_PLAN_STAGES; s++) {
        const coar_plan_stage *stage = &p->stages[s];
        if (stage->start + stage->work == 0) continue;
        printf("%-10s %9llu %13llu %10s %10s %10s %10s", stage->name, (unsigned long long)stage->units,
               (unsigned long long)stage->images, TIME(stage->start), TIME(stage->work), TIME(stage->finish),
               stage->memory > 0 ? SIZE(stage->memory) : "-");
        if (stage->device_memory > 0) printf(" and %s of a device", SIZE(stage->device_memory));
        printf("\n");
    }
    printf("disk: %s at the most, %s in the end; %s go through journals\n\n", SIZE(p->disk_peak), SIZE(p->disk_final),
           SIZE(p->journals));
}

static void print_rows(const coar_plan_result *p) {
    printf("%7s", "devices");
    for (int s = 0; s < COAR_PLAN_STAGES; s++)
        if (p->rows[0].seconds[s] > 0) printf(" %10s", p->stages[s].name);
    printf(" %10s %10s %6s %10s %10s\n", "all", "efficiency", "batch", "broadcast", "reduced");
    for (size_t r = 0; r < p->row_count; r++) {
        const coar_plan_row *row = &p->rows[r];
        printf("%7u", row->devices);
        for (int s = 0; s < COAR_PLAN_STAGES; s++)
            if (p->rows[0].seconds[s] > 0) printf(" %10s", TIME(row->seconds[s]));
        printf(" %10s %8.1f %% %6llu %10s %10s\n", TIME(row->total), 100 * row->efficiency,
               (unsigned long long)row->batch, SIZE(row->broadcast), SIZE(row->reductions));
    }
}

/* --------------------------------------------------------------------------------------------------- JSON */

static void print_stages_json(const coar_plan_result *p) {
    printf("\"stages\":[");
    for (int s = 0; s < COAR_PLAN_STAGES; s++) {
        const coar_plan_stage *stage = &p->stages[s];
        printf("%s{\"name\":\"%s\",\"units\":%llu,\"images\":%llu,\"start_seconds\":%.6g,\"work_seconds\":%.6g,"
               "\"finish_seconds\":%.6g,\"memory_bytes\":%.0f,\"device_memory_bytes\":%.0f}",
               s ? "," : "", stage->name, (unsigned long long)stage->units, (unsigned long long)stage->images,
               stage->start, stage->work, stage->finish, stage->memory, stage->device_memory);
    }
    printf("],");
}

static void print_rows_json(const coar_plan_result *p) {
    printf("\"devices\":[");
    for (size_t r = 0; r < p->row_count; r++) {
        const coar_plan_row *row = &p->rows[r];
        printf("%s{\"devices\":%u,\"seconds\":{", r ? "," : "", row->devices);
        for (int s = 0; s < COAR_PLAN_STAGES; s++)
            printf("%s\"%s\":%.6g", s ? "," : "", p->stages[s].name, row->seconds[s]);
        printf("},\"total_seconds\":%.6g,\"efficiency\":%.6g,\"batch\":%llu,\"broadcast_bytes\":%.0f,"
               "\"reduced_bytes\":%.0f}",
               row->total, row->efficiency, (unsigned long long)row->batch, row->broadcast, row->reductions);
    }
    printf("]");
}

static void print_json(const coar_plan_result *p) {
    printf("{\"model\":\"%s\",\"device_class\":\"%s\",\"precision\":\"%s\",\"examples\":%llu,\"components\":%u,"
           "\"masks\":%llu,\"passes\":%u,\"outputs\":%u,\"unit_masks\":%u,\"unit_examples\":%u,"
           "\"flops_per_image\":%.9g,\"weight_bytes\":%.0f,\"example_bytes\":%.0f,\"measured\":%s,"
           "\"images_per_second\":%.6g,\"reverse_per_second\":%.6g,\"fit_operations_per_second\":%.6g,",
           p->arch, p->device_class, p->precision, (unsigned long long)p->examples, p->components,
           (unsigned long long)p->masks, p->passes, p->outputs, p->unit_masks, p->unit_examples, p->flops_per_image,
           p->weight_bytes, p->example_bytes, p->measured ? "true" : "false", p->rate, p->reverse_rate, p->fit_rate);
    print_stages_json(p);
    printf("\"disk_peak_bytes\":%.0f,\"disk_final_bytes\":%.0f,\"journal_bytes\":%.0f,", p->disk_peak, p->disk_final,
           p->journals);
    print_rows_json(p);
    puts("}");
}

/* -------------------------------------------------------------------------------------------------- script */

/* Of the shared options those that the script does not name itself. */
static int shared_words(int count, char **arguments, const cli_option *options, const char **words) {
    static const char *const own[] = {"--model", "--data", "-o", "--masks", "--threads"};
    coar_ablate_options unused;
    ablate_texts texts;
    const cli_option shared[] = {JOB_OPTIONS(unused, texts), {NULL}};
    cli_option wanted[sizeof shared / sizeof *shared];
    size_t kept = 0;
    for (const cli_option *o = shared; o->name; o++) {
        bool named = false;
        for (size_t i = 0; i < sizeof own / sizeof *own; i++) named |= !strcmp(o->name, own[i]);
        if (!named) wanted[kept++] = *o;
    }
    wanted[kept] = (cli_option){NULL};
    return cli_words(count, arguments, options, wanted, words);
}

static coar_status write_script(plan_options *o, const coar_plan_result *p, int count, char **arguments,
                                const cli_option *options) {
    static const cli_option later[] = {{.name = "--estimator"},
                                       {.name = "--standard-errors"},
                                       {.name = "--eval-alpha"},
                                       {.name = "--eval-masks"},
                                       {NULL}};
    const char **words = calloc(4 * (size_t)count + 1, sizeof *words), **run_words = words ? words + 2 * count : NULL;
    if (!words) return COAR_ERROR_MEMORY;
    const coar_ablate_options *job = &o->plan.ablate;
    coar_slurm_options *slurm = &o->slurm;
    slurm->word_count = (size_t)shared_words(count, arguments, options, words);
    slurm->run_word_count = (size_t)cli_words(count, arguments, options, later, run_words);
    slurm->words = words;
    slurm->run_words = run_words;
    slurm->data = job->data;
    slurm->model = job->data ? job->model : NULL; /* with a count the model may be a name */
    slurm->output = job->output;
    slurm->force = o->force;
    slurm->command = cli_command_line();
    slurm->gpus = p->measured ? !strncmp(p->device_class, "cuda", 4) : !job->backend || !strcmp(job->backend, "cuda");
    slurm->cores = job->threads;
    const coar_status status = coar_plan_slurm(p, slurm);
    free(words);
    return status;
}

/* What can be said before anything is measured. */
static int check_early(plan_options *o) {
    const coar_plan_options *plan = &o->plan;
    if (o->rate_given && plan->rate == 0) return cli_usage_error(&command_plan, "--rate 0: give a number above 0");
    if (o->form && strcmp(o->form, "array") && strcmp(o->form, "mpi"))
        return cli_usage_error(&command_plan, "--form '%s': array or mpi", o->form);
    o->slurm.form = o->form && !strcmp(o->form, "mpi") ? COAR_SLURM_MPI : COAR_SLURM_ARRAY;
    if (!o->slurm.path) return o->form ? cli_usage_error(&command_plan, "--form: goes with --slurm FILE") : 0;
    if (!plan->ablate.masks && !plan->passes)
        return cli_usage_error(&command_plan,
                               "--slurm: give --masks or --passes: where a budget decides, one process does");
    return 0;
}

static int run(int count, char **arguments) {
    plan_options o = {.plan = COAR_PLAN_INIT, .slurm = COAR_SLURM_INIT};
    const cli_option options[] = {
        JOB_OPTIONS(o.plan.ablate, o.texts),
        {"--passes", OPTION_U32, &o.plan.passes, "K",
         "reverse passes of every example; then --masks is 256 if not given"},
        {"--estimator", OPTION_TEXT, &o.plan.estimators, "LIST", "fits to make, as of coar run"},
        {"--standard-errors", OPTION_FLAG, &o.plan.standard_errors, NULL, "store a standard error for every weight"},
        {"--eval-alpha", OPTION_TEXT, &o.plan.eval_alphas, "LIST",
         "ablated fractions to evaluate at (the training one)"},
        {"--eval-masks", OPTION_COUNT, &o.plan.eval_masks, "K", "fresh masks (100)"},
        {"--count", OPTION_COUNT, &o.plan.count, "N",
         "so many examples, in place of --data; --model may be a name, as of bench"},
        {"--tokens", OPTION_U32, &o.plan.tokens, "T", "of a text of --count (the model's context)"},
        {"--rate", OPTION_REAL, &o.plan.rate, "R", "masked images a second of one device (measured here)",
         &o.rate_given},
        {"--reverse-rate", OPTION_REAL, &o.plan.reverse_rate, "R", "images differentiated a second (--rate / 2.5)"},
        {"--fit-rate", OPTION_REAL, &o.plan.fit_rate, "R", "operations a second of a fit (measured; with --rate 1e11)"},
        {"--devices", OPTION_U32, &o.plan.devices, "P", "plan for 1, 2, 4 ... P devices (1)"},
        {"--time", OPTION_SECONDS, &o.plan.seconds, "TIME", "to measure each kind of work for (5s)"},
        {"--slurm", OPTION_TEXT, &o.slurm.path, "FILE", "write a Slurm script for P devices"},
        {"--form", OPTION_TEXT, &o.form, "FORM", "of the script: array (default) or mpi"},
        {"--force", OPTION_FLAG, &o.force, NULL, "replace the script"},
        {"--json", OPTION_FLAG, &o.json, NULL, "as JSON"},
        {NULL},
    };
    coar_plan_result *plan = NULL;
    if (!cli_parse(&command_plan, count, arguments, options, NULL, 0, NULL)) return 2;
    if (!ablate_options_finish(&command_plan, &o.plan.ablate, &o.texts)) return 2;
    o.plan.callbacks = o.plan.ablate.callbacks = cli_silent_callbacks();
    if (check_early(&o)) return 2;
    coar_status status = coar_plan(&o.plan, &plan);
    if (status == COAR_OK && o.slurm.path) status = write_script(&o, plan, count, arguments, options);
    if (status == COAR_OK) {
        if (o.json) {
            print_json(plan);
        } else {
            print_job(plan);
            print_stages(plan);
            print_rows(plan);
        }
    }
    coar_free(plan);
    return cli_finish(status);
}

const cli_command command_plan = {"plan", "--model W.safetensors|ARCH --data data.h5|--count N [options]",
                                  "predicted time, memory, disk and network of a job on 1 to P devices", run};
