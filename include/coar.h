/*
 * coar.h - the public interface of libcoar: component attributions of trained networks.
 *
 * Plain C; no type of HDF5, MPI or CUDA appears here. The command line is written against this header
 * alone, so everything `coar` does a program can do too.
 *
 * Conventions
 *  - Every function returns a coar_status. COAR_OK is 0. On failure coar_last_error() gives one line that
 *    names the file, the field and what to do. Out-parameters are written on success only.
 *  - Option structs begin with their size; initialise them with the matching COAR_..._INIT macro, so that
 *    fields added later get their defaults. Strings and arrays given in options are borrowed for the call.
 *    A NULL string or a zero means "the default", unless the field says otherwise. Options without a size
 *    (not initialised) are COAR_ERROR_USAGE.
 *  - In every options struct `threads` 0 is one per core this process may run on, and `memory` is in bytes of
 *    host memory, 0 for half of what this process may use; with backend cuda of each device's memory, 0 for what is
 *    free.
 *  - A pointer that a result is written through may be NULL: the result is then not wanted. Only coar_info,
 *    which does nothing else, refuses that.
 *  - The library never prints, exits or aborts. Progress and log lines go through coar_callbacks.
 *  - Thread safety: every function may be called from any thread; calls that write the same file must not
 *    overlap (a second live process on one run is refused with COAR_ERROR_BUSY). Errors are kept per thread.
 *    coar_fit and coar_evaluate set the number of threads of OpenBLAS, which is one for the whole process, and put
 *    it back: while they run, other threads' use of OpenBLAS is as parallel as `threads` says.
 *  - Environment: COAR_ISA (portable, avx2, avx512, avx512bf16) forces the instruction set of the CPU's kernels, in
 *    whichever function passes images through a network: coar_ablate, coar_gradients, coar_evaluate, coar_bench,
 *    coar_selftest. COAR_PLAN_CACHE is the folder of what was measured on GPUs (else XDG_CACHE_HOME/coar, else
 *    HOME/.cache/coar). COAR_MPI, COAR_RANK_SILENCE and launchers' variables: see coar_ranks_begin. No other variable of coar's is read. Numbers in options and files have decimal points,
 *    whatever the locale.
 *
 * Words (docs/design.md, section 2): component, mask, alpha, output, attribution, counterfactual correlation.
 * Letters for sizes: N examples, n components, m masks.
 */
#ifndef COAR_H
#define COAR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(COAR_BUILD)
#define COAR_API __attribute__((visibility("default")))
#else
#define COAR_API
#endif

#define COAR_VERSION_MAJOR 0
#define COAR_VERSION_MINOR 2
#define COAR_VERSION_PATCH 0

/* name, value, text. Values are part of the interface: they are never renumbered. */
#define COAR_STATUS_MAP(X)                                                                                             \
    X(OK, 0, "success")                                                                                                \
    X(ERROR_USAGE, 1, "an option or argument is wrong")                                                                \
    X(ERROR_INPUT, 2, "a file holds something wrong")                                                                  \
    X(ERROR_IO, 3, "the system refused a read or write")                                                               \
    X(ERROR_MEMORY, 4, "not enough memory")                                                                            \
    X(ERROR_EXISTS, 5, "the output exists already")                                                                    \
    X(ERROR_MISMATCH, 6, "settings or files differ from those the run began with")                                     \
    X(ERROR_BUSY, 7, "another live process is working on this run")                                                    \
    X(ERROR_UNSUPPORTED, 8, "not supported by this build, machine or model")                                           \
    X(STOPPED, 9, "stopped early with everything saved")                                                               \
    X(ERROR_INTERNAL, 10, "a defect in coar itself")

typedef enum coar_status {
#define X(name, value, text) COAR_##name = value,
    COAR_STATUS_MAP(X)
#undef X
} coar_status;

/* "0.2.0". Static storage. */
COAR_API const char *coar_version(void);

/* One-line text of a status. Static storage; never NULL. */
COAR_API const char *coar_status_text(coar_status status);

/* The first message of the last failed call on this thread, "" after none. Valid until the next call of a
 * coar function on this thread. */
COAR_API const char *coar_last_error(void);

/* ------------------------------------------------------------------------------------------ callbacks */

typedef struct coar_progress {
    const char *stage;    /* "pack", "ablate", "fit", ... */
    uint64_t done, total; /* work items of this stage; total 0 = unknown */
    double seconds;       /* since this call began the stage */
    double rate;          /* work done by this call per second, in `unit` */
    const char *unit;     /* "images", "masks", ... */
    double seconds_left;  /* < 0: not known yet */
} coar_progress;

typedef enum coar_log_level { COAR_LOG_INFO = 0, COAR_LOG_WARNING = 1 } coar_log_level;

typedef struct coar_callbacks {
    /* Called from the calling thread, at least once a work unit. A non-zero return asks for a stop: the unit
     * in hand is finished and saved and the call returns COAR_STOPPED. May be NULL. */
    int (*progress)(void *user, const coar_progress *progress);
    /* One line without a newline. May be NULL. */
    void (*log)(void *user, coar_log_level level, const char *line);
    void *user;
} coar_callbacks;

/* ----------------------------------------------------------------------------------------------- pack */

