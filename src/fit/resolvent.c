/*
 * resolvent.c - see resolvent.h. With x_j the centred columns of the masks, K = sum_j D_j x_j x_j', p the penalty, and
 * `leave one column out' (Sherman and Morrison):
 *
 *   x_j' (K + p)^-1 x_j = q_j / (1 + D_j q_j),    q_j = x_j' (K_without_j + p)^-1 x_j.
 *
 * x_j is independent of K_without_j, so that q_j is near its mean, |x_j|^2 times the mean eigenvalue of the inverse
 * (Silverstein and Bai 1995; Couillet and Debbah 2011, chapter 6). With kappa = p times that mean, over the m - 1
 * dimensions that the bias leaves,
 *
 *   kappa = 1 - df / (m - 1),    df = sum_j t_j / (1 + t_j),    t_j = D_j |x_j|^2 kappa / p:
 *
 * one equation for one number. What the other components are not known well enough to explain is noise to component j,
 * and makes sigma^2 look like sigma^2 / kappa; with that it is as if each component were measured alone:
 *
 *   posterior variance / s^2 = D_j / (1 + t_j),
 *   log det(1 + K / p)       = sum_j log(1 + t_j) - (m - 1) (log kappa + 1 - kappa).
 *
 * The determinant's derivatives with kappa vanish, which gives back the equation above, and with log p it is -df.
 *
 * Ridge (D = 1, o_j = |x_j|^2): the diagonal of (Xc' Xc + p)^-1 is 1/(p + o_j kappa), and that of its product with Xc' Xc
 * (Xc' Xc + p)^-1, the variance of the estimate about its mean, is the sum of it and p times its derivative,
 * o_j (kappa - p kappa') / (p + o_j kappa)^2.
 *
 * Where p vanishes df is n, kappa = 1 - n/(m - 1); or, if components are more than m - 1, kappa vanishes with it, and
 * kappa / p = g makes sum_j o_j g / (1 + o_j g) the number of dimensions: m - 2 of the masks that one mask is left out of.
 */
#include "fit/resolvent.h"

#include <math.h>

/* Newton's steps for kappa double its digits once they are close; the steps before that are few. */
#define STEPS 200
#define ENOUGH 1e-13

/* Steps of the penalty are at most a decade: an extrapolation is not believed further. */
#define REACH 8

/* F(kappa) = kappa - 1 + df/(m - 1) rises and is concave, so that Newton's steps from 0 rise to its root. */
static double solve_slack(const double *information, size_t n, double space, double penalty, double *freedom) {
    double kappa = 0;
    for (int step = 0; step < STEPS; step++) {
        double df = 0, slope = 0;
        for (size_t j = 0; j < n; j++) {
            const double gain = information[j] / penalty, whole = 1 + gain * kappa;
            df += gain * kappa / whole;
            slope += gain / (whole * whole);
        }
        *freedom = df;
        const double change = (1 - kappa - df / space) / (1 + slope / space);
        if (!(change > ENOUGH * kappa)) break;
        kappa += change;
    }
    return kappa;
}

void resolvent_create(const double *information, size_t n, size_t m, resolvent *out) {
    const double space = (double)m - 1;
    double sum = 0;
    for (size_t j = 0; j < n; j++) sum += information[j];
    out->grid = (penalty_grid){.r = n < m - 1 ? n : m - 1, .m = m};
    penalty_spread(sum > 0 ? sum / (double)out->grid.r : 1, out->grid.penalty);
    for (size_t g = 0; g < PENALTIES; g++) {
        const double p = out->grid.penalty[g];
        double df = 0, logs = 0;
        const double kappa = solve_slack(information, n, space, p, &df);
        for (size_t j = 0; j < n; j++) logs += log1p(information[j] * kappa / p);
        out->slack[g] = kappa;
        out->grid.left[g] = space - df;
        out->grid.offset[g] = logs / space - log(kappa) - (1 - kappa);
    }
}

double resolvent_variance(const resolvent *r, size_t g, double prior, double information) {
    return prior / (1 + information * r->slack[g] / r->grid.penalty[g]);
}

double resolvent_slope(const resolvent *r, size_t g, const double *information, size_t n) {
    const double kappa = r->slack[g], p = r->grid.penalty[g], space = (double)r->grid.m - 1;
    double with_penalty = 0, with_kappa = 0;
    for (size_t j = 0; j < n; j++) {
        const double whole = p + information[j] * kappa, share = information[j] / (whole * whole);
        with_penalty += share * kappa;
        with_kappa += share * p;
    }
    return with_penalty / (space + with_kappa);
}

double resolvent_spread(const resolvent *r, size_t g, double slope, double information) {
    const double p = r->grid.penalty[g], whole = p + information * r->slack[g];
    return information * fmax(r->slack[g] - p * slope, 0) / (whole * whole);
}

resolvent_end resolvent_vanish(const double *information, size_t n, size_t m) {
    size_t informed = 0;
    for (size_t j = 0; j < n; j++) informed += information[j] > 0;
    if (informed + 1 < m) return (resolvent_end){informed, false, 1 - (double)informed / ((double)m - 1)};
    const double space = (double)m - 2;
    double ratio = 0;
    for (int step = 0; step < STEPS; step++) { /* the sum rises with g and is concave, as above */
        double sum = 0, slope = 0;
        for (size_t j = 0; j < n; j++) {
            const double whole = 1 + information[j] * ratio;
            sum += information[j] * ratio / whole;
            slope += information[j] / (whole * whole);
        }
        const double change = (space - sum) / slope;
        if (!(change > ENOUGH * ratio)) break;
        ratio += change;
    }
    return (resolvent_end){m - 1, true, ratio};
}

uint32_t resolvent_nearest(const resolvent *r, double penalty) {
    uint32_t nearest = 0;
    for (uint32_t g = 1; g < PENALTIES; g++)
        if (fabs(log(r->grid.penalty[g] / penalty)) < fabs(log(r->grid.penalty[nearest] / penalty))) nearest = g;
    return nearest;
}

/* S(p) = min over w of the penalised squares is squares - sum_k alpha_k^2 d_k/(d_k + p) (penalty.c). A single d that
 * gives its value and its slope at the solution's penalty, dS/d log p = p sum_j w_j^2/D_j, gives it near there; S/p
 * falls and S rises whatever the outputs are. */
uint32_t resolvent_choose(const resolvent *r, const solved_squares *solved) {
    const double p0 = r->grid.penalty[solved->now], explained = solved->squares - solved->penalised;
    const double slope = solved->penalised - solved->residual, share = explained > 0 ? slope / explained : 1;
    const double bound = fmin(fmax(share, 1e-6), 1 - 1e-6), d = p0 * (1 - bound) / bound;
    const uint32_t low = solved->now > REACH ? solved->now - REACH : 0;
    const uint32_t high = solved->now + REACH < PENALTIES ? solved->now + REACH : PENALTIES - 1;
    uint32_t best = PENALTIES - 1;
    double least = INFINITY;
    if (!(solved->squares > 0)) return best;  /* constant outputs: no component matters */
    for (uint32_t g = high + 1; g-- > low;) { /* downwards: the larger penalty wins a tie */
        const double p = r->grid.penalty[g], at_least = solved->penalised * fmin(p / p0, 1);
        const double model = solved->squares - fmax(explained, 0) * (p0 + d) / (p + d);
        const double criterion = log(fmax(model, at_least)) + r->grid.offset[g];
        if (criterion < least) {
            least = criterion;
            best = g;
        }
    }
    return best;
}
