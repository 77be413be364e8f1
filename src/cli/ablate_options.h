/* ablate_options.h - the options that `ablate` and `run` share. */
#ifndef COAR_CLI_ABLATE_OPTIONS_H
#define COAR_CLI_ABLATE_OPTIONS_H

#include "cli/cli.h"

/* Options that need one more look after parsing. */
typedef struct ablate_texts {
    const char *store; /* f32, f16 */
} ablate_texts;

#define ABLATE_OPTIONS(o, texts)                                                                                         \
    {"--model", OPTION_TEXT, &(o).model, "FILE", "weights (safetensors)"},                                              \
        {"--data", OPTION_TEXT, &(o).data, "FILE", "data set file (coar pack)"},                                        \
        {"-o", OPTION_TEXT, &(o).output, "FILE", "the run file (run.h5)"},                                              \
        {"--arch", OPTION_TEXT, &(o).arch, "NAME,K=V", "architecture, and keys the weights do not tell"},               \
        {"--classes", OPTION_TEXT, &(o).classes, "FILE", "of a CLIP: class embeddings (.npy)"},                         \
        {"--examples", OPTION_TEXT, &(o).examples, "SPEC", "0:200, 3,17, class:truck, wrong, @rows.npy ... (all)"},     \
        {"--masks", OPTION_COUNT, &(o).masks, "M", "ablated networks (2 n); a larger number extends a run"},              \
        {"--sampler", OPTION_TEXT, &(o).sampler, "KIND", "bernoulli, fixed, stratified, loo, file:PATH"},               \
        {"--alpha", OPTION_FRACTION, &(o).alpha, "A", "expected fraction ablated (0.05)"},                                  \
        {"--seed", OPTION_SEED, &(o).seed, "S", "of the masks (0)"},                                                     \
        {"--output", OPTION_TEXT, &(o).outputs, "LIST", "margin, logit, logit:K, logit:K-J, loss"},                     \
        {"--label", OPTION_TEXT, &(o).label, "WHICH", "predicted: the unablated network's own labels"},                 \
        {"--ablation", OPTION_TEXT, &(o).ablation, "KIND", "zero (default), mean, scale:G"},                            \
        {"--calibration", OPTION_TEXT, &(o).calibration, "SPEC", "examples for the means of mean (the run's)"},         \
        {"--components", OPTION_TEXT, &(o).components, "SET", "filters, neurons, heads, blocks (the model's first)"},   \
        {"--only", OPTION_TEXT, &(o).only, "GLOB", "component groups to take"},                                         \
        {"--except", OPTION_TEXT, &(o).except, "GLOB", "component groups to leave out"},                                \
        {"--backend", OPTION_TEXT, &(o).backend, "NAME", "cuda, cpu or reference (the fastest present)"},               \
        CLI_ISA_OPTION,                                                                                                 \
        {"--devices", OPTION_TEXT, &(o).devices, "LIST", "GPUs to use, as in 0,1 (all)"},                               \
        {"--precision", OPTION_TEXT, &(o).precision, "P", "auto (default), fp32, tf32, bf16, fp16"},                    \
        {"--exact", OPTION_FLAG, &(o).exact, NULL, "direct kernels only"},                                              \
        {"--plan", OPTION_TEXT, &(o).plan, "FILE", "take over a numerics plan (run.h5 or its JSON)"},                   \
        {"--threads", OPTION_INT, &(o).threads, "T", "threads (one per core)"},                                         \
        {"--memory", OPTION_SIZE, &(o).memory, "BYTES", "most memory to take, e.g. 8G (half of the machine's)"},        \
        {"--store-masks", OPTION_FLAG, &(o).store_masks, NULL, "store the masks beside the outputs"},                   \
        {"--store", OPTION_TEXT, &(texts).store, "TYPE", "f32 (default) or f16"},                                       \
        {"--shard", OPTION_TEXT, &(o).shard, "K/S", "only every S-th work unit, from K (0 to S-1)"},                    \
        {"--time-limit", OPTION_SECONDS, &(o).time_limit, "TIME", "stop and save after 90s, 30m, 2h (exit code 3)"},    \
        {"--log-interval", OPTION_SECONDS, &cli_log_interval, "TIME", "between progress lines in a log (60s)"},         \
        {"--force", OPTION_FLAG, &(o).force, NULL, "remove the whole run (ablations, gradients, fits), start over"}, {  \
        "--force-resume", OPTION_FLAG, &(o).force_resume, NULL, "resume although another process seems alive"           \
    }

/* False: a usage error was printed. Fills provenance and callbacks. */
bool ablate_options_finish(const cli_command *command, coar_ablate_options *o, const ablate_texts *texts);

/* cli_follow of a job with these options. */
int ablate_follow(const coar_ablate_options *o);

/* The summary lines: of what was done, also by a call that was stopped. */
void ablate_print(const coar_ablate_options *o, const coar_ablate_result *r);
void gradients_print(const coar_gradients_options *o, const coar_gradients_result *r);

#endif