typedef struct coar_pack_options {
    size_t size;
    const char *from;       /* imagefolder, cifar10, cifar100, idx, npy, tokens */
    const char *path;       /* what to read */
    const char *labels;     /* label file (idx, npy); NULL where the source has labels itself */
    const char *groups;     /* CSV of subpopulation labels (docs/formats.md) */
    uint32_t image_size;    /* side S in pixels; 0 = keep (all images must then be equal) */
    double crop;            /* R: shorter side to round(S/R), centre crop S; 0 = default (.875 from 224 up, else 1) */
    const char *resize;     /* area, bilinear (default), bicubic; all anti-aliased */
    const char *mean, *std; /* "A,B,C" of pixels/255, one per channel; NULL = not stored */
    const char *output;     /* data.h5 */
    int force;
    int threads;
    const char *command; /* provenance: the command line; may be NULL */
    const coar_callbacks *callbacks;
    /* tokens: texts for a language model, as integers [N, T] in a .npy file or as a UTF-8 file that <|endoftext|> separates */
    const char *lengths;    /* .npy of each text's length [N]; NULL = T each */
    const char *vocabulary; /* vocab.json: needed for text; of an array it says how many tokens there are */
    const char *merges;     /* merges.txt, for text */
    uint32_t length;        /* longer texts are cut after so many tokens; 0 = never */
} coar_pack_options;
#define COAR_PACK_INIT                                                                                                 \
    { .size = sizeof(coar_pack_options) }

typedef struct coar_pack_result {
    uint64_t examples, classes, groups;
    uint32_t height, width, channels; /* of images */
    double seconds;
    uint32_t tokens, vocabulary; /* of texts: T, and 0 where the vocabulary is not known */
} coar_pack_result;

/* Makes a data set file. The file appears complete or not at all. */
COAR_API coar_status coar_pack(const coar_pack_options *options, coar_pack_result *result);

/* ----------------------------------------------------------------------------------------------- info */

/* Describes a weight, data or run file. `arch`, `components` and `classes` as in coar_ablate_options (weights only).
 * *text: human-readable, or JSON with `json`; the caller frees it with coar_free. */
COAR_API coar_status coar_info(const char *path, const char *arch, const char *components, const char *classes,
                               int json, char **text);

/* Frees what a function of coar handed over. NULL is fine. */
COAR_API void coar_free(void *memory);

/* ---------------------------------------------------------------------------------------------- ranks */

/* One job on several processes that MPI connects ("ranks": mpirun, srun). Rank 0 calls coar_ablate, coar_gradients,
 * coar_budget, coar_fit, coar_evaluate as if it were alone; the others call coar_ranks_follow and compute what it hands
 * out. Results have the same bytes for any number of ranks. A process that was started by itself, or in whose
 * environment COAR_MPI is 0, is rank 0 of 1: everything here then does nothing. One thread of the process makes these
 * calls, and on rank 0 all others while there are ranks.
 *
 * A failure of any rank ends the call on rank 0 with that rank's message, which names it; the others stay for the next
 * order. A rank that has not been heard from for COAR_RANK_SILENCE seconds (environment; 120) fails every call. */
typedef struct coar_ranks {
    int rank, count;
} coar_ranks;

/* Before anything else. *ranks is written also on failure, so that one process alone tells of it. Cores are divided among
 * the ranks of a machine that the launcher lets use the same ones. COAR_ERROR_UNSUPPORTED when a launcher has started
 * several processes and this build has no MPI. */
COAR_API coar_status coar_ranks_begin(coar_ranks *ranks);

/* What is each rank's own in a job that rank 0 leads. */
typedef struct coar_follow_options {
    size_t size;
    const char *model, *data, *classes; /* NULL = where rank 0 has them; hashes are compared */
    const char *devices;                /* as in coar_ablate_options; of NULL each rank of a machine takes its share */
    const char *shard;                  /* must be rank 0's */
    int threads;
    uint64_t memory;
    const coar_callbacks *callbacks; /* progress is asked for stops alone */
} coar_follow_options;
#define COAR_FOLLOW_INIT                                                                                               \
    { .size = sizeof(coar_follow_options) }

/* All ranks but 0: takes part until rank 0 ends. Fails only when there is no rank 0 any more. */
COAR_API coar_status coar_ranks_follow(const coar_follow_options *options);

/* The last call, with this process's exit code. Returns that of the job: rank 0's. Of another rank that has not
 * followed, because its command line was wrong: fails what rank 0 asks of it. */
COAR_API int coar_ranks_end(int code);

/* --------------------------------------------------------------------------------------------- ablate */

typedef struct coar_ablate_options {
    size_t size;
    const char *model;    /* W.safetensors */
    const char *data;     /* data.h5 */
    const char *output;   /* run.h5 */
    const char *arch;     /* NAME[,key=value...] */
    const char *examples; /* SPEC; NULL = all */
    uint64_t masks;       /* m; 0 = 2n */
    const char *sampler;  /* bernoulli (default), fixed, stratified, loo, file:PATH */
    double alpha;         /* in (0,1); 0 = 0.05 */
    uint64_t seed;
    const char *outputs;       /* "margin" (default), "margin,loss", ... */
    const char *label;         /* NULL = the data's labels; "predicted" = the unablated model's prediction */
    const char *ablation;      /* zero (default), mean, scale:G */
    const char *calibration;   /* SPEC for `mean`; NULL = the run's examples */
    const char *components;    /* filters, neurons, heads, blocks; NULL = the model's first set */
    const char *only, *except; /* globs over group names */
    const char *backend;       /* cuda, cpu, reference; NULL = the fastest present */
    const char *precision;     /* auto (default), fp32, tf32, bf16, fp16 */
    int exact;                 /* no transformed kernels (Winograd); on a GPU our own kernels by rule, nothing timed */
    int threads;
    uint64_t
        memory; /* bytes; of the host, or with backend cuda of each device. 0 = half of the host's, or what is free */
    const char *plan; /* a numerics plan to take over: FILE or run.h5 */
    int store_masks;
    int store_f16;
    const char *shard;   /* "K/S": only the units t with t mod S == K */
    int force;           /* remove the whole run (ablations, gradients, fits) and start over */
    int force_resume;    /* resume although another process seems alive */
    double time_limit;   /* seconds; 0 = none. Then COAR_STOPPED */
    const char *command; /* provenance: the command line; may be NULL */
    const coar_callbacks *callbacks;
    const char *devices; /* "0,2": which of the backend's devices; NULL or "all" = all. No result depends on it */
    const char *classes; /* of a zero-shot classifier (CLIP), and of no other network: embeddings of its classes, .npy
                              * of f32 or f16 [classes, width of the image's embedding], of any length */
} coar_ablate_options;
#define COAR_ABLATE_INIT                                                                                               \
    { .size = sizeof(coar_ablate_options) }

