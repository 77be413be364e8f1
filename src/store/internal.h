/*
 * internal.h - what the files of src/store share.
 *
 *   settings.c  settings <-> JSON, comparison, documents written once      run.c       create, open, force, close
 *   folder.c    names in the parts folder, its lock, left-over files       liveness.c  heartbeats: who else works here
 *   journal.c   one append-only file of records                            stage.c     units over their journals
 *   stage_document.c  STAGE.json: settings and plan
 *   arrays.c    how arrays are stored in parts: chunks, filters, f16      tables.c    tables.h5
 *   parts.c     outputs and truth parts, written from units               outputs.c   reading outputs and truth back
 *   gradients.c gradients.h5, read                                         gradients_write.c  and made of units
 *   fits.c      fits                                                       evaluations.c  predictions
 *   edits.c     edits
 *   index.c     run.h5, rebuilt from the folder                            merge.c     one plain file
 *   describe.c  what is in a run file, as JSON
 *
 * Must not know: models, devices, what a unit computes.
 */
#ifndef COAR_STORE_INTERNAL_H
#define COAR_STORE_INTERNAL_H

#include <cjson/cJSON.h>
#include <pthread.h>

#include "core/h5.h"
#include "store/store.h"

enum { RUN_VERSION_MAJOR = 1, RUN_VERSION_MINOR = 0 };

#define NAME_SIZE 64                 /* stages, fits: with the terminator */
#define PARTS_MAX 999                /* outputs parts of a run (docs/runfile.md) */
#define ABLATE_STAGE "ablate-"       /* and the first mask */
#define GRADIENTS_STAGE "gradients-" /* and the first pass */
#define GRADIENTS_FILE "gradients.h5"
#define EDIT_PART "edit-" /* and its name */
#define STAGE_FORMAT "coar.stage"

/* ------------------------------------------------------------------------------------------- settings.c */

typedef struct setting_list { /* owns its texts */
    setting *items;
    size_t count;
} setting_list;

void settings_free(setting_list *list);
const char *settings_value(const setting_list *list, const char *key);

/* COAR_ERROR_MISMATCH naming `what`, the first compared setting that differs, both values and the flag. */
coar_status settings_compare(const char *what, const setting_list *stored, const setting *given, size_t count);

/* A JSON document {format, version, settings, plan}. plan NULL: none. */
typedef struct document {
    setting_list settings;
    char *plan;
    char identity[65]; /* SHA-256 of the file's bytes */
} document;

/* Writes a document unless the name is taken: as a temporary file, synced, linked. *written tells which. */
coar_status document_create(const char *path, const char *format, const setting *settings, size_t count,
                            const char *plan, bool *written);
/* Reads and checks one; the file is untrusted. */
coar_status document_read(const char *path, const char *format, document *out);
coar_status document_parse(const char *path, const char *format, const char *text, size_t size, document *out);
void document_free(document *d);

/* ------------------------------------------------------------------------------------------------ run.c */

struct run_store {
    char *path;              /* run.h5 */
    char *folder;            /* run.h5.parts */
    const char *folder_name; /* its last component */
    document manifest;
    document ablate; /* the first ablate stage's, once it has begun: settings that are the ablations' alone */
    int lock;        /* descriptor of the lock file, -1 */
    int lock_depth;
};

/* ----------------------------------------------------------------------------------------------- folder.c */

typedef struct name_list {
    char **names; /* in strcmp order */
    size_t count, capacity;
} name_list;

void name_list_free(name_list *list);
void name_list_sort(name_list *list);
/* Files in the parts folder with this beginning and end; temporary files are left out unless the end asks for them. */
coar_status folder_list(const run_store *store, const char *prefix, const char *suffix, name_list *out);
/* FOLDER/NAME; malloc'ed, NULL only when out of memory (with the message set). */
char *folder_path(const run_store *store, const char *name);
/* Removes a file of the folder, if it is there. */
coar_status folder_remove(const run_store *store, const char *name);
/* Puts a file into the folder, in place of one that may be there, and brings the index up to date: `write` makes it under a
 * temporary name, holding HDF5's lock. The caller holds the folder's. */
coar_status folder_put(run_store *store, const char *name, coar_status (*write)(const char *path, const void *context),
                       const void *context);
/* A name made of letters, digits and . _ + - : that is short enough; `what` is for the message. */
coar_status name_check(const char *what, const char *name);

/* The lock file: one process at a time registers, finishes a stage or rebuilds the index. Where the file system has no
 * flock, or the folder is read-only, it is not exclusive; renames keep the files whole even then. Counted. */
coar_status folder_lock(run_store *store);
void folder_unlock(run_store *store);

/* Removes temporary files whose writer is gone (docs/runfile.md). */
void folder_sweep(const run_store *store);
coar_status folder_sync(const run_store *store);

typedef struct mask_part { /* one outputs-FIRST-LAST.h5 */
    char name[64];
    uint64_t first, count;
} mask_part;

