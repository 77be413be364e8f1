#!/usr/bin/env python3
"""Edits of a published ResNet-20 on CIFAR-10: mistakes corrected one at a time and classes forgotten, by tau and by
`greedy`. Writes the tables of docs/edit.md between its markers.

    bench/edit_cifar.py BUILD FOLDER [--references R,...] [--methods LIST] [--test N] [--seed S] [--threads T]
                        [--write FILE] [--quick]

Rows of the test set are drawn with seed S (0) and never serve twice: 5,000 to test (they choose nothing), 1,000 to
validate, 400 references, and from the rest 50 that the network gets wrong and ten of each class. One run has
attributions of the last three: 256 reverse passes at alpha 0.01, calibrated on 64 masks.

Mistakes: `coar edit --raise --until 100 --max-k 10` for each of the 50, so that every one has its own smallest number
of components that corrects it, whatever it costs; what it costs is then measured on the test rows. Classes: the first
20 components of `coar edit --lower` with the class's ten targets and references of other classes; k is the smallest
at which at most 2 % of the class's validation examples are right (the aim is less than 5 % of others); both figures
are told of test rows. A loss is of accuracy, in points; of the other classes the mean of the nine losses.

BUILD holds the coar binary; data, run and results go to FOLDER, and a second call goes on where the first ended. The
images and weights are the shared material's (COAR_SHARED, default ../shared). Methods that take baselines (loo,
gradient) make the run's (`coar evaluate --baselines`). --test: fewer test rows. --quick: five mistakes, three
classes, 300 rows, 16 reverse passes: a test of the script. Needs numpy and h5py.
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

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.environ.get("COAR_SHARED", os.path.join(ROOT, "..", "shared"))
MODEL = os.path.join(SHARED, "models", "resnet20-cifar10.safetensors")
CLASSES, ALPHA, PASSES, MASKS = 10, .01, 256, 64
MISTAKE_K, CURVE_KS = 10, (1, 2, 3, 4, 6, 8, 10)
CLASS_KS = (2, 4, 6, 8, 10, 12, 16, 20)
FORGOTTEN, WANTED = 2, 5  # percent of validation examples to go by, so that test's are below what is wanted
BEGIN, END = "<!-- bench/edit_cifar.py: begin -->", "<!-- bench/edit_cifar.py: end -->"


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
        """Margins [sets, rows] with each set of components ablated; kept in the folder."""
        masks = numpy.ones((len(sets), 688), bool)
        for mask, components in zip(masks, sets):
            mask[list(components)] = False
        masks, where = numpy.unique(masks, axis=0, return_inverse=True)
        key = hashlib.sha256(masks.tobytes() + numpy.asarray(rows, numpy.int64).tobytes()).hexdigest()[:16]
        kept, run = self.path(f"margins-{key}.npy"), self.path("masks.h5")
        if not os.path.exists(kept):
            numpy.save(self.path("masks.npy"), masks)
            self.coar("ablate", *self.model(rows, "masks-rows.npy"), "--sampler", "file:" + self.path("masks.npy"),
                      "-o", run, "--force")
            with h5py.File(run) as f:
                numpy.save(kept, f["ablations/margin"][()])
        return numpy.load(kept)[where.reshape(-1)]

    def model(self, rows, name):
        numpy.save(self.path(name), numpy.asarray(rows, numpy.int64))
        return ("--model", MODEL, "--data", self.path("test.h5"), "--precision", "fp32", "--examples",
                "@" + self.path(name))

    def attribute(self, rows, baselines):
        """The run that edits take their attributions from."""
        run = self.path("run.h5")
        options = (*self.model(rows, "run-rows.npy"), "--alpha", ALPHA)
        self.coar("gradients", *options, "--passes", 16 if self.arguments.quick else PASSES, "-o",
                  run)
        self.coar("ablate", *options, "--masks", MASKS, "-o", run)
        with h5py.File(run) as f:
            fits = list(f.get("attributions", ()))
        if "grad" not in fits:
            self.coar("fit", run, "--estimator", "grad")
        if baselines and "loo" not in fits:
            self.coar("evaluate", run, "--fit", "grad", "--masks", 2, "--baselines")

    def edit(self, name, targets, references, *options):
        """What `coar edit --json` says; kept in the folder. Sets that do not choose components are small."""
        kept = self.path(f"edit-{name}.json")
        if not os.path.exists(kept):
            for part, rows in (("target", targets), ("reference", references)):
                numpy.save(self.path(part + ".npy"), numpy.asarray(rows, numpy.int64))
            text = self.coar("edit", self.path("run.h5"), "--target", "@" + self.path("target.npy"), "--reference",
                             "@" + self.path("reference.npy"), "--validation", "@" + self.path("few-validation.npy"),
                             "--test", "@" + self.path("few-test.npy"), "--fit", "grad", "--select", 100, "--json",
                             "--name", name, "--force", *options)
            with open(kept, "wb") as f:
                f.write(text)
        with open(kept, encoding="utf-8") as f:
            return json.load(f)


class Rows:
    """Which rows serve as what."""

    def __init__(self, network, arguments):
        count = len(network.labels)
        self.labels = network.labels
        self.baseline = network.margins([()], range(count))[0]
        order = numpy.random.default_rng(arguments.seed).permutation(count)
        self.test, self.validation, rest = order[:5000][:arguments.test], order[5000:6000], order[7000:]
        self.references, rest = rest[:400], rest[400:]
        self.mistakes = rest[self.baseline[rest] <= 0][:50]
        rest = rest[~numpy.isin(rest, self.mistakes)]
        self.of_class = [rest[self.labels[rest] == c][:10] for c in range(CLASSES)]
        self.classes = range(CLASSES)
        if arguments.quick:
            self.references, self.mistakes, self.classes = self.references[:80], self.mistakes[:5], range(3)
            self.test, self.validation = self.test[:150], self.validation[:150]
        for name, rows in (("few-validation", self.validation), ("few-test", self.test)):
            numpy.save(network.path(name + ".npy"), rows[:20])

    def attributed(self):
        return numpy.unique(numpy.concatenate([self.references, self.mistakes, *self.of_class]))

    def others(self, label, count):
        return self.references[self.labels[self.references] != label][:count]


def mistakes(network, rows, method, options, references):
    """Smallest k of each mistake, 0 where none up to MISTAKE_K corrects it, and the losses of the corrected ones."""
    ks, sets = [], []
    for row in rows.mistakes:
        e = network.edit(f"mistake-{row}-{'-'.join((method, *options))}-{references}", [row],
                         rows.references[:references], "--raise", "--until", 100, "--max-k", MISTAKE_K, "--method",
                         method, *options)
        corrected = e["sets"]["target"]["after"]["accuracy"] == 1
        ks.append(e["k"] if corrected else 0)
        if corrected:
            sets.append([c["component"] for c in e["order"][:e["k"]]])
    before = rows.baseline[rows.test] > 0
    return numpy.array(ks), 100 * (before.mean() - (network.margins(sets, rows.test) > 0).mean(1))


def class_figures(right, before, labels, label):
    """Of `right` [rows]: the class's accuracy, and the mean loss of the others."""
    others = [before[labels == c].mean() - right[labels == c].mean() for c in range(CLASSES) if c != label]
    return 100 * right[labels == label].mean(), 100 * numpy.mean(others)


