/*
 * dataset.h - data set files (docs/formats.md): images u8 [N][H][W][C] with labels i32 [N], or texts as tokens i32 [N][T]
 * with lengths i32 [N]; groups i32 [N].
 *
 * Thread-safety: functions that take a const dataset may run in several threads at once (HDF5 is locked inside).
 * Must not know: models, runs.
 */
#ifndef COAR_DATA_DATASET_H
#define COAR_DATA_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

#define DATASET_FORMAT "coar.data"
enum { DATASET_VERSION_MAJOR = 1, DATASET_VERSION_MINOR = 1 }; /* 1.1: texts */

#define DATASET_MAX_CHANNELS 4
#define DATASET_UNLABELLED (-1)
#define DATASET_MAX_SIDE 65535u        /* pixels: what JPEG can hold */
#define DATASET_MAX_CLASSES (1u << 20) /* beyond any real data set; bounds tables that have one entry per class */
#define DATASET_MAX_TOKENS (1u << 20)  /* of a text: beyond any context */

typedef struct dataset {
    char *path;
    char sha256[65];                  /* filled by dataset_hash */
    uint64_t count;                   /* N */
    uint32_t height, width, channels; /* of images, else 0 */
    uint32_t tokens;                  /* T, of texts: all have as much room; else 0 */
    uint32_t vocabulary;              /* of texts: tokens are below it. 0 = the file does not say */
    int32_t *labels;    /* [N], checked to be in 0..classes-1; of texts, which have no classes, their lengths: 2..T */
    int32_t *groups;    /* [N], checked to be >= 0; or NULL */
    char **class_names; /* [classes] or NULL */
    size_t classes;     /* from class_names, else largest label + 1 */
    char **group_names; /* [group_names_count] or NULL */
    size_t group_names_count;
    int has_normalisation;
    float mean[DATASET_MAX_CHANNELS], std[DATASET_MAX_CHANNELS]; /* of pixels/255, per channel */
    int64_t file, examples;                                      /* hid_t, kept open: /images or /tokens */
} dataset;

/* Opens and checks shapes, types, labels (>= 0) and format version. */
coar_status dataset_open(const char *path, dataset **out);
void dataset_close(dataset *data); /* accepts NULL */
coar_status dataset_hash(dataset *data);

/* "images" or "texts", for messages. */
const char *dataset_kind(const dataset *data);

/* Of one example as dataset_read gives it: u8 [H][W][C], or i32 [T], whose tokens are as the file has them. */
size_t dataset_example_bytes(const dataset *data);

/* The examples of the rows given (ascending runs are read in one piece). */
coar_status dataset_read(const dataset *data, const uint64_t *rows, size_t count, void *examples);

/* Rows that a SPEC selects, ascending and unique where it is a range or predicate, in the given order where it lists
 * rows. `wrong`/`correct` need `correct` [N] (1 = the unablated model is right) and `rest` needs `taken` [N] (1 = used
 * elsewhere: `rest` is all others); where the caller has none (NULL) such a SPEC is COAR_ERROR_USAGE, and so is `class:`
 * of texts. *rows: malloc'ed. An empty selection is an error. Grammar: docs/design.md, section 5, SPEC. text NULL or "all" = all rows. */
coar_status dataset_select(const dataset *data, const char *text, const uint8_t *correct, const uint8_t *taken,
                           uint64_t **rows, size_t *count);

/* Whether a term of a SPEC (NULL: of none) is that word, or all but that. */
bool spec_has(const char *text, const char *word);

/* Whether a term of a SPEC numbers rows (5, 0:200, @rows.npy), or all of them are properties. */
bool spec_numbers_rows(const char *text);

/* What an importer hands to the writer, example by example. Everything is borrowed until dataset_writer_create returns. */
typedef struct dataset_description {
    uint64_t count;
    uint32_t height, width, channels; /* of images */
    uint32_t tokens, vocabulary;      /* of texts: tokens above 0; vocabulary 0 = not known */
    char **class_names;               /* [classes]; NULL: none known */
    size_t classes;
    char **group_names; /* [group_names_count] or NULL */
    size_t group_names_count;
    const int32_t *labels; /* [count]; of texts their lengths */
    const int32_t *groups; /* [count] or NULL */
    const char *source;    /* provenance text */
    const char *command;   /* or NULL */
    int has_normalisation;
    float mean[DATASET_MAX_CHANNELS], std[DATASET_MAX_CHANNELS];
} dataset_description;

typedef struct dataset_writer dataset_writer;

/* Writes beside `path` under a temporary name. */
coar_status dataset_writer_create(const char *path, const dataset_description *d, dataset_writer **out);
/* The next `count` examples, in ascending order without gaps: u8 [H][W][C] or i32 [T] each. */
coar_status dataset_writer_append(dataset_writer *w, const void *examples, uint64_t count);
/* Closes, syncs, renames to the final name. destroy without finish removes the temporary. */
coar_status dataset_writer_finish(dataset_writer *w);
void dataset_writer_destroy(dataset_writer *w); /* accepts NULL */

#endif
