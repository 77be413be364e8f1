#!/usr/bin/env python3
"""Writes tests/golden/fit/: what numpy and scikit-learn say about small fits, by the longest way round.

No eigenvectors, no leverages: penalised normal equations are solved directly, every leave-one-out prediction is a refit
without that mask, generalised cross-validation uses the trace of an explicit hat matrix, and the evidence the determinant of an
explicit covariance of the outputs. One .npy [N, 4 + 2n] per case and estimator: penalty, r2, heldout, bias, weights, standard
errors; .npy of three numbers for what is predicted of all examples.

usage: golden_fit.py [FOLDER]
"""
import sys
from pathlib import Path

import numpy as np

OLS, RIDGE, EB, LASSO = "ols", "ridge", "eb", "lasso"
CASES = (("tall", 71, 13, (0, 5, 13)), ("wide", 23, 37, (0, 12, 37)), ("same", 60, 9, (0, 4, 9)))
ROUNDS, FOLDS, GROUP_EXAMPLES = 8, 5, 2.0
STEPS, PER_DECADE, PATIENCE = 49, 16, 8  # of the lasso's path


def solve(X, y, penalty, D=1.0):
    """Weights and bias; penalty 0 = minimum norm. The bias is not penalised, a weight by penalty / D."""
    centred = X - X.mean(0)
    if penalty == 0:
        w = np.linalg.pinv(centred, rcond=1e-8) @ (y - y.mean())
    else:
        shrink = penalty * np.eye(X.shape[1]) / D
        w = np.linalg.solve(centred.T @ centred + shrink, centred.T @ (y - y.mean()))
    return w, y.mean() - X.mean(0) @ w


def grid(X, D=1.0):
    centred = (X - X.mean(0)) * np.sqrt(D)
    value = np.linalg.eigvalsh(centred.T @ centred)
    return value.sum() / (value > 1e-10 * value[-1]).sum() * 10 ** ((np.arange(97) - 48) / 8)


def hat_trace(X, penalty, D=1.0):
    centred = X - X.mean(0)
    if penalty == 0:
        return np.linalg.matrix_rank(centred)
    gram = centred.T @ centred
    return np.trace(np.linalg.solve(gram + penalty * np.eye(X.shape[1]) / D, gram))


def choose(X, y):
    """The penalty of least rss / (m - 1 - trace)^2."""
    scores = []
    for penalty in grid(X):
        w, b = solve(X, y, penalty)
        scores.append(((y - b - X @ w) ** 2).sum() / (len(y) - 1 - hat_trace(X, penalty)) ** 2)
    return grid(X)[int(np.argmin(scores))]


def leave_one_out(X, y, penalty, D=1.0):
    """Predictions by refits, each less the mean of the outputs it was fitted to."""
    predicted = []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        w, b = solve(X[rest], y[rest], penalty, D)
        predicted.append(b + X[i] @ w - y[rest].mean())
    return np.array(predicted)


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


def standard_errors(X, y, penalty):
    w, b = solve(X, y, penalty)
    left = len(y) - 1 - hat_trace(X, penalty)
    if left < 1e-6:
        return np.full(X.shape[1], np.nan)
    sigma2 = ((y - b - X @ w) ** 2).sum() / left
    centred = X - X.mean(0)
    gram = centred.T @ centred
    if penalty == 0:
        covariance = np.linalg.pinv(gram, rcond=1e-10)
    else:
        inverse = np.linalg.inv(gram + penalty * np.eye(len(gram)))
        covariance = inverse @ gram @ inverse
    return np.sqrt(sigma2 * np.diag(covariance))


def r_squared(X, y, w, b):
    return 1 - ((y - b - X @ w) ** 2).sum() / ((y - y.mean()) ** 2).sum()


def linear(X, Y, estimator):
    rows = []
    for y in Y.T:
        penalty = choose(X, y) if estimator == RIDGE else 0.0
        w, b = solve(X, y, penalty)
        held = correlation(leave_one_out(X, y, penalty), y)
        rows.append([penalty, r_squared(X, y, w, b), held, b, *w, *standard_errors(X, y, penalty)])
    return np.array(rows)


# ------------------------------------------------------------------------------------------ empirical Bayes


def evidence(X, y, D):
    """The penalty under which y is most likely, and the noise's variance: outputs ~ N(bias, sigma^2 (I + X D X' / penalty))."""
    centred, y, m = X - X.mean(0), y - y.mean(), len(y)
    best = (np.inf,)
    for penalty in grid(X, D)[::-1]:
        covariance = np.eye(m) + (centred * D) @ centred.T / penalty
        square = y @ np.linalg.solve(covariance, y)
        score = (m - 1) * np.log(square) + np.linalg.slogdet(covariance)[1]
        if score < best[0]:
            best = (score, penalty, square / (m - 1))
    return best[1:]


def learn_prior(X, Y, groups):
    """Variances that all examples share, by expectation and maximisation, each drawn to its group's mean."""
    n, centred = X.shape[1], X - X.mean(0)
    D = np.ones(n)
    for _ in range(ROUNDS):
        total, weight = np.zeros(n), 0.0
        for y in Y.T:
            penalty, sigma2 = evidence(X, y, D)
            posterior = np.linalg.inv(centred.T @ centred + penalty * np.diag(1 / D))  # over sigma2
            mu = posterior @ centred.T @ (y - y.mean())
            g = np.trace(posterior @ centred.T @ centred)
            total += g * (mu**2 * penalty / sigma2 + penalty * np.diag(posterior))
            weight += g
        D = total / weight
        for a, b in zip(groups[:-1], groups[1:]):
            D[a:b] = (len(Y.T) * D[a:b] + GROUP_EXAMPLES * D[a:b].mean()) / (len(Y.T) + GROUP_EXAMPLES)
        D = np.maximum(D / D.mean(), 1e-8)
    return D


