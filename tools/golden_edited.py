#!/usr/bin/env python3
"""Makes tests/golden/edited.safetensors: what PyTorch predicts with edited weight files that coar wrote.

    python3 tools/golden_edited.py         after `make build/tests/golden_edited`; needs PyTorch and safetensors

For each NET (weight files of data/ and tests/golden/models) and component set SET of it:
    NET.SET.components  f32 [K]   component numbers, drawn here
    NET.SET.gain        f32 [1]   what their weights are multiplied by
    NET.SET.margins     f32 [E]   margins of the examples of the network's other goldens, in doubles, with the copy that coar
                                  edited
    metadata NET.SET.sha256       of that copy
The components are stored first, then coar (build/tests/golden_edited) edits copies, which PyTorch loads as it would any
weight file. The copies must differ from the originals in weights and margins, and still have their names, types and metadata.
"""
import hashlib
import subprocess
import tempfile

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file

import golden_clips
import golden_digits
import golden_gpt2
import golden_models

PATH, MODELS = "tests/golden/edited.safetensors", "tests/golden/models"
CASES = [  # net, set, n, K, gain
    ("digits-resnet", "filters", 180, 9, 0), ("digits-resnet", "blocks", 3, 1, 0.5),
    ("digits-vit", "neurons", 896, 60, 0), ("digits-vit", "heads", 16, 3, 0), ("digits-vit", "blocks", 8, 2, 0.5),
    ("gpt2", "neurons", 168, 20, 0), ("gpt2", "heads", 6, 2, 0.3), ("gpt2", "blocks", 4, 1, 0),
    ("gpt2_prefixed", "neurons", 168, 20, 1.5), ("gpt2_prefixed", "heads", 6, 2, 0),
    ("clip_vit_openai", "neurons", 232, 30, 0), ("clip_vit_openai", "heads", 6, 2, 0.3),
    ("clip_vit_openclip", "neurons", 232, 30, 0.3), ("clip_vit_openclip", "blocks", 4, 1, 0),
    ("clip_vit_hf", "neurons", 232, 30, 0), ("clip_vit_hf", "heads", 6, 2, 0), ("clip_vit_hf", "blocks", 4, 1, 1.5),
    ("clip_rn", "filters", 156, 20, 0), ("clip_rn", "blocks", 3, 1, 0.3)]


def original(net):
    return f"{'data' if net.startswith('digits') else MODELS}/{net}.safetensors"


def margins(net, path):
    """Of the examples that the other goldens of `net` are about, in doubles, with the weights at `path`."""
    if net.startswith("gpt2"):
        tokens = torch.from_numpy(np.load(f"{MODELS}/images-tokens.npy").astype(np.int64))
        model = golden_gpt2.load(load_file(path)).double().eval()
        return golden_gpt2.outputs(model, tokens, torch.tensor(golden_gpt2.LENGTHS))[0]
    if net.startswith("clip"):
        model = golden_clips.load(net, load_file(path), torch.from_numpy(np.load(f"{MODELS}/clip-classes.npy")))
        images, labels, pixels = np.load(f"{MODELS}/images-32x32.npy"), golden_models.LABELS, golden_clips.PIXELS
    else:
        rows = np.load(f"{golden_digits.FOLDER}/examples.npy")
        model, mean, std = golden_digits.load(net.removeprefix("digits-"), path)
        images, pixels = np.load("data/digits-images.npy")[rows], ([mean], [std])
        labels = torch.from_numpy(np.load("data/digits-labels.npy")[rows].astype(np.int64))
    return golden_models.margins(model.double().eval(), golden_models.normalise(images, pixels).double(), labels)


def contents(path):
    with safe_open(path, "np") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}


def check_copy(net, path):
    (metadata, before), (copied, after) = contents(original(net)), contents(path)
    assert metadata == copied and list(before) == list(after)
    assert all(before[k].dtype == after[k].dtype and before[k].shape == after[k].shape for k in before)
    assert any((before[k] != after[k]).any() for k in before)


@torch.no_grad()
def main():
    draw, parts, hashes = np.random.default_rng(0), {}, {}
    for net, components, n, count, gain in CASES:
        chosen = np.sort(draw.choice(n, count, replace=False))
        parts[f"{net}.{components}.components"] = chosen.astype(np.float32)
        parts[f"{net}.{components}.gain"] = np.float32([gain])
    save_file(parts, PATH)

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["build/tests/golden_edited", folder], check=True)
        for net, components, *_ in CASES:
            path = f"{folder}/{net}-{components}.safetensors"
            check_copy(net, path)
            result, whole = margins(net, path).numpy(), margins(net, original(net)).numpy()
            assert abs(result - whole).max() > 0.01
            parts[f"{net}.{components}.margins"] = result.astype(np.float32)
            with open(path, "rb") as file:
                hashes[f"{net}.{components}.sha256"] = hashlib.sha256(file.read()).hexdigest()
            print(f"{net} {components}: margin {result.mean():.3f}, unedited {whole.mean():.3f}")
    save_file(parts, PATH, hashes)


if __name__ == "__main__":
    main()