/* Outputs parts in mask order. Checked: contiguous from 0, and every one that run.h5 refers to is there. malloc'ed. */
coar_status folder_mask_parts(const run_store *store, mask_part **parts, size_t *count);

/* --------------------------------------------------------------------------------------------- liveness.c */

/* This process's sign of life; touched by a thread of its own until it is removed. remove accepts NULL. */
typedef struct heartbeat heartbeat;

/* "HOST-PID" of this process, as it stands in file names. */
void process_name(char out[96]);
coar_status heartbeat_create(const char *path, uint32_t shard, uint32_t shards, heartbeat **out);
void heartbeat_remove(heartbeat *h);

/* A process whose units overlap with shard K of S on this stage is alive: COAR_ERROR_BUSY names it. Heartbeats of
 * dead processes of this host are removed. */
coar_status liveness_check(const run_store *store, const char *stage, uint32_t shard, uint32_t shards);
/* Whether the process that owns STAGE.HOST-PID-N.journal lives. */
bool liveness_journal(const run_store *store, const char *journal_name);

/* ---------------------------------------------------------------------------------------------- journal.c */

typedef struct journal_header {
    uint8_t identity[16]; /* of STAGE.json: first half of its SHA-256 */
    uint64_t first_mask;  /* masks (gradients: passes) that were in finished parts when the journal began */
    uint64_t units;       /* of the stage then (information) */
    uint32_t steps;       /* store.h, stage_options, then (information) */
} journal_header;

typedef struct journal_record {
    uint64_t unit, offset, length; /* offset and length of the payload in the file. unit: with its steps, unit_number */
    uint32_t crc;                  /* of the payload */
    uint8_t flag;
} journal_record;

typedef coar_status (*journal_visit)(void *context, const journal_record *record);

enum { JOURNAL_HEADER_BYTES = 64, JOURNAL_RECORD_BYTES = 32 };

/* Writes the header of an empty file. */
coar_status journal_begin(int file, const char *path, const journal_header *header);
/* *valid false: too short (killed while it was created), or damaged with a warning. */
coar_status journal_read_header(int file, const char *path, const coar_callbacks *callbacks, journal_header *header,
                                bool *valid);
/* Visits the whole records from *position (0: the first) on and moves it behind the last one. */
coar_status journal_scan(int file, const char *path, const coar_callbacks *callbacks, uint64_t *position,
                         journal_visit visit, void *context);
/* Appends at `end`, syncs, moves `end`. On failure the file is cut back to `end`. */
coar_status journal_append(int file, const char *path, uint64_t *end, uint64_t unit, uint8_t flag, const void *payload,
                           size_t bytes, journal_record *record);
/* Reads a payload and checks its CRC. */
coar_status journal_payload(int file, const char *path, const journal_record *record, void *payload);

/* ------------------------------------------------------------------------------------------------ stage.c */

typedef struct unit_entry { /* where a unit's record is; journal 0 = nowhere, else index + 1 */
    uint64_t offset;
    uint32_t crc;
    uint32_t steps; /* of the record; 1 in stages without steps */
    uint16_t journal;
    uint8_t flag;
} unit_entry;

typedef struct stage_journal {
    char *name, *path;
    uint64_t position; /* scanned so far */
    bool used;         /* its header belongs to this stage */
} stage_journal;

struct store_stage {
    run_store *store;
    char name[NAME_SIZE];
    stage_options options; /* name, settings and plan are not kept */
    journal_header header;
    unit_entry *entries; /* [units] */
    uint64_t done;
    uint64_t misfits;      /* records of another number of masks, or of more steps */
    pthread_mutex_t mutex; /* stage_append and stage_read are called by several threads */
    stage_journal *journals;
    size_t journal_count, journal_capacity;
    size_t own; /* index in journals */
    int own_file;
    uint64_t own_end;
    int cached_file; /* the journal that was read last */
    size_t cached;
    heartbeat *heartbeat;
};

/* How journals number the records of a stage with steps: so none of another number of steps is taken for this one. */
uint64_t unit_number(uint64_t unit, uint32_t steps);
void unit_number_parts(uint64_t number, uint64_t *unit, uint32_t *steps);

/* Creates STAGE.json or compares with it; its identity, which ties the journals to it, into stage->header.
 * (stage_document.c) */
coar_status stage_settle(store_stage *stage, const stage_options *options);
/* Takes in what other processes have appended since. */
coar_status stage_refresh(store_stage *stage);
/* Removes the journals and heartbeats of the stage but those of other live processes. */
void stage_remove_journals(store_stage *stage);
/* Masks (gradients: passes) of a stage that are in finished parts. */
coar_status stage_masks_finished(run_store *store, const char *name, uint64_t *masks);
/* File name of a truth stage's part and its group in run.h5: "truth-a0.1-s0" -> "/evaluation/a0.1_s0". */
coar_status truth_group(const char *stage_name, char group[128], double *alpha, uint64_t *seed);

/* ----------------------------------------------------------------------------------------------- tables.c */

