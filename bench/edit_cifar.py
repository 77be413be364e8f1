#!/usr/bin/env python3
"""Edits of a published ResNet-20 on CIFAR-10: mistakes corrected one at a time and classes forgotten, by every method
of `coar edit`. Writes the tables of docs/edit.md between its markers, and its picture.

    bench/edit_cifar.py BUILD FOLDER [--choices LIST] [--others LIST] [--test N] [--seed S] [--threads T]
                        [--write FILE] [--picture FILE.svg] [--quick]

A choice is METHOD[:C]@R: greedy:4@400 is `--method greedy --harm-weight 4` with 400 references; greedy-loo is greedy by
leave-one-out scores. --others: methods that are set beside the first greedy choice at its k, with its references.

Rows of the test set are drawn with seed S (0) and never serve twice: 5,000 to test (they choose nothing), 1,000 to
validate, 400 references, and from the last 2,600 50 that the network gets wrong and ten of each class. 1,000 between
these are left over. One run has attributions of the references, mistakes and classes' examples: 256 reverse passes at
alpha 0.01, calibrated on 64 masks.

Mistakes: `coar edit --raise --until 100 --max-k 10` for each of the 50, so that every one has its own smallest number
of components that corrects it, whatever it costs; what it costs is then measured on the test rows. Classes: the first
20 components of `coar edit --lower` with the class's ten targets and references of other classes; k is the smallest
at which at most 2 % of the class's validation examples are right (the aim is less than 5 % of others); both figures
are told of test rows. A loss is of accuracy, in points; of the other classes the mean of the nine losses.

BUILD holds the coar binary; data, run and results go to FOLDER, and a second call goes on where the first ended. The
images and weights are the shared material's (COAR_SHARED, default ../shared). Choices that take baselines (loo,
gradient) make the run's (`coar evaluate --baselines`). --test: fewer test rows. --quick: two mistakes, one class, 80
references, 16 reverse passes and masks: a test of the script; FOLDER/test.h5 may then be of fewer images (a tenth validates, half
test). Needs numpy and h5py.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import h5py
import numpy

from curves import panel, write_svg

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.environ.get("COAR_SHARED", os.path.join(ROOT, "..", "shared"))
MODEL = os.path.join(SHARED, "models", "resnet20-cifar10.safetensors")
CLASSES, ALPHA, PASSES, MASKS = 10, .01, 256, 64
MISTAKE_K, CURVE_KS = 10, (1, 2, 3, 4, 6, 8, 10)
CLASS_KS = (2, 4, 6, 8, 10, 12, 16, 20)
FORGOTTEN, WANTED = 2, 5  # percent of validation examples to go by, so that test's are below what is wanted
CHOICES, OTHERS = "tau@50,greedy@50,tau@400,greedy@400", "loo,gradient,weight-norm,random"
BLIND = ("weight-norm", "random")  # look at no example: one edit stands for all
SAME_K_ROWS, DRAWS = 2000, 1000  # test rows of the comparison at the same k; draws of its bootstrap
BEGIN, END = "<!-- bench/edit_cifar.py: begin -->", "<!-- bench/edit_cifar.py: end -->"


class Choice:
    """A method, its C and the number of references."""

    def __init__(self, text):
        method, _, references = text.partition("@")
        self.method, _, self.weight = method.partition(":")
        self.references = int(references or 50)
        self.by_loo = self.method == "greedy-loo"
        self.key = self.method + (f"---harm-weight-{self.weight}" if self.weight else "") + f"-{self.references}"
        self.name = self.method + (f" (C = {self.weight})" if self.weight else "")
        if self.method not in BLIND:
            self.name += f" {self.references}"

    def takes_baselines(self):
        return self.by_loo or self.method in ("loo", "gradient")

    def at(self, what):
        """The name of the edit of a mistake or a class."""
        return f"{'any' if self.method in BLIND else what}-{self.key}"

    def options(self, network):
        weight = ("--harm-weight", self.weight) if self.weight else ()
        if not self.by_loo:
            return ("--method", self.method, "--fit", "grad", *weight)
        return ("--method", "greedy", "--attributions", network.path("loo.npy"), "--rows",
                network.path("run-rows.npy"), *weight)


class Network:
    """The network, its data and its run, in a folder."""

    def __init__(self, arguments):
        self.folder, self.arguments = arguments.folder, arguments
        self.binary = os.path.abspath(os.path.join(arguments.build, "coar"))
        os.makedirs(self.folder, exist_ok=True)
        if not os.path.exists(self.path("test.h5")):
            images = self.path("images")
            shutil.unpack_archive(os.path.join(SHARED, "cifar10", "test-jpeg.tar.gz"), images)
            self.coar("pack", "--from", "imagefolder", os.path.join(images, "test"), "--mean", ".485,.456,.406",
                      "--std", ".229,.224,.225", "-o", self.path("test.h5"))
            shutil.rmtree(images)
        with h5py.File(self.path("test.h5")) as f:
            self.labels = f["labels"][()]

    def path(self, name):
        return os.path.join(self.folder, name)

    def coar(self, *arguments):
        print("coar", *arguments, file=sys.stderr, flush=True)
        threads = ("--threads", str(self.arguments.threads)) if self.arguments.threads else ()
        done = subprocess.run((self.binary, *map(str, arguments), *threads), stdout=subprocess.PIPE, check=False)
        if done.returncode:
            sys.exit(f"coar {arguments[0]} failed")
        return done.stdout

    def margins(self, sets, rows):
        """Margins [sets, rows] with each set of components ablated; kept in the folder, none is measured twice."""
        names = ["set-" + "-".join(map(str, sorted(map(int, components)))) for components in sets]
        rows = numpy.asarray(rows, numpy.int64)
        kept, run = self.path(f"margins-{hashlib.sha256(rows.tobytes()).hexdigest()[:16]}.npz"), self.path("masks.h5")
        known = dict(numpy.load(kept)) if os.path.exists(kept) else {}
        new = {name: components for name, components in zip(names, sets) if name not in known}
        if new:
            masks = numpy.ones((len(new), 688), bool)
            for mask, components in zip(masks, new.values()):
                mask[list(components)] = False
            numpy.save(self.path("masks.npy"), masks)
            self.coar("ablate", *self.model(rows, "masks-rows.npy"), "--sampler", "file:" + self.path("masks.npy"),
                      "-o", run, "--force")
            with h5py.File(run) as f:
                known.update(zip(new, f["ablations/margin"][()]))
            numpy.savez(kept, **known)
        return numpy.array([known[name] for name in names])

    def model(self, rows, name):
        numpy.save(self.path(name), numpy.asarray(rows, numpy.int64))
        return ("--model", MODEL, "--data", self.path("test.h5"), "--precision", "fp32", "--examples",
                "@" + self.path(name))

    def attribute(self, rows, baselines):
        """The run that edits take their attributions from."""
        run = self.path("run.h5")
        options = (*self.model(rows, "run-rows.npy"), "--alpha", ALPHA)
        passes, masks = (16, 16) if self.arguments.quick else (PASSES, MASKS)
        self.coar("gradients", *options, "--passes", passes, "-o", run)
        self.coar("ablate", *options, "--masks", masks, "-o", run)
        with h5py.File(run) as f:
            fits = list(f.get("attributions", ()))
        if "grad" not in fits:
            self.coar("fit", run, "--estimator", "grad")
        if baselines and "loo" not in fits:
            self.coar("evaluate", run, "--fit", "grad", "--masks", 2, "--baselines")
        if baselines:
            with h5py.File(run) as f:
                numpy.save(self.path("loo.npy"), f["attributions/loo/weight"][()])

    def edit(self, name, targets, references, *options):
        """What `coar edit --json` says; kept in the folder. Sets that do not choose components are small."""
        kept = self.path(f"edit-{name}.json")
        if not os.path.exists(kept):
            for part, rows in (("target", targets), ("reference", references)):
                numpy.save(self.path(part + ".npy"), numpy.asarray(rows, numpy.int64))
            text = self.coar("edit", self.path("run.h5"), "--target", "@" + self.path("target.npy"), "--reference",
                             "@" + self.path("reference.npy"), "--validation", "@" + self.path("few-validation.npy"),
                             "--test", "@" + self.path("few-test.npy"), "--select", 100, "--json", "--name", name,
                             "--force", *options)
            with open(kept, "wb") as f:
                f.write(text)
        with open(kept, encoding="utf-8") as f:
            return json.load(f)


class Rows:
    """Which rows serve as what."""

    def __init__(self, network, arguments):
        count = len(network.labels)
        self.labels = network.labels
        order = numpy.random.default_rng(arguments.seed).permutation(count)
        tenth = count // 10
        self.test, self.validation, rest = order[:5 * tenth], order[5 * tenth:6 * tenth], order[7 * tenth:]
        self.test = self.test[:arguments.test]
        self.baseline = numpy.full(count, numpy.nan)
        for rows in (self.test, self.validation, rest):
            self.baseline[rows] = network.margins([()], rows)[0]
        references, mistakes, classes = (80, 2, 1) if arguments.quick else (400, 50, CLASSES)
        self.references, rest = rest[:references], rest[references:]
        self.mistakes = rest[self.baseline[rest] <= 0][:mistakes]
        rest = rest[~numpy.isin(rest, self.mistakes)]
        self.classes = range(classes)
        self.of_class = [rest[self.labels[rest] == c][:10] for c in self.classes]
        for name, rows in (("few-validation", self.validation), ("few-test", self.test)):
            numpy.save(network.path(name + ".npy"), rows[:20])

    def attributed(self):
        return numpy.unique(numpy.concatenate([self.references, self.mistakes, *self.of_class]))

    def others(self, label, count):
        return self.references[self.labels[self.references] != label][:count]


def components(e):
    return [c["component"] for c in e["order"]]


def edit_mistakes(network, rows, choice):
    """Of each mistake what its edit says."""
    return [network.edit(f"mistake-{choice.at(row)}", [row], rows.references[:choice.references], "--raise", "--until",
                         100, "--max-k", MISTAKE_K, *choice.options(network)) for row in rows.mistakes]


def edit_classes(network, rows, choice):
    """Of each class what its edit says."""
    return [network.edit(f"class-{choice.at(c)}", rows.of_class[c], rows.others(c, choice.references), "--lower",
                         "--max-k", CLASS_KS[-1], *choice.options(network)) for c in rows.classes]


class Mistakes:
    """What a choice does to mistakes.

    ks: of each the smallest k that corrects it, 0 where none does; losses of the corrected.
    """

    def __init__(self, network, rows, choice):
        self.name = choice.name
        edits = edit_mistakes(network, rows, choice)
        self.ks = numpy.array([e["k"] if e["sets"]["target"]["after"]["accuracy"] == 1 else 0 for e in edits])
        sets = [components(e)[:k] for e, k in zip(edits, self.ks) if k]
        before = rows.baseline[rows.test] > 0
        self.losses = 100 * (before.mean() - (network.margins(sets, rows.test) > 0).mean(1)) if sets else numpy.zeros(0)

    def until(self, k):
        """(percentage corrected, mean loss of those or NaN) with at most k components."""
        losses = self.losses[self.ks[self.ks > 0] <= k]
        return 100 * len(losses) / len(self.ks), losses.mean() if len(losses) else numpy.nan


def accuracies(right, labels, weights):
    """Of every class, [draws, classes]: examples count as often as weights [draws, rows] say."""
    of = labels[:, None] == numpy.arange(CLASSES)
    return 100 * (weights @ (of * right[:, None])) / (weights @ of)


def class_figures(right, before, labels, label, weights=None):
    """Of right [rows]: the class's accuracy, and the mean loss of the others; each [draws]."""
    weights = numpy.ones((1, len(right))) if weights is None else weights
    after = accuracies(right, labels, weights)
    losses = numpy.delete(accuracies(before, labels, weights) - after, label, 1)
    return after[:, label], losses.mean(1)


