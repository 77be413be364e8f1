/* work.c - see work.h. Letters as in solver.h; p the smaller side, S examples of the sample that priors learn from. */
#include "fit/work.h"

#include <math.h>

#include "fit/penalty.h"
#include "fit/prior.h"
#include "fit/sample.h"

/* Symmetric eigenvectors by divide and conquer: 4/3 p^3 multiplications and additions to tridiagonal form, at half the speed of
 * products since half of them are products with vectors; up to 4/3 p^3 for the tridiagonal ones; 2 p^3 to transform back. */
#define EIGEN_OPERATIONS 6.0

/* A word of 64 masks' bits is anded and counted in about the time of so many multiplications. */
#define WORD_OPERATIONS 4.0

/* Steps of conjugate gradients to single precision's tolerance, about; what matters is that small and large have as many. */
#define STEPS 30.0

enum { PARTS = 5 }; /* of the masks, each without which a prior is learnt again (crossfit.c) */

typedef struct sizes {
    double m, n, p, N, S;
} sizes;

static double gram(const sizes *s) {
    return WORD_OPERATIONS * s->p * s->p / 2 * (s->m + s->n - s->p) / 64;
}

/* Gram matrix or, weighted by a prior, the kernel of the masks as a dense product; eigenvectors. */
static double spectrum(const sizes *s, bool weighted) {
    const double matrix = weighted && s->p < s->n ? s->m * s->m * s->n / 2 : gram(s);
    return matrix + EIGEN_OPERATIONS * s->p * s->p * s->p;
}

/* Leverages of all masks at all penalties. */
static double leverages(const sizes *s) {
    return s->m * s->p * (PENALTIES + (s->p < s->m ? s->p : 0));
}

/* Weights of one example, and its diagnosis: held-out predictions of all masks. */
static double solution(const sizes *s) {
    const double cross = s->m * s->n / 8, rotations = 2 * s->p * s->p, penalties = PENALTIES * s->p;
    const double back = s->p < s->n ? s->m * s->n : 0, predictions = s->m * s->n;
    return cross + rotations + penalties + back + predictions;
}

static double bayes_dense(const sizes *s) {
    const double round = spectrum(s, true) + s->S * (2 * s->p * s->p + PENALTIES * s->p + s->p * s->n);
    const double solver = spectrum(s, true) + leverages(s);
    return (PARTS + 1) * (PRIOR_ROUNDS * round + solver + s->S * solution(s));
}

static double bayes_iterative(const sizes *s) {
    const double product = s->m * s->n, solved = 2 * STEPS * product;
    const double learnt = fmin(s->S, SAMPLE_ITERATIVE);
    return (PARTS + 1) * (PRIOR_ROUNDS * learnt * solved / 3 + learnt * solved) + s->N * solved;
}

static double bayes(const sizes *s, bool iterative) {
    return iterative ? bayes_iterative(s) : bayes_dense(s) + s->N * solution(s);
}

/* Averages of every example, and their calibration on the sample and then on all masks: fitted values of bands. */
static double gradients(const sizes *s, double passes) {
    const double averages = s->N * 3 * s->n + passes * s->n * s->N / LEVELS_BLOCK * 8;
    return averages + (s->S + s->N) * 3 * s->m * s->n;
}

double fit_work(const fit_problem *problem, const fit_settings *settings) {
    const double m = (double)problem->m, n = problem->n, N = (double)problem->N;
    const sizes s = {m, n, m <= n + 1 ? m : n, N, fmin(N, SAMPLE_MAX)};
    const double passes = problem->gradients ? problem->gradients->passes : 0;
    const bool iterative = fit_is_iterative(problem, settings);
    switch (settings->estimator) {
    case FIT_OLS:
        if (m > n + 1) return gram(&s) + n * n * n / 3 + m * n * n / 2 + N * (m * n / 8 + n * n + m * n);
        return spectrum(&s, false) + leverages(&s) + N * solution(&s);
    case FIT_RIDGE:
        return spectrum(&s, false) + leverages(&s) + N * solution(&s);
    case FIT_LASSO:
        return 2 * (gram(&s) + N * (PENALTIES * n * 30 + solution(&s)));
    case FIT_EB:
        return bayes(&s, iterative);
    case FIT_GRAD:
        return gradients(&s, passes);
    case FIT_GRAD_EB:
        return gradients(&s, passes) + bayes(&s, iterative);
    }
    return 0;
}
