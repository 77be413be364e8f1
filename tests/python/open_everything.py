"""Opens a run with h5py as docs/runfile.md describes it: python3 open_everything.py RUN.h5 [MERGED.h5]

run.h5 through its links and virtual data sets, each part by itself, the merged file; shapes, dtypes and attributes, and values
against each other. Prints TAP.
"""
import glob
import os
import sys

import h5py
import numpy as np

tests = failures = 0


def check(name, good, note=""):
    global tests, failures
    tests += 1
    failures += not good
    print(f"{'ok' if good else 'not ok'} {tests} - {name}")
    if not good and note:
        print(f"# {note}")


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def links(file):
    """Every external link of a file, and every virtual data set."""
    found = []

    def walk(group, path):
        for name in group:
            link = group.get(name, getlink=True)
            where = f"{path}/{name}"
            if isinstance(link, h5py.ExternalLink):
                found.append((where, link.filename))
            elif isinstance(link, h5py.HardLink):
                item = group[name]
                if isinstance(item, h5py.Group):
                    walk(item, where)
                elif item.is_virtual:
                    found.extend((where, source.file_name) for source in item.virtual_sources())

    walk(file, "")
    return found


def check_attributes(file):
    attributes = file.attrs
    check("format and version", attributes["format"] == "coar.run" and attributes["version_major"] == 1
          and attributes["version_minor"].dtype.kind == "i", dict(attributes))
    check("seed is an integer, alpha a float", attributes["seed"].dtype.kind in "iu"
          and attributes["alpha"].dtype == np.float64)
    texts = [key for key, value in attributes.items() if isinstance(value, bytes)]
    check("texts are str", not texts, texts)


def check_tables(file):
    components = file["components"][()]
    check("components: columns", components.dtype.names == ("name", "kind", "layer", "first", "count"))
    check("components: groups follow each other",
          np.array_equal(components["first"], np.cumsum(components["count"]) - components["count"]))
    examples = {name: file["examples"][name] for name in file["examples"]}
    count = len(examples["index"])
    kinds = {"index": np.uint64, "label": np.int32, "group": np.int32}
    check("examples: dtypes and lengths", all(d.dtype == kinds[k] and d.shape == (count,) for k, d in examples.items()))
    outputs = file["baseline"].attrs["outputs"].split(",")
    check("baseline of every output", all(file["baseline"][o].shape == (count,) and file["baseline"][o].dtype == np.float32
                                          for o in outputs))
    return int(components["count"].sum()), count, outputs