typedef struct coar_ablate_result {
    uint64_t examples, components, masks; /* N, n, m */
    uint64_t units_total, units_before;   /* work units, and those that were there already */
    uint64_t images;                      /* masked images computed by this call */
    double seconds;                       /* spent computing them */
    int already_complete;                 /* nothing was to do */
    uint64_t units;                       /* finished by this call */
} coar_ablate_result;

/* Runs masked forward passes into a run file; resumes, extends (larger `masks`) or refuses by itself. */
COAR_API coar_status coar_ablate(const coar_ablate_options *options, coar_ablate_result *result);

/* ------------------------------------------------------------------------------------------ gradients */

typedef struct coar_gradients_options {
    size_t size;
    uint32_t passes; /* k: reverse passes of every example; 0 = 64 */
    coar_ablate_options
        ablate; /* the run. masks, sampler, store_masks and store_f16 are the ablations' and not looked at;
                                    alpha is below 1/2 */
} coar_gradients_options;
#define COAR_GRADIENTS_INIT                                                                                            \
    { .size = sizeof(coar_gradients_options), .ablate = COAR_ABLATE_INIT }

typedef struct coar_gradients_result {
    uint64_t examples, components;      /* N, n */
    uint32_t passes;                    /* k, or what is there where that is more */
    uint64_t units_total, units_before; /* work units: a block of 32 examples and one output; those done already */
    uint64_t images;                    /* masked images differentiated by this call */
    double seconds;                     /* spent on them */
    int already_complete;               /* nothing was to do */
    uint64_t units;                     /* finished by this call */
} coar_gradients_result;

/* Adds averaged mask gradients to a run, or begins a run with them: derivatives of each output with respect to every
 * component's keep, under k random masks of three keeps, summed by keep. Resumes, extends (larger `passes`) or refuses
 * by itself, as coar_ablate does with masks; the two may come in any order. */
COAR_API coar_status coar_gradients(const coar_gradients_options *options, coar_gradients_result *result);

/* Writes the masks of a run as bool .npy [m, n], True = kept. */
COAR_API coar_status coar_masks(const char *run, const char *output, int force);

/* -------------------------------------------------------------------------------------------- merge */

typedef struct coar_merge_options {
    size_t size;
    /* One run; or several of one job that were computed in separate folders, as shards of any counts: made with the same
     * settings, nobody at work on them. They are only read. */
    const char *const *runs;
    size_t run_count;
    const char *output; /* one plain file; with `as_run` run.h5 beside run.h5.parts */
    int as_run;         /* of several runs: `output` becomes a run to go on with (complete it, fit it, evaluate it) */
    int force;          /* replace an existing file; never a run */
    const coar_callbacks *callbacks;
} coar_merge_options;
#define COAR_MERGE_INIT                                                                                                \
    { .size = sizeof(coar_merge_options) }

typedef struct coar_merge_result {
    uint64_t units, units_missing; /* of stages that the runs had not finished; some are missing with `as_run` alone */
} coar_merge_result;

/* One plain HDF5 file from a run and its parts; or from several runs the ablations and gradients that they have together.
 * Units in more than one of them must be equal, byte for byte, else COAR_ERROR_INPUT names both files and the unit.
 * Units in none are COAR_ERROR_INPUT too, which names them and their shard; with `as_run` they are left to the next
 * coar_ablate or coar_gradients on `output`. Fits, evaluations and edits of several runs are left out: they can be made
 * from the merged run. */
COAR_API coar_status coar_merge(const coar_merge_options *options, coar_merge_result *result);

/* ------------------------------------------------------------------------------------------- status */

enum { COAR_PROCESS_WORKS, COAR_PROCESS_ENDED /* by itself */, COAR_PROCESS_GONE /* killed, or its machine is away */ };

typedef struct coar_run_process { /* one process on one stage, as its heartbeat tells */
    char host[65], job[65];       /* job: the scheduler's name for it, "" without one */
    long pid;
    uint32_t shard, shards;       /* K, S; 0, 1 = no shards */
    uint32_t rank, ranks;         /* of an MPI job; ranks 0 = of none */
    int state;                    /* COAR_PROCESS_... */
    double beat_seconds;          /* since its last beat */
    uint64_t units, images;       /* work units and masked images that it has done */
    double seconds, rate;         /* that it took for them; images a second */
} coar_run_process;

typedef struct coar_run_shard {
    uint32_t shard, shards; /* K, S */
    uint64_t units, done;   /* work units that are its, and those that are done by anybody */
    uint32_t processes;     /* at work on it */
} coar_run_shard;

typedef struct coar_run_stage { /* under way */
    char name[64];              /* "ablate-0", ... (docs/runfile.md) */
    uint64_t units, done;
    double fraction;     /* done, with units of many passes that are under way */
    double rate;         /* images a second of all processes at work */
    double seconds_left; /* of the slowest shard that somebody works on; < 0: not known yet, or nobody is at work */
    const coar_run_process *processes;
    size_t process_count;
    const coar_run_shard *shards; /* K ascending; as the processes at work are divided, else those that were last */
    size_t shard_count;
} coar_run_stage;

