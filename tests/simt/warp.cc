/*
 * warp.cc - operations in which the lanes of a warp meet: shuffles, votes, __syncwarp, ldmatrix; mma's meeting (its
 * arithmetic is in mma.cc).
 *
 * A lane leaves a pointer to its operands, which are on its own stack, and waits. The last lane of the mask does the
 * work for all of them, writes each result to its owner's stack, makes the others ready and goes on at once.
 */
#include "block.h"

#include "arena.h"
#include "mma.h"
#include "shadow.h"

namespace simt {

namespace {

enum {
    MEET_SHUFFLE,
    MEET_VOTE = MEET_SHUFFLE + 4,
    MEET_SYNC = MEET_VOTE + 3,
    MEET_MATRICES,
    MEET_MMA = MEET_MATRICES + 2
};

const char *const NAMES[] = {"__shfl_sync", "__shfl_xor_sync", "__shfl_up_sync", "__shfl_down_sync", "__ballot_sync",
                             "__any_sync",  "__all_sync",      "__syncwarp",     "ldmatrix",         "ldmatrix.trans",
                             "mma of bf16", "mma of fp16",     "mma of tf32"};

/* The meeting that the current lane belongs to, or NULL when it is the first. Lanes may come to one __syncwarp from
 * different lines; of all else hardware wants the same instruction. */
meeting *find_meeting(warp *w, unsigned lane, int kind, unsigned mask, int line, const void *pc) {
    meeting *found = nullptr;
    for (unsigned i = 0; i < w->meeting_count; i++) {
        meeting *m = &w->meetings[i];
        if (!(m->mask >> lane & 1)) continue;
        if (m->mask == mask && m->kind == kind && (m->line == line || kind == MEET_SYNC))
            found = m;
        else if (m->arrived & mask) /* they wait for this lane, and it would wait for them */
            report(current, SIMT_WARP_DIVERGENCE, pc,
                   "%s of lanes %08x, while lanes %08x wait at %s of lanes %08x in line %d", NAMES[kind], mask,
                   m->arrived, NAMES[m->kind], m->mask, m->line);
    }
    return found;
}

/* Waits for the other lanes of the mask. True in the last one, before the others go on: it does the work, then calls
 * leave(). */
bool meet(int kind, unsigned mask, int line, void *operand, const void *pc) {
    thread *self = current;
    warp *w = self->warp;
    if (!(mask >> self->lane & 1))
        report(current, SIMT_WARP_MASK, pc, "%s of lanes %08x, of which it is none", NAMES[kind], mask);
    if (mask & ~w->present)
        report(current, SIMT_WARP_MASK, pc, "%s of lanes %08x, of which the block has only %08x", NAMES[kind], mask,
               w->present);
    if (mask & w->exited)
        report(current, SIMT_WARP_MASK, pc, "%s of lanes %08x, of which %08x have ended", NAMES[kind], mask,
               mask & w->exited);
    self->operand = operand;
    meeting *m = find_meeting(w, self->lane, kind, mask, line, pc);
    if (!m) {
        m = &w->meetings[w->meeting_count++];
        *m = {mask, 0, kind, line, pc};
    }
    m->arrived |= 1u << self->lane;
    if (m->arrived == mask) {
        *m = w->meetings[--w->meeting_count];
        return true;
    }
    self->at = {NAMES[kind], mask, line, pc};
    wait_for_others();
    return false;
}

void leave(unsigned mask) {
    make_ready(current->warp, mask & ~(1u << current->lane));
}

thread *lane_of(const warp *w, unsigned lane) {
    return &threads[(unsigned)(w - warps) * LANES + lane];
}

/* gpu.h: these are executed by all 32 lanes. */
const unsigned ALL = ~0u;

struct shuffle_operand {
    uint64_t bits;
    unsigned source; /* lane */
    uint64_t result;
};

/* The lane that a shuffle reads; outside the segment of `width` lanes it is the reader itself. */
unsigned shuffle_source(shuffle_kind kind, unsigned lane, int operand, unsigned width) {
    unsigned first = lane & ~(width - 1), inside = lane & (width - 1);
    unsigned amount = (unsigned)operand;
    switch (kind) {
    case SHUFFLE_INDEX:
        return first | (amount & (width - 1));
    case SHUFFLE_XOR:
        return (lane ^ amount) < first + width ? lane ^ amount : lane;
    case SHUFFLE_UP:
        return amount <= inside ? lane - amount : lane;
    default:
        return inside + amount < width ? lane + amount : lane;
    }
}

struct matrices_operand {
    uint32_t *r;
    const void *row;
};

struct mma_operand {
    float *d;
    const uint32_t *a, *b;
};

void check_row(const thread *t, const void *row, const void *pc) {
    if ((uintptr_t)row % 16)
        report(t, SIMT_ALIGNMENT, pc, "ldmatrix reads a row at %p, which is not a multiple of 16", row);
    if (!in_arena(row)) report(t, SIMT_BOUNDS, pc, "ldmatrix reads a row at %p, which is not shared memory", row);
    shadow_check_shared(t, row, 16, pc);
}

/* Lane 8 i + j has named row j of matrix i; lane l gets 32 bits of each matrix. */
void distribute_matrices(const warp *w, bool transposed, const void *pc) {
    const matrices_operand *of[LANES];
    for (unsigned lane = 0; lane < LANES; lane++) {
        of[lane] = static_cast<const matrices_operand *>(lane_of(w, lane)->operand);
        check_row(lane_of(w, lane), of[lane]->row, pc);
    }
    for (unsigned lane = 0; lane < LANES; lane++) {
        for (unsigned i = 0; i < 4; i++) {
            uint32_t bits = 0;
            for (unsigned half = 0; half < 2; half++) {
                unsigned along = 2 * (lane % 4) + half, across = lane / 4;
                unsigned row = transposed ? along : across, column = transposed ? across : along;
                const uint16_t *element = static_cast<const uint16_t *>(of[8 * i + row]->row) + column;
                shadow_read(lane_of(w, lane), element, 2, pc);
                bits |= (uint32_t)*element << 16 * half;
            }
            of[lane]->r[i] = bits;
        }
    }
}

} // namespace

void sync_warp(unsigned mask, int line) {
    if (!meet(MEET_SYNC, mask, line, nullptr, SIMT_CALLER)) return;
    shadow_sync_warp(current->warp, mask);
    leave(mask);
}

uint64_t shuffle_bits(shuffle_kind kind, unsigned mask, uint64_t bits, int operand, int width, int line) {
    thread *self = current;
    if (width < 1 || width > 32 || width & (width - 1))
        report(current, SIMT_ARGUMENT, SIMT_CALLER, "a shuffle's width is %d, not a power of two up to 32", width);
    shuffle_operand mine = {bits, shuffle_source(kind, self->lane, operand, (unsigned)width), 0};
    if (!(mask >> mine.source & 1))
        report(current, SIMT_WARP_MASK, SIMT_CALLER, "a shuffle of lanes %08x reads lane %u", mask, mine.source);
    if (meet(MEET_SHUFFLE + kind, mask, line, &mine, SIMT_CALLER)) {
        for (unsigned left = mask; left; left &= left - 1) {
            auto *reader = static_cast<shuffle_operand *>(lane_of(self->warp, (unsigned)__builtin_ctz(left))->operand);
            reader->result = static_cast<shuffle_operand *>(lane_of(self->warp, reader->source)->operand)->bits;
        }
        leave(mask);
    }
    return mine.result;
}

unsigned vote(vote_kind kind, unsigned mask, bool predicate, int line) {
    thread *self = current;
    unsigned mine = predicate;
    if (meet(MEET_VOTE + kind, mask, line, &mine, SIMT_CALLER)) {
        unsigned ballot = 0;
        for (unsigned lane = 0; lane < LANES; lane++)
            if (mask >> lane & 1) ballot |= *static_cast<unsigned *>(lane_of(self->warp, lane)->operand) << lane;
        for (unsigned lane = 0; lane < LANES; lane++)
            if (mask >> lane & 1) *static_cast<unsigned *>(lane_of(self->warp, lane)->operand) = ballot;
        leave(mask);
    }
    return mine;
}

void load_matrices(uint32_t r[4], const void *row, bool transposed, int line) {
    matrices_operand mine = {r, row};
    if (!meet(MEET_MATRICES + transposed, ALL, line, &mine, SIMT_CALLER)) return;
    distribute_matrices(current->warp, transposed, SIMT_CALLER);
    leave(ALL);
}

void multiply(mma_kind kind, float d[4], const uint32_t a[4], const uint32_t b[2], int line) {
    mma_operand mine = {d, a, b};
    if (!meet(MEET_MMA + kind, ALL, line, &mine, SIMT_CALLER)) return;
    mma_fragments f;
    for (unsigned lane = 0; lane < LANES; lane++) {
        auto *of = static_cast<const mma_operand *>(lane_of(current->warp, lane)->operand);
        f.d[lane] = of->d;
        f.a[lane] = of->a;
        f.b[lane] = of->b;
    }
    mma_warp(kind, &f);
    leave(ALL);
}

} // namespace simt
