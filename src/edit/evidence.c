/* evidence.c - see evidence.h. */
#include "edit/evidence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

/* ------------------------------------------------------------------------------------------------------ from .npy */

static coar_status copy_rows(const char *path, const npy_array *array, uint64_t **out) {
    uint64_t *rows;
    TRY(memory_new(array->count, sizeof *rows, path, &rows));
    for (size_t i = 0; i < array->count; i++)
        rows[i] = (uint64_t)npy_get_int(array, i); /* below 0: out of every range */
    *out = rows;
    return COAR_OK;
}

coar_status given_weights_open(const char *attributions, const char *rows, given_weights *out) {
    coar_status status;
    npy_array numbers = {0};
    TRY(npy_open(attributions, &out->weight));
    TRY_GOTO(npy_open(rows, &numbers));
    if (out->weight.type != NPY_F32 || out->weight.rank != 2 || !out->weight.count)
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: want attributions, f32 [examples, components]", attributions));
    if (numbers.rank != 1 || numbers.type == NPY_BOOL || numbers.type >= NPY_F16)
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: want row numbers, integers [examples]", rows));
    if (numbers.count != out->weight.shape[0])
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: %zu rows, but %s has attributions of %zu examples", rows,
                            numbers.count, attributions, out->weight.shape[0]));
    TRY_GOTO(copy_rows(rows, &numbers, &out->rows));
done:
    npy_close(&numbers);
    return status;
}

void given_weights_close(given_weights *g) {
    npy_close(&g->weight);
    free(g->rows);
}

/* ---------------------------------------------------------------------------------------------------- which fit */

coar_status edit_fit_choose(const edit_side *side, const char *name, fit_info *out) {
    coar_status status;
    fit_info *fits = NULL;
    const fit_info *best = NULL;
    size_t count;
    TRY_GOTO(store_list_fits(side->store, &fits, &count));
    for (size_t f = 0; f < count; f++) {
        const fit_info *fit = &fits[f];
        if (name) {
            if (!strcmp(fit->name, name)) best = fit;
        } else if (!store_fit_is_baseline(fit) && !strcmp(fit->output, side->tables.output_names[0])) {
            if (!best || fit->predicted > best->predicted || (isnan(best->predicted) && !isnan(fit->predicted)))
                best = fit;
        }
    }
    if (!best && name)
        TRY_GOTO(status_set(COAR_ERROR_USAGE, "--fit '%s': %s has no such fit, see 'coar info'", name, side->path));
    if (!best)
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: attributions: there are none of %s; 'coar fit' makes them",
                            side->path, side->tables.output_names[0]));
    *out = *best;
done:
    free(fits);
    return status;
}

coar_status edit_fit_baseline(const edit_side *side, const char *estimator, const char *output, bool *there,
                              char name[64]) {
    fit_info *fits;
    size_t count;
    TRY(store_list_fits(side->store, &fits, &count));
    *there = false;
    for (size_t f = 0; f < count && !*there; f++) {
        *there = !strcmp(fits[f].estimator, estimator) && !strcmp(fits[f].output, output);
        if (*there) memcpy(name, fits[f].name, sizeof fits[f].name);
    }
    free(fits);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------------- reading */

/* NaN: a fit has none of an example whose outputs were not finite. */
static coar_status check_finite(const edit_set *set, const char *set_name, uint32_t n, const float *weight,
                                const char *where) {
    size_t without = 0;
    uint64_t first = 0;
    for (size_t i = 0; i < set->count; i++) {
        bool finite = true;
        for (size_t j = 0; j < n && finite; j++) finite = isfinite(weight[i * n + j]);
        if (!finite && !without++) first = set->rows[i];
    }
    if (!without) return COAR_OK;
    return status_set(
        COAR_ERROR_INPUT,
        "%s: attributions of %zu of the %zu %s examples are not finite, row %llu first: leave them out of "
        "--%s",
        where, without, set->count, set_name, (unsigned long long)first, set_name);
}

coar_status edit_evidence_read(const edit_set *set, const char *set_name, const char *fit, float **own,
                               edit_evidence *out) {
    const edit_side *side = set->side;
    const uint32_t n = side->tables.components;
    TRY(memory_new(set->count, n * sizeof(float), "attributions", own));
    for (size_t i = 0, run; i < set->count; i += run) {
        const uint64_t place = side->place[set->rows[i]];
        for (run = 1; i + run < set->count && side->place[set->rows[i + run]] == place + run; run++) continue;
        TRY(store_read_fit(side->store, fit, place, run, *own + i * n, NULL, NULL, NULL, NULL));
    }
    TRY(check_finite(set, set_name, n, *own, side->path));
    *out = (edit_evidence){.count = set->count, .weight = *own};
    return COAR_OK;
}

coar_status edit_evidence_given(const edit_set *set, const char *set_name, const given_weights *given, uint32_t n,
                                float **own, edit_evidence *out) {
    TRY(memory_new(set->count, n * sizeof(float), "attributions", own));
    for (size_t i = 0; i < set->count; i++)
        memcpy(*own + i * n, (const float *)given->weight.data + set->side->place[set->rows[i]] * n, n * sizeof(float));
    TRY(check_finite(set, set_name, n, *own, "--attributions"));
    *out = (edit_evidence){.count = set->count, .weight = *own};
    return COAR_OK;
}
