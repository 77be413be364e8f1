#!/usr/bin/env python3
"""Makes tests/golden/digits/edited.safetensors: what PyTorch predicts with edited weight files that coar wrote.

    python3 tools/golden_edited.py         after `make build/tests/edited_digits`; needs PyTorch and safetensors

For each NET (resnet, vit of data/) and component set SET of it:
    NET.SET.components  f32 [K]   component numbers, drawn here
    NET.SET.gain        f32 [1]   what their weights are multiplied by
    NET.SET.margins     f32 [40]  margins of golden_digits.py's examples, in doubles, with the copy that coar edited
    metadata NET.SET.sha256       of that copy
The components are stored first, then coar (build/tests/edited_digits) edits copies, which PyTorch loads as it would any
weight file. The copies must differ from data/ and still have its names, types and metadata.
"""
import hashlib
import subprocess
import tempfile

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from golden_digits import FOLDER, load, margins

PATH = f"{FOLDER}/edited.safetensors"
CASES = [("resnet", "filters", 180, 9, 0), ("resnet", "blocks", 3, 1, 0.5), ("vit", "neurons", 896, 60, 0),
         ("vit", "heads", 16, 3, 0), ("vit", "blocks", 8, 2, 0.5)]  # net, set, n, K, gain


def contents(path):
    with safe_open(path, "np") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}


def check_copy(name, path):
    (metadata, before), (copied, after) = contents(f"data/digits-{name}.safetensors"), contents(path)
    assert metadata == copied and list(before) == list(after)
    assert all(before[k].dtype == after[k].dtype and before[k].shape == after[k].shape for k in before)
    assert any((before[k] != after[k]).any() for k in before)


@torch.no_grad()
def main():
    draw, parts, hashes = np.random.default_rng(0), {}, {}
    for name, components, n, count, gain in CASES:
        chosen = np.sort(draw.choice(n, count, replace=False))
        parts[f"{name}.{components}.components"] = chosen.astype(np.float32)
        parts[f"{name}.{components}.gain"] = np.float32([gain])
    save_file(parts, PATH)

    examples = np.load(f"{FOLDER}/examples.npy")
    images = np.load("data/digits-images.npy")[examples].astype(np.float64) / 255
    labels = torch.from_numpy(np.load("data/digits-labels.npy")[examples].astype(np.int64))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["build/tests/edited_digits", folder], check=True)
        for name, components, *_ in CASES:
            path = f"{folder}/{name}-{components}.safetensors"
            check_copy(name, path)
            net, mean, std = load(name, path)
            pixels = torch.from_numpy((images - mean) / std).permute(0, 3, 1, 2)
            everything = np.ones(sum(rows for _, _, rows in net.components()), bool)
            result = margins(net, pixels, labels, everything)
            parts[f"{name}.{components}.margins"] = result
            with open(path, "rb") as file:
                hashes[f"{name}.{components}.sha256"] = hashlib.sha256(file.read()).hexdigest()
            whole = np.load(f"{FOLDER}/{name}-baseline.npy")
            print(f"{name} {components}: margin {result.mean():.3f}, unedited {whole.mean():.3f}")
    save_file(parts, PATH, hashes)


if __name__ == "__main__":
    main()
