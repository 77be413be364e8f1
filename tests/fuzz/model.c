/*
 * Fuzzes tensors to op list: right names with wrong shapes, missing and swapped tensors, image sizes, --arch texts.
 *
 * The bytes are a programme of changes to the golden network of a family, because a mutated weight file would nearly
 * always end at the reader (tests/fuzz/safetensors.c): [network] [image side] [changes] then per change [tensor] [kind]
 * [dimension] [value], and what is left is the text of --arch.
 */
#include "fuzz.h"

#include "core/memory.h"
#include "model/model.h"
#include "model/safetensors.h"

static const char *const names[] = {
    "cifar_option_a", "cifar_shortcut",  "basic_cifar_stem", "bottleneck", "mini_resnet", "vit_torchvision", "vit_timm",
    "vit_hf",         "clip_vit_openai", "clip_vit_hf",      "clip_rn",    "gpt2",        "gpt2_prefixed"};
enum { NETWORKS = sizeof names / sizeof *names, DATA_MAX = 1 << 20 };

static tensor_table networks[NETWORKS];
static float numbers[DATA_MAX]; /* behind every tensor that grew */

/* Sizes near the true one, near zero, and far too large. */
static size_t other_size(size_t is, uint8_t value) {
    static const size_t sizes[] = {0, 1, 2, 3, 7, 8, 64, 65, 1025, INT32_MAX, UINT32_MAX, SIZE_MAX};
    if (value < 64) return is + value - 32;
    return sizes[value % (sizeof sizes / sizeof *sizes)];
}

static void change(tensor_table *table, const uint8_t *code) {
    tensor *t = &table->items[code[0] % table->count], *other = &table->items[code[3] % table->count];
    int d = t->rank ? code[2] % t->rank : 0;
    switch (code[1] % 6) {
    case 0: { /* swap two tensors' contents */
        tensor kept = *t;
        char *name = t->name, *other_name = other->name;
        *t = *other;
        *other = kept;
        t->name = name;
        other->name = other_name;
        return;
    }
    case 1:
        t->name[strlen(t->name) - 1] ^= 1;
        return; /* unknown, and missing */
    case 2:
        t->rank = code[3] % (TENSOR_MAX_RANK + 1);
        break;
    case 3:
        t->type = (tensor_type)(code[3] % (TENSOR_OTHER + 1));
        break;
    default:
        t->shape[d] = other_size(t->shape[d], code[3]);
    }
    size_t count = 1;
    for (d = 0; d < t->rank; d++)
        if (!size_mul(count, t->shape[d], &count)) count = DATA_MAX + 1;
    if (count > DATA_MAX) { /* no file could hold it: the reader has refused it */
        t->rank = 0;
        count = 1;
    }
    t->count = count;
    if (t->type == TENSOR_F64 && count > DATA_MAX / 2) t->type = TENSOR_F32;
    t->bytes = count * (t->type == TENSOR_F64 || t->type == TENSOR_I64 ? 8 : t->type == TENSOR_F32 ? 4 : 2);
    t->data = numbers;
}

static void build(const uint8_t *data, size_t size) {
    if (size < 3) return;
    const tensor_table *base = &networks[data[0] % NETWORKS];
    size_t changes = data[2] % 8, used = 3;
    tensor_table table = {.path = strdup("fuzz")};
    char arch[256] = "";
    status_clear();
    for (size_t i = 0; i < base->count; i++)
        if (tensor_table_push(&table, &base->items[i], base->items[i].name) != COAR_OK) exit(2);
    for (size_t i = 0; i < base->meta_count; i++)
        if (tensor_table_add_metadata(&table, base->meta_keys[i], base->meta_values[i]) != COAR_OK) exit(2);
    for (; changes > 0 && size - used >= 4; changes--, used += 4) change(&table, data + used);
    if (used < size) snprintf(arch, sizeof arch, "%.*s", (int)(size - used), (const char *)data + used);
    model *m = NULL;
    model_options options = {
        .arch = arch[0] ? arch : NULL, .image_height = data[1], .image_width = data[1], .tokens = data[1]};
    if (tensor_table_index(&table) == COAR_OK && model_build(&table, &options, &m) == COAR_OK) model_destroy(m);
    tensor_table_close(&table);
}

/* CLIPs' classes, which otherwise come from a file of their own. */
static coar_status add_classes(tensor_table *table) {
    enum { CLASSES = 7, WIDTH = 11 };
    static float values[CLASSES * WIDTH]; /* no table's own: copies of the network share it */
    for (size_t i = 0; i < CLASSES * WIDTH; i++) values[i] = (float)(i % 5) - 2;
    const tensor t = {.type = TENSOR_F32,
                      .rank = 2,
                      .shape = {CLASSES, WIDTH},
                      .count = CLASSES * WIDTH,
                      .data = values,
                      .bytes = sizeof values};
    TRY(tensor_table_push(table, &t, "class_embeddings"));
    return tensor_table_index(table);
}

int main(void) {
    const char *folder = getenv("TEST_DIR");
    fuzz_seed seeds[NETWORKS + 3];
    uint8_t codes[NETWORKS][11];
    for (size_t i = 0; i < NETWORKS; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/golden/models/%s.safetensors", folder ? folder : "tests", names[i]);
        if (safetensors_open(path, &networks[i]) != COAR_OK ||
            (strncmp(names[i], "clip", 4) == 0 && add_classes(&networks[i]) != COAR_OK)) {
            printf("Bail out! %s\n", coar_last_error());
            return 2;
        }
        memcpy(codes[i], (uint8_t[]){(uint8_t)i, i < 5 ? 40 : 0, 2, (uint8_t)(5 * i), 4, 0, 33, 9, 4, 1, 31},
               sizeof codes[i]);
        seeds[i] = (fuzz_seed){codes[i], sizeof codes[i]};
    }
    static const char heads[] = "\6\0\0vit,heads=6,ln_eps=1e-5,mean=.5,.5,.5,std=1,1,1,activation=quickgelu";
    static const char clip[] = "\10\0\0clip,heads=6,logit_scale=1,activation=gelu";
    static const char image[] = "\0\0\0resnet,image=32,bn_eps=1e-3,mean=0,0,0,std=1,2,3";
    seeds[NETWORKS] = (fuzz_seed){heads, sizeof heads - 1};
    seeds[NETWORKS + 1] = (fuzz_seed){image, sizeof image - 1};
    seeds[NETWORKS + 2] = (fuzz_seed){clip, sizeof clip - 1};
    int code = fuzz_run("model", seeds, sizeof seeds / sizeof *seeds, 30000, build);
    for (size_t i = 0; i < NETWORKS; i++) tensor_table_close(&networks[i]);
    return code;
}
