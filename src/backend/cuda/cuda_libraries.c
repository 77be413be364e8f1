/* cuda_libraries.c - see cuda_libraries.h. */
#include "backend/cuda/cuda_libraries.h"

#ifdef COAR_LIBRARIES_LINKED

#define X(name) .name = name,
#define DEFINE_LIBRARY(library, functions, soname, LIST)                                                               \
    coar_status cuda_library_##library(const functions **out) {                                                        \
        static const functions table = {LIST(X)};                                                                      \
        *out = &table;                                                                                                 \
        return COAR_OK;                                                                                                \
    }

#else

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef struct library {
    const char *soname;
    const char *const *names; /* [count] */
    void *functions;          /* a struct of `count` function pointers in the order of names */
    size_t count;
    pthread_mutex_t mutex;
    bool tried;
    char why[256]; /* it cannot be had; "" = it can */
} library;

static void load(library *l) {
    void *handle = dlopen(l->soname, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        snprintf(l->why, sizeof l->why, "%.250s", dlerror()); /* begins with the file's name */
        return;
    }
    for (size_t i = 0; i < l->count; i++) {
        void *function = dlsym(handle, l->names[i]);
        if (!function) {
            snprintf(l->why, sizeof l->why, "%s: has no %s: too old", l->soname, l->names[i]);
            return;
        }
        /* POSIX promises that an object pointer holds a function's address; ISO C has no conversion for it. */
        memcpy((char *)l->functions + i * sizeof function, &function, sizeof function);
    }
}

static coar_status library_get(library *l) {
    pthread_mutex_lock(&l->mutex);
    if (!l->tried) load(l);
    l->tried = true;
    pthread_mutex_unlock(&l->mutex);
    return l->why[0] ? status_set(COAR_ERROR_UNSUPPORTED, "%s", l->why) : COAR_OK;
}

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
#define X(name) #name,
#define DEFINE_LIBRARY(library_name, table_type, file, LIST)                                                           \
    coar_status cuda_library_##library_name(const table_type **out) {                                                  \
        static table_type table;                                                                                       \
        static const char *const names[] = {LIST(X)};                                                                  \
        static library l = {.soname = file,                                                                            \
                            .names = names,                                                                            \
                            .functions = &table,                                                                       \
                            .count = sizeof names / sizeof *names,                                                     \
                            .mutex = PTHREAD_MUTEX_INITIALIZER};                                                       \
        _Static_assert(sizeof table == sizeof names / sizeof *names * sizeof(void *), "layout");                       \
        *out = NULL;                                                                                                   \
        TRY(library_get(&l));                                                                                          \
        *out = &table;                                                                                                 \
        return COAR_OK;                                                                                                \
    }

#endif

#if COAR_HAVE_CUDNN
DEFINE_LIBRARY(cudnn, cudnn_functions, "libcudnn.so." TEXT(CUDNN_MAJOR), CUDNN_FUNCTIONS)
#else
coar_status cuda_library_cudnn(const cudnn_functions **out) {
    *out = NULL;
    return status_set(COAR_ERROR_UNSUPPORTED, "this build was made without the headers of cuDNN 9.8 or later");
}
#endif
#if COAR_HAVE_NCCL
DEFINE_LIBRARY(nccl, nccl_functions, "libnccl.so." TEXT(NCCL_MAJOR), NCCL_FUNCTIONS)
#else
coar_status cuda_library_nccl(const nccl_functions **out) {
    *out = NULL;
    return status_set(COAR_ERROR_UNSUPPORTED, "this build was made without the header of NCCL 2.14 or later");
}
#endif
DEFINE_LIBRARY(cublaslt, cublaslt_functions, "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR), CUBLASLT_FUNCTIONS)
DEFINE_LIBRARY(cublas, cublas_functions, "libcublas.so." TEXT(CUBLAS_VER_MAJOR), CUBLAS_FUNCTIONS)
DEFINE_LIBRARY(cusolver, cusolver_functions, "libcusolver.so." TEXT(CUSOLVER_VER_MAJOR), CUSOLVER_FUNCTIONS)
