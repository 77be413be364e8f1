#!/usr/bin/env python3
"""ols and ridge of large planted problems: time, memory beside the plan, residual, and the same by other means.

  fit_scale.py BUILD FOLDER [--parts data,large,equal,peers] [--only NAME] [--document docs/performance.md] [--quick]

  data   masks and outputs of every problem into FOLDER (numpy; 2.7 GB), made once
  large  coar fit of the two large problems by conjugate gradients, and by Cholesky where that can be had
  equal  both forms of both estimators on a problem of 4,000 components
  peers  ols of 2,304 components beside numpy's lstsq, scikit-learn, normal equations in numpy and a mini-batch SAGA

Everything that was measured is kept in FOLDER/fit_scale.json and not measured again; --only NAME (part of a row's name)
measures those rows alone. The tables go to stdout, and with --document between its two fit_scale lines. Residuals are
found twice: by coar for all examples, and here in double precision from the stored weights for eight of them. Needs
numpy, h5py; scikit-learn for its row. Threads: --threads (2), also of the libraries.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import time

USAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "usage.py")
BEGIN, END = "<!-- fit_scale: bench/fit_scale.py writes from here -->", "<!-- fit_scale: to here -->"

ALPHA = 0.05
NOISE = 0.5  # a share of the deviation that the weights explain
ROWS = 2000  # masks that are made and summed over at once
CHECKED = 8  # examples whose residual is found here, too

# name: components, masks, examples
PROBLEMS = {"imagenet": (22720, 30000, 500), "wide": (82944, 20000, 64), "equal": (4000, 6000, 100),
            "peers": (2304, 50000, 1000)}
QUICK = {"imagenet": (300, 400, 20), "wide": (500, 200, 10), "equal": (200, 300, 10), "peers": (60, 1000, 20)}
# rows of `large`: problem, estimator, solver
LARGE = (("imagenet", "ols", "iterative"), ("imagenet", "ols", "direct"), ("imagenet", "ridge", "auto"),
         ("wide", "ols", "auto"), ("wide", "ridge", "auto"))
SAGA_BATCH = 256
SAGA_GOALS = (1e-2, 1e-3, 1e-6)
SAGA_SECONDS = 100


class Session:
    def __init__(self, options):
        self.coar = os.path.join(os.path.abspath(options.build), "coar")
        self.options, self.folder = options, os.path.abspath(options.folder)
        self.problems = QUICK if options.quick else PROBLEMS
        self.store = os.path.join(self.folder, "fit_scale.json")
        self.rows = self.kept()

    def kept(self):
        return json.load(open(self.store)) if os.path.exists(self.store) else {}

    def path(self, name):
        return os.path.join(self.folder, name)

    def once(self, name, measure):
        """The row of this name, measured unless it has been, or is not among those asked for (then None)."""
        if name not in self.rows and (self.options.only or "") in name:
            row = measure()
            self.rows = {**self.kept(), name: row}  # another process may have measured another row meanwhile
            json.dump(self.rows, open(self.store, "w"), indent=1)
            print(name, self.rows[name], file=sys.stderr, flush=True)
        return self.rows.get(name)

    def fit(self, problem, estimator, solver):
        """coar fit: what it prints, what it took, and what it had planned to take."""
        command = [sys.executable, USAGE, self.coar, "fit", "--masks", self.path(problem + "-masks.npy"), "--outputs",
                   self.path(problem + "-outputs.npy"), "--estimator", estimator, "--solver", solver, "--threads",
                   str(self.options.threads), "-o", self.path(f"{problem}-{estimator}-{solver}.h5"), "--backend", "cpu",
                   "--memory", "12G", "--force", "--json"]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if run.returncode:
            sys.exit(f"{' '.join(command)}: {run.stderr}")
        found, took = map(json.loads, run.stdout.splitlines())
        planned = re.findall(r"memory: (\d+) MiB planned", run.stderr)  # not told of small ones
        found.update(took, planned=int(planned[-1]) * 2**20 if planned else None)
        found["residual_checked"] = self.check(problem, estimator, solver)
        return found

    def weights(self, problem, estimator, solver):
        with h5py.File(self.path(f"{problem}-{estimator}-{solver}.h5")) as file:
            fit = file["attributions"][estimator]
            return fit["weight"][()].astype(float), fit["penalty"][()]

    def arrays(self, problem):
        return [np.load(self.path(f"{problem}-{what}.npy"), mmap_mode="r") for what in ("masks", "outputs")]

    def check(self, problem, estimator, solver):
        """The largest |X'(y - Xw) - p w| / |X'y| of CHECKED examples, X centred, from the stored weights."""
        masks, outputs = self.arrays(problem)
        which = np.linspace(0, outputs.shape[1] - 1, CHECKED).astype(int)
        weight, penalty = self.weights(problem, estimator, solver)
        weight, penalty, y = weight[which].T, penalty[which], outputs[:, which].astype(float)
        y -= y.mean(axis=0)
        blocks = range(0, len(masks), ROWS)
        mean = sum(masks[i : i + ROWS].sum(axis=0, dtype=float) for i in blocks) / len(masks)
        left, all_of_it = -penalty * weight, np.zeros_like(weight)
        for i in blocks:
            x = masks[i : i + ROWS] - mean
            left += x.T @ (y[i : i + ROWS] - x @ weight)
            all_of_it += x.T @ y[i : i + ROWS]
        return float((np.linalg.norm(left, axis=0) / np.linalg.norm(all_of_it, axis=0)).max())


# ------------------------------------------------------------------------------------------------- data


def make_data(session, problem):
    """Bernoulli masks, normal weights of which one component in ten has ten times the others', outputs with noise."""
    n, m, examples = session.problems[problem]
    if os.path.exists(session.path(problem + "-outputs.npy")):
        return
    random = np.random.default_rng(sorted(PROBLEMS).index(problem))
    scale = np.where(np.arange(n) % 10, 1, 10)[:, None].astype(np.float32)
    weight = scale * random.standard_normal((n, examples), dtype=np.float32)
    noise = NOISE * np.sqrt(ALPHA * (1 - ALPHA) * (weight.astype(float) ** 2).sum(axis=0))
    masks = np.lib.format.open_memmap(session.path(problem + "-masks.npy"), "w+", bool, (m, n))
    outputs = np.empty((m, examples), np.float32)
    for i in range(0, m, ROWS):
        count = min(ROWS, m - i)
        masks[i : i + count] = random.random((count, n), dtype=np.float32) >= ALPHA
        outputs[i : i + count] = masks[i : i + count].astype(np.float32) @ weight
        outputs[i : i + count] += noise * random.standard_normal((count, examples))
    masks.flush()
    np.save(session.path(problem + "-outputs.npy"), outputs)


