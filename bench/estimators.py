#!/usr/bin/env python3
"""Every table of docs/estimators.md from coar's command line: correlations, wall times, coverage of standard errors.

    bench/estimators.py BUILD FOLDER [--networks LIST] [--seeds 0,1,2] [--parts fits,coverage] [--threads T] [--print]
                        [--quick]

BUILD holds the coar binary; data, runs and results go to FOLDER. Networks: digits-resnet and digits-vit come with the
project, resnet20, resnet32 and vit from the shared material (COAR_SHARED, default ../shared; left out with a message
without it). Prints markdown; what is under way goes to stderr. A second call goes on where the first ended: times that
were measured are kept (a command that was interrupted is timed from where it goes on). --print: measures nothing,
prints what the folder has.

A fit's time is that of all commands that lead to it (coar gradients, coar ablate, coar fit), each from its start to its
end, added over the extensions of one run. Tables have the first seed's, so measure that on an idle machine; the others'
correlations do not depend on what else runs (--seeds 1,2 first, then all three). With seed 0 alone: fits of more than
2,000 masks, calibration of 16, 32 and 256 reverse passes, and coar run. Coverage (interval_coverage.py) has no times
and needs numpy and h5py. --quick: few masks and examples, one seed, digits-resnet: a test of the script.
"""
import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import interval_coverage

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.environ.get("COAR_SHARED", os.path.join(ROOT, "..", "shared"))
EVALUATION_SEED = 1000  # of the fresh masks: the same for every seed of a run
# Of every network. passes: reverse passes; calibrated: reverse and masked passes, the last pair's run is gone on with;
# calibrated_first: besides, with seed 0, to find the cheapest that reach what others reach.
COMMON = {"passes": (16, 32, 64, 128, 256), "calibrated": ((64, 100), (128, 100)),
          "calibrated_first": ((16, 100), (32, 100), (256, 100))}
REVERSE_COST = 2.5  # forward passes that coar run counts a reverse pass for
BUDGETS = {"`coar run --budget 300p`": ("--budget", "300p"), "`coar run`": ()}
# What the paper compares with: name, reverse and forward passes of an example (n: its components).
BASELINES = {"loo": ("leave-one-out", lambda n: (0, n + 1)), "gp": ("gradient at the full model", lambda n: (1, 0)),
             "nc": ("neuron conductance", lambda n: (52, 0)), "ii": ("internal influence", lambda n: (52, 0))}


def digits(kind):
    return {"model": os.path.join(ROOT, "data", f"digits-{kind}.safetensors"), "data": "digits",
            "examples": "@digits.npy"}


def shared(model, golden):
    return {"model": os.path.join(SHARED, "models", model), "data": "cifar10",
            "examples": "@" + os.path.join(SHARED, "golden", golden)}


# n: components; others: alphas that fits are evaluated at besides; fresh: masks of the evaluation; masks: of plain
# runs, 4.4 n among them where that is affordable; learnt: the most that eb and grad+eb are fitted to, where their cost,
# by eigenvectors cubic in min(m, n), would be most of all (otherwise all).
NETWORKS = {
    "digits-resnet": {**digits("resnet"), "n": 180, "alpha": 0.10, "others": (0.05,), "fresh": 300,
                      "masks": (200, 500, 792, 2000)},
    "digits-vit": {**digits("vit"), "n": 896, "alpha": 0.05, "others": (0.10,), "fresh": 300,
                   "masks": (200, 500, 1000, 3942)},
    "resnet20": {**shared("resnet20-cifar10.safetensors", "r20_examples.npy"), "n": 688, "alpha": 0.10,
                 "others": (0.05,), "fresh": 400, "masks": (300, 1000, 2000, 3027, 5000)},
    "resnet32": {**shared("resnet32-cifar10.safetensors", "vit_examples.npy"), "n": 1136, "alpha": 0.05,
                 "others": (0.10,), "fresh": 300, "masks": (300, 1000, 2000, 4998), "learnt": 2000},
    "vit": {**shared("vit-cifar10.safetensors", "vit_examples.npy"), "n": 4608, "alpha": 0.05, "others": (0.10,),
            "fresh": 300, "masks": (500, 1000, 2000, 5000)},
}
QUICK = {"masks": (200,), "fresh": 40, "examples": "0:24", "others": (), "passes": (16,), "calibrated": ((16, 64),),
         "calibrated_first": ()}


