#!/usr/bin/env python3
"""Masked forward passes per second of PyTorch doing what coar does: the peer that coar bench is compared with.

For each mask the ablated rows of the weights are set to zero, BATCH images are passed through the network, the margins
are taken and the rows are put back. All that PyTorch offers for it is used: inference mode, channels_last, the best of
several batch sizes. Weights are random; no figure depends on them. Prints one line of JSON, as coar bench --json does.

  peers.py --model resnet20 --alpha 0.1 --threads 2 --images 200 --time 5
"""
import argparse
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    """He et al., arXiv 1512.03385. Without a convolution in it, the shortcut is option A: every second pixel, zero
    channels added on both sides."""

    def __init__(self, inputs, outputs, stride, option_a):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padding = (outputs - inputs) // 2
        self.shortcut = None
        if not option_a and (stride != 1 or inputs != outputs):
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(x + y)


class CifarResNet(nn.Module):
    def __init__(self, blocks, width, option_a, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        layers, inputs = [], width
        for stage, count in enumerate(blocks):
            for b in range(count):
                outputs = width << stage
                layers.append(BasicBlock(inputs, outputs, 2 if stage and not b else 1, option_a))
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def build(name):
    """(network, image side, masked weights: one tensor per component group)"""
    depths = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
    if name in depths:
        net, side = CifarResNet([depths[name]] * 3, 16, option_a=True), 32
    elif name == "resnet18_cifar":
        net, side = CifarResNet([2, 2, 2, 2], 64, option_a=False), 32
    else:
        import torchvision  # wanted for the ImageNet networks only

        net, side = getattr(torchvision.models, name)(weights=None), 224
    masked = [
        module.weight
        for path, module in net.named_modules()
        if isinstance(module, nn.Conv2d) and "conv" in path and not path.startswith("conv_proj")
    ]
    if name.startswith("vit"):
        masked = []
        for layer in net.encoder.layers:
            masked += [layer.self_attention.in_proj_weight, layer.self_attention.out_proj.weight]
            masked += [layer.mlp[0].weight, layer.mlp[3].weight]
    return net.eval().to(memory_format=torch.channels_last), side, masked


def ablated_pass(net, masked, images, labels, batch, alpha):
    """One mask: zero rows, margins of all images, rows put back."""
    saved = []
    for weight in masked:
        rows = (torch.rand(weight.shape[0]) < alpha).nonzero().flatten()
        saved.append((weight, rows, weight[rows].clone()))
        weight[rows] = 0
    margins = []
    for first in range(0, len(images), batch):
        logits = net(images[first : first + batch])
        own = labels[first : first + batch, None]
        margins.append(logits.gather(1, own)[:, 0] - logits.scatter(1, own, float("-inf")).amax(1))
    for weight, rows, values in saved:
        weight[rows] = values
    return torch.cat(margins)


def rate(seconds, step, images):
    """Images per second over at least `seconds`."""
    passes, start = 0, time.perf_counter()
    while passes == 0 or time.perf_counter() - start < seconds:
        step()
        passes += 1
    return passes * images / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--images", type=int, help="images per mask (200 at 32x32, 64 at 224x224)")
    parser.add_argument("--time", type=float, default=5, help="seconds to measure for")
    parser.add_argument("--dense", action="store_true", help="no ablation")
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        net, side, masked = build(options.model)
        count = options.images or (200 if side <= 64 else 64)
        images = torch.randn(count, 3, side, side).to(memory_format=torch.channels_last)
        labels = torch.randint(0, net(images[:1]).shape[1], (count,))
        alpha = 0 if options.dense else options.alpha
        sizes = [b for b in (8, 16, 25, 32, 50, 64, 100, 200) if b <= count]
        steps = {b: (lambda b=b: ablated_pass(net, masked, images, labels, b, alpha)) for b in sizes}
        for step in steps.values():
            step()  # the first pass of each shape plans its kernels
        trial = {b: rate(0.3, step, count) for b, step in steps.items()}
        best = max(trial, key=trial.get)
        rates = [rate(options.time / 5, steps[best], count) for _ in range(5)]
    result = {
        "peer": "pytorch " + torch.__version__,
        "model": options.model,
        "isa": torch.backends.cpu.get_cpu_capability(),
        "threads": options.threads,
        "batch": best,
        "alpha": alpha,
        "components": sum(len(w) for w in masked),
        "images_per_second": statistics.median(rates),
        "images_per_second_min": min(rates),
        "images_per_second_max": max(rates),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
