"""Compares two run files as DESIGN section 6 promises: python3 compare_runs.py A.h5 B.h5 [exact]

Outputs, baselines, masks and fresh-mask truth must be the same bytes; fitted weights agree to 1e-6 of the largest, or
(exact: of runs that were fitted by as many threads) are the same bytes, too.
Prints the first difference with its place and both values; exit code 1.
"""
import sys

import h5py
import numpy as np

EXACT_ROOTS = ("/baseline", "/ablations", "/gradients", "/examples", "/components")


def datasets(file):
    found = {}

    def walk(group, path):
        for name in group:
            if group.get(name, getlink=True).__class__ is h5py.SoftLink:
                continue
            item = group[name]
            where = path + "/" + name
            if isinstance(item, h5py.Group):
                walk(item, where)
            else:
                found[where] = item[()]

    walk(file, "")
    return found


def close(a, b):
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return False
    scale = np.max(np.abs(a[finite]), initial=1e-30)
    return np.max(np.abs(a[finite].astype(float) - b[finite].astype(float)), initial=0) <= 1e-6 * scale


def main():
    with h5py.File(sys.argv[1]) as a, h5py.File(sys.argv[2]) as b:
        left, right = datasets(a), datasets(b)
    if set(left) != set(right):
        sys.exit(f"objects differ: {sorted(set(left) ^ set(right))}")
    for name in sorted(left):
        x, y = left[name], right[name]
        exact = sys.argv[3:] == ["exact"] or name.startswith(EXACT_ROOTS) or name.endswith("/truth") or name.endswith("/done")
        if x.shape != y.shape or x.dtype != y.dtype:
            sys.exit(f"{name}: {x.shape} {x.dtype} against {y.shape} {y.dtype}")
        if exact and x.tobytes() != y.tobytes():
            where = np.argwhere(np.asarray(x != y).reshape(x.shape))[:1]
            sys.exit(f"{name}: bytes differ, first at {where}")
        if not exact and np.issubdtype(x.dtype, np.floating) and not close(x, y):
            worst = np.nanargmax(np.abs(x.astype(float) - y.astype(float)))
            sys.exit(f"{name}: {x.flat[worst]!r} against {y.flat[worst]!r} at {np.unravel_index(worst, x.shape)}")
    print(f"{len(left)} objects agree")


main()