class Classes:
    """What a choice does to classes.

    curves [classes, ks, (class, others)] on validation; ks: those taken, or 0; test: (class, others) on test rows.
    """

    def __init__(self, network, rows, choice):
        self.name = choice.name
        orders = [components(e) for e in edit_classes(network, rows, choice)]
        sets = [order[:k] for order in orders for k in CLASS_KS]
        right = (network.margins(sets, rows.validation) > 0).reshape(len(orders), len(CLASS_KS), -1)
        before, labels = rows.baseline[rows.validation] > 0, rows.labels[rows.validation]
        self.curves = numpy.array([[numpy.concatenate(class_figures(right[i, j], before, labels, c))
                                    for j in range(len(CLASS_KS))] for i, c in enumerate(rows.classes)])
        self.ks = [next((k for k, point in zip(CLASS_KS, curve) if point[0] <= FORGOTTEN), 0) for curve in self.curves]
        sets = [order[:k or CLASS_KS[-1]] for order, k in zip(orders, self.ks)]
        after = network.margins(sets, rows.test) > 0
        before, labels = rows.baseline[rows.test] > 0, rows.labels[rows.test]
        self.test = numpy.array([numpy.concatenate(class_figures(after[i], before, labels, c))
                                 for i, c in enumerate(rows.classes)])


