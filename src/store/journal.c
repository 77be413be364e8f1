/*
 * journal.c - one append-only file of records: what a process computed, in the order it did.
 *
 * Header, 64 bytes: magic "COARJRNL", u32 version, u32 header bytes, 16 bytes of STAGE.json's identity, u64 first mask,
 * u64 units, u32 steps, u64 masks, u32 CRC32C of the 60 bytes before. Record, 32 bytes and the payload: u32 magic,
 * u8 flag, 3 zero bytes, u64 unit, u64 length, u32 CRC32C of the payload, u32 CRC32C of the 28 bytes before.
 * Little-endian throughout.
 *
 * The record's own CRC makes its length trustworthy, so a damaged payload is stepped over; after a damaged record
 * header the next whole one is searched for. What follows the last whole record is the torn tail of a kill.
 * Must not know: stages, what a payload holds.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "store/internal.h"

static const char file_magic[8] = {'C', 'O', 'A', 'R', 'J', 'R', 'N', 'L'};
static const uint8_t record_magic[4] = {0xC0, 0xA4, 0x1A, 0x7E}; /* not text, not a small number, not a usual float */
enum { JOURNAL_VERSION = 1, BLOCK_BYTES = 1 << 18 };

static void put(uint8_t *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t *at, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)at[i] << (8 * i);
    return value;
}

/* Fewer bytes than asked only at the end of the file. */
static coar_status read_at(int file, const char *path, uint64_t offset, void *data, size_t size, size_t *got) {
    *got = 0;
    while (*got < size) {
        ssize_t part = pread(file, (char *)data + *got, size - *got, (off_t)(offset + *got));
        if (part < 0 && errno == EINTR) continue;
        if (part < 0) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot read", path);
        if (part == 0) break;
        *got += (size_t)part;
    }
    return COAR_OK;
}

static coar_status write_at(int file, const char *path, uint64_t offset, struct iovec *pieces, int count) {
    while (count) {
        ssize_t written = pwritev(file, pieces, count, (off_t)offset);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0)
            return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write (what was saved before is safe)", path);
        offset += (uint64_t)written;
        for (; count && (size_t)written >= pieces->iov_len; pieces++, count--) written -= (ssize_t)pieces->iov_len;
        if (!count) break;
        pieces->iov_base = (char *)pieces->iov_base + written;
        pieces->iov_len -= (size_t)written;
    }
    return COAR_OK;
}

/* ----------------------------------------------------------------------------------------------- header */

coar_status journal_begin(int file, const char *path, const journal_header *header) {
    uint8_t bytes[JOURNAL_HEADER_BYTES] = {0};
    memcpy(bytes, file_magic, 8);
    put(bytes + 8, JOURNAL_VERSION, 4);
    put(bytes + 12, JOURNAL_HEADER_BYTES, 4);
    memcpy(bytes + 16, header->identity, 16);
    put(bytes + 32, header->first_mask, 8);
    put(bytes + 40, header->units, 8);
    put(bytes + 48, header->steps, 4);
    put(bytes + 52, header->masks, 8);
    put(bytes + 60, crc32c(0, bytes, 60), 4);
    return write_at(file, path, 0, &(struct iovec){bytes, sizeof bytes}, 1);
}

coar_status journal_read_header(int file, const char *path, const coar_callbacks *callbacks, journal_header *header,
                                bool *valid) {
    uint8_t bytes[JOURNAL_HEADER_BYTES];
    size_t got;
    TRY(read_at(file, path, 0, bytes, sizeof bytes, &got));
    *valid = false;
    if (got < sizeof bytes) return COAR_OK;
    if (memcmp(bytes, file_magic, 8) || get(bytes + 60, 4) != crc32c(0, bytes, 60)) {
        log_warning(callbacks, "%s: the header is damaged; its units are computed again", path);
        return COAR_OK;
    }
    if (get(bytes + 8, 4) != JOURNAL_VERSION || get(bytes + 12, 4) != JOURNAL_HEADER_BYTES)
        return status_set(COAR_ERROR_INPUT,
                          "%s: journal version %" PRIu64 " is not %d: made by another version of coar", path,
                          get(bytes + 8, 4), JOURNAL_VERSION);
    memcpy(header->identity, bytes + 16, 16);
    header->first_mask = get(bytes + 32, 8);
    header->units = get(bytes + 40, 8);
    header->steps = (uint32_t)get(bytes + 48, 4);
    header->masks = get(bytes + 52, 8);
    *valid = true;
    return COAR_OK;
}

/* ----------------------------------------------------------------------------------------------- records */

static void encode_record(uint8_t bytes[JOURNAL_RECORD_BYTES], const journal_record *record) {
    memset(bytes, 0, JOURNAL_RECORD_BYTES);
    memcpy(bytes, record_magic, 4);
    bytes[4] = record->flag;
    put(bytes + 8, record->unit, 8);
    put(bytes + 16, record->length, 8);
    put(bytes + 24, record->crc, 4);
    put(bytes + 28, crc32c(0, bytes, 28), 4);
}

/* A whole record header at `position` whose payload ends inside the file. */
static bool decode_record(const uint8_t bytes[JOURNAL_RECORD_BYTES], uint64_t position, uint64_t size,
                          journal_record *record) {
    if (memcmp(bytes, record_magic, 4) || get(bytes + 28, 4) != crc32c(0, bytes, 28)) return false;
    *record = (journal_record){.unit = get(bytes + 8, 8),
                               .offset = position + JOURNAL_RECORD_BYTES,
                               .length = get(bytes + 16, 8),
                               .crc = (uint32_t)get(bytes + 24, 4),
                               .flag = bytes[4]};
    return record->offset <= size && record->length <= size - record->offset;
}

