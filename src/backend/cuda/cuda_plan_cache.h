/*
 * cuda_plan_cache.h - what was measured, in one file per device class, so that the second job starts at once.
 *
 *   $COAR_PLAN_CACHE, else $XDG_CACHE_HOME/coar, else ~/.cache/coar:  plan-CLASS.json
 *   {"version":1,"device_class":"...","layers":{"SIGNATURE":{"form":"...","splits":1,"milliseconds":0.125},...}}
 *
 * The file is untrusted: anything in it that is not as it should be makes it as good as absent, with a line in the log.
 * It decides no bits by itself: what was chosen is in the run's numerics plan.
 * Must not know: what signatures and forms mean.
 */
#ifndef COAR_BACKEND_CUDA_PLAN_CACHE_H
#define COAR_BACKEND_CUDA_PLAN_CACHE_H

#include "backend/cuda/cuda_choose.h"

typedef struct cuda_plan_cache cuda_plan_cache;

/* Reads the class's file; an empty cache where there is none, or none that can be read. */
coar_status cuda_plan_cache_open(const char *device_class, const coar_callbacks *callbacks, cuda_plan_cache **out);
void cuda_plan_cache_close(cuda_plan_cache *cache);

/* Fills form, splits and milliseconds of the layer; false when its signature is not there. */
bool cuda_plan_cache_find(const cuda_plan_cache *cache, cuda_choice *layer);

/* Adds the layer's answer, in place of an older one. */
coar_status cuda_plan_cache_add(cuda_plan_cache *cache, const cuda_choice *layer);

/* Writes the file whole, if something was added; together with what another process has added meanwhile. A failure is
 * a line in the log. */
void cuda_plan_cache_save(cuda_plan_cache *cache);

#endif
