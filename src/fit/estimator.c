/* estimator.c - the names of estimators and of their forms. */
#include <string.h>

#include "fit/fit.h"

static const char *const names[] = {
    [FIT_OLS] = "ols",     [FIT_RIDGE] = "ridge", [FIT_EB] = "eb",
    [FIT_LASSO] = "lasso", [FIT_GRAD] = "grad",   [FIT_GRAD_EB] = "grad+eb",
};

coar_status fit_estimator_parse(const char *text, fit_estimator *out) {
    *out = FIT_RIDGE;
    if (!text) return COAR_OK;
    for (size_t e = 0; e < sizeof names / sizeof *names; e++)
        if (!strcmp(text, names[e])) {
            *out = (fit_estimator)e;
            return COAR_OK;
        }
    return status_set(COAR_ERROR_USAGE, "--estimator '%s' is not known: ols, ridge, eb, lasso, grad or grad+eb", text);
}

const char *fit_estimator_name(fit_estimator e) {
    return names[e];
}

static const char *const forms[] = {[FIT_BY_SIZE] = "auto", [FIT_DIRECT] = "direct", [FIT_ITERATIVE] = "iterative"};

coar_status fit_form_parse(const char *text, fit_form *out) {
    *out = FIT_BY_SIZE;
    if (!text) return COAR_OK;
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
        if (!strcmp(text, forms[f])) {
            *out = (fit_form)f;
            return COAR_OK;
        }
    return status_set(COAR_ERROR_USAGE, "--solver '%s' is not known: auto, direct or iterative", text);
}

const char *fit_form_name(bool iterative) {
    return forms[iterative ? FIT_ITERATIVE : FIT_DIRECT];
}

bool fit_estimator_takes_gradients(fit_estimator e) {
    return e == FIT_GRAD || e == FIT_GRAD_EB;
}
