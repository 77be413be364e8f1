/*
 * attribute.c - component attributions of a small network from C: pack, ablate, fit, evaluate.
 *
 *     build/examples/attribute DATA.h5 RUN.h5
 *
 * Run from the top of the repository; both files are written. `coar report` and h5py read RUN.h5. Stopped and started
 * again, it goes on where it was.
 */
#include <stdio.h>

#include "coar.h"

#define IMAGES "data/digits-images.npy"
#define LABELS "data/digits-labels.npy"
#define MODEL "data/digits-resnet.safetensors"
#define TEST_ROWS "@data/digits-test-rows.npy" /* the 360 images that the network was not trained on */

/* Called at least once a work unit; returning 1 would stop after the unit in hand, with everything saved. */
static int show_progress(void *user, const coar_progress *p) {
    (void)user;
    fprintf(stderr, "\r%s: %llu of %llu", p->stage, (unsigned long long)p->done, (unsigned long long)p->total);
    return 0;
}

static coar_status attribute(const char *data, const char *run) {
    const coar_callbacks callbacks = {.progress = show_progress};

    coar_pack_options pack = COAR_PACK_INIT;
    pack.from = "npy";
    pack.path = IMAGES;
    pack.labels = LABELS;
    pack.output = data;
    coar_pack_result packed;
    coar_status status = coar_pack(&pack, &packed);
    if (status != COAR_OK && status != COAR_ERROR_EXISTS) return status; /* a file that is there is used as it is */

    /* 2,000 networks with a random tenth of the 180 filters set to zero; all examples go through each. */
    coar_ablate_options ablate = COAR_ABLATE_INIT;
    ablate.model = MODEL;
    ablate.data = data;
    ablate.examples = TEST_ROWS;
    ablate.output = run;
    ablate.alpha = 0.1;
    ablate.masks = 2000;
    ablate.callbacks = &callbacks;
    coar_ablate_result passes;
    status = coar_ablate(&ablate, &passes);
    if (status != COAR_OK) return status;
    printf("\n%llu examples, %llu components, %llu masks\n", (unsigned long long)passes.examples,
           (unsigned long long)passes.components, (unsigned long long)passes.masks);

    /* One linear model per example: margin ~ bias + sum of the kept components' weights. */
    coar_fit_options fit = COAR_FIT_INIT;
    fit.run = run;
    fit.keep = 1; /* a fit of these masks that is there already is not made again */
    coar_fit_result fitted;
    status = coar_fit(&fit, &fitted);
    if (status != COAR_OK) return status;
    printf("%s: mean R^2 %.3f, mean held-out correlation %.3f\n", fitted.name, fitted.r2_mean, fitted.heldout_mean);

    /* Do these models predict ablations that they were not fitted to, also milder ones? */
    coar_evaluate_options evaluate = COAR_EVALUATE_INIT;
    evaluate.run = run;
    evaluate.alphas = "0.1,0.05";
    coar_evaluation *evaluations = NULL;
    size_t count = 0;
    status = coar_evaluate(&evaluate, &evaluations, &count);
    if (status != COAR_OK) return status;
    for (size_t i = 0; i < count; i++)
        printf("%s at alpha %g: correlation %.3f (95 %%: %.3f to %.3f)\n", evaluations[i].fit, evaluations[i].alpha,
               evaluations[i].pearson_mean, evaluations[i].pearson_low, evaluations[i].pearson_high);
    coar_free(evaluations);
    return COAR_OK;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: attribute DATA.h5 RUN.h5\n");
        return 2;
    }
    coar_status status = attribute(argv[1], argv[2]);
    if (status != COAR_OK) fprintf(stderr, "attribute: %s\n", coar_last_error());
    return status == COAR_OK ? 0 : 1;
}