def crossfit(X, Y, groups):
    """Correlations with predictions of each fifth of the masks under a prior that has not seen it."""
    m, predicted = len(X), np.zeros_like(Y)
    for k in range(FOLDS):
        fold = np.arange(m) * FOLDS // m == k
        D = learn_prior(X[~fold], Y[~fold], groups)
        for z, y in enumerate(Y.T):
            predicted[fold, z] = leave_one_out(X, y, evidence(X, y, D)[0], D)[fold]
    return np.array([correlation(p, y) for p, y in zip(predicted.T, Y.T)]), predicted


def interval(predicted, Y):
    """Mean correlation, and 2.093 roots of its variance over masks (jackknife of 20 parts) and examples to either side."""
    m, N, parts = len(Y), Y.shape[1], 20
    part = np.arange(m) * parts // m
    r = np.array([correlation(p, y) for p, y in zip(predicted.T, Y.T)])
    without = np.array([[correlation(p[part != k], y[part != k]) for p, y in zip(predicted.T, Y.T)] for k in range(parts)])
    jackknife = lambda x: (parts - 1) / parts * ((x - x.mean(0)) ** 2).sum(0)
    masks, examples, both = jackknife(without.mean(1)), r.var(ddof=1) / N, jackknife(without).sum() / N**2
    half = 2.093 * np.sqrt(max(masks + examples - both, masks, examples))
    return np.array([r.mean(), max(r.mean() - half, -1), min(r.mean() + half, 1)])


def bayes(X, Y, groups):
    D, centred = learn_prior(X, Y, groups), X - X.mean(0)
    honest, predicted = crossfit(X, Y, groups)
    rows = []
    for y in Y.T:
        penalty = evidence(X, y, D)[0]
        w, b = solve(X, y, penalty, D)
        left = np.trace(np.linalg.inv(np.eye(len(y)) + (centred * D) @ centred.T / penalty)) - 1
        sigma2 = ((y - b - X @ w) ** 2).sum() / left
        errors = np.sqrt(sigma2 * np.diag(np.linalg.inv(centred.T @ centred + penalty * np.diag(1 / D))))
        held = correlation(leave_one_out(X, y, penalty, D), y)
        rows.append([penalty, r_squared(X, y, w, b), held, b, *w, *errors])
    rows = np.array(rows)
    flattering = rows[:, 2].mean()
    if 0 < honest.mean() < flattering:
        rows[:, 2] *= honest.mean() / flattering
    return rows, interval(predicted, Y)


# ---------------------------------------------------------------------------------------------------- lasso


def lasso_fit(X, y, penalty):
    from sklearn.linear_model import Lasso

    model = Lasso(alpha=penalty / len(y), tol=1e-14, max_iter=1000000).fit(X, y)
    return model.coef_, model.intercept_


def lasso(X, Y):
    """The path of penalties down from the largest, the one of least rss / (m - 1 - weights not 0)^2."""
    rows = []
    m = len(X)
    first = m - (m + 9) // 10
    for y in Y.T:
        largest, best, risen = np.abs((X - X.mean(0)).T @ (y - y.mean())).max(), (np.inf,), 0
        for step in range(STEPS):
            penalty = largest * 10 ** (-step / PER_DECADE)
            w, b = lasso_fit(X, y, penalty) if step else (np.zeros(X.shape[1]), y.mean())
            left = m - 1 - (w != 0).sum()
            if left <= 0 or risen == PATIENCE:
                break
            score = ((y - b - X @ w) ** 2).sum() / left**2
            risen = 0 if score < best[0] else risen + 1
            if not risen:
                best = (score, penalty, w, b)
        _, penalty, w, b = best
        early, _ = lasso_fit(X[:first], y[:first], penalty * first / m)
        held = correlation(X[first:] @ early, y[first:]) if early.any() else np.nan
        rows.append([penalty, r_squared(X, y, w, b), held, b, *w, *np.full(X.shape[1], np.nan)])
    return np.array(rows)


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "tests/golden/fit")
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    # wide: interpolated by least squares. same: a component twice and one always kept.
    for case, m, n, groups in CASES:
        masks = random.random((m, n)) > 0.2
        if case == "same":
            masks[:, 3] = masks[:, 1]
            masks[:, 6] = True
        X = masks.astype(float)
        noise = np.array([0.1, 1.0, 3.0, 10.0, 0.5])
        Y = (X @ random.normal(size=(n, 5)) + noise * random.normal(size=(m, 5)) + 4).astype(np.float32)
        np.save(folder / f"{case}_masks.npy", masks)
        np.save(folder / f"{case}_outputs.npy", Y)
        Y = Y.astype(float)
        for estimator in (OLS, RIDGE):
            np.save(folder / f"{case}_{estimator}.npy", linear(X, Y, estimator))
        rows, predicted = bayes(X, Y, groups)
        np.save(folder / f"{case}_{EB}.npy", rows)
        np.save(folder / f"{case}_{EB}_predicted.npy", predicted)
        if case != "same":  # twins share their weight in any way
            np.save(folder / f"{case}_{LASSO}.npy", lasso(X, Y))


main()
