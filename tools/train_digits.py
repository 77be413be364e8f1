#!/usr/bin/env python3
"""Trains the two small networks of data/ on the digits (needs PyTorch; one thread, about two minutes).

    python3 tools/train_digits.py [resnet|vit ...]

Reads data/digits-*.npy (tools/make_digits.py), writes data/digits-NET.safetensors and prints the accuracies. Seeded:
the same PyTorch on the same kind of CPU gives the same weights; others give a network of about the same accuracy.
The test rows are looked at once, after the last step.
"""
import copy
import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

from convert_checkpoint import write_safetensors
from digits_nets import NETS

#            epochs, peak learning rate, weight decay
SETTINGS = {"resnet": (60, 6e-3, 5e-3), "vit": (200, 2e-3, 5e-2)}
BATCH = 48
EMA = 0.995        # decay per step of the average of the weights that is kept: about 7 epochs
SMOOTHING = 0.05   # of the labels


def load():
    images = np.load("data/digits-images.npy")[..., 0].astype(np.float32) / 255
    labels = torch.from_numpy(np.load("data/digits-labels.npy").astype(np.int64))
    test = np.zeros(len(images), bool)
    test[np.load("data/digits-test-rows.npy")] = True
    mean, std = (round(float(f(images[~test])), 4) for f in (np.mean, np.std))  # of the training pixels
    pixels = torch.from_numpy((images - np.float32(mean)) / np.float32(std))[:, None]
    test = torch.from_numpy(test)
    return pixels, labels, test, mean, std


def augment(x, blank):
    """Moves each image by -1, 0 or 1 pixel in both directions; `blank` is what an empty pixel is after normalising."""
    padded = F.pad(x, (1, 1, 1, 1), value=blank)
    dy, dx = torch.randint(0, 3, (2, len(x), 1, 1))
    rows, columns = torch.arange(8)[None, :, None] + dy, torch.arange(8)[None, None, :] + dx
    return padded[torch.arange(len(x))[:, None, None], 0, rows, columns][:, None]


def train(name, pixels, labels, blank):
    epochs, rate, decay = SETTINGS[name]
    torch.manual_seed(0)
    net = NETS[name]()
    average = copy.deepcopy(net)
    matrices = [p for p in net.parameters() if p.dim() > 1]
    vectors = [p for p in net.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0}])
    per_epoch = len(pixels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, epochs * per_epoch)
    for _ in range(epochs):
        net.train()
        for rows in torch.randperm(len(pixels))[: per_epoch * BATCH].split(BATCH):
            loss = F.cross_entropy(net(augment(pixels[rows], blank)), labels[rows], label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                for a, p in zip(average.state_dict().values(), net.state_dict().values()):
                    a.lerp_(p, 1 - EMA) if a.is_floating_point() else a.copy_(p)
    return average.eval()


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    pixels, labels, test, mean, std = load()
    for name in sys.argv[1:] or NETS:
        start = time.time()
        net = train(name, pixels[~test], labels[~test], -mean / std)
        with torch.no_grad():
            right = (net(pixels).argmax(1) == labels).float()
        path = f"data/digits-{name}.safetensors"
        tensors = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
        write_safetensors(path, tensors, {"format": "pt", "mean": str(mean), "std": str(std)} | net.metadata())
        print(json.dumps({"file": path, "parameters": sum(t.numel() for t in tensors.values()),
                          "components": sum(count for _, _, count in net.components()),
                          "train_accuracy": round(right[~test].mean().item(), 4),
                          "test_accuracy": round(right[test].mean().item(), 4),
                          "seconds": round(time.time() - start)}), flush=True)


if __name__ == "__main__":
    main()
