#!/usr/bin/env python3
"""Runs the numpy mask generator of docs/masks.md (needs numpy; h5py for the second form). Output: TAP.

    masks_twin.py                     test vectors and properties, and the masks in tests/golden/masks
    masks_twin.py RUN.h5 MASKS.npy    the same, and MASKS.npy (from `coar masks RUN.h5 -o MASKS.npy`) against that run's
                                      seed, sampler, alpha and components
    masks_twin.py --gradients RUN.h5  the same, and the gradients of a run of one pass are sums at the levels that numpy has for it
    masks_twin.py --write             makes tests/golden/masks, which tests/unit/sampler.c holds the C samplers to
"""
import os
import re
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOLDEN = os.path.join(ROOT, "tests", "golden", "masks")

# Three groups, sizes that are no multiples of 4 or 8; a seed with high bits; mask numbers on both sides of 2^32.
SIZES, SEED, STREAM, ALPHA = [10, 30, 61], 0x123456789ABCDEF0, 1, 0.137
NUMBERS = np.array([0, 1, 2, 3, 1000, 2**32 - 1, 2**32, 2**40 + 5], np.uint64)


def load_page():
    with open(os.path.join(ROOT, "docs", "masks.md"), encoding="utf-8") as file:
        blocks = re.findall(r"^```python\n(.*?)^```$", file.read(), re.M | re.S)
    assert len(blocks) == 3, "docs/masks.md: expected the generator, the samplers and the levels"
    names = {}
    exec("\n".join(blocks), names)
    lines = [line for line in blocks[0].splitlines() if line.strip()]
    return names, len(lines)


twin, generator_lines = load_page()
count = failures = 0


def check(name, right, detail=""):
    global count, failures
    count += 1
    failures += not right
    print(f"{'ok' if right else 'not ok'} {count} - masks twin: {name}")
    if not right and detail:
        print(f"# {detail}")


def make(sampler, seed, stream, numbers, sizes, alpha):
    if sampler == "stratified":
        return twin["stratified"](seed, stream, numbers, sizes, alpha)
    if sampler == "loo":
        return twin["loo"](sum(sizes))[np.asarray(numbers, np.int64)]
    return twin[sampler](seed, stream, numbers, sum(sizes), alpha)


def golden(sampler):
    return make(sampler, SEED, STREAM, NUMBERS, SIZES, ALPHA)


def golden_levels():  # two cycles and a part of one, of a block on either side of 2^32 passes
    return np.stack([twin["levels"](SEED, block, 37, sum(SIZES), ALPHA) for block in (0, 70000)]).astype(np.uint8)


def vectors():
    cases = [  # counter, key, words: docs/design.md, section 2
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]
    for number, (counter, key, expected) in enumerate(cases):
        got = twin["philox"]([np.array([c], np.uint64) for c in counter], key)[0]
        text = " ".join(f"{int(w):08x}" for w in got)
        check(f"test vector {number}", text == expected, f"got {text}, expected {expected}")
    check("the generator is at most 15 lines", generator_lines <= 15, f"{generator_lines} lines")


def properties():
    n = 1003
    narrow, wide = (twin["bernoulli"](7, 0, np.arange(200), n, alpha) for alpha in (0.1, 0.25))
    rate = 1 - narrow.mean()
    check("bernoulli ablates alpha of them", abs(rate - 0.1) < 0.0034, f"rate {rate:.5f}")  # five standard errors
    check("bernoulli nests between alphas", not (wide & ~narrow).any())
    many = twin["bernoulli"](7, 0, np.arange(200), n, 0.1)
    some = twin["bernoulli"](7, 0, np.array([150, 3]), n, 0.1)
    check("a mask depends on its own number alone", (some == many[[150, 3]]).all())
    fixed = (~twin["fixed"](7, 0, np.arange(50), n, 0.1)).sum(1)
    check("fixed ablates round(alpha n)", (fixed == 100).all(), f"{fixed}")
    strata = ~twin["stratified"](7, 0, np.arange(400), [10, 490, 503], 0.1)
    groups = [strata[:, a:b].sum(1) for a, b in ((0, 10), (10, 500), (500, 1003))]
    right = (groups[0] == 1).all() and (groups[1] == 49).all() and set(groups[2]) == {50, 51}
    check("stratified ablates each group's share", right and abs(groups[2].mean() - 50.3) < 0.12,
          f"third group {groups[2].mean():.3f}")  # five standard errors are .115


