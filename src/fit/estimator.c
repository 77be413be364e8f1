/* estimator.c - the estimators' names. */
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

bool fit_estimator_takes_gradients(fit_estimator e) {
    return e == FIT_GRAD || e == FIT_GRAD_EB;
}
