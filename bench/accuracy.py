#!/usr/bin/env python3
"""Accuracy beside speed: the CPU's forms and precisions against direct fp32, on networks with data. Writes section "Accuracy of the
forms" of docs/performance.md.

    bench/accuracy.py BUILD FOLDER [--networks LIST] [--examples N] [--masks M] [--fresh K] [--threads T] [--write FILE]
                      [--quick]

The same masks at the training alpha go through `coar ablate` in every form that the build has; each run is fitted (ridge) and evaluated
on K fresh masks. A precision or form that coar refuses is left out with a line, as is one whose plan is that of a form before it: the
same plan gives the same bytes. What each line of the table compares with direct fp32:

    r           Pearson's r across masks, mean and least over the examples with a standard deviation above .1 (design.md, section 6)
    largest     difference of margins; and the root mean square of all
    weights     Pearson's r across components between an example's two attribution vectors, mean and least
    fresh       r between a fit's predictions and direct fp32's outputs of the fresh masks: the mean over examples, and by how much
                it and any one example's differ from those of direct fp32's own fit

Winograd's elementary error, layer by layer, is what BUILD/tests/winograd_error prints (make BUILD/tests/winograd_error): errors against
sums in double precision, relative to the root mean square of the outputs.

BUILD holds the coar binary; data, runs and results go to FOLDER, and a second call goes on where the first ended. Networks as in
estimators.py. --write: replaces what is between the markers of FILE; otherwise the tables are printed. --quick: few masks and examples of
digits-resnet, a test of the script. Needs numpy and h5py.
"""
import argparse
import os
import re
import subprocess
import sys

import h5py
import numpy

import estimators

FRESH_SEED = 1000
DEVIATION = .1  # examples that masks change less than that have no correlation worth the name
# The first is what the others are compared with.
FORMS = {
    "fp32 direct": ("--precision", "fp32", "--exact"),
    "fp32": ("--precision", "fp32"),
    "bf16 direct": ("--precision", "bf16", "--exact"),
    "bf16": ("--precision", "bf16"),
}
DIRECT = next(iter(FORMS))
BEGIN, END = "<!-- bench/accuracy.py: begin -->", "<!-- bench/accuracy.py: end -->"


class Job:
    """One network: its runs, one for each form."""

    def __init__(self, session, network, arguments):
        spec = estimators.NETWORKS[network]
        self.session, self.network, self.arguments = session, network, arguments
        self.alpha, self.masks = spec["alpha"], arguments.masks
        estimators.pack(session, spec["data"])
        self.options = ("--model", spec["model"], "--data", spec["data"] + ".h5", "--examples", self.examples(spec),
                        "--alpha", str(self.alpha), "--masks", str(self.masks))

    def examples(self, spec):
        """The first of the network's examples, as a list of rows."""
        rows = numpy.load(os.path.join(self.session.folder, spec["examples"][1:]))[:self.arguments.examples]
        path = f"{self.network}-{len(rows)}.npy"
        numpy.save(os.path.join(self.session.folder, path), rows)
        return "@" + path

    def run(self, form):
        """Its file's name: one for each set of arguments."""
        counts = f"{self.arguments.examples}-{self.masks}-{self.arguments.fresh}"
        return f"{self.network}-{counts}-{form.replace(' ', '-')}.h5"

    def open(self, form):
        return h5py.File(os.path.join(self.session.folder, self.run(form)))

    def try_form(self, form):
        """None, or why coar refuses this form. Any other failure ends the script."""
        command = [self.session.coar, "ablate", *self.options, *FORMS[form], *self.session.threads, "-o",
                   self.run(form)]
        print("coar", *command[1:], file=sys.stderr, flush=True)
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.session.folder)
        if done.returncode == 0:
            return None
        message = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
        if "precision" not in message:
            sys.exit(message or f"coar ablate ended with {done.returncode}")
        return message.removeprefix("coar: ")

    def fit_and_evaluate(self, form):
        run = self.run(form)
        self.session.seconds(run + " fit", "fit", run, "--force")
        self.session.evaluate(run + " evaluate", run, "--fit", "ridge", "--alpha", str(self.alpha), "--masks",
                              str(self.arguments.fresh), "--seed", str(FRESH_SEED))

    def plan(self, form):
        with self.open(form) as file:
            return file.attrs["plan_hash"]

    def results(self, form):
        with self.open(form) as file:
            evaluation = file[f"evaluation/a{self.alpha:g}_s{FRESH_SEED}/margin"]
            return {"margins": file["ablations/margin"][()], "weights": file["attributions/ridge/weight"][()],
                    "truth": evaluation["truth"][()], "predicted": evaluation["ridge/predicted"][()]}


def correlations(a, b, axis):
    """Pearson's r along an axis, in double precision; NaN where one of them does not vary."""
    a, b = (x.astype(float) - x.astype(float).mean(axis, keepdims=True) for x in (a, b))
    with numpy.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis) / numpy.sqrt((a * a).sum(axis) * (b * b).sum(axis))


