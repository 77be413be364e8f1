/*
 * cuda_library_engine.c - cuDNN and cuBLASLt as entries of the engine table (cuda.h): layers whose plan names a form of
 * theirs. Everything is in cuda_form.c; here a backend's layer finds its form.
 */
#include <stdlib.h>

#include "backend/cuda/cuda.h"
#include "backend/cuda/cuda_form.h"

/* layer->state: the forms of the batch sizes that were prepared. Borrowed from the process, so that only the list is freed. */
typedef struct prepared {
    const cuda_form **forms; /* [count] */
    uint32_t *pairs;         /* [count] */
    size_t count, forms_capacity, pairs_capacity;
} prepared;
