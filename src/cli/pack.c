/* pack.c - coar pack */
#include <stdio.h>

#include "cli/cli.h"

static int run(int count, char **arguments) {
    coar_pack_options o = COAR_PACK_INIT;
    const char *path = NULL;
    int paths;
    const cli_option options[] = {
        {"--from", OPTION_TEXT, &o.from, "KIND", "imagefolder, cifar10, cifar100, idx, npy or tokens"},
        {"-o", OPTION_TEXT, &o.output, "FILE", "the data set file to write (data.h5)"},
        {"--labels", OPTION_TEXT, &o.labels, "FILE", "labels of idx and npy images"},
        {"--groups", OPTION_TEXT, &o.groups, "FILE", "CSV of subpopulation labels (docs/formats.md)"},
        {"--size", OPTION_U32, &o.image_size, "S", "side in pixels; without it images must be equal"},
        {"--crop", OPTION_SHARE, &o.crop, "R", "shorter side to round(S/R), centre crop S (.875 from 224 up, else 1)"},
        {"--resize", OPTION_TEXT, &o.resize, "HOW", "area, bilinear (default) or bicubic, all anti-aliased"},
        {"--mean", OPTION_TEXT, &o.mean, "A,B,C", "mean of pixels/255 that the network expects, per channel"},
        {"--std", OPTION_TEXT, &o.std, "A,B,C", "standard deviation of the same"},
        {"--lengths", OPTION_TEXT, &o.lengths, "FILE", "tokens in a .npy: each text's length (default: all of them)"},
        {"--vocab", OPTION_TEXT, &o.vocabulary, "FILE", "tokens: the model's vocab.json; needed for a file of text"},
        {"--merges", OPTION_TEXT, &o.merges, "FILE", "tokens: its merges.txt"},
        {"--length", OPTION_U32, &o.length, "T", "tokens: cut longer texts (default: never)"},
        {"--threads", OPTION_INT, &o.threads, "T", "decoding threads (default: one per core)"},
        {"--force", OPTION_FLAG, &o.force, NULL, "replace an existing file"},
        {NULL},
    };
    if (!cli_parse(&command_pack, count, arguments, options, &path, 1, &paths)) return 2;
    if (!paths) return cli_usage_error(&command_pack, "name what to read");
    o.path = path;
    o.command = cli_command_line();
    o.callbacks = cli_callbacks();
    coar_pack_result r;
    coar_status status = coar_pack(&o, &r);
    if (status == COAR_OK && r.tokens)
        printf("%s: %llu texts of up to %u tokens, %.1f s\n", o.output, (unsigned long long)r.examples, r.tokens,
               r.seconds);
    else if (status == COAR_OK)
        printf("%s: %llu images of %u x %u x %u, %llu classes, %.1f s\n", o.output, (unsigned long long)r.examples,
               r.height, r.width, r.channels, (unsigned long long)r.classes, r.seconds);
    return cli_finish(status);
}

const cli_command command_pack = {"pack", "--from KIND PATH -o data.h5 [options]",
                                  "make a data set file from an image folder, CIFAR or IDX binaries, npy, or texts",
                                  run};