class NotMeasured(Exception):
    """With --print: a result that the folder does not have."""


class Session:
    """Commands of coar with their wall times. A result that is in results.json is not measured again."""

    def __init__(self, arguments):
        self.coar = os.path.abspath(os.path.join(arguments.build, "coar"))
        self.folder = os.path.abspath(arguments.folder)
        self.print_only = arguments.print
        self.threads = ["--threads", str(arguments.threads)] if arguments.threads else []
        self.path = os.path.join(self.folder, "results.json")
        self.results = json.load(open(self.path)) if os.path.exists(self.path) else {}

    def once(self, key, make):
        if key not in self.results:
            if self.print_only:
                raise NotMeasured(key)
            self.results[key] = make()
            with open(self.path + ".tmp", "w") as file:
                json.dump(self.results, file, indent=1)
            os.replace(self.path + ".tmp", self.path)
        return self.results[key]

    def run(self, *command):
        """(seconds, standard output) of one command."""
        print("coar", *command, file=sys.stderr, flush=True)
        start = time.monotonic()
        threads = [] if command[0] == "info" else self.threads
        done = subprocess.run([self.coar, *command, *threads], stdout=subprocess.PIPE, text=True, cwd=self.folder)
        if done.returncode:
            sys.exit(f"coar {command[0]} ended with {done.returncode}; see the line above")
        return time.monotonic() - start, done.stdout

    def seconds(self, key, *command):
        return self.once(key, lambda: self.run(*command)[0])

    def info(self, key, run):
        return self.once(key, lambda: json.loads(self.run("info", run, "--json")[1]))

    def evaluate(self, key, *command):
        """What coar evaluate finds; its seconds are kept beside it."""
        def make():
            self.results[key + " seconds"], text = self.run("evaluate", *command, "--json")
            return json.loads(text)["evaluations"]
        return self.once(key, make)


def as_far_as_measured(work, *arguments):
    """With --print what is missing ends the work in hand: what the folder has by then is printed."""
    try:
        work(*arguments)
    except NotMeasured as missing:
        print(f"not measured: {missing}, and what comes after it", file=sys.stderr)


def copy_run(session, source, target):
    """A run file with its parts, to go on from in two ways."""
    source, target = (os.path.join(session.folder, name) for name in (source, target))
    shutil.rmtree(target + ".parts", ignore_errors=True)
    shutil.copytree(source + ".parts", target + ".parts")
    shutil.copy(source, target)


# ---------------------------------------------------------------------------------------------------------- data


def pack_cifar10(session):
    if not os.path.isdir(os.path.join(session.folder, "test")):
        images = os.path.join(SHARED, "cifar10", "test-jpeg.tar.gz")
        subprocess.run(["tar", "-C", session.folder, "-xzf", images], check=True)
    session.run("pack", "--from", "imagefolder", "test", "--mean", ".485,.456,.406", "--std", ".229,.224,.225", "-o",
                "cifar10.h5")


def pack_digits(session):
    data = os.path.join(ROOT, "data")
    session.run("pack", "--from", "npy", os.path.join(data, "digits-images.npy"), "--labels",
                os.path.join(data, "digits-labels.npy"), "-o", "digits.h5")
    shutil.copy(os.path.join(data, "digits-test-rows.npy"), os.path.join(session.folder, "digits.npy"))


