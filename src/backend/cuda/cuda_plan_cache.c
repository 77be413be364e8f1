/* cuda_plan_cache.c - see cuda_plan_cache.h. */
#include "backend/cuda/cuda_plan_cache.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/files.h"
#include "core/memory.h"

#define CACHE_VERSION 1
#define CACHE_BYTES_MAX ((size_t)16 << 20) /* a file of ten thousand layers is smaller */
#define SPLITS_MAX 64

struct cuda_plan_cache {
    char *path; /* NULL: nowhere to put it */
    char *device_class;
    cJSON *layers; /* object: signature -> answer */
    bool changed;
    const coar_callbacks *callbacks;
};

/* ------------------------------------------------------------------------------------------- the path */

/* The folder, malloc'ed; NULL when the environment names none. */
static char *cache_folder(void) {
    const char *own = getenv("COAR_PLAN_CACHE"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (own && *own) return string_format("%s", own);
    if (cache && *cache) return string_format("%s/coar", cache);
    return home && *home ? string_format("%s/.cache/coar", home) : NULL;
}

/* Classes have slashes, and a device's name may hold anything. */
static void file_name(const char *device_class, char *out, size_t size) {
    size_t i = 0;
    for (; device_class[i] && i + 1 < size; i++) {
        const char c = device_class[i];
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.';
        out[i] = plain ? c : '-';
    }
    out[i] = '\0';
}

static char *cache_path(const char *device_class) {
    char name[160];
    char *folder = cache_folder(), *path = NULL;
    file_name(device_class, name, sizeof name);
    if (folder) path = string_format("%s/plan-%s.json", folder, name);
    free(folder);
    return path;
}

/* mkdir -p of the file's folder. */
static coar_status make_folder(const char *path) {
    coar_status status = COAR_OK;
    char *folder = path_folder(path);
    if (!folder) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
    for (char *slash = folder; slash && status == COAR_OK;) {
        slash = strchr(slash + 1, '/');
        if (slash) *slash = '\0';
        if (mkdir(folder, 0777) && errno != EEXIST)
            status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot make the folder", folder);
        if (slash) *slash = '/';
    }
    free(folder);
    return status;
}

/* --------------------------------------------------------------------------------------------- reading */

static bool read_answer(const cJSON *answer, cuda_choice *layer) {
    const char *form = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(answer, "form"));
    const cJSON *splits = cJSON_GetObjectItemCaseSensitive(answer, "splits");
    const cJSON *time = cJSON_GetObjectItemCaseSensitive(answer, "milliseconds");
    if (!form || !*form || strlen(form) >= CUDA_FORM_SIZE || !cJSON_IsNumber(splits) || !cJSON_IsNumber(time))
        return false;
    const double s = splits->valuedouble, m = time->valuedouble;
    if (!(s >= 1 && s <= SPLITS_MAX) || s != floor(s) || !(m >= 0 && m < 1e9)) return false;
    snprintf(layer->form, sizeof layer->form, "%s", form);
    layer->splits = (uint32_t)s;
    layer->milliseconds = (float)m;
    return true;
}

/* The layers of a file's text, detached; NULL when anything about it is wrong. */
static cJSON *parse_layers(const char *text, size_t size, const char *device_class) {
    cJSON *root = cJSON_ParseWithLength(text, size), *layers = NULL;
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(root, "version"), *answer;
    const char *class = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "device_class"));
    bool valid = cJSON_IsNumber(version) && version->valuedouble == CACHE_VERSION && class &&
                 !strcmp(class, device_class) && cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(root, "layers"));
    if (valid) layers = cJSON_DetachItemFromObjectCaseSensitive(root, "layers");
    cJSON_ArrayForEach(answer, layers) {
        cuda_choice unused;
        valid = valid && read_answer(answer, &unused);
    }
    cJSON_Delete(root);
    if (valid) return layers;
    cJSON_Delete(layers);
    return NULL;
}

/* The layers of the file; NULL when there is none that can be read, and then `why` names what is wrong ("" = no
 * file). */
static cJSON *read_layers(const char *path, const char *device_class, char why[512]) {
    file_map map = {0};
    cJSON *layers = NULL;
    why[0] = '\0';
    if (!path || !file_exists(path)) return NULL;
    if (file_map_open(path, &map) != COAR_OK) {
        status_copy(why, 512);
        status_clear();
        return NULL;
    }
    if (map.size && map.size <= CACHE_BYTES_MAX) layers = parse_layers((const char *)map.data, map.size, device_class);
    file_map_close(&map);
    if (!layers) snprintf(why, 512, "%.400s: not a plan cache of %.80s", path, device_class);
    return layers;
}