def level_properties():
    n, alpha = 2003, 0.1
    levels = twin["levels"](7, 3, 160, n, alpha)
    rates = [(levels == level).mean() for level in range(3)]
    keeps = [1, (1 + 3**-0.5) / 2, (1 - 3**-0.5) / 2]
    keep = sum(k * r for k, r in zip(keeps, rates))
    check("levels: the mean keep is 1 - alpha", abs(keep - 0.9) < 0.0007, f"{keep:.5f}")  # five standard errors of free draws
    check("levels: the lower two are as frequent", abs(rates[1] - rates[2]) < 0.004, f"{rates}")
    cycles = (levels.reshape(10, 16, n) > 0).sum(1)  # 16 x 2 x .1 = 3.2 in a cycle, never further from it than 1
    check("levels: balanced over 16 passes", set(np.unique(cycles)) == {3, 4}, f"{np.unique(cycles)}")
    part = twin["levels"](7, 3, 5, n, alpha)
    check("levels: fewer passes are the first ones", (part == levels[:5]).all())


def goldens():
    stored = np.load(os.path.join(GOLDEN, "levels.npy"))
    check("levels are what tests/golden/masks holds", np.array_equal(stored, golden_levels()))
    for sampler in ("bernoulli", "fixed", "stratified"):
        stored = np.load(os.path.join(GOLDEN, f"{sampler}.npy"))
        check(f"{sampler} is what tests/golden/masks holds", np.array_equal(stored, golden(sampler)))


def compare(run_path, masks_path):
    import h5py

    def text(value):
        return value.decode() if isinstance(value, bytes) else str(value)

    with h5py.File(run_path, "r") as run:
        seed, alpha, sampler = int(run.attrs["seed"]), float(run.attrs["alpha"]), text(run.attrs["sampler"])
        sizes = [int(c) for c in run["components"]["count"]]
    written = np.load(masks_path)
    check("coar masks writes bool [m, n]", written.dtype == np.bool_ and written.shape[1:] == (sum(sizes),),
          f"{written.dtype} {written.shape}, n {sum(sizes)}")
    if sampler.startswith("file"):
        print(f"# {run_path}: its masks were made elsewhere (--sampler file:)")
        return
    expected = make(sampler, seed, 0, np.arange(len(written)), sizes, alpha)
    same = written.shape == expected.shape and (written == expected).all()
    check(f"coar masks: {sampler}, {len(written)} masks", bool(same))


def compare_gradients(run_path):
    import h5py

    with h5py.File(run_path, "r") as run:
        for output in run["gradients"]:
            group = run["gradients"][output]
            seed, alpha, passes = int(group.attrs["seed"]), float(group.attrs["alpha"]), int(group.attrs["passes"])
            sums, squares = group["sum"][()], group["squares_of_example"][()]
            of_component = group["squares_of_component"][()].sum(1)
            check(f"{output}: one pass", passes == 1 and (seed, alpha) == (int(run.attrs["seed"]), float(run.attrs["alpha"])))
            _, examples, n = sums.shape
            levels = np.concatenate([twin["levels"](seed, block, 1, n, alpha) for block in range((examples + 31) // 32)])
            levels = levels.repeat(32, 0)[:examples]  # [examples, n]
            outside = [np.abs(sums[level][levels != level]).max() for level in range(3)]
            check(f"{output}: no derivative at a level the component has not", max(outside) == 0, f"{outside}")
            inside = [(sums[level][levels == level] != 0).mean() for level in range(3)]
            check(f"{output}: derivatives at every level", min(inside) > 0.5, f"{inside}")  # a dead filter's are 0
            check(f"{output}: squares are those of the derivatives", np.allclose(squares, (sums**2).sum(2), rtol=1e-9)
                  and np.allclose(of_component, (sums**2).sum(1), rtol=1e-9))
            keeps = np.array([1, (1 + 3**-0.5) / 2, (1 - 3**-0.5) / 2], np.float32)
            check(f"{output}: levels", np.array_equal(group.attrs["levels"], keeps.astype(float)), f"{group.attrs['levels']}")
            check(f"{output}: probabilities", np.allclose(group.attrs["probabilities"] @ keeps, 1 - alpha))
            check(f"{output}: done", group["done"][()].tolist() == [1] * ((examples + 31) // 32))


def main():
    arguments = sys.argv[1:]
    if arguments == ["--write"]:
        os.makedirs(GOLDEN, exist_ok=True)
        for sampler in ("bernoulli", "fixed", "stratified"):
            np.save(os.path.join(GOLDEN, f"{sampler}.npy"), golden(sampler))
        np.save(os.path.join(GOLDEN, "levels.npy"), golden_levels())
        return 0
    if len(arguments) not in (0, 2):
        print(__doc__, file=sys.stderr)
        return 2
    vectors()
    properties()
    level_properties()
    goldens()
    if arguments and arguments[0] == "--gradients":
        compare_gradients(arguments[1])
    elif arguments:
        compare(*arguments)
    print(f"1..{count}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
