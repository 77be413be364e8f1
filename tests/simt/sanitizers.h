/* sanitizers.h - clang says in its own way what GCC says with a macro: that the address sanitizer is on. */
#ifndef COAR_TESTS_SIMT_SANITIZERS_H
#define COAR_TESTS_SIMT_SANITIZERS_H

#ifdef __has_feature
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#endif
