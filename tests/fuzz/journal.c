/* Fuzzes the journal reader: damaged and lying records. What it accepts must lie inside the file and match its CRC. */
#include "fuzz.h"

#include <sys/mman.h>

#include "core/files.h"
#include "store/internal.h"

typedef struct visited {
    int file;
    size_t size;
    uint64_t end; /* of the record before */
} visited;

/* The reader that leaves payloads alone. */
static coar_status check_place(void *context, const journal_record *record) {
    visited *v = context;
    if (record->offset < v->end + JOURNAL_RECORD_BYTES || record->length > v->size ||
        record->offset > v->size - record->length)
        abort();
    v->end = record->offset + record->length;
    return COAR_OK;
}

static coar_status check_record(void *context, const journal_record *record) {
    visited *v = context;
    check_place(v, record);
    uint8_t *payload = malloc(record->length ? record->length : 1);
    if (!payload || journal_payload(v->file, "fuzz", record, payload) != COAR_OK) abort();
    free(payload);
    return COAR_OK;
}

static void parse(const uint8_t *data, size_t size) {
    journal_header header;
    bool valid = false;
    uint64_t position = 0;
    int file = memfd_create("journal", 0);
    if (file < 0 || (size && write(file, data, size) != (ssize_t)size)) abort();
    status_clear();
    if (journal_read_header(file, "fuzz", NULL, &header, &valid) == COAR_OK && valid) {
        visited v = {file, size, JOURNAL_HEADER_BYTES};
        if (journal_scan(file, "fuzz", NULL, &position, check_record, &v) != COAR_OK) abort();
        visited skimmed = {file, size, JOURNAL_HEADER_BYTES};
        if (journal_skim(file, "fuzz", check_place, &skimmed) != COAR_OK || skimmed.end < v.end) abort();
        if (position > size || (position && position < v.end)) abort();
    }
    close(file);
}

static void put_crc(uint8_t *at, uint32_t crc) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(crc >> (8 * i));
}

/* CRCs find most mutations: parse also with those of the headers put right, so that lengths and units lie. */
static void parse_twice(const uint8_t *data, size_t size) {
    static const uint8_t magic[4] = {0xC0, 0xA4, 0x1A, 0x7E};
    parse(data, size);
    if (size < JOURNAL_HEADER_BYTES) return;
    uint8_t *copy = malloc(size);
    if (!copy) abort();
    memcpy(copy, data, size);
    put_crc(copy + 60, crc32c(0, copy, 60));
    for (size_t i = JOURNAL_HEADER_BYTES; i + JOURNAL_RECORD_BYTES <= size; i++)
        if (!memcmp(copy + i, magic, sizeof magic)) put_crc(copy + i + 28, crc32c(0, copy + i, 28));
    parse(copy, size);
    free(copy);
}

/* A journal of `count` records of growing length. */
static fuzz_seed journal_of(int count) {
    journal_header header = {.first_mask = 3, .units = 9};
    journal_record record;
    uint64_t end = JOURNAL_HEADER_BYTES;
    uint8_t payload[200];
    int file = memfd_create("seed", 0);
    if (file < 0 || journal_begin(file, "seed", &header) != COAR_OK) exit(2);
    for (int i = 0; i < count; i++) {
        memset(payload, 'a' + i, sizeof payload);
        if (journal_append(file, "seed", &end, (uint64_t)i, 1, payload, (size_t)(i * 40 + 4), &record) != COAR_OK)
            exit(2);
    }
    uint8_t *data = malloc(end);
    if (!data || pread(file, data, end, 0) != (ssize_t)end) exit(2);
    close(file);
    return (fuzz_seed){data, end};
}

int main(void) {
    fuzz_seed seeds[] = {journal_of(0), journal_of(1), journal_of(5)};
    size_t count = sizeof seeds / sizeof *seeds;
    int code = fuzz_run("journal", seeds, count, 50000, parse_twice);
    for (size_t i = 0; i < count; i++) free((void *)(uintptr_t)seeds[i].data);
    return code;
}
