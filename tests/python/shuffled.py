#!/usr/bin/env python3
"""What the attributions of a run are worth beside the same numbers at the wrong components (needs numpy and h5py).

    shuffled.py RUN.h5 FIT [LEAST]    RUN has been evaluated with the masks of seed 0, stream 1, at one alpha

Prints the mean correlation of predicted with true outputs under fresh masks: of the fit, of its weights in a random order of the
components, in one within each component group, and of another example's weights. With LEAST it fails unless the first is
above the second by that much.
"""
import json
import os
import re
import sys

import h5py
import numpy as np

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "masks.md")


def bernoulli(*arguments):
    names = {}
    with open(PAGE, encoding="utf-8") as file:
        exec("\n".join(re.findall(r"^```python\n(.*?)^```$", file.read(), re.M | re.S)), names)
    return names["bernoulli"](*arguments)


def main(path, fit, least=None):
    random = np.random.default_rng(0)
    with h5py.File(path) as f:
        output, weight = f["attributions"][fit].attrs["output"], f["attributions"][fit]["weight"][:]
        evaluation = f["evaluation"][list(f["evaluation"])[0]][output]
        truth, predicted = evaluation["truth"][:], evaluation[fit]["predicted"][:]
        alpha = float(re.match("a(.*)_s0", list(f["evaluation"])[0])[1])
        groups = [(int(g["first"]), int(g["first"]) + int(g["count"])) for g in f["components"]]
    masks = bernoulli(0, 1, np.arange(len(truth), dtype=np.uint64), weight.shape[1], alpha).astype(float)

    def correlation(values):
        pairs = [(values[:, e], truth[:, e]) for e in range(truth.shape[1]) if values[:, e].std() and truth[:, e].std()]
        return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]))

    def within(row):
        return np.concatenate([random.permutation(row[first:end]) for first, end in groups])

    figures = {
        "fit": correlation(predicted),
        "shuffled": correlation(masks @ np.stack([random.permutation(row) for row in weight]).T),
        "shuffled_in_groups": correlation(masks @ np.stack([within(row) for row in weight]).T),
        "another_example": correlation(masks @ np.roll(weight, 1, 0).T),
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
    return 0 if least is None or figures["fit"] >= figures["shuffled"] + float(least) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
