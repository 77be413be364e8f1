/*
 * clip.c - CLIP's image encoders as zero-shot classifiers (Radford et al., arXiv 2103.00020, section 3.1.2): with the
 * image's embedding x and the classes' c, both of length 1, the logits are exp(logit_scale) x.c.
 *
 * The classes' embeddings come from --classes; the text encoder that made them may be in the weight file and is left
 * alone. Weights of OpenAI, OpenCLIP and Hugging Face.
 * Must not know: devices, runs.
 */
#include "model/clip.h"

#include <fnmatch.h>
#include <math.h>

#include "model/class_embeddings.h"

static const char *const vit_keys[] = {"heads", "ln_eps", "activation", "logit_scale", "mean", "std", "image", NULL};
static const char *const resnet_keys[] = {"heads", "bn_eps", "logit_scale", "mean", "std", "image", NULL};

const float clip_pixels[2][3] = {{0.48145466f, 0.4578275f, 0.40821073f}, {0.26862954f, 0.26130258f, 0.27577711f}};

/* The text encoder's tensors, and numbers about the image's that its tensors tell as well. */
static const char *const ignored[] = {
    "transformer.*", "token_embedding.*", "positional_embedding", "ln_final.*", "text_projection*", "text.*",
    "text_model.*",  "*.position_ids",    "input_resolution",     "vocab_size", "context_length",   "attn_mask",
};

static void ignore_texts(tensor_table *table) {
    for (size_t i = 0; i < table->count; i++)
        for (size_t k = 0; k < sizeof ignored / sizeof *ignored; k++)
            if (fnmatch(ignored[k], table->items[i].name, 0) == 0) table->items[i].used = 1;
}

/* The logarithm: what --arch says, else the file's tensor, else metadata or config.json, else ln 100, beyond which
 * training did not let it grow. */
static coar_status read_scale(const model_builder *b, double *out) {
    enum { SCALE_MOST = 20 }; /* its exponential is 5e8 */
    const model_setting *given = settings_find(b->settings, "logit_scale");
    tensor *t = tensor_find(b->table, "logit_scale");
    float *value;
    double scale;
    TRY(settings_real(b->settings, "logit_scale", log(100), -SCALE_MOST, SCALE_MOST, &scale));
    if (t) {
        if (t->count != 1)
            return status_set(COAR_ERROR_INPUT, "%s: tensor 'logit_scale': is not one number", b->table->path);
        TRY(tensor_to_f32(b->table, t, &value));
        TRY(graph_own(b->model->graph, value));
        if (!(fabsf(*value) <= SCALE_MOST))
            return status_set(COAR_ERROR_INPUT, "%s: tensor 'logit_scale': %g is not between -%d and %d",
                              b->table->path, (double)*value, SCALE_MOST, SCALE_MOST);
        if (!given || given->origin != SETTING_ARCH) scale = *value;
    }
    *out = exp(scale);
    return COAR_OK;
}

static coar_status add_classes(model_builder *b, int *value) {
    double scale = 1;
    uint32_t classes = 0;
    op unit = builder_op(OP_NORMALISE, "normalise", *value);
    TRY(builder_add(b, &unit, 0, value));
    op head = builder_op(OP_CONV, "head", *value);
    TRY(read_scale(b, &scale));
    TRY(class_embeddings_load(b, builder_shape(b, *value).c, scale, &classes, &head.weight));
    return builder_add(b, &head, classes, value);
}

static coar_status build(model_builder *b, coar_status (*add_encoder)(model_builder *, char *, int *)) {
    char arch[CLIP_NAME];
    int x;
    ignore_texts(b->table);
    TRY(add_encoder(b, arch, &x));
    TRY(add_classes(b, &x));
    return builder_finish(b, arch, x);
}

static coar_status build_vit(model_builder *b) {
    return build(b, clip_vit_add);
}

static coar_status build_resnet(model_builder *b) {
    return build(b, clip_resnet_add);
}

const model_family family_clip_vit = {
    .name = "clip",
    .keys = vit_keys,
    .first_set = SET_NEURONS,
    .zero_shot = true,
    .recognise = clip_vit_recognise,
    .build = build_vit,
};

const model_family family_clip_resnet = {
    .name = "clip",
    .keys = resnet_keys,
    .first_set = SET_FILTERS,
    .zero_shot = true,
    .recognise = clip_resnet_recognise,
    .build = build_resnet,
};
