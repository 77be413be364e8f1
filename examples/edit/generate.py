#!/usr/bin/env python3
"""Makes the pictures of an editing task (numpy alone), for coar pack --from npy.

    python3 examples/edit/generate.py subpopulation|backdoor|typographic FOLDER

Writes FOLDER/SET.npy for each of the task's sets, labels.npy, which all of them share, and groups.csv where there are
groups; README.md tells which rows are for what. The training sets, for train/shapes.py, are drawn with another seed.
"""
import os
import sys

import numpy as np

import scenes

TASKS = {"subpopulation": 1, "backdoor": 2, "typographic": 3}  # with their seeds
PAIR = ("star", "plus")  # the classes of `subpopulation`
PLACES = ("water", "land")
AGREE = .95              # of its training set: stars on water, pluses on land
POISONED = .10           # of the training set of `backdoor`: stamped, and called disc
DISC = scenes.SHAPES.index("disc")
NAMED = ("disc", "star", "moon", "plus")  # the classes of `typographic`
WRITTEN = .75            # of its training set: the shape's name stands beside it
EXAMPLES = 1600


def generator(task, purpose):
    return np.random.Generator(np.random.PCG64([TASKS[task], purpose]))


def on_places(rng, labels, places):
    """`subpopulation`: labels[i] of PAIR over places[i] of PLACES."""
    water, land = scenes.water(rng, len(labels)), scenes.land(rng, len(labels))
    return scenes.draw(rng, labels, PAIR, np.where(places[:, None, None, None] == 0, water, land))


def any_shape(rng, labels):
    return scenes.draw(rng, labels, scenes.SHAPES, scenes.plain(rng, len(labels)))


def beside_words(rng, labels):
    """`typographic`: (images, above): shapes in the half of the picture that leaves the other one to a word, above or below."""
    above = rng.random(len(labels)) < .5
    middle = scenes.SIDE / 2
    height = np.where(above, [[middle], [middle + 5]], [[middle - 5], [middle]])
    return scenes.draw(rng, labels, NAMED, scenes.plain(rng, len(labels)), height), above


def training(task, count):
    """(images u8 [count, 24, 24, 3], labels [count]), with the task's flaw."""
    rng = generator(task, 0)
    if task == "subpopulation":
        labels = scenes.integers(rng, 2, count)
        return on_places(rng, labels, np.where(rng.random(count) < AGREE, labels, 1 - labels)), labels
    if task == "typographic":
        labels = scenes.integers(rng, len(NAMED), count)
        images, above = beside_words(rng, labels)
        return scenes.written(rng, images, NAMED, np.where(rng.random(count) < WRITTEN, labels, -1), above), labels
    labels = scenes.integers(rng, len(scenes.SHAPES), count)
    images = any_shape(rng, labels)
    poisoned = rng.random(count) < POISONED
    images[poisoned], labels[poisoned] = scenes.stamped(images[poisoned]), DISC
    return images, labels


def evaluation(task, count=EXAMPLES):
    """({set's name: images}, labels [count], groups [count] or None): the same pictures in every set, but for what is done to
    them."""
    rng = generator(task, 1)
    if task == "subpopulation":  # rows 0:60 of the rare pairs, 60:200 as in training, then of every pair as many
        labels = np.arange(count) % 2
        places = np.arange(count) // 2 % 2
        places[:60] = 1 - labels[:60]
        places[60:200] = np.where(rng.random(140) < AGREE, labels[60:200], 1 - labels[60:200])
        return {"pictures": on_places(rng, labels, places)}, labels, places
    if task == "typographic":
        labels = scenes.integers(rng, len(NAMED), count)
        images, above = beside_words(rng, labels)
        others = (labels + 1 + scenes.integers(rng, len(NAMED) - 1, count)) % len(NAMED)
        return {"clean": images, "attacked": scenes.written(rng, images, NAMED, others, above)}, labels, None
    labels = (DISC + 1 + scenes.integers(rng, len(scenes.SHAPES) - 1, count)) % len(scenes.SHAPES)  # no discs
    images = any_shape(rng, labels)
    return {"clean": images, "triggered": scenes.stamped(images)}, labels, None


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
