"""Checks of coar edit from outside, with numpy and h5py.

  edit.py rows LABELS ROWS FOLDER          t.npy, f.npy, v.npy, s.npy: ten targets of class 3, 50 references, validation, test rows
  edit.py tau RUN... EDIT                  scores and order against the formula (docs/design.md, section 7), from the runs that
                                           target and reference are of (one: both)
  edit.py masks RUN EDIT OUT.npy           the masks of the sweep, for coar ablate --sampler file:
  edit.py sweep RUN EDIT ABLATED           the sweep, what came before and after and the accuracies of pairs, against a run of
                                           these masks over all rows
  edit.py written RUN EDIT EDITED          what came after, against the unablated outputs of a run of the edited weights
  edit.py predicted RUN EDIT LOGITS...     predictions of the examples shown, against runs of the logits under the same masks
"""
import sys

import h5py
import numpy as np

SETS = ("target", "reference", "validation", "test", "target_test")


def rows(labels, rows, folder):
    labels, rows = np.load(labels), np.load(rows)
    target = rows[labels[rows] == 3][:10]
    reference = rows[labels[rows] != 3][:50]
    rest = np.setdiff1d(rows, np.concatenate([target, reference]))
    for name, value in (("t", target), ("f", reference), ("v", rest[::2]), ("s", rest[1::2])):
        np.save(f"{folder}/{name}.npy", value)


def attributions(run, fit, index):
    place = {int(row): i for i, row in enumerate(run["examples/index"][()])}
    weight = run[f"attributions/{fit}/weight"][()].astype(np.float64)
    return weight[[place[int(row)] for row in index]]


def tau(*arguments):
    *runs, name = arguments
    with h5py.File(runs[0]) as first, h5py.File(runs[-1]) as last:
        edit = first[f"edits/{name}"]
        fit = edit.attrs["fit"]
        t = attributions(last, fit, edit["target/index"][()])
        r = attributions(first, fit, edit["reference/index"][()])
        spread = np.sqrt(t.var(0) / len(t) + r.var(0) / len(r))
        scores = np.where(spread > 0, (t.mean(0) - r.mean(0)) / np.where(spread > 0, spread, 1), 0)
        np.testing.assert_allclose(edit["scores"][()], scores, rtol=1e-9, atol=1e-12)
        order = np.argsort(scores if edit.attrs["direction"] == "raise" else -scores, kind="stable")
        np.testing.assert_array_equal(edit["order"][()], order[: len(edit["order"])])


def masks(run, name, path):
    with h5py.File(run) as f:
        edit = f[f"edits/{name}"]
        k, order = edit["sweep/k"][()], edit["order"][()]
        out = np.ones((len(k), edit["scores"].shape[0]), bool)
        for i in range(len(k)):
            out[i, order[: k[i]]] = False
        np.save(path, out)


def close(actual, expected):
    """Outputs of an example differ in fp32's last digits where its place among the others is another: so do its forms."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def pair_accuracies(members, right):
    """Of one set under one mask: the accuracy of each pair, its worst and its mean."""
    each = [right[m].mean() if m.any() else np.nan for m in members]
    return each, np.nanmin(each), np.nanmean(each)


def sweep(run, name, ablated):
    with h5py.File(run) as f, h5py.File(ablated) as g:
        edit, outputs = f[f"edits/{name}"], g["ablations/outputs"][()].astype(np.float64)
        np.testing.assert_array_equal(g["examples/index"][()], np.arange(outputs.shape[1]))
        k = edit["sweep/k"][()]
        chosen = int(np.flatnonzero(k == edit.attrs["k"])[0])
        label, group = edit["pairs/label"][()], edit["pairs/group"][()]
        for s in SETS:
            if "index" not in edit[s]:
                continue
            index = edit[f"{s}/index"][()]
            own = outputs[:, index]
            close(edit[f"{s}/before"][()], own[0])
            close(edit[f"{s}/after"][()], own[chosen])
            expected = np.full((len(k), 4), np.nan)
            expected[:, 0], expected[:, 1] = own.mean(1), (own > 0).mean(1)
            if s in ("validation", "test"):
                of = edit[f"{s}/group"][()] if "group" in edit[s] else np.full(len(index), -1)
                members = [(edit[f"{s}/label"][()] == a) & (of == b) for a, b in zip(label, group)]
                np.testing.assert_array_equal(edit["pairs/examples"][int(s == "test")], [m.sum() for m in members])
                pairs = []
                for i in range(len(k)):
                    each, expected[i, 2], expected[i, 3] = pair_accuracies(members, own[i] > 0)
                    pairs.append(each)
                if s == "test":
                    close(edit["pairs/test"][()], [pairs[0], pairs[chosen]])
                else:
                    close(edit["sweep/pairs"][()], pairs)
            if s in SETS[:3]:
                close(edit[f"sweep/{s}"][()], expected)
            close(edit[f"{s}/scores"][()], expected[[0, chosen]])


def written(run, name, edited):
    with h5py.File(run) as f, h5py.File(edited) as g:
        assert f[f"edits/{name}"].attrs["k"] > 0
        for s in SETS:
            if "index" in f[f"edits/{name}/{s}"]:
                index = f[f"edits/{name}/{s}/index"][()]
                close(f[f"edits/{name}/{s}/after"][()], g["baseline/margin"][()][index])


def predicted(run, name, *logits):
    with h5py.File(run) as f:
        edit, values = f[f"edits/{name}"], []
        for path in logits:
            with h5py.File(path) as g:
                for output in g["baseline"].attrs["outputs"].split(","):
                    values.append(g[f"ablations/{output}"][()])
        best = np.argmax(values, axis=0)  # [masks, rows]
        chosen = int(np.flatnonzero(edit["sweep/k"][()] == edit.attrs["k"])[0])
        for s in SETS:
            if "shown" not in edit[s]:
                continue
            index = edit[f"{s}/index"][()][edit[f"{s}/shown"][()]]
            np.testing.assert_array_equal(edit[f"{s}/predicted_before"][()], best[0, index])
            np.testing.assert_array_equal(edit[f"{s}/predicted_after"][()], best[chosen, index])


globals()[sys.argv[1]](*sys.argv[2:])