# ----------------------------------------------------------------------------------------- other means


def centred(session):
    masks, outputs = session.arrays("peers")
    x, y = masks.astype(float), outputs.astype(float)
    return x - x.mean(axis=0), y - y.mean(axis=0)


def timed(solve, x, y):
    """Seconds of solve(x, y) -> weights [n, N], and their largest relative residual."""
    begin = time.monotonic()
    weight = solve(x, y)
    seconds = time.monotonic() - begin
    left = np.linalg.norm(x.T @ (y - x @ weight), axis=0) / np.linalg.norm(x.T @ y, axis=0)
    return {"seconds": seconds, "residual": float(left.max())}


def scikit(x, y):
    from sklearn.linear_model import LinearRegression
    return LinearRegression(fit_intercept=False).fit(x, y).coef_.T


def normal_equations(x, y):
    return np.linalg.solve(x.T @ x, x.T @ y)


def saga(x, y):
    """SAGA in mini-batches over all examples at once, as fast-l1 does it on GPUs, without its penalty: single precision;
    the step is 1/(4 L), L the smoothness of a mini-batch. Seconds to each goal of the largest relative residual, looked at
    outside the time."""
    x, y = x.astype(np.float32), y.astype(np.float32)
    m, random = len(x), np.random.default_rng(0)
    spectrum = np.linalg.norm(x[:4000], 2) ** 2 / 4000
    step = 1 / (4 * ((x * x).sum(axis=1).max() / SAGA_BATCH + spectrum))
    weight, average = np.zeros((x.shape[1], y.shape[1]), np.float32), None
    table, average, whole = -y.copy(), x.T @ -y / m, np.linalg.norm(x.T @ y, axis=0)
    took, epochs, reached = 0.0, 0, {}
    while took < SAGA_SECONDS and SAGA_GOALS[-1] not in reached:
        begin, order = time.monotonic(), random.permutation(m)
        for i in range(0, m - m % SAGA_BATCH or m, SAGA_BATCH):
            rows = order[i : i + SAGA_BATCH]
            batch = x[rows]
            now = batch @ weight - y[rows]
            change = batch.T @ (now - table[rows])
            weight -= step * (change / len(rows) + average)
            average += change / m
            table[rows] = now
        took += time.monotonic() - begin
        epochs += 1
        left = float((np.linalg.norm(x.T @ (y - x @ weight), axis=0) / whole).max())
        for goal in SAGA_GOALS:
            if left <= goal:
                reached.setdefault(goal, took)
    return {"seconds": took, "epochs": epochs, "residual": left, "reached": {str(g): s for g, s in reached.items()}}


