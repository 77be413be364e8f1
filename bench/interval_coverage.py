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

Z90 = 1.645  # of a normal distribution, 90 % lie within
TRUTH_SEED = 77
ROWS = 1000  # masks that are drawn and summed over at once: in doubles, all of a large job would not fit

# examples: how many of the network's; truth: masks of least squares; passes: reverse; masks: of the fits.
JOBS = {
    "digits-resnet": {"examples": 64, "truth": 20000, "passes": 64, "masks": (300, 1000, 5400)},
    "digits-vit": {"examples": 32, "truth": 26880, "passes": 64, "masks": (300, 1000, 3942)},
}
QUICK = {"examples": 8, "truth": 300, "passes": 16, "masks": (200,)}
# Planted weights are normal, each component with a variance of its own. noise: a share of the deviation they explain.
PLANTED = {"components": 180, "examples": 64, "masks": 1000, "alpha": 0.10, "noise": (1.0, 0.1)}


def libraries():
    """numpy and h5py, or None with a message: nothing else of the measurements needs them."""
    try:
        import h5py
        import numpy
        return numpy, h5py
    except ImportError as error:
        print(f"coverage and large jobs are left out: {error}; take a Python that has numpy and h5py", file=sys.stderr)
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


def choose_examples(np, folder, count, name):
    """The first of the network's examples, as a list for --examples; the name."""
    np.save(os.path.join(folder, name), np.load(os.path.join(folder, "digits.npy"))[:count])
    return name


def report(session, network, spec, quick):
    """Runs and prints the table of one network."""
    np, h5py = libraries()
    if np is None:
        return
    job = {**JOBS[network], **(QUICK if quick else {})}
    name = f"coverage-{network}.npy"
    job["rows"] = "@" + session.once(name, lambda: choose_examples(np, session.folder, job["examples"], name))
    run = Run(session, network, spec, job)
    truth, truth_error, _ = read(h5py, os.path.join(session.folder, run.make_truth()), "ols")
    made = run.make_fits()
    print(f"\n### Coverage, {network}: alpha {spec['alpha']}, {job['examples']} examples, against `ols` of "
          f"{job['truth']} masks\n")
    print_head()
    for fit, masks in made:
        weight, error, penalty = read(h5py, os.path.join(session.folder, run.path), fit)
        unit = max(masks, 1) * spec["alpha"] * (1 - spec["alpha"])
        print_shares(np, fit, penalty / unit, shares(np, weight, error, truth, truth_error))


def explained(np, masks, weight):
    """What the components that are kept add up to: [m, N]."""
    return np.concatenate([masks[row:row + ROWS] @ weight.T for row in range(0, len(masks), ROWS)])


def plant(np, components, masks, examples, alpha, noise):
    """(weights, masks, outputs): f64 [N, n], and bool [m, n] and f32 [m, N] as coar fit reads them."""
    random = np.random.default_rng(5)
    keep = np.empty((masks, components), bool)
    for row in range(0, masks, ROWS):
        part = keep[row:row + ROWS]
        part[:] = random.random(part.shape) >= alpha
    weight = np.exp(random.normal(size=components)) * random.normal(size=(examples, components))
    outputs = explained(np, keep, weight)
    outputs += noise * outputs.std(axis=0) * random.normal(size=outputs.shape)
    return weight, keep, outputs.astype(np.float32)


def report_planted(session, quick):
    """The same of planted weights, which gradients do not exist for."""
    np, h5py = libraries()
    if np is None:
        return
    for noise in PLANTED["noise"][-1:] if quick else PLANTED["noise"]:
        name, estimators = f"planted-{noise}", ("ols", "ridge", "eb")
        truth, *arrays = plant(np, **{**PLANTED, "noise": noise})
        files = [f"{name}-masks.npy", f"{name}-outputs.npy"]
        for file, array in zip(files, arrays):
            session.once(file, lambda file=file, array=array: np.save(os.path.join(session.folder, file), array))
        for estimator in estimators:
            session.seconds(f"{name} {estimator}", "fit", "--masks", files[0], "--outputs", files[1], "--estimator",
                            estimator, "--standard-errors", "-o", f"{name}-{estimator}.h5", "--force")
        print(f"\n### Coverage, planted weights: {truth.shape[1]} components, {PLANTED['masks']} masks, noise {noise} "
              "of what they explain\n")
        print_head()
        unit = PLANTED["masks"] * PLANTED["alpha"] * (1 - PLANTED["alpha"])
        for estimator in estimators:
            weight, error, penalty = read(h5py, os.path.join(session.folder, f"{name}-{estimator}.h5"), estimator)
            print_shares(np, estimator, penalty / unit, shares(np, weight, error, truth, np.zeros_like(truth)))
