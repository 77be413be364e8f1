#!/usr/bin/env python3
"""Writes tests/golden/fit/: what numpy says about small fits, by the longest way round.

No eigenvectors, no leverages: penalised normal equations are solved directly, every leave-one-out prediction is a refit
without that mask, and generalised cross-validation uses the trace of an explicit hat matrix. One .npy [N, 4 + 2n] per case and
estimator: penalty, r2, heldout, bias, weights, standard errors.

usage: golden_fit.py [FOLDER]
"""
import sys
from pathlib import Path

import numpy as np

OLS, RIDGE = "ols", "ridge"


def solve(X, y, penalty):
    """Weights and bias; penalty 0 = minimum norm. The bias is not penalised."""
    centred = X - X.mean(0)
    if penalty == 0:
        w = np.linalg.pinv(centred, rcond=1e-8) @ (y - y.mean())
    else:
        w = np.linalg.solve(centred.T @ centred + penalty * np.eye(X.shape[1]), centred.T @ (y - y.mean()))
    return w, y.mean() - X.mean(0) @ w


def grid(X):
    centred = X - X.mean(0)
    return np.trace(centred.T @ centred) / np.linalg.matrix_rank(centred) * 10 ** ((np.arange(97) - 48) / 8)


def hat_trace(X, penalty):
    centred = X - X.mean(0)
    if penalty == 0:
        return np.linalg.matrix_rank(centred)
    return np.trace(np.linalg.solve(centred.T @ centred + penalty * np.eye(X.shape[1]), centred.T @ centred))


def choose(X, y):
    """The penalty of least rss / (m - 1 - trace)^2."""
    scores = []
    for penalty in grid(X):
        w, b = solve(X, y, penalty)
        scores.append(((y - b - X @ w) ** 2).sum() / (len(y) - 1 - hat_trace(X, penalty)) ** 2)
    return grid(X)[int(np.argmin(scores))]


def heldout(X, y, penalty):
    """Correlation of y with predictions by refits, each less the mean of the outputs it was fitted to."""
    predicted = []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        w, b = solve(X[rest], y[rest], penalty)
        predicted.append(b + X[i] @ w - y[rest].mean())
    return np.corrcoef(predicted, y)[0, 1]


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


def expected(X, Y, estimator):
    rows = []
    for y in Y.T:
        penalty = choose(X, y) if estimator == RIDGE else 0.0
        w, b = solve(X, y, penalty)
        r2 = 1 - ((y - b - X @ w) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        rows.append([penalty, r2, heldout(X, y, penalty), b, *w, *standard_errors(X, y, penalty)])
    return np.array(rows)


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "tests/golden/fit")
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    # wide: interpolated by least squares. same: a component twice and one always kept.
    for case, m, n in (("tall", 71, 13), ("wide", 23, 37), ("same", 60, 9)):
        masks = random.random((m, n)) > 0.2
        if case == "same":
            masks[:, 3] = masks[:, 1]
            masks[:, 6] = True
        X = masks.astype(float)
        noise = np.array([0.1, 1.0, 3.0, 10.0, 0.5])
        Y = (X @ random.normal(size=(n, 5)) + noise * random.normal(size=(m, 5)) + 4).astype(np.float32)
        np.save(folder / f"{case}_masks.npy", masks)
        np.save(folder / f"{case}_outputs.npy", Y)
        for estimator in (OLS, RIDGE):
            np.save(folder / f"{case}_{estimator}.npy", expected(X, Y.astype(float), estimator))


main()