def pack(session, data):
    if not session.print_only and not os.path.exists(os.path.join(session.folder, data + ".h5")):
        {"cifar10": pack_cifar10, "digits": pack_digits}[data](session)


# ---------------------------------------------------------------------------------------------------- measurement


@dataclasses.dataclass
class Row:
    """One line of a table. seconds: None where they are not known; found: what coar evaluate says, by alpha."""
    reverse: int
    forward: int
    seconds: float
    found: dict

    def mean(self, alpha):
        return self.found[alpha]["pearson_mean"]


class Experiment:
    """One network and seed. Rows by label: of fits, of coar run (budgets), of the paper's baselines."""

    def __init__(self, session, network, spec, seed):
        self.session, self.spec, self.seed = session, spec, seed
        self.name = f"{network}-{seed}"
        self.calibrations = spec["calibrated"] + (spec["calibrated_first"] if seed == 0 else ())
        self.fits, self.budgets, self.baselines = {}, {}, {}
        self.gradient_seconds = {}

    def key(self, *parts):
        return " ".join((self.name, *map(str, parts)))

    def job(self, run):
        spec = self.spec
        return ("--model", spec["model"], "--data", spec["data"] + ".h5", "--examples", spec["examples"], "--alpha",
                str(spec["alpha"]), "--seed", str(self.seed), "-o", run)

    def evaluate(self, key, run, fit, alphas, *options):
        """coar evaluate on the fresh masks that all rows of a network share."""
        return self.session.evaluate(self.key(*key), run, "--fit", fit, *options, "--alpha", ",".join(map(str, alphas)),
                                     "--masks", str(self.spec["fresh"]), "--seed", str(EVALUATION_SEED))

    def fit(self, run, name, estimator, passes, masks, before):
        """Fits, evaluates and keeps the row; `before`: seconds of the passes."""
        seconds = self.session.seconds(self.key("fit", name), "fit", run, "--estimator", estimator, "--name", name,
                                       "--force")
        found = self.evaluate(("evaluate", name), run, name, alphas(self.spec))
        self.fits[name] = Row(passes, masks, before + seconds, {e["alpha"]: e for e in found})

    def ablate(self, run, label, masks):
        return self.session.seconds(self.key("ablate", label, masks), "ablate", *self.job(run), "--masks", str(masks))

    def gradients_alone(self):
        """Averaged gradients without masked passes; copies of the run at the points that others go on from."""
        run, seconds = f"{self.name}.h5", 0
        for k in self.spec["passes"]:
            seconds += self.session.seconds(self.key("gradients", k), "gradients", *self.job(run), "--passes", str(k))
            self.gradient_seconds[k] = seconds
            self.fit(run, f"grad-k{k}", "grad", k, 0, seconds)
            if k in {passes for passes, _ in self.calibrations}:
                target = f"{self.name}-k{k}.h5"
                self.session.once(self.key("copied", k), lambda target=target: copy_run(self.session, run, target))

    def calibrated(self):
        for k, m in sorted(self.calibrations):
            run = f"{self.name}-k{k}.h5"
            seconds = self.gradient_seconds[k] + self.ablate(run, f"k{k}", m)
            self.fit(run, f"grad-k{k}-m{m}", "grad", k, m, seconds)

    def masked(self):
        """Masked passes alone, and beside the gradients that the run has. Its first masks are the calibration's: the
        times of all extensions add up to that of m masks."""
        k, first = self.spec["calibrated"][-1]
        run = f"{self.name}-k{k}.h5"
        seconds = self.ablate(run, f"k{k}", first)
        for m in self.spec["masks"]:
            if m > self.most():
                break
            seconds += self.ablate(run, f"k{k}", m)
            learnt = m <= self.spec.get("learnt", m)
            for estimator in ("ols", "ridge") if m > self.spec["n"] else ("ridge",):
                self.fit(run, f"{estimator}-m{m}", estimator, 0, m, seconds)
            if learnt:
                self.fit(run, f"eb-m{m}", "eb", 0, m, seconds)
                self.fit(run, f"grad+eb-k{k}-m{m}", "grad+eb", k, m, seconds + self.gradient_seconds[k])

    def most(self):
        """Masks of this seed: what takes most of the time is done for the first alone."""
        return self.spec["masks"][-1] if self.seed == 0 else max(m for m in self.spec["masks"] if m <= 2000)

    def budgeted(self):
        """coar run, which decides how many passes it makes. Its time includes its own evaluation and report."""
        for label, budget in BUDGETS.items():
            run = f"{self.name}-{'-'.join(('run', *budget[1:]))}.h5"
            seconds = self.session.seconds(self.key(label), "run", *self.job(run), *budget)
            info = self.session.info(self.key(label, "info"), run)
            fit = max((fit["name"] for fit in info["fits"]), key=("grad", "grad+eb").index)
            found = self.evaluate((label, "evaluate"), run, fit, (self.spec["alpha"],))
            self.budgets[f"{label}: {fit}"] = Row(int(info["gradients"][0]["passes"]), info["masks"], seconds,
                                                  {e["alpha"]: e for e in found})

    def compared(self):
        """The baselines. One command makes all four, so they have its time in common."""
        k, m = self.spec["calibrated"][-1]
        run, beside = f"{self.name}-k{k}.h5", f"grad-k{k}-m{m}"
        found = self.evaluate(("baselines",), run, beside, alphas(self.spec), "--baselines")
        seconds = self.session.results.get(self.key("baselines", "seconds"))
        for fit, (name, passes) in BASELINES.items():
            of_fit = {e["alpha"]: e for e in found if e["fit"] == fit}
            self.baselines[name] = Row(*passes(self.spec["n"]), seconds, of_fit)

    def measure(self):
        """All rows. The baselines, which no seed changes, and coar run are the first's."""
        self.gradients_alone()
        self.calibrated()
        self.masked()
        if self.seed == 0:
            self.budgeted()
            self.compared()