def check_parts(folder, file, n, count, outputs):
    parts = []
    for path in glob.glob(os.path.join(folder, "outputs-*.h5")):
        first, last = map(int, os.path.basename(path)[8:-3].split("-"))
        parts.append((first, last, path))
    parts.sort()
    check("parts follow each other", [p[0] for p in parts] == [0] + [p[1] + 1 for p in parts[:-1]], parts)
    masks = parts[-1][1] + 1
    for output in outputs:
        rows = []
        for first, last, path in parts:
            with h5py.File(path) as part:
                data = part["ablations"][output]
                good = (part.attrs["format"] == "coar.outputs" and part.attrs["first_mask"] == first
                        and data.shape == (last - first + 1, count) and data.dtype in (np.float32, np.float16)
                        and data.chunks == (min(64, data.shape[0]), min(1024, count))
                        and data.shuffle and data.compression == "gzip" and data.fletcher32)
                check(f"{os.path.basename(path)}: {output}", good, (data.shape, data.dtype, data.chunks))
                rows.append(data[()])
        whole = file["ablations"][output]
        check(f"/ablations/{output} is its parts", same(whole[()], np.concatenate(rows)) and whole.shape == (masks, count))
        check(f"/ablations/{output}: a missing part would be NaN", np.isnan(whole.fillvalue))
    done = file["ablations/done"][()]
    check("/ablations/done", done.dtype == np.uint8 and done.min() >= 1 and done.max() <= 2)
    check("/ablations/outputs is the first output", same(file["ablations/outputs"][()], file["ablations"][outputs[0]][()])
          and file["ablations"].get("outputs", getlink=True).path == f"/ablations/{outputs[0]}")
    if "masks" in file["ablations"]:
        stored = file["ablations/masks"]
        bits = np.unpackbits(stored[()], axis=1, bitorder="little")
        check("/ablations/masks", stored.shape == (masks, (n + 7) // 8) and stored.dtype == np.uint8
              and not bits[:, n:].any())


def check_fits(file, n, count, outputs):
    for name, fit in file.get("attributions", {}).items():
        shapes = {"weight": (count, n), "stderr": (count, n), "bias": (count,), "penalty": (count,), "r2": (count,),
                  "heldout": (count,)}
        types = {"penalty": np.float64, "r2": np.float64, "heldout": np.float64}
        good = all(d.shape == shapes[k] and d.dtype == types.get(k, np.float32) for k, d in fit.items())
        check(f"fit {name}", good and fit.attrs["output"] in outputs and {"weight", "bias"} <= set(fit)
              and isinstance(fit.attrs["estimator"], str) and fit.attrs["masks"] > 0)


def check_evaluations(file, count, outputs):
    for name, group in file.get("evaluation", {}).items():
        for output in outputs:
            truth = group[output]["truth"]
            check(f"{name}/{output}: truth", truth.dtype == np.float32 and truth.shape[1] == count)
            check(f"{name}/{output}: done", set(np.unique(group[output]["done"][()])) <= {1, 2})
            for fit in set(group[output]) - {"truth", "done"}:
                made = group[output][fit]
                rows = made["predicted"].shape[0]
                pearson = made["pearson"][()]
                check(f"{name}/{output}/{fit}", made["predicted"].shape == (rows, count) and rows <= truth.shape[0]
                      and pearson.shape == made["spearman"].shape == (count,) and not (np.abs(pearson) > 1 + 1e-9).any())
                x, y = truth[:rows].astype(float), made["predicted"][()].astype(float)
                clean = np.isfinite(x).all(axis=0) & (x.std(axis=0) > 0) & (y.std(axis=0) > 0)
                with np.errstate(all="ignore"):
                    r = [np.corrcoef(x[:, z], y[:, z])[0, 1] for z in np.flatnonzero(clean)]
                check(f"{name}/{output}/{fit}: pearson is that of truth and predicted",
                      np.allclose(r, pearson[clean], atol=1e-6), np.abs(np.array(r) - pearson[clean]).max(initial=0))


def check_merged(file, merged):
    check("merged: no links", not links(merged), links(merged))
    check("merged: attributes", set(file.attrs) - {"parts"} == set(merged.attrs))
    names = []
    merged.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    check("merged: objects", names and all(name in file for name in names))
    different = [name for name in names if not same(file[name][()], merged[name][()])]
    check("merged: every data set is the run's", not different, different)


def main():
    run = os.path.abspath(sys.argv[1])
    folder = run + ".parts"
    others = sys.argv[2:]
    merged = os.path.abspath(others[0]) if others else None
    os.chdir("/")  # links must not depend on where the reader is
    with h5py.File(run) as file:
        check_attributes(file)
        n, count, outputs = check_tables(file)
        check_parts(folder, file, n, count, outputs)
        check_fits(file, n, count, outputs)
        check_evaluations(file, count, outputs)
        paths = [name for _, name in links(file)]
        check("links and sources are relative, into the folder",
              paths and all(p.startswith(os.path.basename(folder) + "/") for p in paths), paths)
        if merged:
            with h5py.File(merged) as other:
                check_merged(file, other)
    for path in sorted(glob.glob(os.path.join(folder, "*.h5"))):
        with h5py.File(path) as part:
            objects = []
            part.visititems(lambda name, item: objects.append(item[()]) if isinstance(item, h5py.Dataset) else None)
            check(f"{os.path.basename(path)} opens by itself", objects and part.attrs["format"].startswith("coar."))
    print(f"1..{tests}")
    return failures > 0


sys.exit(main())
