/*
 * slurm.c - coar_plan_slurm: a planned job as a Slurm script.
 *
 * What a script relies on: every command resumes by itself; SIGTERM, which Slurm sends before the time limit and when it
 * pre-empts, ends one with exit code 3 and everything saved; units of a shard depend on nothing else.
 * Every word of the user's is quoted, and comments hold no control characters.
 * Must not know: how figures came about.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/options.h"
#include "core/text.h"

enum {
    GRACE_SECONDS = 120,     /* from SIGTERM to the end: a unit in hand takes seconds */
    LIMIT_HOURS = 24,        /* beyond it a job is stopped and queued again */
    SLACK_SECONDS = 15 * 60, /* for start-up, slow file systems, and what a plan does not know */
    TIME_SIZE = 32,
    GPU_CORES = 16, /* of a task with a GPU: a share of a node with eight of them */
};

#define TIME_MARGIN 1.25
#define MEMORY_MARGIN 1.25
#define GIBIBYTE 1073741824.
#define CUDA_BYTES (8 * GIBIBYTE) /* the driver's, cuDNN's and cuBLAS's own on the host */

/* ------------------------------------------------------------------------------------------------- quoting */

/* 'word', in which nothing is special but the quote itself. */
static void put_word(FILE *f, const char *word) {
    fputc('\'', f);
    for (; *word; word++)
        if (*word == '\'')
            fputs("'\\''", f);
        else
            fputc(*word, f);
    fputc('\'', f);
}

/* As a comment's text: one line of valid characters. */
static void put_comment(FILE *f, const char *text) {
    while (*text) {
        size_t length = utf8_length(text, SIZE_MAX);
        if (!length || utf8_control(text)) {
            fputc('?', f);
            length = 1;
        } else {
            fwrite(text, 1, length, f);
        }
        text += length;
    }
}

static void put_array(FILE *f, const char *name, const char *const *words, size_t count) {
    fprintf(f, "%s=(", name);
    for (size_t i = 0; i < count; i++) {
        if (i) fputc(' ', f);
        put_word(f, words[i]);
    }
    fputs(")\n", f);
}

/* NAME from the environment, else the word given, else an error that says what is missing. */
static void put_variable(FILE *f, const char *name, const char *word, const char *missing) {
    if (!word) {
        fprintf(f, ": \"${%s:?%s}\"\n", name, missing);
        return;
    }
    fprintf(f, "[ -n \"${%s:-}\" ] || %s=", name, name);
    put_word(f, word);
    fputc('\n', f);
}

/* ------------------------------------------------------------------------------------------------ resources */

static const coar_plan_row *last_row(const coar_plan_result *plan) {
    return &plan->rows[plan->row_count - 1];
}

/* "HH:MM:00": with a margin, in quarters of an hour. */
static void time_text(double seconds, char text[TIME_SIZE]) {
    const double quarters = ceil((seconds * TIME_MARGIN + SLACK_SECONDS) / 900), most = LIMIT_HOURS * 4;
    const int minutes = (int)(quarters < most ? quarters : most) * 15;
    snprintf(text, TIME_SIZE, "%02d:%02d:00", minutes / 60, minutes % 60);
}

static double pass_seconds(const coar_plan_row *row) {
    return row->seconds[0] + row->seconds[1];
}

/* After the passes, by one process. */
static double later_seconds(const coar_plan_result *plan) {
    double seconds = 0;
    for (int s = 2; s < COAR_PLAN_STAGES; s++) seconds += plan->rows[0].seconds[s];
    return seconds;
}

static unsigned gibibytes(const coar_plan_result *plan, int gpus) {
    double most = 0;
    for (int s = 0; s < COAR_PLAN_STAGES; s++) most = fmax(most, plan->stages[s].memory);
    return (unsigned)ceil((most * MEMORY_MARGIN + (gpus ? CUDA_BYTES : 0)) / GIBIBYTE) + 1;
}