def table(head, lines):
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines]) + "\n"


def mean_and_error(values):
    return f"{values.mean():.2f} ± {values.std() / len(values) ** .5:.2f}" if len(values) else "-"


def mistakes_tables(results):
    lines, curve = [], []
    for r in results:
        corrected = r.ks[r.ks > 0]
        lines.append([r.name, f"{100 * (r.ks > 0).mean():.0f} %", f"{corrected.mean():.1f}" if len(corrected) else "-",
                      mean_and_error(r.losses), *(f"{f(r.losses):.{digits}f}" if len(corrected) else "-"
                                                  for f, digits in ((numpy.median, 2), (numpy.max, 1)))])
        points = [r.until(k) for k in CURVE_KS]
        curve.append([r.name, *(f"{share:.0f} % / " + ("-" if numpy.isnan(loss) else f"{loss:.2f}")
                                for share, loss in points)])
    return (table(["choice", "corrected", "mean k", "mean loss ± s.e.", "median", "most"], lines) +
            "\nCorrected with at most k components / mean loss of those:\n\n" +
            table(["choice", *(f"k = {k}" for k in CURVE_KS)], curve))


def classes_tables(results, names):
    """names of the classes."""
    lines, curve, per_class = [], [], []
    for r in results:
        own, others = r.test.T
        lines.append([r.name, f"{(own < WANTED).sum()} of {len(r.ks)}",
                      f"{numpy.mean([k or CLASS_KS[-1] for k in r.ks]):.1f}", f"{own.mean():.1f} ({own.max():.1f})",
                      f"{others.mean():.2f}", f"{others.max():.1f}"])
        curve.append([r.name, *(f"{a:.0f} / {b:.1f}" for a, b in r.curves.mean(0))])
        per_class.append([r.name, *(f"{k or f'> {CLASS_KS[-1]}'}: {a:.1f} / {b:.1f}"
                                    for k, (a, b) in zip(r.ks, r.test))])
    head = ["choice", f"below {WANTED} % on test", "mean k", "class on test: mean (most)", "others' loss: mean", "most"]
    return (table(head, lines) +
            "\nMean over classes of the class's accuracy / the others' loss, against k, on validation:\n\n" +
            table(["choice", *(f"k = {k}" for k in CLASS_KS)], curve) +
            "\nk: the class's accuracy / the others' loss, on test:\n\n" + table(["choice", *names], per_class))


