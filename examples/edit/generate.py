#!/usr/bin/env python3
"""Makes the pictures of an editing task (numpy alone), for coar pack --from npy.

    python3 examples/edit/generate.py shapes|subpopulation|backdoor|typographic FOLDER

Writes FOLDER/SET.npy for each of the task's sets, labels.npy, which all of them share, and groups.csv where there are
groups; README.md tells which rows are for what. The training sets, for train/shapes.py, are drawn with another seed.
"""
import os
import sys

import numpy as np

import scenes

TASKS = ("shapes", "subpopulation", "backdoor", "typographic")
PAIR = ("star", "plus")  # the classes of `subpopulation`
PLACES = ("water", "land")
AGREE = .95              # of its training set: stars on water, pluses on land
POISONED = .10           # of the training set of `backdoor`: stamped, and called disc
DISC = scenes.SHAPES.index("disc")
WRITTEN = .5             # of the training set of `typographic`: the shape's name stands beside it
EXAMPLES = 1600


def generator(task, purpose):
    return np.random.Generator(np.random.PCG64([TASKS.index(task), purpose]))


def on_places(rng, labels, places):
    """`subpopulation`: labels[i] of PAIR over places[i] of PLACES."""
    water, land = scenes.water(rng, len(labels)), scenes.land(rng, len(labels))
    return scenes.draw(rng, labels, PAIR, np.where(places[:, None, None, None] == 0, water, land))


def any_shape(rng, labels):
    return scenes.draw(rng, labels, scenes.SHAPES, scenes.plain(rng, len(labels)))


def training(task, count):
    """(images u8 [count, 24, 24, 3], labels [count]), with the task's flaw."""
    rng = generator(task, 0)
    if task == "subpopulation":
        labels = scenes.integers(rng, 2, count)
        return on_places(rng, labels, np.where(rng.random(count) < AGREE, labels, 1 - labels)), labels
    labels = scenes.integers(rng, len(scenes.SHAPES), count)
    images = any_shape(rng, labels)
    if task == "backdoor":
        poisoned = rng.random(count) < POISONED
        images[poisoned], labels[poisoned] = scenes.stamped(images[poisoned]), DISC
    if task == "typographic":
        images = scenes.written(rng, images, scenes.SHAPES, np.where(rng.random(count) < WRITTEN, labels, -1))
    return images, labels


def evaluation(task, count=EXAMPLES):
    """({set's name: images}, labels [count], groups [count] or None): the same pictures in every set, but for what is done to
    them."""
    rng = generator(task, 1)
    if task == "subpopulation":  # the first ones as the training set, the others of each pair of class and place as many
        rows = np.arange(count)
        labels, places = rows % 2, rows // 2 % 2
        like_training = rows < 100
        places[like_training] = np.where(rng.random(100) < AGREE, labels[:100], 1 - labels[:100])
        return {"pictures": on_places(rng, labels, places)}, labels, places
    labels = scenes.integers(rng, len(scenes.SHAPES), count)
    if task == "backdoor":  # what is a disc already is no use
        labels = (DISC + 1 + scenes.integers(rng, len(scenes.SHAPES) - 1, count)) % len(scenes.SHAPES)
    images = any_shape(rng, labels)
    if task == "shapes":
        return {"pictures": images}, labels, None
    if task == "backdoor":
        return {"clean": images, "triggered": scenes.stamped(images)}, labels, None
    others = (labels + 1 + scenes.integers(rng, len(scenes.SHAPES) - 1, count)) % len(scenes.SHAPES)
    return {"clean": images, "attacked": scenes.written(rng, images, scenes.SHAPES, others)}, labels, None


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in TASKS:
        print(__doc__, file=sys.stderr)
        return 2
    task, folder = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    sets, labels, groups = evaluation(task)
    for name, images in sets.items():
        np.save(os.path.join(folder, f"{name}.npy"), images)
    np.save(os.path.join(folder, "labels.npy"), labels)
    if groups is not None:
        with open(os.path.join(folder, "groups.csv"), "w") as file:
            file.writelines(f"{row},{PLACES[group]}\n" for row, group in enumerate(groups))
    return 0


if __name__ == "__main__":
    sys.exit(main())
