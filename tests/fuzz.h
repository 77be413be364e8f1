/*
 * fuzz.h - a bounded, deterministic mutation loop for parsers; works with any compiler and under every sanitizer.
 *
 * A fuzz program (tests/fuzz/NAME.c) makes valid inputs, the seeds, and calls fuzz_run with a function that parses
 * bytes. The function must return whatever the bytes are: a crash, a sanitizer's report or a hang is the failure.
 * Iteration i is a function of (seeds, i) alone. FUZZ_ITERATIONS changes how many there are, FUZZ_FIRST where they
 * begin: FUZZ_FIRST=i FUZZ_ITERATIONS=1 repeats the one that crashed (its number is printed).
 */
#ifndef COAR_FUZZ_H
#define COAR_FUZZ_H

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct fuzz_seed {
    const void *data;
    size_t size;
} fuzz_seed;

typedef void (*fuzz_target)(const uint8_t *data, size_t size);

static volatile unsigned long fuzz_iteration;

/* SplitMix64: any start gives a good sequence. */
static uint64_t fuzz_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static size_t fuzz_below(uint64_t *state, size_t limit) {
    return limit ? (size_t)(fuzz_random(state) % limit) : 0;
}

/* Replaces `cut` bytes at `at` by `count` bytes of `text`, as far as the buffer reaches. Returns the new size. */
static size_t fuzz_splice(uint8_t *data, size_t size, size_t capacity, size_t at, size_t cut, const void *text,
                          size_t count) {
    if (cut > size - at) cut = size - at;
    if (count > capacity - (size - cut)) count = capacity - (size - cut);
    memmove(data + at + count, data + at + cut, size - at - cut);
    if (count) memcpy(data + at, text, count);
    return size - cut + count;
}

/* One mutation in place. Low places are preferred: headers are where parsers go wrong. */
static size_t fuzz_mutate(uint8_t *data, size_t size, size_t capacity, const fuzz_seed *other, uint64_t *state) {
    static const char *const tokens[] = {"0",
                                         "-1",
                                         "1e400",
                                         "18446744073709551615",
                                         "9007199254740991",
                                         "4294967296",
                                         "null",
                                         "[",
                                         "]",
                                         "{",
                                         "}",
                                         "\"",
                                         "\\",
                                         "\\u0000",
                                         ",",
                                         ":",
                                         "\xff",
                                         "\xc0\x80",
                                         "[[[[[[[["};
    static const uint8_t bytes[] = {0, 1, 7, 8, 16, 127, 128, 254, 255};
    size_t reach = fuzz_below(state, 2) && size > 512 ? 512 : size;
    size_t at = fuzz_below(state, reach ? reach : 1), length = 1 + fuzz_below(state, 16);
    if (size == 0) at = 0;
    const char *token = tokens[fuzz_below(state, sizeof tokens / sizeof *tokens)];
    switch (fuzz_below(state, 9)) {
    case 0:
        if (size) data[at] ^= (uint8_t)(1u << fuzz_below(state, 8));
        return size;
    case 1:
        if (size) data[at] = bytes[fuzz_below(state, sizeof bytes)];
        return size;
    case 2:
        if (size) data[at] = (uint8_t)fuzz_random(state);
        return size;
    case 3:
        return fuzz_below(state, size + 1); /* truncate */
    case 4:
        return fuzz_splice(data, size, capacity, at, length, NULL, 0); /* delete */
    case 5:
        return fuzz_splice(data, size, capacity, at, 0, token, strlen(token)); /* insert a token */
    case 6:
        return fuzz_splice(data, size, capacity, at, strlen(token), token, strlen(token));
    case 7: { /* a piece of another seed */
        size_t from = fuzz_below(state, other->size + 1), count = fuzz_below(state, 256);
        if (count > other->size - from) count = other->size - from;
        return fuzz_splice(data, size, capacity, at, count / 2, (const uint8_t *)other->data + from, count);
    }
    default: { /* a digit becomes another one: sizes and offsets stay well-formed, but lie */
        for (size_t i = at; i < size; i++)
            if (data[i] >= '0' && data[i] <= '9') {
                data[i] = (uint8_t)('0' + fuzz_below(state, 10));
                break;
            }
        return size;
    }
    }
}

static void fuzz_crashed(int number) {
    char line[64];
    int length = snprintf(line, sizeof line, "# signal %d in iteration %lu\n", number, fuzz_iteration);
    if (write(STDERR_FILENO, line, (size_t)length) < 0) _exit(3);
    signal(number, SIG_DFL);
    raise(number);
}

/* Runs `target` over the seeds themselves, then over `iterations` mutated ones; prints TAP, returns the exit code. */
static int fuzz_run(const char *name, const fuzz_seed *seeds, size_t seed_count, size_t iterations,
                    fuzz_target target) {
    const char *text = getenv("FUZZ_ITERATIONS");
    unsigned long first = getenv("FUZZ_FIRST") ? strtoul(getenv("FUZZ_FIRST"), NULL, 10) : 0;
    size_t capacity = 0;
    if (text) iterations = strtoul(text, NULL, 10);
    for (size_t i = 0; i < seed_count; i++) {
        if (seeds[i].size > capacity) capacity = seeds[i].size;
        target(seeds[i].data, seeds[i].size);
    }
    capacity += 4096;
    signal(SIGSEGV, fuzz_crashed);
    signal(SIGABRT, fuzz_crashed);
    for (fuzz_iteration = first; fuzz_iteration < first + iterations; fuzz_iteration++) {
        uint64_t state = (uint64_t)fuzz_iteration * 0x2545F4914F6CDD1Du + 1;
        const fuzz_seed *seed = &seeds[fuzz_below(&state, seed_count)];
        uint8_t *data = malloc(capacity);
        if (!data) return 2;
        size_t size = seed->size;
        if (size) memcpy(data, seed->data, size);
        for (size_t k = 1 + fuzz_below(&state, 6); k > 0; k--)
            size = fuzz_mutate(data, size, capacity, &seeds[fuzz_below(&state, seed_count)], &state);
        uint8_t *exact = malloc(size ? size : 1); /* no slack: the address sanitizer sees one byte too far */
        if (!exact) return 2;
        if (size) memcpy(exact, data, size);
        target(exact, size);
        free(exact);
        free(data);
    }
    printf("ok 1 - fuzz %s: %zu inputs\n1..1\n", name, iterations + seed_count);
    return 0;
}

#endif
