/* internal.h - what the files of src/comm share. */
#ifndef COAR_COMM_INTERNAL_H
#define COAR_COMM_INTERNAL_H

#include "comm/comm.h"

enum { COMM_SILENCE = 120 }; /* seconds; pulses are lost while a machine pages, and no result comes sooner by less */

/* self.c: a process alone. */
extern const comm_interface comm_self;

/* launcher.c: what the environment says of who started this process. */
typedef struct launch {
    bool several; /* by a launcher, one of several processes or of a number that is not known */
    int rank;     /* 0 where it is not known */
} launch;
launch launch_read(void);

/* mpi.c, where it is built in. */
coar_status mpi_begin(comm *out);

enum { HOST_SIZE = 65 };
void host_name(char out[HOST_SIZE]);

#endif
