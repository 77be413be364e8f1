#!/usr/bin/env python3
"""Trains the networks of the editing tasks on generated pictures (needs PyTorch; one thread, a minute or two each).

    python3 examples/edit/train/shapes.py [subpopulation|backdoor|typographic ...]

Writes examples/edit/networks/TASK.safetensors (fp16) and prints how often it is right, also where it should fail. Seeded: the
same PyTorch on the same kind of CPU gives the same weights; others give a network of about the same accuracy.
"""
import json
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "../../../tools")]
import generate
import scenes
from convert_checkpoint import write_safetensors
from digits_nets import DigitsResNet

IMAGES, EPOCHS = 4000, 10
WIDTHS = (20, 40, 80)
BATCH = 64
RATE, DECAY = 4e-3, 1e-2  # AdamW's; the rate goes up and down once
MEAN, STD = .4, .25       # of pixels / 255, about


def pixels(images):
    x = torch.from_numpy((images.astype(np.float32) / 255 - MEAN) / STD)
    return x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def train(images, labels):
    torch.manual_seed(0)
    x, y = pixels(images), torch.from_numpy(labels)
    net = DigitsResNet(WIDTHS, inputs=3, classes=int(labels.max()) + 1, image=scenes.SIDE)
    net = net.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=DECAY)
    per_epoch = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, EPOCHS * per_epoch)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x))[: per_epoch * BATCH].split(BATCH):
            loss = F.cross_entropy(net(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1)
            optimiser.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def right(net, images, labels):
    """The part of the images that the network takes for what they are."""
    predicted = torch.cat([net(part).argmax(1) for part in pixels(images).split(500)])
    return round(float((predicted.numpy() == labels).mean()), 4)


def main():
    torch.set_num_threads(1)
    for task in sys.argv[1:] or generate.TASKS:
        start = time.time()
        net = train(*generate.training(task, IMAGES))
        path = os.path.join(HERE, "../networks", f"{task}.safetensors")
        tensors = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
        text = {"format": "pt", "mean": ",".join([str(MEAN)] * 3), "std": ",".join([str(STD)] * 3)}
        write_safetensors(path, tensors, text | net.metadata(), half=True)
        sets, labels, groups = generate.evaluation(task)
        told = {name: right(net, images, labels) for name, images in sets.items()}
        if groups is not None:
            pairs = {(label, group): (labels == label) & (groups == group) for label in (0, 1) for group in (0, 1)}
            told |= {f"class {label} on {generate.PLACES[group]}": right(net, sets["pictures"][rows], labels[rows])
                     for (label, group), rows in pairs.items()}
        print(json.dumps({"file": os.path.normpath(path), "seconds": round(time.time() - start)} | told), flush=True)


if __name__ == "__main__":
    main()
