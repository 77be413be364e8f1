#!/usr/bin/env python3
"""Writes tests/golden/fit/: what numpy and scikit-learn say about small fits, by the longest way round.

No eigenvectors, no leverages: penalised normal equations are solved directly, every leave-one-out prediction is a refit
without that mask, generalised cross-validation uses the trace of an explicit hat matrix, and the evidence the determinant of an
explicit covariance of the outputs. One .npy [N, 4 + 2n] per case and estimator: penalty, r2, heldout, bias, weights, standard
errors; .npy of three numbers for what is predicted of all examples.

usage: golden_fit.py [FOLDER]
"""
import re
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


def crossfit(X, Y, groups, base):
    """Predictions of each fifth of the masks under a prior that has not seen it; base [m, N] is known without masks."""
    m, predicted = len(X), np.zeros_like(Y)
    rest = Y - base
    for k in range(FOLDS):
        fold = np.arange(m) * FOLDS // m == k
        D = learn_prior(X[~fold], rest[~fold], groups)
        for z in range(Y.shape[1]):
            predicted[fold, z] = held_out(X, Y[:, z], base[:, z], evidence(X, rest[:, z], D)[0], D)[fold]
    return predicted


def held_out(X, y, base, penalty, D):
    """Leave-one-out predictions of y: base's, and those of a fit of what it leaves over; less the mean of the other outputs."""
    others = lambda v: (v.sum() - v) / (len(v) - 1)
    return base + leave_one_out(X, y - base, penalty, D) + others(y - base) - others(y)


def correlations(predicted, Y):
    return np.array([correlation(p, y) for p, y in zip(predicted.T, Y.T)])


def interval(predicted, Y):
    """Mean correlation, and 2.093 roots of its variance over masks (jackknife of 20 parts) and examples to either side."""
    m, N, parts = len(Y), Y.shape[1], 20
    part = np.arange(m) * parts // m
    r = correlations(predicted, Y)
    without = np.array([correlations(predicted[part != k], Y[part != k]) for k in range(parts)])
    jackknife = lambda x: (parts - 1) / parts * ((x - x.mean(0)) ** 2).sum(0)
    masks, examples, both = jackknife(without.mean(1)), r.var(ddof=1) / N, jackknife(without).sum() / N**2
    half = 2.093 * np.sqrt(max(masks + examples - both, masks, examples))
    return np.array([r.mean(), max(r.mean() - half, -1), min(r.mean() + half, 1)])


def bayes(X, Y, groups, W0=None):
    """W0 [N, n]: weights that are there already; a fit of what they leave over is added."""
    W0 = np.zeros((Y.shape[1], X.shape[1])) if W0 is None else W0
    base, centred = X @ W0.T, X - X.mean(0)
    D = learn_prior(X, Y - base, groups)
    predicted = crossfit(X, Y, groups, base)
    rows = []
    for y, known, w0 in zip(Y.T, base.T, W0):
        penalty = evidence(X, y - known, D)[0]
        w, b = solve(X, y - known, penalty, D)
        left = np.trace(np.linalg.inv(np.eye(len(y)) + (centred * D) @ centred.T / penalty)) - 1
        sigma2 = ((y - known - b - X @ w) ** 2).sum() / left
        errors = np.sqrt(sigma2 * np.diag(np.linalg.inv(centred.T @ centred + penalty * np.diag(1 / D))))
        held = correlation(held_out(X, y, known, penalty, D), y)
        rows.append([penalty, r_squared(X, y, w + w0, b), held, b, *(w + w0), *errors])
    rows, honest = np.array(rows), correlations(predicted, Y).mean()
    if honest < rows[:, 2].mean():
        rows[:, 2] *= max(honest, 0) / rows[:, 2].mean()
    return rows, interval(predicted, Y)


# ------------------------------------------------------------------------------------------------ gradients