def classes(network, rows, method, options, references):
    """For each class the curve on validation [ks, (class, others)], the k taken or 0, (class, others) on test rows."""
    orders = []
    for c in rows.classes:
        e = network.edit(f"class-{c}-{'-'.join((method, *options))}-{references}", rows.of_class[c],
                         rows.others(c, references), "--lower", "--max-k", CLASS_KS[-1], "--method", method, *options)
        orders.append([component["component"] for component in e["order"]])
    sets = [order[:k] for order in orders for k in CLASS_KS]
    right = (network.margins(sets, rows.validation) > 0).reshape(len(orders), len(CLASS_KS), -1)
    before, labels = rows.baseline[rows.validation] > 0, rows.labels[rows.validation]
    curves = numpy.array([[class_figures(right[i, j], before, labels, c) for j in range(len(CLASS_KS))]
                          for i, c in enumerate(rows.classes)])
    ks = [next((k for k, point in zip(CLASS_KS, curve) if point[0] <= FORGOTTEN), 0) for curve in curves]
    after = network.margins([order[:k or CLASS_KS[-1]] for order, k in zip(orders, ks)], rows.test) > 0
    before, labels = rows.baseline[rows.test] > 0, rows.labels[rows.test]
    return curves, ks, [class_figures(after[i], before, labels, c) for i, c in enumerate(rows.classes)]


