/* packet.c - see packet.h. */
#include "comm/packet.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

void packet_free(packet *p) {
    free(p->data);
    *p = (packet){0};
}

void packet_put(packet *p, const void *value, size_t bytes) {
    size_t size;
    p->full |= !size_add(p->size, bytes, &size);
    if (p->full || !bytes) return;
    p->full = memory_grow(&p->data, &p->capacity, size, 1, "what the other ranks are told") != COAR_OK;
    if (p->full) return;
    memcpy(p->data + p->size, value, bytes);
    p->size = size;
}

void packet_put_array(packet *p, const void *values, size_t count, size_t size) {
    size_t bytes;
    PACKET_PUT(p, count);
    if (size_mul(count, size, &bytes))
        packet_put(p, values, bytes);
    else
        p->full = true;
}

/* With its terminator; a length of 0 is NULL. */
void packet_put_text(packet *p, const char *text) {
    packet_put_array(p, text, text ? strlen(text) + 1 : 0, 1);
}

/* The next bytes where they are; NULL when there are not so many. */
static const uint8_t *next(packet *p, size_t bytes) {
    p->over |= bytes > p->size - p->at;
    if (p->over) return NULL;
    p->at += bytes;
    return p->data + p->at - bytes;
}

void packet_get(packet *p, void *value, size_t bytes) {
    const uint8_t *from = next(p, bytes);
    if (from)
        memcpy(value, from, bytes);
    else
        memset(value, 0, bytes);
}

const char *packet_get_text(packet *p) {
    size_t length;
    PACKET_GET(p, length);
    const char *text = length ? (const char *)next(p, length) : NULL;
    p->over |= text && text[length - 1];
    return p->over ? NULL : text;
}

void *packet_get_array(packet *p, size_t size, size_t *count) {
    size_t bytes;
    void *values = NULL;
    PACKET_GET(p, *count);
    p->over |= !size_mul(*count, size, &bytes);
    const uint8_t *from = p->over || !*count ? NULL : next(p, bytes);
    if (from) p->full |= memory_new(*count, size, "what rank 0 tells", &values) != COAR_OK;
    if (values) memcpy(values, from, bytes);
    if (!values) *count = 0;
    return values;
}

coar_status packet_check(const packet *p) {
    if (p->over) return status_set(COAR_ERROR_INTERNAL, "an order of rank 0 is not what was expected");
    return p->full ? status_set(COAR_ERROR_MEMORY, "not enough memory for what ranks tell each other") : COAR_OK;
}
