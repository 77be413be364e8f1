/*
 * means.c - sums of x over positions and examples, per masked channel, for `mean` ablation.
 *
 * The unablated model runs op by op. x is the op's own result where the mask acts on that (OUT); for PRE and POST it
 * is the convolution once more without what comes behind the place. Sums run over examples and positions in their
 * order, in double, so that they do not depend on how many examples are computed at a time.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"

static coar_status add_sums(const cuda_pass *pass, const cuda_layer *layer, bool wide, const void *x) {
    const cuda_backend *b = pass->b;
    return cuda_launched(pass, layer,
                         gpu_channel_sums_launch(b->type, wide, pass->count, (uint32_t)shape_positions(layer->out),
                                                 layer->out.c, x, b->sums + layer->op->mask.row_first, pass->stream));
}

/* x of a PRE or POST site in fp32. Its inputs are still there, but for a residual whose place the result took: that
 * is not part of x. */
static coar_status compute_site(const cuda_pass *pass, const cuda_layer *layer) {
    gpu_conv c = cuda_conv_args(pass, layer);
    c.pairs = pass->count;
    c.residual = NULL;
    c.activation = GPU_NONE;
    c.mask = (gpu_mask){.place = GPU_PLACE_NONE};
    c.y = pass->batch->observed;
    c.wide = true;
    c.splits = 1; /* no workspace: the layer's own may be a library's */
    if (layer->op->mask.place == PLACE_PRE) c.scale = c.shift = NULL;
    return cuda_launched(pass, layer, gpu_conv_launch(&c, 0, pass->stream));
}

static coar_status see(void *context, const cuda_pass *pass, const cuda_layer *layer) {
    const op *o = layer->op;
    (void)context;
    switch (o->mask.place) {
    case PLACE_NONE:
        return COAR_OK;
    case PLACE_OUT:
        return add_sums(pass, layer, o->output == pass->b->settings.graph->logits, cuda_value(pass, o->output));
    case PLACE_PRE:
    case PLACE_POST:
        TRY(compute_site(pass, layer));
        return add_sums(pass, layer, true, pass->batch->observed);
    }
    return COAR_OK;
}

coar_status cuda_means_add(cuda_backend *b, double *sums) {
    coar_status status = COAR_OK;
    const size_t rows = b->settings.graph->rows;
    const uint32_t most = b->batch[CUDA_FORWARD].observed_pairs;
    double *found = NULL;
    TRY(memory_new(rows, sizeof *found, "row sums", &found));
    TRY_CUDA_GOTO(cudaMemsetAsync(b->sums, 0, rows * sizeof *b->sums, b->compute), "row sums (compute stream)");
    for (uint32_t first = 0; first < b->examples; first += most) {
        const uint32_t left = b->examples - first;
        cuda_pass pass;
        TRY_GOTO(cuda_batches_unablated(b, first, left < most ? left : most, &pass));
        pass.see = see;
        TRY_GOTO(cuda_forward(&pass));
        TRY_CUDA_GOTO(cudaStreamSynchronize(b->compute),
                      "row sums (compute stream)"); /* before the lane is filled again */
    }
    TRY_CUDA_GOTO(cudaMemcpyAsync(found, b->sums, rows * sizeof *found, cudaMemcpyDeviceToHost, b->compute),
                  "row sums (compute stream)");
    TRY_CUDA_GOTO(cudaStreamSynchronize(b->compute), "row sums (compute stream)");
    for (size_t r = 0; r < rows; r++) sums[r] += found[r];
done:
    if (status != COAR_OK) (void)cudaStreamSynchronize(b->compute);
    free(found);
    return status;
}