def interval(mean, draws, digits):
    low, high = numpy.percentile(draws, (2.5, 97.5))
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def same_k(network, rows, choices, first, mistakes, classes):
    """The table of choices at the k of choice `first`, whose results `mistakes` and `classes` are. A draw of the
    bootstrap is of test rows and of mistakes, each with replacement; the classes are all there are."""
    test = rows.test[:SAME_K_ROWS]
    rng, tests, count = numpy.random.default_rng(0), len(test), len(rows.mistakes)
    weights = rng.multinomial(tests, [1 / tests] * tests, DRAWS).astype(float)
    drawn = rng.multinomial(count, [1 / count] * count, DRAWS).astype(float)
    before, labels = rows.baseline[test] > 0, rows.labels[test]
    ks, class_ks = [k or MISTAKE_K for k in mistakes.ks], [k or CLASS_KS[-1] for k in classes.ks]
    lines = []
    for choice in choices:
        sets = [components(e)[:k] for e, k in zip(edit_mistakes(network, rows, choice), ks)]
        corrected = numpy.diag(network.margins(sets, rows.mistakes)) > 0
        lost = before * 1. - (network.margins(sets, test) > 0)
        sets = [components(e)[:k] for e, k in zip(edit_classes(network, rows, choice), class_ks)]
        right = network.margins(sets, test) > 0
        exact, draws = (numpy.mean([class_figures(right[i], before, labels, c, w)
                                    for i, c in enumerate(rows.classes)], 0)
                        for w in (None, weights))  # each [(class, others), draws]
        lines.append([choice.name, interval(100 * corrected.mean(), 100 * (drawn @ corrected) / count, 0),
                      interval(100 * lost.mean(), 100 * (drawn @ lost * weights).sum(1) / lost.size, 2),
                      interval(exact[0, 0], draws[0], 1), interval(exact[1, 0], draws[1], 2)])
    return (f"\n**At the same k**, that of {first.name} for every mistake (mean {numpy.mean(ks):.1f}) and class "
            f"({numpy.mean(class_ks):.1f}), on {tests} test rows; 95 % intervals over mistakes and rows:\n\n" +
            table(["choice", "mistakes corrected, %", "loss by all mistakes' edits", "the class's accuracy",
                   "others' loss"], lines))