enum { COAR_PART_NAME = 256 };

typedef struct coar_run_state { /* one block of memory, freed with coar_free */
    const coar_run_stage *stages;
    size_t stage_count;
    const char (*parts)[COAR_PART_NAME]; /* finished: file names in the run's folder */
    size_t part_count;
    int file_clock; /* ages of beats are by the file system's clock; 0: its folder is read-only, they are by this host's */
} coar_run_state;

/* How far the stages of a run are and who works on them. It may be asked at any time, from any host, and waits for
 * nobody. Of a run all that it changes is the time of the folder's lock file, where that may be written: that is how the
 * file system's clock is read. Work units are counted without a look at what they hold. */
COAR_API coar_status coar_run_status(const char *run, coar_run_state **state);

/* ------------------------------------------------------------------------------------------------ fit */

typedef struct coar_fit_options {
    size_t size;
    const char *run;         /* run.h5, or NULL with masks and outputs */
    const char *masks;       /* M.npy, bool [m, n] */
    const char *outputs;     /* Y.npy, f32 or f64 [m, N] */
    const char *output_file; /* attributions.h5; with masks and outputs only */
    const char *estimator;   /* ols, ridge, eb, lasso, grad, grad+eb. NULL: of a run with gradients grad+eb, or grad
                                 without masks; of a loo run ols: baseline minus output; else ridge */
    const char *output;      /* output name; NULL = the run's first */
    const char *name;        /* NULL = ESTIMATOR, or ESTIMATOR-OUTPUT for an output that is not the first */
    int standard_errors;     /* not of lasso; where noise cannot be told they are NaN */
    int threads;
    uint64_t memory;
    int force;
    int keep; /* a fit of this name, estimator and output is kept as it is where it was made from the same masks and
                                 gradients and has standard errors if they are asked for (already_complete), else replaced; one of
                                 another estimator or output is COAR_ERROR_EXISTS */
    int check_only; /* check what can be before the run is complete, or is there; *result stays as it is */
    const char *command;
    const coar_callbacks *callbacks;
    const char *
        backend; /* who counts and solves: cpu (also for reference) or cuda, whose `memory` is the device's. NULL = cuda
                                 where it can be had, else cpu */
    const char *devices; /* as in coar_ablate_options; a fit runs on the first of them */
    const char *solver;  /* direct (a dense matrix of side min(m, n), at most 30,000), iterative (conjugate gradients on
                                    packed masks), or auto. NULL = auto: by size (docs/estimators.md). lasso, grad: not */
} coar_fit_options;
#define COAR_FIT_INIT                                                                                                  \
    { .size = sizeof(coar_fit_options) }

typedef struct coar_fit_result {
    char name[64];
    uint64_t examples, components, masks;
    uint64_t examples_left_out, masks_left_out; /* because of non-finite outputs or gradients */
    double r2_mean, heldout_mean;               /* over examples with a value */
    double seconds;
    int already_complete;
    uint64_t passes; /* of gradients that were used */
    /* The mean correlation to expect of coar_evaluate at the training alpha, from predictions of masks that were held out,
     * and a 95 % interval over masks and examples. NaN where nothing could be held out. */
    double predicted, predicted_low, predicted_high;
    int iterative; /* solved by conjugate gradients */
    /* Of ols and ridge that are iterative |X'(y - X w) - penalty w| / |X'y| of the stored weights, in double precision with
     * centred masks: the largest and the median; examples whose own is above 1e-6; the most steps that one took. Else NaN
     * and 0. */
    double residual_largest, residual_median;
    uint64_t unsolved, steps_most;
} coar_fit_result;

/* Solves for the attributions of every example: from a run, into its folder; or from two arrays, into output_file. A
 * run must have finished its masks, and a fit of the same name is COAR_ERROR_EXISTS without force or keep. */
COAR_API coar_status coar_fit(const coar_fit_options *options, coar_fit_result *result);

/* --------------------------------------------------------------------------------------------- budget */

typedef struct coar_budget_options {
    size_t size;
    const char *budget;         /* "30m", "2h", "90s", or forward passes of every example: "5000p", a reverse pass being
                                    2.5 of them; NULL = 2n passes */
    uint64_t reserved;          /* passes of the budget that are for something else (evaluation) */
    int check_only;             /* check `budget` alone */
    coar_ablate_options ablate; /* the run; masks is not looked at */
    coar_fit_options fit;       /* of the fits in between: threads, memory, backend, output, standard_errors ... */
} coar_budget_options;
#define COAR_BUDGET_INIT                                                                                               \
    { .size = sizeof(coar_budget_options), .ablate = COAR_ABLATE_INIT, .fit = COAR_FIT_INIT }

typedef struct coar_budget_result {
    uint32_t passes, steps; /* k */
    uint64_t masks;         /* m */
    char estimator[16];     /* the fit to take: grad, or grad+eb where it predicts at least 0.005 more */
    int settled;            /* stopped because another doubling adds little, not because the budget is spent */
    double predicted;       /* correlation on fresh masks */
    double seconds;
} coar_budget_result;

/* Chooses and makes the passes that a budget is best spent on (docs/estimators.md): reverse passes doubled from 16 to at
 * most 512, then forward passes doubled, a fit after every step; ends when a doubling of reverse passes, or two of
 * forward passes in a row, raise the predicted correlation by less than 0.005 each, or when the budget is spent. The
 * fits `grad` and `grad+eb` stay in the run. A rerun goes on where the last one was stopped. */
COAR_API coar_status coar_budget(const coar_budget_options *options, coar_budget_result *result);

/* ------------------------------------------------------------------------------------------- evaluate */

