#!/usr/bin/env python3
"""The equations of ols and ridge in numpy, from the files alone (needs numpy and h5py).

    fit_residual.py make FOLDER MASKS COMPONENTS EXAMPLES          masks.npy and outputs.npy: planted weights and noise
    fit_residual.py check FOLDER FIT.h5 ESTIMATOR [LARGEST]        |X'(y - Xw) - penalty w| / |X'y| of the stored weights
    fit_residual.py compare A.h5 B.h5 ESTIMATOR                    the largest difference of weights over the largest weight

check prints the largest residual and the one that the file says; it fails when they differ by more than a hundredth, or are
above LARGEST. compare takes the examples of equal penalties, and fails when these are less than half or differ by more than 5e-5.
"""
import os
import sys

import h5py
import numpy as np


def make(folder, masks, components, examples):
    random = np.random.default_rng(5)
    keep = random.random((masks, components)) >= 0.1
    weight = random.standard_normal((components, examples)) * np.where(np.arange(components) % 10, 1, 5)[:, None]
    explained = keep @ weight
    noise = random.standard_normal(explained.shape) * explained.std(axis=0)
    np.save(os.path.join(folder, "masks.npy"), keep)
    np.save(os.path.join(folder, "outputs.npy"), (explained + noise).astype(np.float32))


def read(path, estimator):
    with h5py.File(path) as file:
        fit = file["attributions"][estimator]
        return fit["weight"][()].astype(float), fit["penalty"][()], dict(fit.attrs)


def check(folder, path, estimator, largest=1e-6):
    x, y = (np.load(os.path.join(folder, name + ".npy")).astype(float) for name in ("masks", "outputs"))
    weight, penalty, told = read(path, estimator)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    left = x.T @ (y - x @ weight.T) - penalty * weight.T
    found = float((np.linalg.norm(left, axis=0) / np.linalg.norm(x.T @ y, axis=0)).max())
    print(f"{found:.3g}, in the file {told['residual_largest']:.3g}")
    return found <= largest and abs(told["residual_largest"] / found - 1) < 0.01 and told["unsolved"] == 0


def compare(first, second, estimator):
    (a, p, _), (b, q, _) = read(first, estimator), read(second, estimator)
    same = np.abs(p - q) <= 1e-6 * p
    difference = float((np.abs(a - b).max(axis=1) / np.abs(a).max(axis=1))[same].max())
    print(f"{difference:.3g} of the largest weight, {same.mean():.0%} of the penalties")
    return same.mean() >= 0.5 and difference <= 5e-5


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "make":
        make(arguments[0], *map(int, arguments[1:]))
    elif command == "check":
        sys.exit(not check(*arguments[:3], *map(float, arguments[3:])))
    else:
        sys.exit(not compare(*arguments))
