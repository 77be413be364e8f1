/*
 * comm.h - what coar_selftest_comm compares on every rank: what arrives with what must arrive, by each way that ranks have to
 * talk. Must not know: what the ways are made of.
 */
#ifndef COAR_SELFTEST_COMM_H
#define COAR_SELFTEST_COMM_H

#include "comm/packet.h"

/* The others, on ORDER_SELFTEST. devices: as of coar_follow_options. */
coar_status selftest_comm_follow(packet *p, const char *devices);

#endif
