/*
 * comm.h - the processes of one job ("ranks") and what they say to each other.
 *
 * Rank 0 leads: it alone decides, writes results and talks to the user; the others wait for its orders (order.h). A
 * program that nothing has started as one of several is rank 0 of 1, and every function here is then free of charge.
 * Nobody spins while waiting: two ranks may share a core.
 * Must not know: work units, fits, files. MPI is known to mpi.c alone, launchers to launcher.c.
 *
 * Between comm_begin and comm_end; collective calls come from one thread at a time, comm_post and comm_poll from one
 * thread beside it.
 */
#ifndef COAR_COMM_COMM_H
#define COAR_COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

enum { COMM_MESSAGE_MOST = 8192 }; /* bytes of a message: longer things go by collectives */

typedef struct comm_message {
    int from;
    size_t bytes;
    uint8_t data[COMM_MESSAGE_MOST];
} comm_message;

/* One way for processes to talk. What devices say to each other directly is not of this kind (backend/device_link.h). */
typedef struct comm_interface {
    coar_status (*broadcast)(void *data, size_t bytes); /* from rank 0 */
    coar_status (*scatter)(const void *all, size_t size, void *mine, size_t bytes);
    coar_status (*gather)(const void *mine, void *all, size_t bytes); /* to rank 0, in rank order */
    coar_status (*sum)(int64_t *values, size_t count);                /* to rank 0; exact in any order */
    coar_status (*post)(int to, const void *data, size_t bytes);      /* copied; does not wait */
    coar_status (*poll)(comm_message *message, bool *found);          /* does not wait */
    void (*end)(bool together);
} comm_interface;

typedef struct comm {
    int rank, size;
    int local_rank, local_size; /* among those of this machine */
    double silence;             /* seconds after which a rank that gives no sign of life is lost */
    bool cores_shared;          /* all of them may run on the same cores: the launcher has not divided these */
    const comm_interface *interface;
} comm;

/* Of this process; never NULL. */
const comm *comm_world(void);

/* Joins the processes that a launcher has started together with this one (mpirun, srun). Without a launcher, or with
 * COAR_MPI=0 in the environment, the process stays alone. COAR_ERROR_UNSUPPORTED where there are several and this
 * build has no MPI. */
coar_status comm_begin(void);

/* The rank that a failed comm_begin would have had: who is to tell of it. 0 = this one. */
int comm_launched_rank(void);

/* The last call. Not `together`: a rank is lost, so that all others are ended too, this process with exit code 1. */
void comm_end(bool together);

/* ------------------------------------------------------------------------------------------- collective calls
 * Every rank makes the same ones in the same order. They fail on every rank when a rank is lost: one that has given no
 * sign of life for COAR_RANK_SILENCE seconds (environment; 120). */

coar_status comm_broadcast(void *data, size_t bytes);
/* Rank r gets `bytes` of all[size] from r * bytes on, or as many as there are; what lies behind stays as it is. `all` and its
 * size are rank 0's, which keeps its own part where it is (mine NULL). */
coar_status comm_scatter(const void *all, size_t size, void *mine, size_t bytes);

/* all[size] of rank 0 becomes what each rank brings, in their order; of the others it is not looked at. */
coar_status comm_gather(const void *mine, void *all, size_t bytes);

/* The sums over all ranks, into the values of rank 0. */
coar_status comm_sum(int64_t *values, size_t count);

/* One status for all: that of the lowest rank that has failed, else COAR_STOPPED if any was stopped, else COAR_OK.
 * The message becomes that rank's on every rank, and names it if it is not rank 0. Alone: the status itself. */
coar_status comm_agree(coar_status mine);

/* --------------------------------------------------------------------------------------------------- messages
 * Between two ranks they arrive in the order in which they were posted. */

coar_status comm_post(int to, const void *data, size_t bytes);
coar_status comm_poll(comm_message *message, bool *found);

#endif