#define TABLES_FILE "tables.h5"
/* Reads the tables from any file that has their objects at their places. The caller holds h5_lock. */
coar_status tables_read_objects(hid_t file, const char *path, run_tables *out);
/* N and n alone: whole tables may hold many given masks. */
coar_status tables_sizes(const run_store *store, uint64_t *examples, uint32_t *components);
/* COAR_ERROR_USAGE for an output name that could not be an object of /ablations. */
coar_status output_name_check(const char *name);

/* ------------------------------------------------------------------------------------------------ arrays.c */

/* The groups above `name`, where they are missing. Without times, unlike HDF5's own intermediate groups. */
coar_status part_create_groups(hid_t file, const char *path, const char *name);
/* Chunked, shuffled, deflated, with checksums: how every large array is stored. type: of the file. */
coar_status part_create_dataset(hid_t file, const char *path, const char *name, hid_t type, int rank,
                                const hsize_t *dims, const hsize_t *chunk, hid_t *dataset);
/* Creates, writes and closes a data set that fits in memory. */
coar_status part_write_array(hid_t file, const char *path, const char *name, hid_t type, hid_t memory_type, int rank,
                             const hsize_t *dims, const void *data);
/* Adds the filters and the chunk shape to a data set creation list: shuffle, deflate, fletcher32, no times. */
coar_status part_filters(hid_t properties, const char *path, int rank, const hsize_t *chunk);
/* IEEE binary16, which HDF5 1.10 has no name for. */
hid_t part_half_type(void);
/* Reads rows x columns of an open [.., ..] data set, or a range of a vector (column_count 0), as memory_type. */
coar_status part_read(hid_t dataset, const char *path, const char *name, hid_t memory_type, uint64_t row,
                      uint64_t row_count, uint64_t column, uint64_t column_count, void *out);
/* Chunks of the output matrices. */
enum { CHUNK_MASKS = 64, CHUNK_EXAMPLES = 1024 };

/* ------------------------------------------------------------------------------------------------ parts.c */

typedef struct part_shape { /* of an outputs or truth part, as its attributes say; checked against its data sets */
    uint64_t first_mask, masks, examples, first_unit, units;
    uint32_t unit_masks, unit_examples;
    bool half;      /* stored as f16 */
    bool has_masks; /* packed masks beside the outputs */
} part_shape;

/* Opens a finished part for reading and checks its attributes. */
coar_status part_open(const char *path, hid_t *file, part_shape *shape);
/* The "done" flags of a part at `name`: u8 [shape.units]. */
coar_status part_read_done(hid_t file, const char *path, const char *name, const part_shape *shape, uint8_t *done);

/* -------------------------------------------------------------------------------------------- gradients.c */

/* The objects of gradients.h5 into a run file that is being written; nothing without that part. */
struct index_sink;
coar_status gradients_index(struct index_sink *sink);

/* --------------------------------------------------------------------------- fits.c, evaluations.c, edits.c */

/* NAME of all parts PREFIX-NAME.h5, in name order; files whose names could not be coar's are passed over. */
coar_status part_names(const run_store *store, const char *prefix, name_list *out);
coar_status fit_names(const run_store *store, name_list *out);
coar_status edit_names(const run_store *store, name_list *out);
/* Removes the edits that a fit which is about to be replaced has made. */
coar_status edits_remove(run_store *store, const char *fit);
/* Part "predicted-aALPHA-sSEED-FIT.h5" <-> stage "truth-aALPHA-sSEED" and fit. */
void predicted_name(const char *truth_stage, const char *fit, char out[256]);
bool predicted_parse(const char *name, char truth_stage[NAME_SIZE], char fit[NAME_SIZE]);
/* Removes the predictions of a fit that is about to be replaced. */
coar_status predicted_remove(const run_store *store, const char *fit);

/* ------------------------------------------------------------------------------------------ index.c, merge.c */

/* How objects of parts get into a run file: as links and virtual data sets (index) or as copies (merge). */
typedef struct index_sink {
    run_store *store;
    hid_t file;
    const char *path;  /* of the file being written, for messages */
    const char *final; /* the name it will have */
    /* /ablations/OUTPUT, and /ablations/masks (u8) where every part has them. */
    coar_status (*matrix)(struct index_sink *sink, const char *name, const mask_part *parts, size_t count);
    /* An object at the same place as in its part. */
    coar_status (*object)(struct index_sink *sink, const char *part, const char *name);
    progress *progress; /* merge only */
} index_sink;

coar_status index_write(index_sink *sink);
/* The folder's contents as one text: index and folder agree when it equals the index's attribute `parts`. */
coar_status index_contents(const run_store *store, char **text);
/* Rebuilds when run.h5 is missing or was made from other contents. */
coar_status index_refresh(run_store *store);
/* COAR_OK: a coar.run file. COAR_ERROR_EXISTS: something else. *contents: its `parts`, NULL in a merged file. */
coar_status index_inspect(const char *path, char **contents);

#endif
