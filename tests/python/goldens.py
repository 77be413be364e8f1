"""Compares a run's outputs with PyTorch's: python3 goldens.py NAME RUN.h5 MARGINS.npy BASELINE.npy TOLERANCE [ROWS COLUMNS]

Speaks TAP lines without a plan (the calling script counts). ROWS, COLUMNS: only the first masks and examples were run.
"""
import sys

import h5py
import numpy as np

name, run, margins, baseline, tolerance = sys.argv[1:6]
with h5py.File(run) as f:
    ours, ours_base = f["ablations/margin"][()], f["baseline/margin"][()]
theirs, theirs_base = np.load(margins), np.load(baseline)
if len(sys.argv) > 6:
    theirs, theirs_base = theirs[: int(sys.argv[6]), : int(sys.argv[7])], theirs_base[: int(sys.argv[7])]
if ours.shape != theirs.shape:
    sys.exit(f"{name}: shape {ours.shape}, expected {theirs.shape}")
worst = np.abs(ours - theirs).max()
worst_base = np.abs(ours_base - theirs_base).max()
print(f"{name}: largest difference {worst:.2e} over {ours.size} margins, baseline {worst_base:.2e} (bound {tolerance})")
if not max(worst, worst_base) <= float(tolerance):
    i = np.unravel_index(np.abs(ours - theirs).argmax(), ours.shape)
    sys.exit(f"{name}: mask {i[0]}, example {i[1]}: got {ours[i]}, expected {theirs[i]}")