def table(head, lines):
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines]) + "\n"


def mean_and_error(values):
    return f"{values.mean():.2f} ± {values.std() / len(values) ** .5:.2f}"


def mistakes_tables(results):
    """results: (name, ks, losses) of each choice."""
    lines, curve = [], []
    for name, ks, losses in results:
        lines.append([name, f"{100 * (ks > 0).mean():.0f} %", f"{ks[ks > 0].mean():.1f}", mean_and_error(losses),
                      f"{numpy.median(losses):.2f}", f"{losses.max():.1f}"])
        parts = []
        for most in CURVE_KS:
            until = losses[ks[ks > 0] <= most]
            mean = f"{until.mean():.2f}" if len(until) else "-"
            parts.append(f"{100 * ((ks > 0) & (ks <= most)).mean():.0f} % / {mean}")
        curve.append([name, *parts])
    return (table(["choice", "corrected", "mean k", "mean loss ± s.e.", "median", "most"], lines) +
            "\nCorrected with at most k components / mean loss of those:\n\n" +
            table(["choice", *(f"k = {k}" for k in CURVE_KS)], curve))


def classes_tables(results, names):
    """results: (name, curves, ks, test) of each choice; names of the classes."""
    lines, curve, per_class = [], [], []
    for name, curves, ks, test in results:
        own, others = numpy.array(test).T
        lines.append([name, f"{(own < WANTED).sum()} of {len(ks)}",
                      f"{numpy.mean([k or CLASS_KS[-1] for k in ks]):.1f}", f"{own.mean():.1f} ({own.max():.1f})",
                      f"{others.mean():.2f}", f"{others.max():.1f}"])
        curve.append([name, *(f"{a:.0f} / {b:.1f}" for a, b in curves.mean(0))])
        per_class.append([name, *(f"{k or f'> {CLASS_KS[-1]}'}: {a:.1f} / {b:.1f}" for k, (a, b) in zip(ks, test))])
    head = ["choice", f"below {WANTED} % on test", "mean k", "class on test: mean (most)", "others' loss: mean", "most"]
    return (table(head, lines) +
            "\nMean over classes of the class's accuracy / the others' loss, against k, on validation:\n\n" +
            table(["choice", *(f"k = {k}" for k in CLASS_KS)], curve) +
            "\nk: the class's accuracy / the others' loss, on test:\n\n" + table(["choice", *names], per_class))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("build")
    parser.add_argument("folder")
    parser.add_argument("--references", default="50,400")
    parser.add_argument("--methods", default="tau,greedy", help="names, or greedy:C")
    parser.add_argument("--test", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--write")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if not os.path.exists(MODEL):
        sys.exit(f"{MODEL}: not there: COAR_SHARED names the folder of the shared material")
    network = Network(arguments)
    rows = Rows(network, arguments)
    methods = [method.split(":") for method in arguments.methods.split(",")]
    network.attribute(rows.attributed(), any(method[0] in ("loo", "gradient") for method in methods))
    one, many = [], []
    for references in map(int, arguments.references.split(",")):
        for method, *weight in methods:
            options = ("--harm-weight", weight[0]) if weight else ()
            name = " ".join([method, *(f"(C = {w})" for w in weight), f"{references}"])
            one.append((name, *mistakes(network, rows, method, options, references)))
            many.append((name, *classes(network, rows, method, options, references)))
    with h5py.File(network.path("test.h5")) as f:
        names = [name.decode() if isinstance(name, bytes) else name for name in f.attrs["class_names"]]
    text = (f"**{len(rows.mistakes)} mistakes**, each at its own smallest k <= {MISTAKE_K}; losses on {len(rows.test)} "
            f"test rows (seed {arguments.seed}). The number behind a choice is that of references.\n\n" +
            mistakes_tables(one) +
            f"\n**{len(rows.classes)} classes to forget**, ten targets each.\n\n" +
            classes_tables(many, [names[c] for c in rows.classes]))
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
