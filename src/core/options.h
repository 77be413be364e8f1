/*
 * options.h - option structs of coar.h as callers give them, perhaps compiled against an older or newer header.
 * Must not know: what the options mean.
 */
#ifndef COAR_CORE_OPTIONS_H
#define COAR_CORE_OPTIONS_H

#include <stddef.h>

#include "core/status.h"

/* Copies an option struct, whose first member is its size, into `copy`: fields that the caller's header does not know
 * become zeros, their default; those that this build does not know are left out. NULL, and a size that no INIT macro
 * makes, are COAR_ERROR_USAGE naming `initialiser` ("COAR_FIT_INIT"). */
coar_status options_take(void *copy, size_t copy_size, const void *options, const char *initialiser);

#endif