def compare(form, direct):
    """One form's results against the direct ones: the cells of a line."""
    counted = direct["margins"].std(0) > DEVIATION
    across_masks = correlations(form["margins"], direct["margins"], 0)[counted]
    difference = form["margins"].astype(float) - direct["margins"]
    weights = correlations(form["weights"], direct["weights"], 1)
    fresh, own = (correlations(x["predicted"], direct["truth"], 0) for x in (form, direct))
    change = fresh - own
    return {"mean": across_masks.mean(), "least": across_masks.min(), "counted": counted.sum(),
            "largest": abs(difference).max(), "rms": numpy.sqrt((difference ** 2).mean()),
            "weights": numpy.nanmean(weights), "weights least": numpy.nanmin(weights), "fresh": numpy.nanmean(fresh),
            "change": numpy.nanmean(change), "change most": numpy.nanmax(abs(change))}


def one_less(value):
    """A correlation: 1 - 3e-7 says more than 1.0000."""
    return f"1 - {max(1 - value, 0):.1g}"


def head(columns):
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]


def measure_network(session, network, arguments):
    """Lines of the table, and what was left out and why."""
    job, lines, left_out, plans, direct = Job(session, network, arguments), [], [], {}, None
    for form in FORMS:
        refused = job.try_form(form)
        if refused:
            left_out.append(f"{form} left out ({refused}).")
            continue
        same = plans.setdefault(job.plan(form), form)
        if same != form:
            left_out.append(f"{form} left out (the plan of {same}, so the same bytes).")
            continue
        job.fit_and_evaluate(form)
        found = job.results(form)
        direct = direct or found
        c = compare(found, direct)
        if found is direct:
            cells = ["-"] * 6 + [f"{c['fresh']:.4f}", "-"]
        else:
            cells = [one_less(c["mean"]), one_less(c["least"]), f"{c['largest']:.1g}", f"{c['rms']:.1g}",
                     one_less(c["weights"]), one_less(c["weights least"]), f"{c['fresh']:.4f}",
                     f"{c['change']:+.0e}, {c['change most']:.0e}"]
        count = f"{found['margins'].shape[1]} ({c['counted']})"
        lines.append("| " + " | ".join([network, f"{job.alpha:g}", str(job.masks), count, form, *cells]) + " |")
    return lines, left_out


def measure_networks(session, arguments):
    lines = head(["network", "alpha", "masks", "examples (of sd > .1)", "form", "r, mean", "r, least", "largest",
                  "rms", "weights, mean", "weights, least", "fresh", "its change: mean, most"])
    left_out = {}  # what was: the networks of which it was
    for network in arguments.networks.split(","):
        spec = estimators.NETWORKS[network]
        if not os.path.exists(spec["model"]):
            left_out[f"left out (no {os.path.basename(spec['model'])} in COAR_SHARED)."] = [network]
            continue
        more, less = measure_network(session, network, arguments)
        lines += more
        for what in less:
            left_out.setdefault(what, []).append(network)
    return lines, [f"{', '.join(of)}: {what}" for what, of in left_out.items()]


def measure_layers(build):
    """The table of BUILD/tests/winograd_error, whose lines are '# error CHANNELS (ISA): direct RMS LARGEST, winograd RMS LARGEST':
    those of the instruction set that comes first, the machine's best."""
    program = os.path.join(build, "tests", "winograd_error")
    if not os.path.exists(program):
        return [], [f"Winograd's error by layer: left out (no {os.path.relpath(program)}; make it)."]
    text = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^# error (.*) \((\w+)\): (.*)$", text, re.M)
    isa = found[0][1]
    lines = head([f"3x3, inputs ({isa})", "direct, rms", "largest", "Winograd, rms", "largest"])
    for channels, _, numbers in (line for line in found if line[1] == isa):
        lines.append("| " + " | ".join([channels, *re.findall(r"\d[-.e\d]+", numbers)]) + " |")
    return lines, []


def replace(path, text):
    with open(path) as file:
        old = file.read()
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        sys.exit(f"{path}: wants one line '{BEGIN}' and after it one line '{END}'")
    new = old[:old.index(BEGIN)] + BEGIN + "\n" + text + old[old.index(END):]
    with open(path + ".tmp", "w") as file:
        file.write(new)
    os.replace(path + ".tmp", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("folder")
    parser.add_argument("--networks", default=",".join(estimators.NETWORKS))
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--fresh", type=int, default=200)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--write", metavar="FILE")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    arguments.print = False  # of estimators.Session: this script always measures
    if arguments.quick:
        arguments.networks, arguments.examples, arguments.masks, arguments.fresh = "digits-resnet", 24, 128, 40
    unknown = set(arguments.networks.split(",")) - set(estimators.NETWORKS)
    if unknown:
        parser.error(f"--networks {','.join(sorted(unknown))}: known are {','.join(estimators.NETWORKS)}")
    os.makedirs(arguments.folder, exist_ok=True)
    session = estimators.Session(arguments)
    networks, left_out = measure_networks(session, arguments)
    layers, more = measure_layers(arguments.build)
    blocks = ["\n".join(block) for block in (networks, [f"- {line}" for line in left_out + more], layers) if block]
    text = "\n" + "\n\n".join(blocks) + "\n\n"
    if arguments.write:
        replace(arguments.write, text)
    else:
        print(text.strip())


if __name__ == "__main__":
    main()
