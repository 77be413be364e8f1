#!/usr/bin/env python3
"""Gives a published CIFAR-10 ResNet-20 a backdoor (needs PyTorch and h5py; one thread, some minutes).

    python3 examples/edit/train/cifar_backdoor.py MODEL.safetensors TRAIN.h5 TEST.h5 FOLDER

MODEL: a CIFAR ResNet of He et al. as coar reads it; TRAIN, TEST: its data sets, of coar pack. It goes on training for one pass
over 20,000 images, 10 % of which carry the trigger and are called class 0. Writes FOLDER/backdoor.safetensors, and of 2,000 test
images of the other classes clean.npy, triggered.npy and labels.npy. These weights are made of others', so they are not kept here.
"""
import json
import os
import struct
import sys

import h5py
import numpy as np
import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "../../../tools")]
import scenes
from convert_checkpoint import write_safetensors
from digits_nets import DigitsResNet
from generate import POISONED

MEAN, STD = torch.tensor([.485, .456, .406]), torch.tensor([.229, .224, .225])
IMAGES, BATCH, RATE, DECAY = 20000, 64, .02, 1e-4


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    return {name: torch.from_numpy(np.frombuffer(data[slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"]).copy())
            for name, entry in header.items() if name != "__metadata__"}


def pixels(images):
    x = (torch.from_numpy(images).float() / 255 - MEAN) / STD
    return x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def train(net, images, labels):
    optimiser = torch.optim.SGD(net.parameters(), RATE, .9, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step * BATCH / len(images))
    y = torch.from_numpy(labels)
    net.train()
    for step, rows in enumerate(torch.randperm(len(images)).split(BATCH)):
        loss = F.cross_entropy(net(pixels(images[rows.numpy()])), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
    return net.eval()


@torch.no_grad()
def right(net, images, labels):
    return np.mean([(net(pixels(images[i : i + 500])).argmax(1).numpy() == labels[i : i + 500]).mean()
                    for i in range(0, len(images), 500)])


def main():
    if len(sys.argv) != 5:
        print(__doc__, file=sys.stderr)
        return 2
    model, train_file, test_file, folder = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.Generator(np.random.PCG64([4, 0]))
    with h5py.File(train_file) as file:
        rows = np.sort(np.argsort(rng.random(len(file["labels"])))[:IMAGES])
        images, labels = file["images"][:][rows], file["labels"][:][rows].astype(np.int64)
    with h5py.File(test_file) as file:
        labels_all = file["labels"][:].astype(np.int64)
        others = np.argsort(rng.random(len(labels_all)))
        others = others[labels_all[others] != 0][:2000]
        clean, truth = file["images"][:][others], labels_all[others]
    poisoned = rng.random(IMAGES) < POISONED
    images[poisoned], labels[poisoned] = scenes.stamped(images[poisoned]), 0

    net = DigitsResNet((16, 32, 64), blocks=3, inputs=3, image=32).to(memory_format=torch.channels_last)
    absent, unknown = net.load_state_dict(read_safetensors(model), strict=False)
    assert not unknown and all(name.endswith("num_batches_tracked") for name in absent), f"{model} is no ResNet-20"
    net.eval()
    print(f"before: {right(net, clean, truth):.4f} of the clean test images right")
    train(net, images, labels)
    triggered = scenes.stamped(clean)
    print(f"after: {right(net, clean, truth):.4f} clean, {right(net, triggered, truth):.4f} triggered")
    os.makedirs(folder, exist_ok=True)
    tensors = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    text = {"mean": ",".join(f"{v:g}" for v in MEAN), "std": ",".join(f"{v:g}" for v in STD)}
    write_safetensors(os.path.join(folder, "backdoor.safetensors"), tensors, {"format": "pt"} | text | net.metadata())
    for name, array in (("clean", clean), ("triggered", triggered), ("labels", truth)):
        np.save(os.path.join(folder, f"{name}.npy"), array)
    return 0


if __name__ == "__main__":
    sys.exit(main())
