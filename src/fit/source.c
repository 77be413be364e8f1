/* source.c - see source.h. */
#include "fit/source.h"

#include <stdlib.h>
#include <string.h>

#include "ablate/run_masks.h"
#include "core/memory.h"
#include "core/sampler.h"

void fit_source_close(fit_source *s) {
    npy_close(&s->outputs_npy);
    npy_close(&s->masks_npy);
    run_tables_free(&s->tables);
    store_close(s->store);
    free(s->group_first);
    free(s->squares);
    free(s->masks);
}

/* ------------------------------------------------------------------------------------------- from a run */

static coar_status read_run(void *context, uint64_t first, uint64_t count, float *y) {
    const fit_source *s = context;
    return store_read_outputs(s->store, s->output, 0, s->problem.m, first, count, y);
}

static coar_status check_mask_count(const fit_source *s, const sampler *sampler, uint64_t m) {
    uint64_t most = UINT64_MAX;
    if (sampler->kind == SAMPLER_LOO) most = (uint64_t)sampler->n + 1;
    if (sampler->kind == SAMPLER_FILE) most = sampler->rows_count;
    if (m <= most) return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "%s: outputs of %llu masks, but its sampler '%s' has only %llu",
                      store_path(s->store), (unsigned long long)m, sampler_name(sampler->kind),
                      (unsigned long long)most);
}

static coar_status open_masks(fit_source *s, uint64_t m, thread_pool *pool) {
    uint32_t *group_first = NULL;
    sampler sampler;
    coar_status status;
    TRY_GOTO(run_masks_training(s->store, &s->tables, &group_first, &sampler));
    TRY_GOTO(check_mask_count(s, &sampler, m));
    TRY_GOTO(run_masks_pack(&sampler, 0, m, pool, "the run's masks", &s->masks));
    s->problem.leave_one_out = sampler.kind == SAMPLER_LOO;
done:
    free(group_first);
    return status;
}

/* The named output, or the first. */
static coar_status choose_output(fit_source *s, const char *wanted) {
    const run_tables *t = &s->tables;
    if (t->output_count == 0) return status_set(COAR_ERROR_INPUT, "%s: outputs: there are none", store_path(s->store));
    s->output = t->output_names[0];
    for (size_t k = 0; wanted && k < t->output_count; k++)
        if (!strcmp(t->output_names[k], wanted)) s->output = t->output_names[k];
    if (wanted && strcmp(s->output, wanted))
        return status_set(COAR_ERROR_USAGE, "--output '%s': %s does not hold it, see 'coar info'", wanted,
                          store_path(s->store));
    return COAR_OK;
}

static coar_status read_gradients(void *context, uint64_t first, uint64_t count, double *sums) {
    const fit_source *s = context;
    return store_read_gradients(s->store, s->output, first, count, sums);
}

/* The output's gradients, if the run has them. */
static coar_status open_gradients(fit_source *s) {
    const size_t N = (size_t)s->tables.examples, n = s->tables.components;
    gradients_info info;
    bool present;
    TRY(store_gradients_info(s->store, s->output, &info, &present));
    if (!present) return COAR_OK;
    TRY(memory_new(N + n, LEVELS * sizeof *s->squares, "gradients", &s->squares));
    TRY(store_read_gradient_squares(s->store, s->output, s->squares, s->squares + LEVELS * n));
    size_t output = 0;
    while (strcmp(s->tables.output_names[output], s->output)) output++;
    s->gradients = (fit_gradients){.masks = {.seed = info.seed, .alpha = info.alpha, .n = info.components},
                                   .passes = info.passes,
                                   .read = read_gradients,
                                   .context = s,
                                   .squares_of_component = s->squares,
                                   .squares_of_example = s->squares + LEVELS * n,
                                   .baseline = s->tables.baseline + output * N};
    s->problem.gradients = &s->gradients;
    return COAR_OK;
}

static coar_status open_outputs(fit_source *s, thread_pool *pool) {
    uint64_t m, N;
    TRY(store_masks_finished(s->store, &m));
    if (!m && s->problem.gradients) return COAR_OK;
    TRY(store_output_shape(s->store, &m, &N));
    if (N != s->tables.examples)
        return status_set(COAR_ERROR_INPUT, "%s: ablations: outputs of %llu examples, but the run has %llu",
                          store_path(s->store), (unsigned long long)N, (unsigned long long)s->tables.examples);
    s->problem.m = m;
    s->problem.read = read_run;
    return open_masks(s, m, pool);
}

