#!/usr/bin/env python3
"""What tau's and greedy's edits cost where they gain as much (needs numpy and h5py; the tasks' files, as run.sh leaves them
in build/edit).

    python3 examples/edit/equal_gain.py COAR [TASK...]

For each task both orders of components, as many as its command would take at most, and every k measured on the test
pictures. Gain: points of accuracy on attacked pictures, of subpopulation those of the worst pair. Loss: points of accuracy
on clean pictures, of subpopulation the mean over pairs. Prints, for shares of the most that both reach, the smallest k of
each method that gains so much, and its loss there.
"""
import json
import os
import subprocess
import sys

import h5py
import numpy as np

TEST = slice(600, 1600)
METHODS, SHARES = ("tau", "greedy"), (.5, .75, .9, 1)
ATTACKED = {"backdoor": ("triggered", 20), "typographic": ("attacked", 60), "cifar-backdoor": ("triggered", 100)}
HARM_WEIGHT = {"cifar-backdoor": 32}  # of greedy, where it is not the default


def coar(*arguments):
    return subprocess.run([str(a) for a in arguments], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def order(binary, task, method):
    """Components in the order in which the method ablates them."""
    folder = f"build/edit/{task}"
    if task in ATTACKED:
        name, count = ATTACKED[task]
        run, sets = f"{folder}/clean-run.h5", (f"{folder}/{name}-run.h5:0:{count}", f"0:{count}", 30)
    else:
        run, sets = f"{folder}/pictures-run.h5", ("0:60", "60:200", 40)
    weight = ("--harm-weight", HARM_WEIGHT[task]) if method == "greedy" and task in HARM_WEIGHT else ()
    text = coar(binary, "edit", run, "--target", sets[0], "--reference", sets[1], "--max-k", sets[2], "--raise", "--method",
                method, *weight, "--validation", "200:202", "--test", "202:204", "--select", 100, "--name",
                f"gain-{method}", "--force", "--json")
    return [c["component"] for c in json.loads(text)["order"]]


def correct(binary, task, name, components):
    """bool [k, test pictures]: which ones are right without the first k components."""
    folder = f"build/edit/{task}"
    with h5py.File(f"{folder}/{name}-run.h5") as f:
        n = len(f["attributions/grad/weight"][0])
    masks = np.ones((len(components) + 1, n), bool)
    for k, component in enumerate(components):
        masks[k + 1:, component] = False
    np.save(f"{folder}/gain-masks.npy", masks)
    kept = f"examples/edit/networks/{task}.safetensors"
    model = kept if os.path.exists(kept) else f"{folder}/{task.removeprefix('cifar-')}.safetensors"
    coar(binary, "ablate", "--model", model, "--data", f"{folder}/{name}.h5", "--examples", f"{TEST.start}:{TEST.stop}",
         "--sampler", f"file:{folder}/gain-masks.npy", "-o", f"{folder}/gain.h5", "--force")
    with h5py.File(f"{folder}/gain.h5") as f:
        return f["ablations/margin"][:] > 0


def curves(binary, task, method):
    """(gain, loss) in points, [k]"""
    components = order(binary, task, method)
    if task in ATTACKED:
        attacked, clean = (100 * correct(binary, task, name, components).mean(1) for name in (ATTACKED[task][0], "clean"))
        return attacked - attacked[0], clean[0] - clean
    right = correct(binary, task, "pictures", components)
    with h5py.File(f"build/edit/{task}/pictures.h5") as f:
        pair = f["labels"][TEST] * 2 + f["groups"][TEST]
    of_pair = 100 * np.array([right[:, pair == p].mean(1) for p in np.unique(pair)])
    return of_pair.min(0) - of_pair.min(0)[0], of_pair.mean(0)[0] - of_pair.mean(0)


def main():
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    print("| task | " + " | ".join(f"{100 * share:g} %" for share in SHARES) + " |\n|---|" + "---|" * len(SHARES))
    for task in sys.argv[2:] or ("subpopulation", "backdoor", "typographic"):
        of = {method: curves(sys.argv[1], task, method) for method in METHODS}
        most = min(gain.max() for gain, _ in of.values())
        cells = []
        for share in SHARES:
            ks = {method: int(np.argmax(gain >= share * most)) for method, (gain, _) in of.items()}
            cells.append(f"{share * most:.1f}: " + ", ".join(f"{of[m][1][k]:.1f} (k = {k})" for m, k in ks.items()))
        print(f"| `{task}` | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