def level_generator():
    """`levels` of docs/masks.md."""
    page = (Path(__file__).resolve().parent.parent / "docs/masks.md").read_text(encoding="utf-8")
    names = {}
    exec("\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)), names)
    return names["levels"]


def make_gradients(random, truth, passes, alpha, seed):
    """Derivatives that fall with the keep, and noise: sums at levels [3, N, n], counts of each, sums of squares."""
    levels, keep = level_generator(), np.array([1, 0.5 + 0.5 / np.sqrt(3), 0.5 - 0.5 / np.sqrt(3)])
    N, n = truth.shape
    sums, counts, squares = np.zeros((3, N, n)), np.zeros((3, N, n)), np.zeros((3, N, n))
    for z in range(N):
        level = levels(seed, z // 32, passes, n, alpha)
        g = truth[z] * (1 + 0.6 * (0.5 - keep[level])) + 0.7 * random.normal(size=(passes, n))
        for l in range(3):
            sums[l, z] = np.where(level == l, g, 0).sum(0)
            squares[l, z] = np.where(level == l, g * g, 0).sum(0)
            counts[l, z] = (level == l).sum(0)
    return sums, counts, squares


def level_models(sums, counts, squares, groups):
    """Per group: covariance of the level means, and variance of one derivative; half from the group, half from all."""
    C, r, size = [], [], np.diff(groups)
    for a, b in zip(groups[:-1], groups[1:]):
        S, c, Q = sums[:, :, a:b], counts[:, :, a:b], squares[:, :, a:b]
        pairs = np.einsum("lzj,kzj->lk", c, c) - np.diag(c.sum((1, 2)))
        C.append((np.einsum("lzj,kzj->lk", S, S) - np.diag(Q.sum((1, 2)))) / pairs)
        r.append(Q.sum((1, 2)) / c.sum((1, 2)))
    scale = [c[0, 0] for c in C]
    shared_C = np.average([c / s for c, s in zip(C, scale)], axis=0, weights=size)
    shared_r = np.average([v / s for v, s in zip(r, scale)], axis=0, weights=size)
    models = []
    for c, v, s in zip(C, r, scale):
        c, v = (c + s * shared_C) / 2, (v + s * shared_r) / 2
        value, vectors = np.linalg.eigh(c)
        c = vectors @ np.diag(np.maximum(value, 1e-4 * value[-1])) @ vectors.T
        models.append((c, np.maximum(v - np.diag(c), 0.05 * v)))
    return models


def gradient_shares(counts, models, groups):
    """What each level's average counts in a weight: [3, N, n]."""
    shares = np.zeros_like(counts)
    for z in range(counts.shape[1]):
        for j in range(counts.shape[2]):
            seen = counts[:, z, j] > 0
            if models is None:
                a = np.array([0.5, 0.25, 0.25])[seen]
                shares[seen, z, j] = a / a.sum()
                continue
            C, noise = models[int(np.searchsorted(groups, j, side="right")) - 1]
            inner = C[np.ix_(seen, seen)] + np.diag(noise[seen] / counts[seen, z, j])
            shares[seen, z, j] = np.linalg.solve(inner, (C @ [0, 0.5, 0.5])[seen])
    return shares


def gradient_errors(sums, counts, squares, shares, models, groups):
    """From the noise of averages, of whose squares only sums over examples and over components are known, and what shares
    miss of the quadrature."""
    about = np.where(counts > 0, sums**2 / np.maximum(counts, 1), 0)
    component = (squares - about).sum(1) / np.maximum(counts - 1, 0).sum(1)
    example = (squares - about).sum(2)
    noise = component[:, None, :] * (example / example.mean(1, keepdims=True))[:, :, None]
    variance = np.where(counts > 0, shares**2 * noise / np.maximum(counts, 1), 0).sum(0)
    loud = (example / example.mean(1, keepdims=True))[0]
    for (a, b), (C, _) in zip(zip(groups[:-1], groups[1:]), models):
        missed = shares[:, :, a:b] - np.array([0, 0.5, 0.5])[:, None, None]
        variance[:, a:b] += np.einsum("lzj,lk,kzj->zj", missed, C, missed) * loud[:, None]
    return np.sqrt(variance)


def calibrate(X, Y, W, errors):
    """One factor for each band of directions that examples have in common; for errors the root of one that is below 1."""
    V = np.linalg.svd(W / np.linalg.norm(W, axis=1, keepdims=True), full_matrices=False)[2]
    third = len(W) // 3
    ends = (0, min(8, third), min(32, third))
    parts = [W @ V[a:b].T @ V[a:b] for a, b in zip(ends[:-1], ends[1:])]
    parts.append(W - sum(parts))
    deviation = Y.std(0)
    P = np.array([(((X - X.mean(0)) @ part.T) / deviation).ravel() for part in parts])
    y = ((Y - Y.mean(0)) / deviation).ravel()
    keep = max(len(W) / 10, 1) / 0.5**2
    factors = np.linalg.solve(P @ P.T + keep * np.eye(3), P @ y + keep)
    roots = np.where((factors > 0) & (factors < 1), np.sqrt(np.abs(factors)), np.abs(factors))
    inside = [V[a:b].T @ V[a:b] for a, b in zip(ends[:-1], ends[1:])]
    A = sum(r * P for r, P in zip(roots, inside + [np.eye(W.shape[1]) - sum(inside)]))
    errors = np.sqrt([np.diag(A @ np.diag(e**2) @ A.T) for e in errors])
    return sum(f * part for f, part in zip(factors, parts)), errors


def gradients(folder, random):
    N, m, alpha, seed, groups = 40, 90, 0.2, 5, (0, 4, 9, 16)
    n = groups[-1]
    common = random.normal(size=(3, n))
    truth = random.normal(size=(N, 3)) @ common + 0.5 * random.normal(size=(N, n))
    masks = random.random((m, n)) > alpha
    X = masks.astype(float)
    bent = X @ truth.T + 0.3 * (X[:, :1] - 1) * (X[:, 1:2] - 1) * 5  # what no gradient knows
    Y = (bent + 0.5 * random.normal(size=(m, N)) + 2).astype(np.float32)
    baseline = random.normal(size=N).astype(np.float32)
    np.save(folder / "grad_masks.npy", masks)
    np.save(folder / "grad_outputs.npy", Y)
    np.save(folder / "grad_baseline.npy", baseline)
    Y = Y.astype(float)
    for passes in (3, 48):
        sums, counts, squares = make_gradients(random, truth, passes, alpha, seed)
        np.save(folder / f"grad_sums_{passes}.npy", sums)
        of_blocks = [squares[:, first : first + 32].sum(1) for first in range(0, N, 32)]
        np.save(folder / f"grad_component_{passes}.npy", np.stack(of_blocks))
        np.save(folder / f"grad_example_{passes}.npy", squares.sum(2))
        models = level_models(sums, counts, squares, groups) if passes * alpha >= 1.5 else None
        shares = gradient_shares(counts, models, groups)
        W = (shares * sums / np.maximum(counts, 1)).sum(0)
        nothing = np.full((N, 1), np.nan)
        errors = gradient_errors(sums, counts, squares, shares, models, groups) if models else np.full_like(W, np.nan)
        rows = [np.zeros((N, 1)), nothing, nothing, (baseline - W.sum(1))[:, None], W, errors]
        np.save(folder / f"grad_alone_{passes}.npy", np.hstack(rows))
    W, errors = calibrate(X, Y, W, errors)
    held = correlations(X @ W.T, Y)
    bias = Y.mean(0) - X.mean(0) @ W.T
    r2 = [r_squared(X, y, w, b) for y, w, b in zip(Y.T, W, bias)]
    rows = np.hstack([np.zeros((N, 1)), np.array(r2)[:, None], held[:, None], bias[:, None], W, errors])
    np.save(folder / "grad_grad.npy", rows)
    rows, predicted = bayes(X, Y, groups, W)
    np.save(folder / "grad_grad+eb.npy", rows)
    np.save(folder / "grad_grad+eb_predicted.npy", predicted)
    print("grad", held.mean(), "grad+eb", predicted)


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
    gradients(folder, random)


main()
