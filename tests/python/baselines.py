"""Baselines of a run (coar evaluate --baselines) against PyTorch's and against what they must add up to.

    python3 baselines.py golden RUN.h5 NET-baselines.npy       scores of the first examples, all four baselines
    python3 baselines.py complete RUN.h5 GROUP PAIRS           conductance of a group that everything passes through

complete: the run's examples 0 .. PAIRS - 1 are images, PAIRS .. 2 PAIRS - 1 the zero image with the same labels. The scores of the
group's components must add up to the difference of their outputs, but for what 50 steps leave (3 % of it); from the zero image to
itself there is no path, so that every conductance is 0 there.
"""
import sys

import h5py
import numpy as np


def scores(run, name):
    fit = run[f"attributions/{name}"]
    if fit.attrs["estimator"] != name or fit["bias"][()].any():
        sys.exit(f"{name}: estimator {fit.attrs['estimator']}, biases {fit['bias'][()]}")
    return fit["weight"][()]


def golden(run, path):
    for name, theirs in zip(("loo", "gp", "nc", "ii"), np.load(path)):
        ours = scores(run, name)[: len(theirs)]
        largest = np.abs(theirs).max(1, keepdims=True)
        error = np.abs(ours - theirs) / largest
        worst = np.unravel_index(error.argmax(), error.shape)
        print(f"{name}: worst {error[worst]:.1e} of the example's largest, at {worst}")
        if not error[worst] < 1e-4:
            sys.exit(f"{name}: example, component {worst}: {ours[worst]}, PyTorch {theirs[worst]}")


def complete(run, group, pairs):
    pairs = int(pairs)
    first, count = next((g["first"], g["count"]) for g in run["components"][()] if g["name"].decode() == group)
    outputs = run["baseline/logit"][()]
    sums = scores(run, "nc")[:, first : first + count].astype(float).sum(1)
    change = outputs[:pairs] - outputs[pairs:]
    print("conductances", sums[:pairs], "outputs", change, "zero image", sums[pairs:])
    if not np.all(np.abs(sums[:pairs] - change) < 0.03 * np.abs(change)) or np.any(sums[pairs:]):
        sys.exit("conductances do not add up to the change of the output")


kind, path, *rest = sys.argv[1:]
with h5py.File(path) as file:
    {"golden": golden, "complete": complete}[kind](file, *rest)