def draw(path, choices, one, many):
    ks = range(1, MISTAKE_K + 1)
    until = numpy.array([[mistakes.until(k) for k in ks] for mistakes in one])
    curves = numpy.array([classes.curves.mean(0) for classes in many])
    write_svg(path, [choice.name for choice in choices],
              [panel("mistakes corrected with at most k, %", ks, until[..., 0]),
               panel("mean loss of those, points (test)", ks, until[..., 1]),
               panel("accuracy of the class to forget, % (validation)", CLASS_KS, curves[..., 0]),
               panel("mean loss of other classes, points (validation)", CLASS_KS, curves[..., 1])],
              [choice.references != choices[0].references for choice in choices])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("build")
    parser.add_argument("folder")
    parser.add_argument("--choices", default=CHOICES)
    parser.add_argument("--others", default=OTHERS)
    parser.add_argument("--test", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--write")
    parser.add_argument("--picture")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if not os.path.exists(MODEL):
        sys.exit(f"{MODEL}: not there: COAR_SHARED names the folder of the shared material")
    network = Network(arguments)
    rows = Rows(network, arguments)
    choices = [Choice(text) for text in arguments.choices.split(",")]
    first = next((i for i, choice in enumerate(choices) if choice.method == "greedy"), 0)
    others = [c for c in choices if c.references == choices[first].references]
    others += [Choice(f"{name}@{choices[first].references}") for name in arguments.others.split(",") if name]
    network.attribute(rows.attributed(), any(choice.takes_baselines() for choice in choices + others))
    one = [Mistakes(network, rows, choice) for choice in choices]
    many = [Classes(network, rows, choice) for choice in choices]
    with h5py.File(network.path("test.h5")) as f:
        names = [name.decode() if isinstance(name, bytes) else name for name in f.attrs["class_names"]]
    text = (f"**{len(rows.mistakes)} mistakes**, each at its own smallest k <= {MISTAKE_K}; losses on {len(rows.test)} "
            f"test rows (seed {arguments.seed}). The number behind a choice is that of references.\n\n" +
            mistakes_tables(one) +
            f"\n**{len(rows.classes)} classes to forget**, ten targets each.\n\n" +
            classes_tables(many, [names[c] for c in rows.classes]) +
            same_k(network, rows, others, choices[first], one[first], many[first]))
    if arguments.picture:
        draw(arguments.picture, choices, one, many)
    if not arguments.write:
        print(text)
        return
    with open(arguments.write, encoding="utf-8") as f:
        page = f.read()
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.S)
    page, count = between.subn(lambda _: f"{BEGIN}\n\n{text}\n{END}", page)
    if count != 1:
        sys.exit(f"{arguments.write}: has no lines {BEGIN} and {END}")
    with open(arguments.write, "w", encoding="utf-8") as f:
        f.write(page)


if __name__ == "__main__":
    main()