typedef struct coar_evaluate_options {
    size_t size;
    const char *run;
    const char *fits;   /* "ols,ridge"; NULL = every fit */
    const char *alphas; /* ".1,.05"; NULL = the training alpha */
    uint64_t masks;     /* 0 = 100 */
    int has_seed;       /* 0: the run's seed */
    uint64_t seed;
    const char *model, *data; /* NULL = the run's paths; hashes are compared */
    const char *backend;      /* NULL = the run's, the only one that is taken */
    int threads;
    uint64_t memory;
    double time_limit; /* seconds for the masked passes; 0 = none. Then COAR_STOPPED */
    int force_resume;
    int check_only; /* as in coar_fit_options; `evaluations` and `count` may be NULL */
    const char *command;
    const coar_callbacks *callbacks;
    const char *devices; /* as in coar_ablate_options */
    int baselines;       /* leave-one-out, gradient at the full model, neuron conductance, internal influence: made
                               * where the run lacks them, as its fits loo, gp, nc, ii, and evaluated beside `fits` */
    const char *classes; /* as `model`, of a run that has class embeddings */
} coar_evaluate_options;
#define COAR_EVALUATE_INIT                                                                                             \
    { .size = sizeof(coar_evaluate_options) }

typedef struct coar_evaluation {
    char fit[64], output[64];
    double alpha;
    uint64_t masks, seed;
    double pearson_mean, pearson_low, pearson_high; /* bootstrap 95 % over masks and examples */
    double spearman_mean;
    uint64_t examples, examples_undefined; /* N, and those without a correlation: left out of the means */
} coar_evaluation;

/* Counterfactual correlation on fresh masks. *evaluations: `count` entries, freed with coar_free. */
COAR_API coar_status coar_evaluate(const coar_evaluate_options *options, coar_evaluation **evaluations, size_t *count);

/* ------------------------------------------------------------------------------------------------ edit */

typedef struct coar_edit_options {
    size_t size;
    const char *run; /* run.h5 */
    /* SPEC, or RUN.h5:SPEC of another run of the same model and components: examples with attributions whose outputs are to
     * change, and others whose outputs are to stay */
    const char *target, *reference;
    int raise, lower; /* one of them: what is to become of the target's outputs */
    uint32_t max_k;   /* K, at most n; 0 = 100, or n where that is less */
    /* SPEC or RUN.h5:SPEC of any rows: what k is chosen by, and what is only told: examples that decide nothing, and fresh
     * ones such as the target's. NULL: docs/edit.md has the defaults */
    const char *validation, *test, *target_test;
    int has_select; /* 0: 2 points; of language models 0.1 of the mean output */
    double select;  /* X: points of validation accuracy that an edit may cost, from 0; of language models mean output */
    /* percent: the smallest k within X at which so many of the target's examples are right (at most so many where outputs are to get worse), instead
     * of the largest gain; the sweep ends there */
    int has_until;
    double until;
    const char *fit;    /* NULL = of the first output's fits the one that expects the highest correlation */
    const char *name;   /* of the edit; NULL = "edit" */
    const char *method; /* NULL = "tau" (coar_edit_methods) */
    int compare;        /* the same k by all other methods, with intervals */
    /* C of method greedy, from 0: a root mean square loss of 1 at the references weighs C at the target */
    int has_harm_weight; /* 0: 2 */
    double harm_weight;
    /* W.npy f32 [M, n] in place of a fit, of the run's first output, and R.npy, integers [M]: the rows that they are of */
    const char *attributions, *rows;
    /* as in coar_evaluate_options, like those that follow; `data` is of `run`, other runs know theirs */
    const char *classes;
    const char *model, *data;
    const char *backend;
    const char *devices;
    int threads;
    uint64_t memory;
    const char *output; /* edited.safetensors; NULL = none */
    double time_limit;  /* seconds for the masked passes; 0 = none. Then COAR_STOPPED */
    int force;          /* replace an edit of this name, and `output` */
    int force_resume;
    const char *command;
    const coar_callbacks *callbacks;
} coar_edit_options;
#define COAR_EDIT_INIT                                                                                                 \
    { .size = sizeof(coar_edit_options) }

/* The sets of examples of an edit. The last may be empty. */
enum {
    COAR_EDIT_TARGET,
    COAR_EDIT_REFERENCE,
    COAR_EDIT_VALIDATION,
    COAR_EDIT_TEST,
    COAR_EDIT_TARGET_TEST,
    COAR_EDIT_SETS
};

/* A set under one mask. Accuracies are fractions of 1, NaN of language models, worst and average also of all sets but
 * validation and test. */
typedef struct coar_edit_score {
    double output;   /* mean of the fit's output */
    double accuracy; /* examples with a margin above 0 */
    double worst;   /* the lowest accuracy of a pair of label and group that has examples; without groups, of a label */
    double average; /* the pairs' mean accuracy, each pair counting alike */
} coar_edit_score;

typedef struct coar_edit_point {         /* of the sweep */
    uint32_t k;                          /* components ablated */
    coar_edit_score set[COAR_EDIT_TEST]; /* target, reference, validation */
} coar_edit_point;

typedef struct coar_edit_component { /* in the order in which they are ablated */
    uint32_t component;              /* 0 .. n - 1 */
    const char *group;               /* its component group ... */
    uint32_t row;                    /* ... and its place there */
    double score;                    /* the method's; of tau, docs/design.md, section 7 */
} coar_edit_component;

/* Accuracies of validation and test examples of one (label, group) pair; NaN where it has none of them. */
typedef struct coar_edit_pair {
    int32_t label, group;                /* group: -1 of data without groups */
    const char *label_name, *group_name; /* "" without names */
    uint64_t examples[2];
    double before[2], after[2];
} coar_edit_pair;

