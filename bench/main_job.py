#!/usr/bin/env python3
"""The main job on both sides: coar run, and PyTorch's procedure for the same masks and examples.

  main_job.py BUILD FOLDER [--fraction 1] [--rounds 1] [--threads T] [--json FILE]

2,000 masks to fit and 400 held out, 200 examples of CIFAR-10, the published ResNet-20, a tenth of its 688 filters
ablated, least squares. coar is timed from the start of its command to its end: passes, fit, evaluation, report. PyTorch
(networks.ablated_pass) is timed from its first mask to the solution of the least squares problem, so that what it takes
to start, to read, to try batch sizes and to evaluate is given to it. Both see the same masks: those of docs/masks.md,
whose code is run here. Prints both wall times, their ratio, and both counterfactual correlations over the held-out
masks.

Needs the shared material (COAR_SHARED, default ../shared), numpy and h5py; PEERS_PYTHON names a Python with torch and
safetensors, which BUILD/peers of bench/throughput.py becomes otherwise. --fraction: of all masks, to try it out. Data,
run and masks go to FOLDER.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.environ.get("COAR_SHARED", os.path.join(ROOT, "..", "shared"))
MODEL = os.path.join(SHARED, "models", "resnet20-cifar10.safetensors")
EXAMPLES = os.path.join(SHARED, "golden", "r20_examples.npy")
IMAGES = os.path.join(SHARED, "cifar10", "test-jpeg.tar.gz")
COMPONENTS, ALPHA, MASKS, HELD_OUT = 688, 0.10, 2000, 400
BATCHES = (8, 16, 25, 32, 50, 64, 100, 200)


# -------------------------------------------------------------------------------- PyTorch, in a process of its own


def load_network():
    import networks
    from safetensors.torch import load_file

    network = networks.build("resnet20")
    network.net.load_state_dict(load_file(MODEL), strict=False)  # BatchNorm's counters are missing
    return network.net, network.masked


def fastest_batch(one_pass):
    """One pass to plan kernels, then the better of two."""
    seconds = {}
    for batch in BATCHES:
        one_pass(batch)
        times = []
        for _ in range(2):
            start = time.perf_counter()
            one_pass(batch)
            times.append(time.perf_counter() - start)
        seconds[batch] = min(times)
    return min(seconds, key=seconds.get)


def least_squares(torch, keep, outputs):
    """weight [n, N] and bias [N] that predict outputs [m, N] from masks [m, n]: exact, of least norm where
    m is below n."""
    x, y = keep.double(), outputs.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    weight = torch.linalg.lstsq(x, y).solution
    return weight, y_mean - x_mean @ weight


def pearson(a, b):
    """Of each column, its mean over them."""
    a, b = a - a.mean(0), b - b.mean(0)
    return float(((a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))).mean())


def procedure(folder, threads, masks):
    """Prints its times and its correlation as JSON."""
    import torch
    import networks

    torch.set_num_threads(threads)
    images, labels, keep = (torch.from_numpy(np.load(os.path.join(folder, name + ".npy")))
                            for name in ("images", "labels", "masks"))
    images = images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        net, masked = load_network()
        batch = fastest_batch(lambda b: networks.ablated_pass(net, masked, keep[0], images, labels, b))
        start = time.perf_counter()
        outputs = torch.stack([networks.ablated_pass(net, masked, k, images, labels, batch) for k in keep])
        passed = time.perf_counter()
        weight, bias = least_squares(torch, keep[:masks], outputs[:masks])
        end = time.perf_counter()
        predicted = keep[masks:].double() @ weight + bias
    print(json.dumps({"batch": batch, "passes": passed - start, "fit": end - passed, "seconds": end - start,
                      "correlation": pearson(predicted.numpy(), outputs[masks:].double().numpy()),
                      "version": "PyTorch " + torch.__version__}))


# ------------------------------------------------------------------------------------------------- both in turn


def check_shared():
    for path in (MODEL, EXAMPLES, IMAGES):
        if not os.path.exists(path):
            sys.exit(f"main_job: no {path}: set COAR_SHARED to the folder of the shared material")


def output_of(command, environment=None):
    """What it prints. Where it fails, its own message has gone to standard error."""
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment)
    if done.returncode:
        sys.exit(f"main_job: {' '.join(command[:2])} ended with {done.returncode}")
    return done.stdout


def pack(coar, folder):
    """The test set as coar reads it, and the examples of the job as PyTorch does; labels are those of the folders."""
    import h5py

    data = os.path.join(folder, "cifar10.h5")
    if not os.path.exists(data):
        output_of(["tar", "-C", folder, "-xzf", IMAGES])
        output_of([coar, "pack", "--from", "imagefolder", os.path.join(folder, "test"), "--mean", ".485,.456,.406",
                   "--std", ".229,.224,.225", "-o", data])
    rows = np.load(EXAMPLES)
    with h5py.File(data) as file:
        images = file["images"][:][rows].astype(np.float32) / 255
        mean, std = (np.asarray(file.attrs[name], np.float32) for name in ("mean", "std"))
        np.save(os.path.join(folder, "images.npy"), (images - mean) / std)
        np.save(os.path.join(folder, "labels.npy"), file["labels"][:][rows].astype(np.int64))
    return data


def write_masks(folder, masks, held_out):
    """Streams 0 and 1 of seed 0: what coar run fits to, and what it evaluates on."""
    with open(os.path.join(ROOT, "docs", "masks.md"), encoding="utf-8") as file:
        code = "\n".join(re.findall(r"^```python\n(.*?)^```$", file.read(), re.M | re.S))
    names = {}
    exec(code, names)
    parts = [names["bernoulli"](0, stream, np.arange(count), COMPONENTS, ALPHA)
             for stream, count in ((0, masks), (1, held_out))]
    np.save(os.path.join(folder, "masks.npy"), np.concatenate(parts))


def run_pytorch(python, folder, threads, masks):
    command = [python, os.path.abspath(__file__), "--procedure", folder, str(threads), str(masks)]
    from throughput import KEEP_MEMORY

    return json.loads(output_of(command, dict(os.environ, **KEEP_MEMORY)))


def run_coar(coar, folder, data, threads, masks, held_out):
    run = os.path.join(folder, "run.h5")
    command = [coar, "run", "--model", MODEL, "--data", data, "--examples", "@" + os.path.abspath(EXAMPLES), "--alpha",
               str(ALPHA), "--masks", str(masks), "--eval-masks", str(held_out), "--estimator", "ols", "--threads",
               str(threads), "-o", run, "--force", "--json"]
    start = time.monotonic()
    result = output_of(command)
    seconds = time.monotonic() - start
    evaluation = json.loads(result)["evaluations"][0]
    return {"seconds": seconds, "correlation": evaluation["pearson_mean"]}


def main():
    if sys.argv[1:2] == ["--procedure"]:
        return procedure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    from throughput import at_least_one, coar_of, digits, peers_python, processor

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", help="folder of the coar binary")
    parser.add_argument("folder", help="for data, masks and the run")
    parser.add_argument("--fraction", type=float, default=1, help="of the masks")
    parser.add_argument("--rounds", type=at_least_one, default=1,
                        help="both in turn so many times; medians are compared")
    parser.add_argument("--threads", type=at_least_one, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", metavar="FILE", help="every round's figures")
    options = parser.parse_args()
    masks, held_out = max(int(MASKS * options.fraction), 2), max(int(HELD_OUT * options.fraction), 2)
    check_shared()  # before peers_python, which may download for minutes
    coar, python = os.path.abspath(coar_of(options.build)), peers_python(options.build)
    os.makedirs(options.folder, exist_ok=True)
    data = pack(coar, options.folder)
    write_masks(options.folder, masks, held_out)
    rounds = []
    for number in range(options.rounds):
        theirs = run_pytorch(python, options.folder, options.threads, masks)
        ours = run_coar(coar, options.folder, data, options.threads, masks, held_out)
        rounds.append({"pytorch": theirs, "coar": ours})
        print(f"round {number + 1}: {theirs['version']} {digits(theirs['seconds'])} s (passes "
              f"{digits(theirs['passes'])}, fit {digits(theirs['fit'])}, batch {theirs['batch']}), correlation "
              f"{theirs['correlation']:.4f}; coar {digits(ours['seconds'])} s, correlation {ours['correlation']:.4f}",
              flush=True)
    times = {side: statistics.median(r[side]["seconds"] for r in rounds) for side in ("pytorch", "coar")}
    ratio = times["pytorch"] / times["coar"]
    examples = len(np.load(EXAMPLES))
    print(f"{processor()[0]}, {options.threads} threads, {masks} + {held_out} masks of {examples} examples: "
          f"PyTorch {digits(times['pytorch'])} s / coar {digits(times['coar'])} s = {ratio:.2f}; "
          f"correlations differ by {abs(theirs['correlation'] - ours['correlation']):.4f}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rounds, file, indent=1)


if __name__ == "__main__":
    main()
