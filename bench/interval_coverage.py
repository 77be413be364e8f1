"""Are standard errors honest? How many 90 % intervals hold the converged weight; a part of bench/estimators.py.

A pair is a component of an example. Its interval is weight +- 1.645 standard errors (coar fit --standard-errors); the
tables have the share of pairs whose interval holds the truth, of all and by decile of |truth|, 1 the smallest. Two
truths: a planted one, of masks and outputs made here; and least squares of at least 30 masks for each component, of
another seed than the fits'. The latter has an error of its own, whose variance is added to the interval's: the tables
say how much of the sum it is (median). Penalties (medians) are in units of the Gram matrix's diagonal, m alpha (1 -
alpha): well below 1 is small.
"""
import os
import sys

ALPHA_PLANTED = 0.10
Z90 = 1.645  # of a normal distribution, 90 % lie within
TRUTH_SEED = 77

# examples: how many of the network's; truth: masks of least squares; passes: reverse; masks: of the fits.
JOBS = {
    "digits-resnet": {"examples": 64, "truth": 20000, "passes": 64, "masks": (300, 1000, 5400)},
    "digits-vit": {"examples": 32, "truth": 26880, "passes": 64, "masks": (300, 1000, 3942)},
}
QUICK = {"examples": 8, "truth": 300, "passes": 16, "masks": (200,)}
# Planted weights are normal, each component with a variance of its own. noise: a share of the deviation they explain.
PLANTED = {"components": 180, "examples": 64, "masks": 1000, "noise": (1.0, 0.1)}


def libraries():
    """numpy and h5py, or None with a message: nothing else of the measurements needs them."""
    try:
        import h5py
        import numpy
        return numpy, h5py
    except ImportError as error:
        print(f"coverage is left out: {error}; take a Python that has numpy and h5py", file=sys.stderr)
        return None, None


def read(h5py, path, name):
    """(weights, standard errors, penalties) of one fit."""
    with h5py.File(path) as file:
        fit = file["attributions"][name]
        return fit["weight"][()], fit["stderr"][()] if "stderr" in fit else None, fit["penalty"][()]


def shares(np, weight, error, truth, truth_error):
    """Coverage of all pairs and by decile, and the truth's share of the variance (median)."""
    variance = error.astype(float) ** 2 + truth_error.astype(float) ** 2
    held = np.abs(weight - truth) <= Z90 * np.sqrt(variance)
    order = np.argsort(np.abs(truth), axis=None, kind="stable")
    deciles = [held.ravel()[part].mean() for part in np.array_split(order, 10)]
    return held.mean(), deciles, np.median(truth_error ** 2 / np.maximum(variance, 1e-300))


def print_head():
    print("| fit | penalty | truth's share | all | " + " | ".join(map(str, range(1, 11))) + " |")
    print("|" + "---|" * 14)


def print_shares(np, label, penalty, found):
    overall, deciles, truth_share = found
    penalty = f"{np.median(penalty):.2g}" if np.any(penalty) else "-"
    columns = [label, penalty, f"{truth_share:.2f}", f"{overall:.3f}"] + [f"{share:.2f}" for share in deciles]
    print("|", " | ".join(columns), "|", flush=True)