typedef struct coar_edit_interval { /* a mean over examples and its 95 % bootstrap interval */
    double mean, low, high;
} coar_edit_interval;

/* One way to choose k components. Losses: of accuracy, as fractions of 1; of language models of the mean output. */
typedef struct coar_edit_comparison {
    const char *method;
    coar_edit_interval target_gain; /* of its output, in the direction asked for */
    coar_edit_interval validation_loss, test_loss;
    coar_edit_interval target_test_gain; /* of accuracy, in the direction asked for; NaN without such examples */
} coar_edit_comparison;

/* One block of memory, freed with coar_free. */
typedef struct coar_edit_result {
    const char *name, *method, *fit, *output, *direction; /* fit: "(npy)", and "" of methods that take none */
    uint32_t components, max_k, k;                        /* n, K, the k chosen; 0: no edit helps */
    double select;                                        /* X: points, or mean output */
    uint32_t stopped;                                     /* the sweep ended before K at this k; 0: it did not */
    int has_classes;                                      /* 0: a language model */
    uint64_t examples[COAR_EDIT_SETS];
    coar_edit_score before[COAR_EDIT_SETS], after[COAR_EDIT_SETS]; /* at k = 0 and k */
    const coar_edit_point *points;                                 /* k ascending from 0 */
    size_t point_count;
    const coar_edit_component *order; /* [order_count]: K of them, or as many as the method has use for */
    size_t order_count;
    const coar_edit_pair *pairs; /* none of a language model */
    size_t pair_count;
    const coar_edit_comparison *comparisons; /* the edit itself first; none without `compare`, or where k is 0 */
    size_t comparison_count;
    double seconds;
} coar_edit_result;

/* Chooses components whose ablation raises or lowers the target's outputs and leaves the reference's, by attributions alone;
 * measures ablations of 0 .. K of them, chooses k on validation examples and tells what it does to test examples; stores all
 * of it as edit `name` of the run and, with `output`, writes the edited weights. A rerun after COAR_STOPPED goes on. */
COAR_API coar_status coar_edit(const coar_edit_options *options, coar_edit_result **result);

/* "tau, ...": what `method` may be. Static storage. */
COAR_API const char *coar_edit_methods(void);

/* ------------------------------------------------------------------------------------- report, bench */

typedef struct coar_report_options {
    size_t size;
    const char *run;
    const char *data;   /* NULL = the run's path */
    const char *fit;    /* NULL = the first */
    const char *output; /* report.html */
    int force;
    int replace_own; /* without force: replace a page that coar wrote, but no other file */
    int check_only;  /* check `output` alone; the run need not exist */
    const coar_callbacks *callbacks;
} coar_report_options;
#define COAR_REPORT_INIT                                                                                               \
    { .size = sizeof(coar_report_options) }

/* One self-contained HTML page. */
COAR_API coar_status coar_report(const coar_report_options *options);

/* One layer under the numerics plan, or its data gradient; valid during the call of `layer`. On GPUs each convolution
 * and linear layer is launched alone, at the batch that fills the device. On CPUs all ops are told, with the time they
 * had in the passes that were measured; the last entry, whose name is "", is the time in none of them: masks, pixels,
 * outputs, threads that waited. */
typedef struct coar_bench_layer {
    const char *name;      /* "layer1.0.conv2" */
    const char *shape;     /* cuda "bf16 256 56x56x64 > 56x56x64 3x3/1+1 pre scale shift relu": type, batch, in, out,
                             * kernel/stride+pad; cpu "conv 56x56x64 > 56x56x64 3x3/1+1"; of a data gradient
                             * "bf16 128 56x56x256 > 56x56x64 1x1/1+0 transposed" */
    const char *form;      /* "128x128x32 s4 w8", "cudnn:...", "cublaslt:..."; cpu "winograd compacted", ... */
    uint32_t splits;       /* partial sums */
    double seconds;        /* cuda: of one launch, alone; cpu: of all `images`, as a part of the wall time */
    double peak_fraction;  /* its dense flops per second of the device's peak; 0 = that is not known */
    uint64_t images;       /* that `seconds` and the numbers below are of */
    double time_fraction;  /* of all layers' seconds */
    double flops;          /* dense, direct form */
    double executed_flops; /* really executed: ablated rows left out, transformed products counted as what they are,
                             * lanes that only fill up a tile counted; 0 = not known */
    double bytes;          /* activations and weights, each read or written once; 0 = not known */
} coar_bench_layer;

typedef struct coar_bench_options {
    size_t size;
    const char *model; /* W.safetensors or an architecture name (random weights) */
    const char *arch;
    const char *components;
    double alpha;   /* 0 = 0.05 */
    int dense;      /* no ablation at all (alpha is ignored) */
    uint32_t batch; /* images or texts per mask; 0 = 200 (32x32), 64 (224x224) or 32 (texts) */
    const char *precision;
    const char *backend;
    int exact;
    int threads;
    uint64_t memory;
    double
        seconds; /* time to measure for, at least a mask (four where a mask does not fill tiles); 0 = a few seconds */
    const coar_callbacks *callbacks;
    const char *plan; /* a numerics plan to take over: FILE or run.h5 */
    void (*layer)(void *user,
                  const coar_bench_layer *layer); /* called for every layer; with `gradients` for those of the
                               reverse pass, on CPUs its forward part first. NULL = they are not timed. Backends that
                               cannot time them are COAR_ERROR_UNSUPPORTED */
    void *user;                                   /* handed to `layer` */
    int gradients;                                /* dense forward passes (as `dense`) and reverse passes in turn */
    uint32_t tokens;     /* of a text, for a language model; 0 = 128, or its context where that is less */
    const char *classes; /* as in coar_ablate_options; networks with random weights have 1,000 random classes without */
} coar_bench_options;
#define COAR_BENCH_INIT                                                                                                \
    { .size = sizeof(coar_bench_options) }