coar_status cuda_plan_cache_open(const char *device_class, const coar_callbacks *callbacks, cuda_plan_cache **out) {
    char why[512];
    cuda_plan_cache *cache;
    *out = NULL;
    TRY(memory_new(1, sizeof *cache, "plan cache", &cache));
    *cache = (cuda_plan_cache){.callbacks = callbacks, .path = cache_path(device_class)};
    cache->device_class = string_format("%s", device_class);
    cache->layers = read_layers(cache->path, device_class, why);
    if (why[0]) log_warning(callbacks, "%s: ignored, layers are measured again", why);
    if (!cache->layers) cache->layers = cJSON_CreateObject();
    if (cache->layers && cache->device_class) {
        *out = cache;
        return COAR_OK;
    }
    cuda_plan_cache_close(cache);
    return status_set(COAR_ERROR_MEMORY, "plan cache: not enough memory");
}

void cuda_plan_cache_close(cuda_plan_cache *cache) {
    if (!cache) return;
    cJSON_Delete(cache->layers);
    free(cache->device_class);
    free(cache->path);
    free(cache);
}

bool cuda_plan_cache_find(const cuda_plan_cache *cache, cuda_choice *layer) {
    char signature[CUDA_SIGNATURE_SIZE];
    cuda_signature(&layer->conv, signature);
    const cJSON *answer = cJSON_GetObjectItemCaseSensitive(cache->layers, signature);
    return answer && read_answer(answer, layer);
}

/* --------------------------------------------------------------------------------------------- writing */

coar_status cuda_plan_cache_add(cuda_plan_cache *cache, const cuda_choice *layer) {
    char signature[CUDA_SIGNATURE_SIZE];
    cuda_signature(&layer->conv, signature);
    cJSON *answer = cJSON_CreateObject();
    if (!cJSON_AddStringToObject(answer, "form", layer->form) ||
        !cJSON_AddNumberToObject(answer, "splits", layer->splits) ||
        !cJSON_AddNumberToObject(answer, "milliseconds", (double)layer->milliseconds)) {
        cJSON_Delete(answer);
        return status_set(COAR_ERROR_MEMORY, "plan cache: not enough memory");
    }
    cJSON_DeleteItemFromObjectCaseSensitive(cache->layers, signature);
    if (!cJSON_AddItemToObject(cache->layers, signature, answer)) {
        cJSON_Delete(answer);
        return status_set(COAR_ERROR_MEMORY, "plan cache: not enough memory");
    }
    cache->changed = true;
    return COAR_OK;
}

/* What another process wrote since the file was read stays, but for what was measured here. */
static void merge_file(cuda_plan_cache *cache) {
    char why[512];
    cJSON *theirs = read_layers(cache->path, cache->device_class, why);
    while (theirs && theirs->child) {
        cJSON *answer = cJSON_DetachItemViaPointer(theirs, theirs->child);
        if (cJSON_GetObjectItemCaseSensitive(cache->layers, answer->string) ||
            !cJSON_AddItemToObject(cache->layers, answer->string, answer))
            cJSON_Delete(answer);
    }
    cJSON_Delete(theirs);
}

/* malloc'ed; NULL when there is no memory. The layers are lent to the document. */
static char *print(cuda_plan_cache *cache) {
    char *text = NULL;
    cJSON *root = cJSON_CreateObject();
    if (cJSON_AddNumberToObject(root, "version", CACHE_VERSION) &&
        cJSON_AddStringToObject(root, "device_class", cache->device_class) &&
        cJSON_AddItemReferenceToObject(root, "layers", cache->layers))
        text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    return text;
}

static coar_status save(cuda_plan_cache *cache) {
    merge_file(cache);
    char *text = print(cache);
    if (!text) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", cache->path);
    coar_status status = make_folder(cache->path);
    if (status == COAR_OK) status = file_write(cache->path, text, strlen(text));
    free(text);
    return status;
}

void cuda_plan_cache_save(cuda_plan_cache *cache) {
    char why[512];
    if (!cache->changed || !cache->path) return;
    if (save(cache) == COAR_OK) {
        cache->changed = false;
        return;
    }
    status_copy(why, sizeof why);
    status_clear();
    log_warning(cache->callbacks, "%s: the next job measures its layers again", why);
}