/* CRC of a payload, through `block`. */
static coar_status payload_crc(int file, const char *path, const journal_record *record, uint8_t *block,
                               uint32_t *crc) {
    *crc = 0;
    for (uint64_t done = 0; done < record->length;) {
        size_t want = record->length - done < BLOCK_BYTES ? (size_t)(record->length - done) : BLOCK_BYTES, got;
        TRY(read_at(file, path, record->offset + done, block, want, &got));
        if (got < want) return status_set(COAR_ERROR_IO, "%s: became shorter while it was read", path);
        *crc = crc32c(*crc, block, got);
        done += got;
    }
    return COAR_OK;
}

/* First whole record header at or after `position`; *found false when the rest holds none. */
static coar_status find_record(int file, const char *path, uint64_t position, uint64_t size, uint8_t *block,
                               journal_record *record, bool *found) {
    size_t size_read;
    *found = false;
    TRY(read_at(file, path, position, block, JOURNAL_RECORD_BYTES, &size_read));
    if (size_read == JOURNAL_RECORD_BYTES && decode_record(block, position, size, record)) {
        *found = true; /* the usual case: nothing is damaged */
        return COAR_OK;
    }
    while (position + JOURNAL_RECORD_BYTES <= size) {
        size_t got;
        TRY(read_at(file, path, position, block, BLOCK_BYTES, &got));
        if (got < JOURNAL_RECORD_BYTES) return COAR_OK;
        size_t last = got - JOURNAL_RECORD_BYTES; /* the last place in this block where a header fits */
        for (size_t i = 0; i <= last; i++) {
            const uint8_t *hit = memchr(block + i, record_magic[0], last - i + 1);
            if (!hit) break;
            i = (size_t)(hit - block);
            if (decode_record(hit, position + i, size, record)) {
                *found = true;
                return COAR_OK;
            }
        }
        position += last + 1;
    }
    return COAR_OK;
}

coar_status journal_scan(int file, const char *path, const coar_callbacks *callbacks, uint64_t *position,
                         journal_visit visit, void *context) {
    coar_status status = COAR_OK;
    uint8_t *block = NULL;
    struct stat information;
    uint64_t at = *position ? *position : JOURNAL_HEADER_BYTES;
    if (fstat(file, &information)) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot read", path);
    uint64_t size = (uint64_t)information.st_size;
    TRY(memory_new(BLOCK_BYTES, 1, "journal block", &block));
    for (;;) {
        journal_record record;
        bool found;
        uint32_t crc;
        TRY_GOTO(find_record(file, path, at, size, block, &record, &found));
        if (!found) break;
        if (record.offset - JOURNAL_RECORD_BYTES != at)
            log_warning(callbacks, "%s: %" PRIu64 " bytes at %" PRIu64 " are damaged; their units are computed again",
                        path, record.offset - JOURNAL_RECORD_BYTES - at, at);
        at = record.offset + record.length;
        TRY_GOTO(payload_crc(file, path, &record, block, &crc));
        if (crc == record.crc)
            TRY_GOTO(visit(context, &record));
        else
            log_warning(callbacks, "%s: unit %" PRIu64 " at %" PRIu64 " is damaged (wrong CRC); it is computed again",
                        path, record.unit, record.offset);
        *position = at;
    }
done:
    free(block);
    return status;
}

coar_status journal_skim(int file, const char *path, journal_visit visit, void *context) {
    coar_status status = COAR_OK;
    uint8_t *block = NULL;
    struct stat information;
    uint64_t at = JOURNAL_HEADER_BYTES;
    if (fstat(file, &information)) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot read", path);
    TRY(memory_new(BLOCK_BYTES, 1, "journal block", &block));
    for (;;) {
        journal_record record;
        bool found;
        TRY_GOTO(find_record(file, path, at, (uint64_t)information.st_size, block, &record, &found));
        if (!found) break;
        at = record.offset + record.length;
        TRY_GOTO(visit(context, &record));
    }
done:
    free(block);
    return status;
}

coar_status journal_append(int file, const char *path, uint64_t *end, uint64_t unit, uint8_t flag, const void *payload,
                           size_t bytes, journal_record *record) {
    uint8_t header[JOURNAL_RECORD_BYTES];
    journal_record r = {.unit = unit,
                        .offset = *end + JOURNAL_RECORD_BYTES,
                        .length = bytes,
                        .crc = crc32c(0, payload, bytes),
                        .flag = flag};
    encode_record(header, &r);
    struct iovec pieces[2] = {{header, sizeof header}, {(void *)payload, bytes}};
    coar_status status = write_at(file, path, *end, pieces, 2);
    if (status == COAR_OK && fdatasync(file))
        status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot sync to disk", path);
    if (status != COAR_OK) {
        /* Where even this fails, a torn tail stays that the next append writes over. */
        (void)!ftruncate(file, (off_t)*end);
        return status;
    }
    *end = r.offset + r.length;
    *record = r;
    return COAR_OK;
}

coar_status journal_payload(int file, const char *path, const journal_record *record, void *payload) {
    size_t got;
    TRY(read_at(file, path, record->offset, payload, (size_t)record->length, &got));
    if (got == record->length && crc32c(0, payload, got) == record->crc) return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "%s: unit %" PRIu64 " is damaged (wrong CRC): run again, it is computed anew",
                      path, record->unit);
}