def measure_peers(session):
    session.once("peers coar", lambda: session.fit("peers", "ols", "auto"))
    session.once("peers numpy normal equations", lambda: timed(normal_equations, *centred(session)))
    session.once("peers SAGA", lambda: saga(*centred(session)))
    session.once("peers numpy lstsq", lambda: timed(lambda x, y: np.linalg.lstsq(x, y, rcond=None)[0], *centred(session)))
    session.once("peers scikit-learn", lambda: timed(scikit, *centred(session)))


# ------------------------------------------------------------------------------------------------ tables


def measure_difference(session, problem, estimator, forms):
    """Largest difference of weights between two forms, over the largest weight of the example, at equal penalties; and
    the share of examples that have them."""
    (a, p), (b, q) = (session.weights(problem, estimator, form) for form in forms)
    same = np.abs(p - q) <= 1e-6 * p
    difference = np.abs(a - b).max(axis=1) / np.abs(a).max(axis=1)
    return {"difference": float(difference[same].max()), "same": float(same.mean())}


def print_fits(session, rows, out):
    out("| components | masks | examples | fit | solver | seconds | processor seconds | most memory, MiB | planned, MiB | "
        "residual, largest (median) | the same in numpy, 8 examples | steps |")
    out("|" + "---|" * 12)
    for (problem, estimator, _), row in rows:
        sizes = " | ".join(f"{size:,}" for size in session.problems[problem])
        reported, planned = "-", f"{row['planned'] / 2**20:,.0f}" if row["planned"] else "-"
        if row["solver"] == "iterative":
            reported = f"{row['residual_largest']:.1e} ({row['residual_median']:.1e})"
        out(f"| {sizes} | `{estimator}` | {row['solver']} | {row['seconds']:.0f} | {row['processor']:.0f} | "
            f"{row['memory'] / 2**20:,.0f} | {planned} | {reported} | {row['residual_checked']:.1e} | "
            f"{row.get('steps_most', '-')} |")
    out("")


def report(session, out):
    """Everything that has been measured."""
    rows = [(job, session.rows.get("large " + " ".join(job))) for job in LARGE]
    rows += [(("equal", e, s), session.rows.get(f"equal {e} {s}")) for e in ("ols", "ridge") for s in ("direct", "iterative")]
    print_fits(session, [(job, row) for job, row in rows if row], out)
    for name, row in session.rows.items():
        if "difference" in row:
            _, problem, estimator = name.split()
            out(f"`{estimator}`, {session.problems[problem][0]:,} components, both forms: weights differ by at most "
                f"{row['difference']:.1e} of the example's largest ({row['same']:.0%} of the examples have equal penalties).")
    n, m, examples = session.problems["peers"]
    out(f"\n`ols` of {n:,} components, {m:,} masks and {examples:,} examples:\n")
    out("| | seconds | largest relative residual |")
    out("|---|---|---|")
    for name, row in session.rows.items():
        if not name.startswith("peers "):
            continue
        residual = row["residual_checked"] if "residual_checked" in row else row["residual"]
        note = "".join(f"; {float(g):.0e} after {s:.0f} s" for g, s in row.get("reached", {}).items())
        note = f" ({row['epochs']} epochs{note})" if "epochs" in row else ""
        out(f"| {name[6:]} | {row['seconds']:.1f} | {residual:.1e}{note} |")


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("build")
    parser.add_argument("folder")
    parser.add_argument("--parts", default="data,large,equal,peers")
    parser.add_argument("--only")
    parser.add_argument("--document")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    global h5py, np
    import h5py
    import numpy as np
    os.makedirs(options.folder, exist_ok=True)
    session, parts = Session(options), options.parts.split(",")
    if "data" in parts:
        for problem in session.problems:
            make_data(session, problem)
    for job in LARGE if "large" in parts else ():
        session.once("large " + " ".join(job), lambda job=job: session.fit(*job))
    for estimator in ("ols", "ridge") if "equal" in parts else ():
        for solver in ("direct", "iterative"):
            session.once(f"equal {estimator} {solver}", lambda e=estimator, s=solver: session.fit("equal", e, s))
        session.once(f"difference equal {estimator}",
                     lambda e=estimator: measure_difference(session, "equal", e, ("direct", "iterative")))
    if "large imagenet ols direct" in session.rows and "large imagenet ols iterative" in session.rows:
        session.once("difference imagenet ols",
                     lambda: measure_difference(session, "imagenet", "ols", ("direct", "iterative")))
    if "peers" in parts:
        measure_peers(session)
    lines = []
    report(session, lines.append)
    print("\n".join(lines))
    if options.document:
        text = open(options.document).read()
        head, tail = text.split(BEGIN)[0], text.split(END)[1]
        open(options.document, "w").write(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + tail)


if __name__ == "__main__":
    main()
