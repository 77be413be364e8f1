/*
 * shadow.h - what the shim tells the memory checker (check.cc), and nothing where it is not built in (CONFIG=check).
 *
 * Loads and stores of kernel code reach the checker by themselves: the compiler calls it (-fsanitize=thread).
 */
#ifndef COAR_TESTS_SIMT_SHADOW_H
#define COAR_TESTS_SIMT_SHADOW_H

#include "block.h"

namespace simt {

#ifdef SIMT_CHECK
void shadow_begin_launch();
void shadow_begin_block();
void shadow_barrier();
void shadow_sync_warp(warp *w, unsigned mask);
void shadow_read(thread *t, const void *address, size_t size, const void *pc);
/* An asynchronous copy is issued to, and has arrived at, shared memory. */
void shadow_copy_issued(const void *shared, size_t size, const void *pc);
void shadow_copy_arrived(const void *shared, size_t size, const void *pc);
/* The bytes must belong to one shared variable. */
void shadow_check_shared(const thread *t, const void *address, size_t size, const void *pc);
/* A variable of shared memory: its bytes may be touched, those around it not. A launch begins without any. */
void shadow_forget_variables();
void shadow_add_variable(const void *address, size_t size);
#else
inline void shadow_begin_launch() {}
inline void shadow_begin_block() {}
inline void shadow_barrier() {}
inline void shadow_sync_warp(warp *, unsigned) {}
inline void shadow_read(thread *, const void *, size_t, const void *) {}
inline void shadow_copy_issued(const void *, size_t, const void *) {}
inline void shadow_copy_arrived(const void *, size_t, const void *) {}
inline void shadow_check_shared(const thread *, const void *, size_t, const void *) {}
inline void shadow_forget_variables() {}
inline void shadow_add_variable(const void *, size_t) {}
#endif

} // namespace simt

#endif
