/*
 * cpu_isa.h - the instruction sets that the CPU kernels are written for, and the choice among them.
 *
 * Which of them this build has kernels for is the Makefile's list (ISAS); what this machine has, it says itself.
 * Must not know: graphs, plans.
 */
#ifndef COAR_BACKEND_CPU_ISA_H
#define COAR_BACKEND_CPU_ISA_H

#include "core/status.h"
#include "kernels/cpu/kernels.h"

typedef struct cpu_isa {
    const char *name;  /* what COAR_ISA takes; its device class is "cpu/NAME" */
    const char *needs; /* of the machine, for messages */
    bool emulated;     /* another one's numbers, slowly: for tests, never chosen unless it is named */
    bool (*machine_has)(void);
} cpu_isa;

/* All there are, those to be preferred first. */
enum { CPU_ISAS_KNOWN = 5 };
extern const cpu_isa cpu_isas[CPU_ISAS_KNOWN];

/* NULL: no such name. */
const cpu_isa *cpu_isa_find(const char *name);
/* NULL: this build has none for it. */
const cpu_kernels *cpu_isa_kernels(const cpu_isa *isa);
/* Whether this build has kernels for it, and this machine (its operating system too) executes them. */
bool cpu_isa_runs(const cpu_isa *isa);

/* The one that COAR_ISA names, or NULL when it is not set. COAR_ERROR_USAGE when there is no such name,
 * COAR_ERROR_UNSUPPORTED when it does not run here. */
coar_status cpu_isa_forced(const cpu_isa **out);
/* That, or else the best that runs here. */
coar_status cpu_isa_choose(const cpu_isa **out);

#endif