typedef struct coar_bench_result {
    char model[64], backend[16], isa[16], precision[16];
    int threads;
    uint32_t batch;
    double alpha;
    uint64_t images, masks;
    double seconds;
    double images_per_second; /* median over repetitions */
    double images_per_second_min, images_per_second_max;
    double flops_per_image;    /* dense, direct form */
    double peak_flops;         /* cpu: measured, at `threads` threads; cuda: the data sheet's, 0 = not known */
    double peak_fraction;      /* images_per_second * flops_per_image / peak_flops */
    double executed_fraction;  /* flops really executed / dense flops */
    double memory_bytes;       /* planned for the process in all; on a device, of its memory */
    double reverse_per_second; /* with `gradients`, else 0: images/s of reverse passes, median over repetitions */
    double reverse_per_second_min, reverse_per_second_max;
    double reverse_cost;   /* time of a reverse pass (with its forward part) in dense forward passes, median */
    double peak_flops_one; /* cpu: measured on one thread; else 0 */
    double bandwidth;      /* cpu: bytes per second of STREAM's triad beyond all caches, at `threads` threads; else 0 */
    double bandwidth_one;  /* cpu: on one thread; else 0 */
} coar_bench_result;

/* Measures masked forward passes as coar_ablate makes them, on random images; reads `model` if it is a file and writes
 * nothing. A stop asked for by the progress callback is COAR_STOPPED and gives no result. */
COAR_API coar_status coar_bench(const coar_bench_options *options, coar_bench_result *result);

/* ----------------------------------------------------------------------------------------------- plan */

typedef struct coar_plan_options {
    size_t size;
    /* The job. `model` may be an architecture's name (random weights); `output` may be NULL, and nothing is written but a
     * probe of its folder's disk (NULL: the folder for temporary files), which is removed again. shard, time_limit, force
     * and devices are not looked at; masks of file: need `masks`. */
    coar_ablate_options ablate;
    uint64_t count;         /* without `data`: so many random examples, of the model's shape */
    uint32_t tokens;        /* of such a text, for a language model; 0 = its context */
    uint32_t passes;        /* as coar run's: 0 = none, or with no masks either what a budget of 2n passes buys at most */
    const char *estimators; /* "ridge,ols"; NULL = coar run's choice */
    int standard_errors;
    const char *eval_alphas; /* as coar_evaluate_options.alphas */
    uint64_t eval_masks;     /* 0 = 100 */
    /* What one device does, where it is not to be measured here. */
    double rate;         /* masked images a second; 0 = measured */
    double reverse_rate; /* images differentiated a second; 0 = measured, or with `rate` rate / 2.5 */
    double fit_rate;     /* operations a second of the process that fits; 0 = measured, or with `rate` 1e11 */
    uint32_t devices;    /* rows for 1, 2, 4 ... and for so many; 0 = 1 */
    double seconds;      /* to measure each kind of work for; 0 = 5 */
    const coar_callbacks *callbacks;
} coar_plan_options;
#define COAR_PLAN_INIT                                                                                                 \
    { .size = sizeof(coar_plan_options), .ablate = COAR_ABLATE_INIT }

/* A stage of the job on one device. Stages that the job has not have 0 everywhere. */
typedef struct coar_plan_stage {
    const char *name;    /* gradients, ablate, fit, evaluate, report */
    uint64_t units;      /* work units that can be spread over devices */
    uint64_t images;     /* masked images, or images differentiated */
    double start;        /* seconds before the first unit: reading and hashing files, the unablated outputs */
    double work;         /* of the units, or of what is not spread */
    double finish;       /* of writing the finished part */
    double memory;       /* bytes of the process, as the job tells them; 0 = not known here */
    double device_memory; /* bytes of each device, 0 = none, or not known here */
} coar_plan_stage;

enum { COAR_PLAN_STAGES = 5 };

typedef struct coar_plan_row {
    uint32_t devices;                 /* each with a process of its own */
    double seconds[COAR_PLAN_STAGES]; /* start, work and finish on so many */
    double total;
    double efficiency;     /* of the stages that are spread: work on one device / (devices x work on them) */
    uint64_t batch;        /* units to hand out at once */
    double broadcast;      /* bytes of weights and examples to all processes but one */
    double reductions;     /* bytes of partial products that a fit spread over so many processes adds up */
} coar_plan_row;

/* One block of memory, freed with coar_free. */
typedef struct coar_plan_result {
    const char *arch, *device_class, *precision; /* class and precision: "" where nothing is measured here */
    uint64_t examples, masks;                    /* N, m */
    uint32_t components, outputs, passes;        /* n, outputs, k */
    uint32_t unit_masks, unit_examples;          /* B, E */
    double flops_per_image, weight_bytes, example_bytes;
    int measured;           /* 0: the rates are the caller's */
    double rate, reverse_rate, fit_rate; /* of one device; reverse: 0 without gradients */
    coar_plan_stage stages[COAR_PLAN_STAGES];
    double disk_peak, disk_final; /* bytes at the most, and of the finished job */
    double journals;              /* bytes written to the journals, over the network where the file system is shared */
    const coar_plan_row *rows;
    size_t row_count;
} coar_plan_result;

/* What a job of coar_run's stages will take, from a short measurement of its own kernels here or from given rates. */
COAR_API coar_status coar_plan(const coar_plan_options *options, coar_plan_result **result);

typedef enum coar_slurm_form {
    COAR_SLURM_ARRAY, /* a shard each for independent tasks, then one that fits and evaluates */
    COAR_SLURM_MPI    /* the whole job by one MPI process per device */
} coar_slurm_form;