# --------------------------------------------------------------------------------------------------------- tables


def alphas(spec):
    return (spec["alpha"], *spec["others"])


def cells(rows, alpha):
    """Mean of the seeds (least to most), and the first seed's interval."""
    if alpha not in rows[0].found:
        return ["-", "-"]
    values = [row.mean(alpha) for row in rows]
    mean = f"{sum(values) / len(values):.3f}"
    if len(values) > 1:
        mean += f" ({min(values):.3f} to {max(values):.3f})"
    low, high = rows[0].found[alpha]["pearson_ci"]
    return [mean, f"{low:.3f} to {high:.3f}"]


def print_row(spec, label, rows, note=""):
    first = rows[0]
    seconds = "-" if first.seconds is None else f"{first.seconds:.1f}{note}"
    columns = [label, first.reverse or "-", first.forward or "-", seconds]
    columns += sum((cells(rows, alpha) for alpha in alphas(spec)), []) + [len(rows)]
    print("|", " | ".join(map(str, columns)), "|")


def print_table(spec, experiments):
    """Fits, coar run and baselines, with the passes of an example."""
    heads = ["fit", "reverse passes", "masked passes", "seconds"]
    heads += sum(([f"alpha {alpha}", "95 % interval"] for alpha in alphas(spec)), []) + ["seeds"]
    print("|", " | ".join(heads), "|")
    print("|" + "---|" * len(heads))
    first = experiments[0]
    for label in first.fits:
        print_row(spec, label, [e.fits[label] for e in experiments if label in e.fits])
    for label, row in first.budgets.items():
        print_row(spec, label, [row])
    for label, row in first.baselines.items():
        print_row(spec, label, [row], " (all four)")