static void put_resources(FILE *f, const coar_plan_result *plan, const coar_slurm_options *o) {
    const int cores = o->cores ? o->cores : o->gpus ? GPU_CORES : 1;
    fprintf(f, "#SBATCH --cpus-per-task=%d\n", cores);
    if (o->gpus) fprintf(f, "#SBATCH --gpus-per-task=%d\n", o->gpus);
    fprintf(f, "#SBATCH --mem%s=%uG\n", o->form == COAR_SLURM_MPI ? "-per-cpu" : "",
            o->form == COAR_SLURM_MPI ? (gibibytes(plan, o->gpus) + (unsigned)cores - 1) / (unsigned)cores
                                      : gibibytes(plan, o->gpus));
    fprintf(f, "#SBATCH --signal=B:TERM@%d\n#SBATCH --requeue\n#SBATCH --open-mode=append\n", GRACE_SECONDS);
}

/* -------------------------------------------------------------------------------------------------- script */

static void put_figures(FILE *f, const coar_plan_result *plan, const coar_slurm_options *o) {
    const coar_plan_row *row = last_row(plan);
    fputs("# Made by: ", f);
    put_comment(f, o->command ? o->command : "coar_plan_slurm");
    fprintf(
        f,
        "\n# %s: %llu masks%s of %llu examples, %u components, on %u device%s of %.6g masked images/s%s.\n"
        "# Planned: %.2f hours of passes, %.2f of fit, evaluation and report; %.1f GB on disk at the most, %.1f GB in "
        "the end.\n",
        plan->arch, (unsigned long long)plan->masks, plan->passes ? " and gradients" : "",
        (unsigned long long)plan->examples, plan->components, row->devices, row->devices == 1 ? "" : "s", plan->rate,
        plan->measured ? " (measured)" : " (assumed)", pass_seconds(row) / 3600, later_seconds(plan) / 3600,
        plan->disk_peak * 1e-9, plan->disk_final * 1e-9);
}

static void put_settings(FILE *f, const coar_plan_result *plan, const coar_slurm_options *o) {
    fputs("\nset -u\nCOAR=${COAR:-coar}\n", f);
    put_variable(f, "MODEL", o->model, "name the weights (safetensors)");
    put_variable(f, "DATA", o->data, "name the data set file (coar pack)");
    put_variable(f, "RUN", o->output, "name the run file (run.h5) on a file system that all nodes see");
    put_array(f, "options", o->words, o->word_count);
    put_array(f, "later_options", o->run_words, o->run_word_count);
    fprintf(f, "masks=%llu\n", (unsigned long long)plan->masks);
    if (plan->passes) fprintf(f, "passes=%u\n", plan->passes);
}

/* The command runs beside the shell, which Slurm signals and which passes that on; a trapped signal ends `wait`, not the
 * command. Exit code 3 says that it was stopped with everything saved: the job is queued again and goes on. */
static void put_step(FILE *f, const char *job, const char *launch, const char *stop) {
    fprintf(f,
            "\npid=\n"
            "trap '[ -z \"$pid\" ] || %s' TERM\n"
            "step() {\n"
            "    local code\n"
            "    %s\"$COAR\" \"$@\" --threads \"${SLURM_CPUS_PER_TASK:-1}\" &\n"
            "    pid=$!\n"
            "    wait \"$pid\"\n"
            "    code=$?\n"
            "    while kill -0 \"$pid\" 2>/dev/null; do\n"
            "        wait \"$pid\"\n"
            "        code=$?\n"
            "    done\n"
            "    [ $code != 3 ] || scontrol requeue \"%s\"\n"
            "    [ $code = 0 ] || exit $code\n"
            "}\n",
            stop, launch, job);
}

#define RUN_STEP                                                                                                       \
    "step run --model \"$MODEL\" --data \"$DATA\" -o \"$RUN\" \"${options[@]}\" \"${later_options[@]}\" --masks "      \
    "$masks"