coar_status fit_source_open_run(fit_source *s, const char *run, const char *output, thread_pool *pool) {
    TRY(store_open(run, &s->store));
    TRY(store_read_tables(s->store, &s->tables, NULL));
    TRY(choose_output(s, output));
    TRY(run_masks_groups(&s->tables, &s->group_first));
    s->problem = (fit_problem){.N = s->tables.examples,
                               .n = s->tables.components,
                               .context = s,
                               .group_first = s->group_first,
                               .groups = (uint32_t)s->tables.group_count};
    TRY(open_gradients(s));
    TRY(open_outputs(s, pool));
    s->problem.masks = s->masks;
    return COAR_OK;
}

/* --------------------------------------------------------------------------------------- from two arrays */

/* Rows of a file that are read before its pages are given back: they are several times what is made of them. */
enum { RELEASE = 1024 };

static coar_status read_npy(void *context, uint64_t first, uint64_t count, float *y) {
    const fit_source *s = context;
    const npy_array *outputs = &s->outputs_npy;
    for (uint64_t i = 0; i < s->problem.m; i++) {
        if (i % RELEASE == 0) file_map_release(&outputs->map, outputs->map.data, outputs->map.size);
        for (uint64_t z = 0; z < count;
             z++) /* a double beyond float's range becomes infinite, and is left out as such */
            y[i * count + z] = (float)npy_get_double(outputs, i * s->problem.N + first + z);
    }
    file_map_release(&outputs->map, outputs->map.data, outputs->map.size);
    return COAR_OK;
}

static coar_status check_matrix(const char *flag, const char *path, const npy_array *a) {
    if (a->rank != 2)
        return status_set(COAR_ERROR_INPUT,
                          "%s %s: shape: %d dimensions, but a matrix with a row for each mask is needed", flag, path,
                          a->rank);
    if (a->shape[0] == 0 || a->shape[1] == 0)
        return status_set(COAR_ERROR_INPUT, "%s %s: shape: the matrix is empty (%zu x %zu)", flag, path, a->shape[0],
                          a->shape[1]);
    return COAR_OK;
}

static coar_status check_arrays(const fit_source *s, const char *masks_path, const char *outputs_path) {
    const npy_array *masks = &s->masks_npy, *y = &s->outputs_npy;
    TRY(check_matrix("--masks", masks_path, masks));
    TRY(check_matrix("--outputs", outputs_path, y));
    if (masks->type != NPY_BOOL && masks->type != NPY_U8)
        return status_set(COAR_ERROR_INPUT, "--masks %s: dtype: must be bool (or uint8 of 0 and 1), True = kept",
                          masks_path);
    if (y->type != NPY_F32 && y->type != NPY_F64)
        return status_set(COAR_ERROR_INPUT, "--outputs %s: dtype: must be float32 or float64", outputs_path);
    if (masks->shape[0] != y->shape[0])
        return status_set(COAR_ERROR_INPUT,
                          "--masks %s has %zu rows and --outputs %s has %zu: one for each mask is needed", masks_path,
                          masks->shape[0], outputs_path, y->shape[0]);
    if (masks->shape[1] > UINT32_MAX)
        return status_set(COAR_ERROR_INPUT, "--masks %s: shape: %zu components are too many", masks_path,
                          masks->shape[1]);
    return COAR_OK;
}

static coar_status pack_masks(fit_source *s, const char *path) {
    const uint8_t *values = s->masks_npy.data;
    size_t m = s->masks_npy.shape[0], n = s->masks_npy.shape[1], row = mask_bytes((uint32_t)n);
    TRY(memory_new(m, row, "the masks", &s->masks));
    for (size_t i = 0; i < m; i++) {
        if (i % RELEASE == 0) file_map_release(&s->masks_npy.map, values, i * n);
        for (size_t j = 0; j < n; j++) {
            uint8_t value = values[i * n + j];
            if (value > 1)
                return status_set(COAR_ERROR_INPUT, "--masks %s: [%zu, %zu] is %d: must be 0 or 1", path, i, j, value);
            s->masks[i * row + j / 8] |= (uint8_t)(value << (j % 8));
        }
    }
    file_map_release(&s->masks_npy.map, values, m * n);
    return COAR_OK;
}

coar_status fit_source_open_arrays(fit_source *s, const char *masks, const char *outputs) {
    TRY(npy_open(masks, &s->masks_npy));
    TRY(npy_open(outputs, &s->outputs_npy));
    TRY(check_arrays(s, masks, outputs));
    TRY(pack_masks(s, masks));
    s->output = "outputs";
    s->problem = (fit_problem){.masks = s->masks,
                               .m = s->masks_npy.shape[0],
                               .n = (uint32_t)s->masks_npy.shape[1],
                               .N = s->outputs_npy.shape[1],
                               .read = read_npy,
                               .context = s};
    return COAR_OK;
}
