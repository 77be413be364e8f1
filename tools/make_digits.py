#!/usr/bin/env python3
"""Makes data/digits-*.npy from the handwritten digits that scikit-learn ships (needs numpy and scikit-learn).

    python3 tools/make_digits.py [FOLDER]        (default: data)

Writes, byte for byte the same with any version of either package:
    digits-images.npy     u8 [1797, 8, 8, 1]   pixels: the source's 0..16 scaled to 0..255, halves rounded up
    digits-labels.npy     u8 [1797]            the digit
    digits-test-rows.npy  i32 [360]            rows held out from training: every fifth, from 0
"""
import os
import sys

import numpy as np
from sklearn.datasets import load_digits

TEST_EVERY = 5  # 360 test images; the source's order mixes the digits, so every class gets its share


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "data"
    digits = load_digits()
    values = digits.images.astype(np.int64)  # whole numbers 0..16, stored as doubles
    assert values.shape == (1797, 8, 8) and values.min() == 0 and values.max() == 16
    pixels = (values * 255 + 8) // 16
    arrays = {
        "images": pixels.astype(np.uint8)[..., None],
        "labels": digits.target.astype(np.uint8),
        "test-rows": np.arange(0, len(values), TEST_EVERY, dtype=np.int32),
    }
    for name, array in arrays.items():
        np.save(os.path.join(folder, f"digits-{name}.npy"), array)


if __name__ == "__main__":
    main()