typedef struct coar_slurm_options {
    size_t size;
    const char *path; /* the script to write */
    int force;
    coar_slurm_form form;
    const char *model, *data; /* files; NULL = the script takes them from its environment, MODEL and DATA */
    const char *output;       /* run.h5, on a file system that all nodes see; NULL: from the environment, RUN */
    /* Further words of the command line of the job, repeated quoted: options that gradients and ablate share, and those that
     * run has besides, without numbers of masks and passes, which are the plan's. */
    const char *const *words;
    size_t word_count;
    const char *const *run_words;
    size_t run_word_count;
    int gpus;            /* of a task: 0 or 1 */
    int cores;           /* of a task; 0 = 16 with a GPU, else 1 */
    const char *command; /* provenance: the command line; may be NULL */
} coar_slurm_options;
#define COAR_SLURM_INIT                                                                                                \
    { .size = sizeof(coar_slurm_options) }

/* Writes a Slurm script that runs the planned job on the devices of the plan's last row, goes on where the time limit or a
 * pre-emption stopped it, and needs no editing but for what a cluster calls its partitions. It appears complete or not
 * at all. */
COAR_API coar_status coar_plan_slurm(const coar_plan_result *plan, const coar_slurm_options *options);

/* ----------------------------------------------------------------------------------------------- selftest */

/* One comparison of the backend with the reference. Valid during the call of `report` alone. */
typedef struct coar_selftest_case {
    const char *name; /* "conv 3x3/2 11x9x16 to 24, gelu, residual, post", "resnet20, filters" */
    const char *precision;
    uint32_t slots, examples; /* masks and images of one call */
    uint64_t compared; /* numbers: logits of the unablated network, outputs under masks; of a "reverse" case outputs
                               and derivatives of a reverse pass: by keeps, influence, conductance, each on a scale of its
                               own */
    uint64_t wrong;    /* those further off than `largest_limit`, and those not finite on one side alone */
    double largest;    /* error: of the largest reference value (fp32), or of the reference's rms */
    double largest_limit;
    double rms; /* of the errors, over the rms of the reference */
    double rms_limit;
    double seconds;     /* one call of the backend under masks, after a first one */
    coar_status status; /* COAR_OK when it was computed; else `message` says why not */
    const char *message;
    int passed;
} coar_selftest_case;

typedef struct coar_selftest_options {
    size_t size;
    const char *backend;   /* NULL = the fastest present */
    const char *precision; /* "bf16,fp32"; NULL = all that the backend has */
    const char *only;      /* glob over names of cases; NULL = all */
    int quick;             /* small shapes and networks alone */
    int device;            /* of the backend, from 0 */
    int threads;
    uint64_t memory; /* 0 = what is free on the device; of the machine for cpu */
    void (*report)(void *user,
                   const coar_selftest_case *result); /* called for every case, on the calling thread; may be NULL */
    void *user;
    const coar_callbacks *callbacks;
} coar_selftest_options;
#define COAR_SELFTEST_INIT                                                                                             \
    { .size = sizeof(coar_selftest_options) }

typedef struct coar_selftest_result {
    char backend[16], device_class[128];
    uint64_t cases, failed;
    double seconds;
} coar_selftest_result;

/* Compares a backend with the reference: every op at a table of shapes, then whole networks with random weights, with
 * masks of every form; then, where the backend has a reverse pass, the derivatives of all of them ("reverse ..."). COAR_OK
 * also where cases failed: *result counts them. fp32 must be within 1e-4 of the largest value (derivatives of networks
 * within 5e-3 rms and eight times that of the largest, for the sake of ReLUs at zero); bf16, fp16 and tf32, with the reference rounding
 * weights, stored values and stored gradients in the same way, within 1 % rms for an op, 3 % for a network. */
COAR_API coar_status coar_selftest(const coar_selftest_options *options, coar_selftest_result *result);

/* What ranks say to each other, and how fast: one operation at one size. Valid during the call of `report` alone. */
typedef struct coar_comm_case {
    const char *operation; /* "broadcast" from rank 0; "sum" of 64-bit integers, to rank 0 */
    const char *way;       /* "MPI"; "NCCL" from device memory to device memory; "alone" */
    uint64_t bytes;        /* of each rank */
    uint64_t wrong;        /* numbers that are not what they must be, on all ranks */
    double seconds;        /* of the slowest rank; the best of three */
    int passed;
} coar_comm_case;

typedef struct coar_comm_options {
    size_t size;
    const char *backend; /* NULL = the fastest present */
    const char *devices; /* rank 0's; NULL = a machine's ranks take theirs in turn */
    uint64_t bytes;      /* the largest; 0 = 64 MiB */
    void (*report)(void *user, const coar_comm_case *result); /* may be NULL */
    void *user;
    const coar_callbacks *callbacks;
} coar_comm_options;
#define COAR_COMM_INIT                                                                                                 \
    { .size = sizeof(coar_comm_options) }

typedef struct coar_comm_result {
    int ranks, linked; /* linked: NCCL was tested as well; else a line of the log says why not, where the backend has it */
    uint64_t cases, failed;
    double seconds;
} coar_comm_result;

/* Rank 0, while the others follow; or a process alone. Broadcasts and sums by every way there is, of 8 bytes to
 * options.bytes. COAR_OK also where numbers were wrong: *result counts these cases. */
COAR_API coar_status coar_selftest_comm(const coar_comm_options *options, coar_comm_result *result);

/* Parses "8G", "512M", "65536" (powers of 1,024). Zero, and what exceeds 64 bits, are COAR_ERROR_USAGE. */
COAR_API coar_status coar_parse_size(const char *text, uint64_t *bytes);

#ifdef __cplusplus
}
#endif
#endif
