#!/usr/bin/env python3
"""Every table of docs/estimators.md, from coar's command line: correlations on fresh masks and wall times.

    bench/estimators.py BUILD FOLDER [--networks LIST] [--seeds 0,1,2] [--threads T] [--quick]

BUILD holds the coar binary; data, runs and results go to FOLDER. Networks: digits-resnet and digits-vit come with the project,
resnet20, resnet32 and vit from the shared material (COAR_SHARED, default ../shared; left out with a message without it). Prints
markdown; what is under way goes to stderr. A second call goes on where the first ended: times that were measured are kept.

A fit's time is that of all commands that lead to it (coar gradients, coar ablate, coar fit), each from its start to its end,
added over the extensions of one run; tables have the first seed's. So measure that on an idle machine; the others' correlations do not
depend on what else runs (`--seeds 1,2` first, then all three). --quick: few masks, one seed, digits-resnet: a test of the script.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.environ.get("COAR_SHARED", os.path.join(ROOT, "..", "shared"))
EVALUATION_SEED = 1000  # of the fresh masks: the same for every seed of a run
PASSES = (16, 32, 64, 128, 256)
CALIBRATED = ((64, 100), (128, 100))  # reverse passes, masked passes
BASELINES = {"loo": "leave-one-out", "gp": "gradient at the full model", "nc": "neuron conductance", "ii": "internal influence"}


def digits(kind):
    return {"model": os.path.join(ROOT, "data", f"digits-{kind}.safetensors"), "data": "digits", "examples": "@digits.npy"}


def shared(model, golden):
    return {"model": os.path.join(SHARED, "models", model), "data": "cifar10",
            "examples": "@" + os.path.join(SHARED, "golden", golden)}


# n: components; others: alphas that fits are evaluated at besides; masks: of plain runs, 4.4 n among them where that is affordable.
NETWORKS = {
    "digits-resnet": {**digits("resnet"), "n": 180, "alpha": 0.10, "others": (0.05,), "fresh": 300, "masks": (200, 500, 792, 2000)},
    "digits-vit": {**digits("vit"), "n": 896, "alpha": 0.05, "others": (0.10,), "fresh": 300, "masks": (200, 500, 1000, 3942)},
    "resnet20": {**shared("resnet20-cifar10.safetensors", "r20_examples.npy"), "n": 688, "alpha": 0.10, "others": (0.05,),
                 "fresh": 400, "masks": (300, 1000, 2000, 3027, 5000)},
    "resnet32": {**shared("resnet32-cifar10.safetensors", "vit_examples.npy"), "n": 1136, "alpha": 0.05, "others": (0.10,),
                 "fresh": 300, "masks": (300, 1000, 2000, 4998)},
    "vit": {**shared("vit-cifar10.safetensors", "vit_examples.npy"), "n": 4608, "alpha": 0.05, "others": (0.10,), "fresh": 300,
            "masks": (500, 1000, 2000, 5000)},
}
QUICK = {"masks": (200, 300), "fresh": 60}


class Session:
    """Commands of coar with their wall times. A result that is in results.json is not measured again."""

    def __init__(self, arguments):
        self.coar = os.path.abspath(os.path.join(arguments.build, "coar"))
        self.folder = os.path.abspath(arguments.folder)
        self.threads = ["--threads", str(arguments.threads)] if arguments.threads else []
        self.path = os.path.join(self.folder, "results.json")
        self.results = json.load(open(self.path)) if os.path.exists(self.path) else {}

    def once(self, key, make):
        if key not in self.results:
            self.results[key] = make()
            with open(self.path + ".tmp", "w") as file:
                json.dump(self.results, file, indent=1)
            os.replace(self.path + ".tmp", self.path)
        return self.results[key]

    def run(self, *command):
        """(seconds, standard output) of one command."""
        print("coar", *command, file=sys.stderr, flush=True)
        start = time.monotonic()
        done = subprocess.run([self.coar, *command, *self.threads], stdout=subprocess.PIPE, text=True, cwd=self.folder)
        if done.returncode:
            sys.exit(f"coar {command[0]} ended with {done.returncode}; see the line above")
        return time.monotonic() - start, done.stdout

    def seconds(self, key, *command):
        return self.once(key, lambda: self.run(*command)[0])

    def evaluate(self, key, *command):
        return self.once(key, lambda: json.loads(self.run("evaluate", *command, "--json")[1])["evaluations"])


def copy_run(session, source, target):
    """A run file with its parts, to go on from in two ways."""
    source, target = (os.path.join(session.folder, name) for name in (source, target))
    shutil.rmtree(target + ".parts", ignore_errors=True)
    shutil.copytree(source + ".parts", target + ".parts")
    shutil.copy(source, target)


# ---------------------------------------------------------------------------------------------------------- data


def pack_cifar10(session):
    if not os.path.isdir(os.path.join(session.folder, "test")):
        subprocess.run(["tar", "-C", session.folder, "-xzf", os.path.join(SHARED, "cifar10", "test-jpeg.tar.gz")], check=True)
    session.run("pack", "--from", "imagefolder", "test", "--mean", ".485,.456,.406", "--std", ".229,.224,.225", "-o", "cifar10.h5")


def pack_digits(session):
    data = os.path.join(ROOT, "data")
    session.run("pack", "--from", "npy", os.path.join(data, "digits-images.npy"), "--labels",
                os.path.join(data, "digits-labels.npy"), "-o", "digits.h5")
    shutil.copy(os.path.join(data, "digits-test-rows.npy"), os.path.join(session.folder, "digits.npy"))


def pack(session, data):
    if not os.path.exists(os.path.join(session.folder, data + ".h5")):
        {"cifar10": pack_cifar10, "digits": pack_digits}[data](session)


# ---------------------------------------------------------------------------------------------------- measurement


class Experiment:
    """One network and seed. Rows: {label: (reverse passes, masked passes, seconds, {alpha: correlation})}."""

    def __init__(self, session, network, spec, seed):
        self.session, self.spec, self.seed = session, spec, seed
        self.name = f"{network}-{seed}"
        self.rows = {}
        self.gradient_seconds = {}

    def key(self, *parts):
        return " ".join((self.name, *map(str, parts)))

    def job(self, run):
        spec = self.spec
        return ("--model", spec["model"], "--data", spec["data"] + ".h5", "--examples", spec["examples"], "--alpha",
                str(spec["alpha"]), "--seed", str(self.seed), "-o", run)

    def alphas(self):
        return ",".join(map(str, (self.spec["alpha"], *self.spec["others"])))

    def fit(self, run, name, estimator, passes, masks, before):
        """Fits, evaluates and keeps the row; `before`: seconds of the passes."""
        seconds = self.session.seconds(self.key("fit", name), "fit", run, "--estimator", estimator, "--name", name, "--force")
        found = self.session.evaluate(self.key("evaluate", name), run, "--fit", name, "--alpha", self.alphas(), "--masks",
                                      str(self.spec["fresh"]), "--seed", str(EVALUATION_SEED))
        self.rows[name] = (passes, masks, before + seconds, {e["alpha"]: e["pearson_mean"] for e in found})

    def ablate(self, run, label, masks):
        return self.session.seconds(self.key("ablate", label, masks), "ablate", *self.job(run), "--masks", str(masks))

    def gradients_alone(self):
        """Averaged gradients without masked passes; copies of the run at the points that others go on from."""
        run, seconds = f"{self.name}.h5", 0
        for k in PASSES:
            seconds += self.session.seconds(self.key("gradients", k), "gradients", *self.job(run), "--passes", str(k))
            self.gradient_seconds[k] = seconds
            self.fit(run, f"grad-k{k}", "grad", k, 0, seconds)
            if k in {passes for passes, _ in CALIBRATED}:
                self.session.once(self.key("copied", k), lambda k=k: copy_run(self.session, run, f"{self.name}-k{k}.h5"))

    def calibrated(self):
        for k, m in CALIBRATED:
            run = f"{self.name}-k{k}.h5"
            seconds = self.gradient_seconds[k] + self.ablate(run, f"k{k}", m)
            self.fit(run, f"grad-k{k}-m{m}", "grad", k, m, seconds)

    def masked(self):
        """Masked passes alone, and beside the gradients of 128 passes that the run has."""
        k = CALIBRATED[-1][0]
        run = f"{self.name}-k{k}.h5"
        seconds = self.ablate(run, f"k{k}", CALIBRATED[-1][1])
        for m in self.spec["masks"]:
            if m > self.most():
                break
            seconds += self.ablate(run, f"k{k}", m)
            for estimator in ("ols", "ridge", "eb") if m > self.spec["n"] else ("ridge", "eb"):
                self.fit(run, f"{estimator}-m{m}", estimator, 0, m, seconds)
            self.fit(run, f"grad+eb-k{k}-m{m}", "grad+eb", k, m, seconds + self.gradient_seconds[k])

    def most(self):
        """Masks of this seed: what takes most of the time is done for the first alone."""
        return self.spec["masks"][-1] if self.seed == 0 else max(m for m in self.spec["masks"] if m <= 2000)

    def baselines(self):
        run = f"{self.name}-k{CALIBRATED[-1][0]}.h5"
        return self.session.evaluate(self.key("baselines"), run, "--fit", f"grad-k{CALIBRATED[-1][0]}-m{CALIBRATED[-1][1]}",
                                     "--baselines", "--alpha", self.alphas(), "--masks", str(self.spec["fresh"]), "--seed",
                                     str(EVALUATION_SEED))

    def measure(self):
        self.gradients_alone()
        self.calibrated()
        self.masked()


# --------------------------------------------------------------------------------------------------------- tables


def spread(values):
    mean = sum(values) / len(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})"


def estimator_table(spec, experiments):
    alphas = (spec["alpha"], *spec["others"])
    print("| fit | reverse passes | masked passes | seconds | " + " | ".join(f"alpha {a}" for a in alphas) + " | seeds |")
    print("|---|---|---|---|" + "---|" * len(alphas) + "---|")
    for label, (passes, masks, _, _) in experiments[0].rows.items():
        rows = [e.rows[label] for e in experiments if label in e.rows]
        cells = [spread([row[3][a] for row in rows]) for a in alphas]
        print(f"| {label} | {passes or '-'} | {masks or '-'} | {rows[0][2]:.1f} | "
              + " | ".join(cells) + f" | {len(rows)} |")


def baseline_table(spec, found):
    alphas = (spec["alpha"], *spec["others"])
    print("| scores | " + " | ".join(f"alpha {a}" for a in alphas) + " |")
    print("|---|" + "---|" * len(alphas))
    for fit in dict.fromkeys(e["fit"] for e in found):
        cells = {e["alpha"]: f"{e['pearson_mean']:.3f} ({e['pearson_ci'][0]:.3f} to {e['pearson_ci'][1]:.3f})"
                 for e in found if e["fit"] == fit}
        print(f"| {BASELINES.get(fit, fit)} | " + " | ".join(cells[a] for a in alphas) + " |")


def speed_line(network, spec, first):
    """The cheapest fit that correlates as well as least squares of 4.4 n masks, in the same run."""
    ols = [(label, row) for label, row in first.rows.items() if label.startswith("ols") and row[1] >= 4.4 * spec["n"] - 1]
    if not ols:
        return
    label, (_, _, seconds, found) = ols[0]
    reached = [(row[2], name) for name, row in first.rows.items() if row[3][spec["alpha"]] >= found[spec["alpha"]]]
    least, name = min(reached)
    print(f"\n{network}: {label} takes {seconds:.1f} s to {found[spec['alpha']]:.3f}; {name} takes {least:.1f} s "
          f"({seconds / least:.1f} times less) to {first.rows[name][3][spec['alpha']]:.3f}.")


def report(network, spec, experiments):
    print(f"\n### {network}: n = {spec['n']}, alpha {spec['alpha']}, {spec['fresh']} fresh masks\n")
    estimator_table(spec, experiments)
    speed_line(network, spec, experiments[0])
    print(f"\nThe paper's baselines, {network} (95 % intervals over masks and examples):\n")
    baseline_table(spec, experiments[0].baselines())
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("build")
    parser.add_argument("folder")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--seeds", default="0,1,2", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    names = ["digits-resnet"] if arguments.quick else arguments.networks.split(",")
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        parser.error(f"--networks: no {unknown[0]}; there are {', '.join(NETWORKS)}")
    os.makedirs(arguments.folder, exist_ok=True)
    session = Session(arguments)
    for network in names:
        spec = {**NETWORKS[network], **(QUICK if arguments.quick else {})}
        if not os.path.exists(spec["model"]):
            print(f"{network}: {spec['model']} is not there: left out", file=sys.stderr)
            continue
        pack(session, spec["data"])
        experiments = [Experiment(session, network, spec, seed) for seed in ([0] if arguments.quick else arguments.seeds)]
        for experiment in experiments:
            experiment.measure()
        report(network, spec, experiments)


if __name__ == "__main__":
    main()
