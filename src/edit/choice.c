/* choice.c - a method's order of components, from the attributions that it takes. See edit.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "edit/edit.h"

static const char *const estimators[] = {[EDIT_OF_LOO] = "loo", [EDIT_OF_GRADIENT] = "gp"};

coar_status edit_evidence_name(const edit_run *e, char name[64]) {
    bool there;
    *name = '\0';
    if (e->method->source == EDIT_OF_NOTHING) return COAR_OK;
    if (e->method->source != EDIT_OF_FIT)
        return edit_fit_baseline(e->sets.set[COAR_EDIT_TARGET].side, estimators[e->method->source], e->fit.output,
                                 &there, name);
    snprintf(name, sizeof e->fit.name, "%s", e->given.rows ? EDIT_FIT_GIVEN : e->fit.name);
    return COAR_OK;
}

/* The evidence of one set for a method; *there as edit_choose. */
static coar_status read_evidence(const edit_run *e, const edit_method *method, size_t k, float **own,
                                 edit_evidence *out, bool *there) {
    static const char *const scores[] = {[EDIT_OF_LOO] = "leave-one-out", [EDIT_OF_GRADIENT] = "gradients"};
    const edit_set *set = &e->sets.set[k];
    const char *set_name = edit_set_names[k];
    char name[64];
    if (method->source == EDIT_OF_NOTHING) return COAR_OK;
    if (method->source == EDIT_OF_FIT && e->given.rows)
        return edit_evidence_given(set, set_name, &e->given, e->n, own, out);
    *there = !e->given.rows && (method->source != EDIT_OF_FIT || e->fit.name[0]);
    if (!*there) { /* rows of --attributions need not be the run's examples */
        log_warning(e->o->callbacks, "%s: method %s is left out: %s", e->o->run, method->name,
                    e->given.rows ? "the run's scores are not of what --rows names" : "the run has no fit");
        return COAR_OK;
    }
    if (method->source == EDIT_OF_FIT) return edit_evidence_read(set, set_name, e->fit.name, own, out);
    TRY(edit_fit_baseline(set->side, estimators[method->source], e->fit.output, there, name));
    if (!*there) {
        log_warning(e->o->callbacks, "%s: has no %s of %s for method %s: 'coar evaluate %s --baselines' makes them",
                    set->side->path, scores[method->source], e->fit.output, method->name, set->side->path);
        return COAR_OK;
    }
    return edit_evidence_read(set, set_name, name, own, out);
}

/* Attributions are held in memory, of all target and reference examples at once. */
static coar_status check_memory(const edit_run *e) {
    const job *j = e->sets.sides[0].job;
    const double examples =
        (double)e->sets.set[COAR_EDIT_TARGET].count + (double)e->sets.set[COAR_EDIT_REFERENCE].count;
    const double bytes = 4.0 * examples * e->n,
                 most = j->interface->devices ? (double)memory_default() : (double)j->memory;
    if (bytes <= most) return COAR_OK;
    return status_set(COAR_ERROR_MEMORY,
                      "--target, --reference: attributions of %.0f examples take %.0f MiB, and may take %.0f MiB: name "
                      "fewer examples, or give more --memory",
                      examples, bytes / 1048576, most / 1048576);
}

coar_status edit_choose(edit_run *e, const edit_method *method, double *scores, uint32_t *order, uint32_t *count,
                        bool *there) {
    coar_status status;
    float *target = NULL, *reference = NULL;
    edit_problem p = {.n = e->n,
                      .direction = e->rules.direction,
                      .better = e->rules.output_direction,
                      .harm_weight = e->harm_weight,
                      .norms = e->norms,
                      .seed = e->seed,
                      .pool = e->sets.sides[0].job->pool};
    *there = true;
    if (method->source != EDIT_OF_NOTHING) TRY_GOTO(check_memory(e));
    TRY_GOTO(read_evidence(e, method, COAR_EDIT_TARGET, &target, &p.target, there));
    if (*there) TRY_GOTO(read_evidence(e, method, COAR_EDIT_REFERENCE, &reference, &p.reference, there));
    if (*there) TRY_GOTO(method->choose(&p, scores, order, count));
done:
    free(reference);
    free(target);
    return status;
}