def print_budgets(spec, first):
    """What else the cost of coar run would have bought."""
    alpha = spec["alpha"]
    costs = {"passes": lambda row: REVERSE_COST * row.reverse + row.forward, "seconds": lambda row: row.seconds}
    for label, row in first.budgets.items():
        print(f"\n{label}: {row.mean(alpha):.3f} in {row.seconds:.1f} s, its evaluation and report included. "
              "The best of the fits above:\n")
        for unit, cost in costs.items():
            rivals = [(rival.mean(alpha), name) for name, rival in first.fits.items() if cost(rival) <= cost(row)]
            best, name = max(rivals, default=(0, None))
            if name:
                print(f"- in no more {unit}: {name}, {best:.3f} in {first.fits[name].seconds:.1f} s")


def speed_rows(network, spec, first):
    """The cheapest fit that correlates as well as least squares: of 4.4 n masks, and of the most there are."""
    alpha = spec["alpha"]
    ols = [label for label in first.fits if label.startswith("ols")]
    enough = [label for label in ols if first.fits[label].forward >= 4.4 * spec["n"] - 1]
    for label in dict.fromkeys(enough[:1] + ols[-1:]):
        row = first.fits[label]
        reached = {name: fit for name, fit in first.fits.items() if fit.mean(alpha) >= row.mean(alpha)}
        name, fit = min(reached.items(), key=lambda item: item[1].seconds)
        yield (network, alpha, label, f"{row.seconds:.1f}", f"{row.mean(alpha):.3f}", name, f"{fit.seconds:.1f}",
               f"{fit.mean(alpha):.3f}", f"{row.seconds / fit.seconds:.1f}")


def print_speed(rows):
    print("\n### Least squares, and the cheapest fit that correlates as well\n")
    print("| network | alpha | least squares | seconds | correlation | reached by | seconds | correlation "
          "| times less |")
    print("|" + "---|" * 9)
    for row in rows:
        print("|", " | ".join(map(str, row)), "|")


def report(network, spec, experiments):
    print(f"\n### {network}: n = {spec['n']}, alpha {spec['alpha']}, {spec['fresh']} fresh masks\n")
    print_table(spec, experiments)
    print_budgets(spec, experiments[0])
    sys.stdout.flush()


def measure_fits(session, arguments):
    speed = []
    for network in arguments.networks:
        spec = {**COMMON, **NETWORKS[network], **(QUICK if arguments.quick else {})}
        if not os.path.exists(spec["model"]):
            print(f"{network}: {spec['model']} is not there: left out", file=sys.stderr)
            continue
        pack(session, spec["data"])
        experiments = [Experiment(session, network, spec, seed) for seed in arguments.seeds]
        for experiment in experiments:
            as_far_as_measured(experiment.measure)
        experiments = [experiment for experiment in experiments if experiment.fits]
        if experiments:
            report(network, spec, experiments)
            speed += speed_rows(network, spec, experiments[0])
    if speed:
        print_speed(speed)


def measure_coverage(session, arguments):
    pack(session, "digits")
    for network in arguments.networks:
        if network in interval_coverage.JOBS:
            as_far_as_measured(interval_coverage.report, session, network, NETWORKS[network], arguments.quick)
    as_far_as_measured(interval_coverage.report_planted, session, arguments.quick)


PARTS = {"fits": measure_fits, "coverage": measure_coverage}


def list_of(known, what):
    """An option's type: a list of names."""
    def parse(text):
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {what} {unknown[0]}; there are {', '.join(known)}")
        return text.split(",")
    return parse


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("build")
    parser.add_argument("folder")
    parser.add_argument("--networks", default=list(NETWORKS), type=list_of(NETWORKS, "network"))
    parser.add_argument("--seeds", default="0,1,2", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument("--parts", default=list(PARTS), type=list_of(PARTS, "part"))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--print", action="store_true")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.networks, arguments.seeds = ["digits-resnet"], [0]
    os.makedirs(arguments.folder, exist_ok=True)
    session = Session(arguments)
    for part in arguments.parts:
        PARTS[part](session, arguments)


if __name__ == "__main__":
    main()
