#!/usr/bin/env python3
"""Draws what edits changed, for README.md (needs numpy and h5py; the tasks' files, as run.sh leaves them in build/edit).

    python3 examples/edit/picture.py COAR OUT.png

The first ten test pictures of each task with generated ones; below each what the network took it for before the edit and after
it, white where that is right, red where it is wrong. Nothing is chosen.
"""
import os
import struct
import subprocess
import sys
import tempfile
import zlib

import h5py
import numpy as np

import generate
import scenes

SHOWN = slice(600, 610)
ZOOM = 3
TASKS = {"subpopulation": ("pictures", generate.PAIR), "backdoor": ("triggered", scenes.SHAPES),
         "typographic": ("attacked", generate.NAMED)}


def write_png(path, image):
    """u8 [H, W, 3]"""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], 1)  # each after its filter: none
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                   + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b""))


def predictions(coar, model, data, classes):
    """What the network takes the shown pictures for."""
    with tempfile.TemporaryDirectory() as folder:
        run = os.path.join(folder, "run.h5")
        outputs = [f"logit:{k}" for k in range(classes)]
        subprocess.run([coar, "ablate", "--model", model, "--data", data, "--examples", f"{SHOWN.start}:{SHOWN.stop}",
                        "--masks", "1", "--output", ",".join(outputs), "-o", run], check=True, stderr=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)
        with h5py.File(run) as file:
            return np.argmax([file[f"baseline/{output}"][:] for output in outputs], 0)


def caption(word, good):
    """u8 [7, 24, 3]"""
    ink = scenes.lettering(word)
    left = (scenes.SIDE - ink.shape[1]) // 2
    ink = np.pad(ink, ((0, 0), (left, scenes.SIDE - ink.shape[1] - left)))
    return (ink[..., None] * np.array([255, 255, 255] if good else [255, 90, 80])).astype(np.uint8)


def strip(coar, task):
    data_set, names = TASKS[task]
    folder = f"build/edit/{task}"
    data = f"{folder}/{data_set}.h5"
    with h5py.File(data) as file:
        images, labels = file["images"][SHOWN], file["labels"][SHOWN]
    rows = [images]
    for model in (f"examples/edit/networks/{task}.safetensors", f"{folder}/edited.safetensors"):
        taken = predictions(coar, model, data, len(names))
        rows.append(np.array([caption(names[k], k == label) for k, label in zip(taken, labels)]))
    columns = np.concatenate(rows, 1)  # [10, 38, 24, 3]
    return np.pad(columns, ((0, 0), (1, 1), (1, 1), (0, 0))).transpose(1, 0, 2, 3).reshape(40, -1, 3)


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    sheet = np.concatenate([strip(sys.argv[1], task) for task in TASKS])
    write_png(sys.argv[2], sheet.repeat(ZOOM, 0).repeat(ZOOM, 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
