/*
 * launcher.c - whether this process is one of several, from the variables that launchers set: Open MPI's mpirun, and
 * PMI and PMIx, by which Slurm's srun and other launchers start MPI programs.
 *
 * MPI is initialised for these alone: a program that is started by hand has nothing to do with it. Variables that a batch
 * system sets for whatever runs inside a job (SLURM_NTASKS) say nothing of this process.
 * Must not know: MPI.
 */
#include <stdlib.h>
#include <string.h>

#include "comm/internal.h"

/* A whole number from 0 on; -1 without one. */
static long number_of(const char *name) {
    const char *text = getenv(name);
    char *end;
    if (!text || *text < '0' || *text > '9') return -1;
    const long value = strtol(text, &end, 10);
    return *end || value > 1 << 30 ? -1 : value;
}

launch launch_read(void) {
    /* PMIx does not tell the size by a variable; Open MPI's mpirun, which uses it, has its own. */
    static const struct {
        const char *rank, *size;
    } launchers[] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}, {"PMI_RANK", "PMI_SIZE"}, {"PMIX_RANK", NULL}};
    const char *wanted = getenv("COAR_MPI");
    if (wanted && !strcmp(wanted, "0")) return (launch){.several = false};
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        const long rank = number_of(launchers[i].rank);
        const long size = launchers[i].size ? number_of(launchers[i].size) : -1;
        if (rank >= 0) return (launch){.several = size < 0 || size > 1, .rank = (int)rank};
    }
    return (launch){.several = false};
}