class Run:
    """One run file and the fits made of it, with standard errors."""

    def __init__(self, session, network, spec, job):
        self.session, self.network, self.spec, self.job = session, network, spec, job
        self.path = f"coverage-{network}.h5"

    def command(self, run, seed):
        return ("--model", self.spec["model"], "--data", self.spec["data"] + ".h5", "--examples", self.job["rows"],
                "--alpha", str(self.spec["alpha"]), "--seed", str(seed), "-o", run)

    def ablate(self, run, seed, masks):
        self.session.seconds(f"{run} ablate {masks}", "ablate", *self.command(run, seed), "--masks", str(masks))

    def fit(self, run, name, estimator):
        self.session.seconds(f"{run} fit {name}", "fit", run, "--estimator", estimator, "--name", name,
                             "--standard-errors", "--force")

    def make_truth(self):
        run = f"coverage-{self.network}-truth.h5"
        self.ablate(run, TRUTH_SEED, self.job["truth"])
        self.fit(run, "ols", "ols")
        return run

    def make_fits(self):
        """(name, masks) of all fits, in the order of the tables: gradients alone, then those of ever more masks."""
        k = self.job["passes"]
        self.session.seconds(f"{self.path} gradients", "gradients", *self.command(self.path, 0), "--passes", str(k))
        self.fit(self.path, f"grad-k{k}", "grad")
        made = [(f"grad-k{k}", 0)]
        for m in self.job["masks"]:
            self.ablate(self.path, 0, m)
            for estimator in ("ols", "ridge", "eb", "grad", "grad+eb"):
                if estimator == "ols" and m <= self.spec["n"]:
                    continue
                name = f"{estimator}-k{k}-m{m}" if estimator.startswith("grad") else f"{estimator}-m{m}"
                self.fit(self.path, name, estimator)
                made.append((name, m))
        return made


def report(session, network, spec, quick):
    """Runs and prints the table of one network."""
    np, h5py = libraries()
    if np is None:
        return
    job = {**JOBS[network], **(QUICK if quick else {})}
    rows = np.load(os.path.join(session.folder, "digits.npy"))[:job["examples"]]
    job["rows"] = "@coverage-" + network + ".npy"
    np.save(os.path.join(session.folder, job["rows"][1:]), rows)
    run = Run(session, network, spec, job)
    truth, truth_error, _ = read(h5py, os.path.join(session.folder, run.make_truth()), "ols")
    print(f"\n### Coverage, {network}: alpha {spec['alpha']}, {len(rows)} examples, against `ols` of {job['truth']} "
          "masks\n")
    print_head()
    for name, masks in run.make_fits():
        weight, error, penalty = read(h5py, os.path.join(session.folder, run.path), name)
        diagonal = masks * spec["alpha"] * (1 - spec["alpha"])
        print_shares(np, name, penalty / diagonal if masks else penalty, shares(np, weight, error, truth, truth_error))


def plant(np, noise, folder, name):
    """Masks and outputs of planted weights, as files for coar fit; the weights."""
    random = np.random.default_rng(5)
    N, n, m = (PLANTED[key] for key in ("examples", "components", "masks"))
    masks = random.random((m, n)) >= ALPHA_PLANTED
    weight = np.exp(random.normal(size=n)) * random.normal(size=(N, n))
    explained = masks @ weight.T
    outputs = explained + noise * explained.std(axis=0) * random.normal(size=(m, N))
    np.save(os.path.join(folder, name + "-masks.npy"), masks)
    np.save(os.path.join(folder, name + "-outputs.npy"), outputs.astype(np.float32))
    return weight


def report_planted(session, quick):
    """The same of planted weights, which gradients do not exist for."""
    np, h5py = libraries()
    if np is None:
        return
    for noise in PLANTED["noise"][-1:] if quick else PLANTED["noise"]:
        name = f"planted-{noise}"
        truth = plant(np, noise, session.folder, name)
        print(f"\n### Coverage, planted weights: {truth.shape[1]} components, {PLANTED['masks']} masks, noise {noise} "
              "of what they explain\n")
        print_head()
        for estimator in ("ols", "ridge", "eb"):
            file = f"{name}-{estimator}.h5"
            session.seconds(f"{name} {estimator}", "fit", "--masks", name + "-masks.npy", "--outputs",
                            name + "-outputs.npy", "--estimator", estimator, "--standard-errors", "-o", file, "--force")
            weight, error, penalty = read(h5py, os.path.join(session.folder, file), estimator)
            diagonal = PLANTED["masks"] * ALPHA_PLANTED * (1 - ALPHA_PLANTED)
            print_shares(np, estimator, penalty / diagonal, shares(np, weight, error, truth, np.zeros_like(truth)))
