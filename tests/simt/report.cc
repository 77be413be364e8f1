/*
 * report.cc - one line about a bug: what, where, who. See report.h.
 *
 * Source lines come from the program's line table by way of addr2line, run once, when there is something to say.
 * Without it the line shows the address.
 */
#include "block.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace simt {

namespace {

bool collecting;
simt_bug first_bug;
char first_text[1000];

const char *const TEXTS[] = {
#define SIMT_BUG_TEXT(name, text) text,
    SIMT_BUGS(SIMT_BUG_TEXT)
#undef SIMT_BUG_TEXT
};

/* Kernels call the shim through small functions of these headers; the line wanted is the one behind them. */
bool of_the_seam(const char *line) {
    return strstr(line, "/simt.h:") || strstr(line, "/gpu.h:");
}

/* Keeps a bug. Ends the process unless bugs are collected. */
void keep(simt_bug bug, const char *where, const char *format, va_list arguments) {
    char what[500], text[sizeof first_text];
    vsnprintf(what, sizeof what, format, arguments);
    snprintf(text, sizeof text, "simt: %s: %s, kernel %s, block (%u,%u,%u)%s", TEXTS[bug], what, block.kernel,
             block.index.x, block.index.y, block.index.z, where);
    if (!collecting) {
        fprintf(stderr, "%s\n", text);
        abort();
    }
    if (first_bug != SIMT_NONE) return;
    first_bug = bug;
    memcpy(first_text, text, sizeof text);
}

} // namespace

const char *source_line(const void *pc, char *text, size_t size) {
    snprintf(text, size, "%p", pc);
    Dl_info file;
    if (!pc || !dladdr(pc, &file) || !file.dli_fname) return text;
    /* The return address may belong to the next line; the call itself ends one byte before it. A program that is not
     * position-independent is linked to the address it runs at. */
    uintptr_t address = (uintptr_t)pc - 1, base = (uintptr_t)file.dli_fbase;
    char command[1200], line[400], innermost[400] = "";
    snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%lx 2>/dev/null", file.dli_fname,
             (unsigned long)(base == 0x400000 ? address : address - base));
    FILE *pipe = popen(command, "r");
    if (!pipe) return text;
    while (fgets(line, sizeof line, pipe)) {
        line[strcspn(line, " \n")] = 0; /* without "(discriminator 3)" */
        if (line[0] == '?' || of_the_seam(line)) continue;
        if (!innermost[0]) memcpy(innermost, line, sizeof line);
    }
    pclose(pipe);
    if (!innermost[0]) return text;
    /* Paths are given from the project's folder on, which is where the program was compiled. */
    const char *start = innermost;
    for (const char *folder : {"/kernels/", "/tests/"})
        if (const char *found = strstr(innermost, folder)) start = found + 1;
    snprintf(text, size, "%s", start);
    return text;
}

void report(const thread *t, simt_bug bug, const void *pc, const char *format, ...) {
    char line[300], where[500];
    if (pc)
        snprintf(where, sizeof where, ", thread (%u,%u,%u), %s", t->index.x, t->index.y, t->index.z,
                 source_line(pc, line, sizeof line));
    else
        snprintf(where, sizeof where, ", thread (%u,%u,%u)", t->index.x, t->index.y, t->index.z);
    va_list arguments;
    va_start(arguments, format);
    keep(bug, where, format, arguments);
    va_end(arguments);
    abandon_launch();
}

void report_block(simt_bug bug, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    keep(bug, "", format, arguments);
    va_end(arguments);
}

} // namespace simt

using namespace simt;

const char *simt_bug_text(simt_bug bug) {
    return TEXTS[bug];
}

void simt_collect_reports(bool collect) {
    collecting = collect;
}

simt_bug simt_take_report(const char **text) {
    static char taken[sizeof first_text];
    simt_bug bug = first_bug;
    memcpy(taken, first_text, sizeof taken);
    if (text) *text = bug == SIMT_NONE ? "" : taken;
    first_bug = SIMT_NONE;
    return bug;
}

#ifndef SIMT_CHECK /* else check.cc has them */
bool simt_checks_memory(void) {
    return false;
}
void simt_guard(const void *, size_t, bool) {}
#endif
