"""What eb costs where min(m, n) is above 4,096, and what it is worth there; a part of bench/estimators.py.

Planted weights as in interval_coverage.py: masks and outputs are made here, coar fit --masks --outputs reads them, and
usage.py says what that took. Correlations are means over examples on masks that the fit has not seen: predicted, by
the fit itself; with outputs that have the noise of the fit's, which that is about; and with what the planted weights
explain of them. The second table is coverage of the standard errors as in interval_coverage.py.
"""
import json
import os
import sys

from interval_coverage import explained, libraries, plant, print_head, print_shares, read, shares

USAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "usage.py")
JOBS = ((4608, 10000, 100), (22720, 10000, 64))  # components, masks, examples
QUICK = ((200, 300, 8),)  # by eigenvectors
ALPHA = 0.05
NOISE = 0.5  # a share of the deviation that the weights explain
FRESH = 400


def correlation(np, a, b):
    """Pearson's r of each example's column, the mean over examples."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return float(np.mean((a * b).sum(axis=0) / np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))))


def fit(session, name):
    """coar fit of the arrays NAME-masks.npy and NAME-outputs.npy to NAME.h5: (what it prints, what it took)."""
    _, text = session.run("fit", "--masks", f"{name}-masks.npy", "--outputs", f"{name}-outputs.npy", "--estimator",
                          "eb", "--standard-errors", "-o", f"{name}.h5", "--force", "--json",
                          under=(sys.executable, USAGE))
    return map(json.loads, text.splitlines())


def measure_job(session, np, h5py, name, components, masks, examples):
    """All cells of one job's rows."""
    weight, keep, outputs = plant(np, components, masks + FRESH, examples, ALPHA, NOISE)
    for what, array in {"masks": keep, "outputs": outputs}.items():
        np.save(os.path.join(session.folder, f"{name}-{what}.npy"), array[:masks])
    found, took = fit(session, name)
    estimate, error, penalty = read(h5py, os.path.join(session.folder, f"{name}.h5"), "eb")
    fresh = explained(np, keep[masks:], estimate)
    return {**took, "predicted": found["predicted"], "fresh": correlation(np, fresh, outputs[masks:]),
            "explained": correlation(np, fresh, explained(np, keep[masks:], weight)),
            "penalty": float(np.median(penalty)) / (masks * ALPHA * (1 - ALPHA)),
            "shares": shares(np, estimate, error, weight, np.zeros_like(weight))}


def measure(session, quick, rows):
    """The jobs that have not been measured, and rows: job -> cells."""
    np, h5py = libraries()
    if np is None:
        return
    for job in QUICK if quick else JOBS:
        name = "large-" + "-".join(map(str, job))
        rows[job] = session.once(name, lambda name=name, job=job: measure_job(session, np, h5py, name, *job))


def report(rows):
    """The tables of cost and of coverage."""
    print("\n### Large jobs: cost and coverage\n")
    print(f"`eb`, planted weights, alpha {ALPHA}, noise {NOISE} of what they explain.\n")
    print("| components | masks | examples | seconds | processor seconds | most memory, MiB | predicted correlation | "
          "fresh masks | without their noise |")
    print("|" + "---|" * 9)
    for job, row in rows.items():
        columns = [f"{size:,}" for size in job] + [f"{row['seconds']:.1f}", f"{row['processor']:.1f}"]
        columns += [f"{row['memory'] / 2**20:.0f}"] + [f"{row[key]:.3f}" for key in ("predicted", "fresh", "explained")]
        print("|", " | ".join(columns), "|")
    print()
    print_head()
    np, _ = libraries()
    for job, row in rows.items():
        print_shares(np, "eb, n = {:,}, m = {:,}".format(*job), row["penalty"], row["shares"])
