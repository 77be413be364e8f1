#!/usr/bin/env python3
"""Makes tests/golden/resize/*.npy: what Pillow's resize and torchvision's centre crop give for the image of a formula that
tests/unit/images.c has too. Needs Pillow and numpy: python tools/golden_resize.py FOLDER"""

import os
import sys

import numpy as np
from PIL import Image

FILTERS = {"area": Image.BOX, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
# width, height, shorter side, crop: shrinking by odd ratios, growing, mixed proportions, a crop of odd slack, no change
CASES = [(53, 37, 16, 14), (20, 31, 40, 33), (64, 9, 7, 7), (11, 90, 12, 3), (17, 23, 17, 17), (120, 100, 5, 5)]


def source(width, height):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((31 * x + 17 * y + 101 * c + x * y * (c + 1) + x * x * y // 7) % 256).astype(np.uint8)


def expected(pixels, shorter, side, resample):
    height, width = pixels.shape[:2]
    if width > height:
        new = (shorter * width // height, shorter)
    else:
        new = (shorter, shorter * height // width)
    left, top = (round((n - side) / 2) for n in new)  # Python's round: halves to even
    resized = np.asarray(Image.fromarray(pixels).resize(new, resample))
    return np.ascontiguousarray(resized[top : top + side, left : left + side])


def main(folder):
    os.makedirs(folder, exist_ok=True)
    for width, height, shorter, side in CASES:
        for name, resample in FILTERS.items():
            path = os.path.join(folder, f"{width}x{height}-{shorter}-{side}-{name}.npy")
            np.save(path, expected(source(width, height), shorter, side, resample))


if __name__ == "__main__":
    main(sys.argv[1])
