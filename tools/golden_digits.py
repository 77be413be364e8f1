#!/usr/bin/env python3
"""Makes tests/golden/digits/*.npy: margins of the networks of data/ under masks (needs PyTorch and safetensors).

    python3 tools/golden_digits.py

The reference procedure, in doubles: zero the weight rows that a mask ablates, run the whole network, take the logit of
the label minus the largest other logit. For NET = resnet (180 filters) and vit (896 neurons):
    examples.npy       i32 [40]       rows of data/digits-images.npy, all of them test rows
    NET-masks.npy      bool [20, n]   True = kept; ten masks of alpha 0.10, then ten of 0.05
    NET-margins.npy    f32 [20, 40]
    NET-baseline.npy   f32 [40]       nothing ablated
"""
import os

import numpy as np
import torch
from safetensors import safe_open

from digits_nets import NETS

FOLDER = "tests/golden/digits"
ALPHAS = np.repeat([0.10, 0.05], 10)


def load(name, path=None):
    net = NETS[name]()
    with safe_open(path or f"data/digits-{name}.safetensors", "pt") as file:
        metadata = file.metadata()
        net.load_state_dict({key: file.get_tensor(key) for key in file.keys()}, strict=False)
        missing = [k for k in net.state_dict() if k not in file.keys() and not k.endswith("num_batches_tracked")]
    assert not missing, missing
    return net.double().eval(), float(metadata["mean"]), float(metadata["std"])


def margins(net, pixels, labels, mask):
    """mask: bool [n]. The network's weights are restored before returning."""
    parameters, first, saved = dict(net.named_parameters()), 0, []
    for name, row, count in net.components():
        rows = parameters[name].data[row : row + count]
        saved.append((rows, rows.clone()))
        rows[~torch.from_numpy(mask[first : first + count])] = 0
        first += count
    assert first == len(mask)
    logits = net(pixels)
    for rows, values in saved:
        rows.copy_(values)
    right = logits.gather(1, labels[:, None])[:, 0]
    return (right - logits.scatter(1, labels[:, None], -torch.inf).amax(1)).numpy().astype(np.float32)


@torch.no_grad()
def main():
    os.makedirs(FOLDER, exist_ok=True)
    examples = np.load("data/digits-test-rows.npy")[::9]
    images = np.load("data/digits-images.npy")[examples].astype(np.float64) / 255  # [40, 8, 8, 1]
    labels = torch.from_numpy(np.load("data/digits-labels.npy")[examples].astype(np.int64))
    np.save(f"{FOLDER}/examples.npy", examples)
    for name in NETS:
        net, mean, std = load(name)
        pixels = torch.from_numpy((images - mean) / std).permute(0, 3, 1, 2)
        n = sum(count for _, _, count in net.components())
        masks = np.random.default_rng(0).random((len(ALPHAS), n)) >= ALPHAS[:, None]
        results = np.stack([margins(net, pixels, labels, mask) for mask in masks])
        baseline = margins(net, pixels, labels, np.ones(n, bool))
        np.save(f"{FOLDER}/{name}-masks.npy", masks)
        np.save(f"{FOLDER}/{name}-margins.npy", results)
        np.save(f"{FOLDER}/{name}-baseline.npy", baseline)
        print(f"{name}: n {n}, baseline margin {baseline.mean():.3f}, masked {results.mean():.3f}")


if __name__ == "__main__":
    main()
