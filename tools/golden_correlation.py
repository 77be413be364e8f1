#!/usr/bin/env python3
"""Writes tests/golden/correlation.npy: float64 [examples, 2 masks + 2], each row x, y, Pearson's r and Spearman's rho.

Ranks are counted pair by pair (how many are smaller, and half of the ties), and r is numpy's corrcoef. Non-finite
values are left out in pairs. usage: golden_correlation.py [FILE]
"""
import sys
from pathlib import Path

import numpy as np


def ranks(v):
    return (v[None] < v[:, None]).sum(1) + 0.5 * (v[None] == v[:, None]).sum(1)


def correlation(x, y):
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return np.corrcoef(x, y)[0, 1]


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "tests/golden/correlation.npy"
    random = np.random.default_rng(2)
    masks = 37
    x = random.normal(size=(9, masks)).astype(np.float32)
    y = (0.6 * x + random.normal(size=x.shape)).astype(np.float32)
    x[1], y[1] = np.round(x[1]), np.round(y[1])  # ties
    x[2] = 0.1  # no variance
    y[3] = x[3]  # r = 1
    y[4] = -np.exp(x[4])  # monotone: rho = -1
    x[5, 3], y[5, 9], y[5, 11] = np.nan, np.nan, np.inf
    x[6, 1:] = np.nan  # one pair
    x[7] = 1e6 + 1e-1 * x[7]  # a large mean
    y[8] *= 1e-20
    rows = []
    for a, b in zip(x.astype(float), y.astype(float)):
        kept = np.isfinite(a) & np.isfinite(b)
        p, q = a[kept], b[kept]
        rows.append([*a, *b, correlation(p, q), correlation(ranks(p), ranks(q))])
    np.save(target, np.array(rows))


main()