static void put_array_form(FILE *f, const coar_plan_result *plan, const coar_slurm_options *o) {
    const uint32_t devices = last_row(plan)->devices;
    char limit[TIME_SIZE], later[TIME_SIZE];
    time_text(pass_seconds(last_row(plan)), limit);
    time_text(later_seconds(plan), later);
    fputs("#!/bin/bash\n", f);
    put_figures(f, plan, o);
    fprintf(f,
            "# `bash SCRIPT` submits the shards, and what follows them when all are done; `sbatch SCRIPT` the shards "
            "alone.\n"
            "#SBATCH --job-name=coar\n#SBATCH --output=%%x-%%A_%%a.log\n#SBATCH --array=0-%u\n#SBATCH "
            "--ntasks=1\n#SBATCH --time=%s\n",
            devices - 1, limit);
    put_resources(f, plan, o);
    put_settings(f, plan, o);
    fprintf(f,
            "\nif [ -z \"${SLURM_JOB_ID:-}\" ]; then\n"
            "    export COAR MODEL DATA RUN\n"
            "    shards=$(sbatch --parsable \"$0\") || exit\n"
            "    exec sbatch --dependency=\"afterok:${shards%%%%;*}\" --array=0 --time=%s \"$0\" later\n"
            "fi\n",
            later);
    put_step(f, "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID", "", "kill -TERM \"$pid\"");
    fputs("\nif [ \"${1:-}\" = later ]; then\n    " RUN_STEP, f);
    if (plan->passes) fputs(" --passes $passes", f);
    fputs("\n    exit\nfi\n", f);
    for (int gradients = plan->passes != 0; gradients >= 0; gradients--)
        fprintf(f,
                "step %s --model \"$MODEL\" --data \"$DATA\" -o \"$RUN\" \"${options[@]}\" %s \\\n"
                "    --shard \"$SLURM_ARRAY_TASK_ID/%u\"\n",
                gradients ? "gradients" : "ablate", gradients ? "--passes $passes" : "--masks $masks", devices);
}

static void put_mpi_form(FILE *f, const coar_plan_result *plan, const coar_slurm_options *o) {
    char limit[TIME_SIZE];
    time_text(last_row(plan)->total, limit);
    fputs("#!/bin/bash\n", f);
    put_figures(f, plan, o);
    fprintf(f, "#SBATCH --job-name=coar\n#SBATCH --output=%%x-%%j.log\n#SBATCH --ntasks=%u\n#SBATCH --time=%s\n",
            last_row(plan)->devices, limit);
    put_resources(f, plan, o);
    put_settings(f, plan, o);
    fputs("LAUNCH=${LAUNCH:-srun --mpi=pmix} # or mpirun, which takes the nodes from Slurm\n", f);
    put_step(f, "$SLURM_JOB_ID", "$LAUNCH ", "signal_ranks");
    /* srun takes SIGTERM for the end of the job; mpirun passes it on */
    fputs("signal_ranks() {\n"
          "    case $LAUNCH in\n"
          "    srun*) scancel --signal=TERM \"$SLURM_JOB_ID\" ;;\n"
          "    *) kill -TERM \"$pid\" ;;\n"
          "    esac\n"
          "}\n",
          f);
    fputs("\n" RUN_STEP, f);
    if (plan->passes) fputs(" --passes $passes", f);
    fputc('\n', f);
}

static coar_status check(const coar_plan_result *plan, const coar_slurm_options *o) {
    if (!plan || !plan->row_count) return status_set(COAR_ERROR_USAGE, "coar_plan_slurm: give a plan");
    if (!o->path) return status_set(COAR_ERROR_USAGE, "--slurm: name the script to write");
    if (o->gpus < 0 || o->gpus > 1 || o->cores < 0)
        return status_set(COAR_ERROR_USAGE, "coar_plan_slurm: gpus, cores: a task has at most one GPU");
    if (o->form != COAR_SLURM_ARRAY && o->form != COAR_SLURM_MPI)
        return status_set(COAR_ERROR_USAGE, "coar_plan_slurm: form: none that there is");
    TRY(file_check_distinct(o->path, o->model));
    TRY(file_check_distinct(o->path, o->data));
    return file_check_output(o->path, o->force);
}

coar_status coar_plan_slurm(const coar_plan_result *plan, const coar_slurm_options *options) {
    status_clear();
    coar_slurm_options o;
    TRY(options_take(&o, sizeof o, options, "COAR_SLURM_INIT"));
    TRY(check(plan, &o));
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", o.path);
    (o.form == COAR_SLURM_MPI ? put_mpi_form : put_array_form)(f, plan, &o);
    const bool whole = !ferror(f);
    coar_status status = fclose(f) || !whole ? status_set(COAR_ERROR_MEMORY, "%s: not enough memory", o.path)
                                             : file_write(o.path, text, size);
    free(text);
    return status;
}
