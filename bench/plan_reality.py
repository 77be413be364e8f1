#!/usr/bin/env python3
"""What coar plan says beforehand against what coar run then takes, and weak scaling; into docs/scaling.md.

  plan_reality.py BUILD FOLDER [--rounds 5] [--quick] [--only jobs|weak] [--doc docs/scaling.md]

Jobs: three, each planned right before it is run, round after round, so that both see the same machine. Time is the wall
time of the whole command, memory the most that was resident (ru_maxrss), disk the sizes of RUN and of what is in RUN.parts:
at the end, and at the most as a look every 10 ms finds it. Medians over the rounds. Prints tables; with --doc they replace
what is between its markers.

Weak scaling: masked images a second of one process of one thread, of two that share one run as shards, and of two that do
the same work in runs of their own; pinned to a core each. The second against the third is what sharing costs.

Needs the shared material (COAR_SHARED, default ../shared) and numpy; data and runs go to FOLDER.
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.environ.get("COAR_SHARED", os.path.join(ROOT, "..", "shared"))
LOOK_SECONDS = 0.01


def jobs(folder, quick):
    """name: options of the job."""
    cifar, digits = os.path.join(folder, "cifar.h5"), os.path.join(folder, "digits.h5")
    models = os.path.join(SHARED, "models")
    fraction = 8 if quick else 1
    return {
        "ResNet-20, masks": ["--model", os.path.join(models, "resnet20-cifar10.safetensors"), "--data", cifar, "--examples",
                             "0:200", "--masks", str(192 // fraction), "--alpha", "0.1", "--estimator", "ridge",
                             "--eval-masks", str(48 // fraction)],
        "digits ResNet, gradients": ["--model", os.path.join(ROOT, "data", "digits-resnet.safetensors"), "--data", digits,
                                     "--passes", str(64 // fraction), "--alpha", "0.1", "--eval-masks", "64"],
        "ViT, masks": ["--model", os.path.join(models, "vit-cifar10.safetensors"), "--data", cifar, "--examples", "0:96",
                       "--masks", str(192 // fraction), "--estimator", "eb", "--eval-masks", "64"],
    }


def pack(coar, folder):
    """Data sets of the jobs, where they are not there yet."""
    cifar, digits = os.path.join(folder, "cifar.h5"), os.path.join(folder, "digits.h5")
    images = os.path.join(folder, "cifar10")
    if not os.path.exists(cifar):
        with tarfile.open(os.path.join(SHARED, "cifar10", "test-jpeg.tar.gz")) as archive:
            archive.extractall(images)
        roots = [root for root, folders, _ in os.walk(images) if len(folders) == 10]
        subprocess.run([coar, "pack", "--from", "imagefolder", roots[0], "--mean", "0.4914,0.4822,0.4465", "--std",
                        "0.2023,0.1994,0.2010", "-o", cifar], check=True, stdout=subprocess.DEVNULL)
    if not os.path.exists(digits):
        subprocess.run([coar, "pack", "--from", "npy", os.path.join(ROOT, "data", "digits-images.npy"), "--labels",
                        os.path.join(ROOT, "data", "digits-labels.npy"), "-o", digits], check=True,
                       stdout=subprocess.DEVNULL)


def size_of(run):
    """Bytes of a run file and its parts; files may go while they are looked at."""
    total = 0
    for path in [run] + [os.path.join(run + ".parts", n) for n in os.listdir(run + ".parts")
                         ] if os.path.isdir(run + ".parts") else []:
        try:
            total += os.path.getsize(path)
        except FileNotFoundError:
            pass
    return total


def remove(run):
    shutil.rmtree(run + ".parts", ignore_errors=True)
    for path in (run, run[:-3] + ".html"):
        if os.path.exists(path):
            os.unlink(path)


def measured(command, run):
    """Wall seconds, most bytes resident, most bytes on disk and bytes on disk at the end of a command."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    most = [0]
    ended = threading.Event()

    def look():
        while not ended.wait(LOOK_SECONDS):
            most[0] = max(most[0], size_of(run))

    looker = threading.Thread(target=look)
    looker.start()
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    ended.set()
    looker.join()
    if status:
        sys.exit(f"{' '.join(command)}: {errors.decode()}")
    final = size_of(run)
    return {"seconds": seconds, "memory": usage.ru_maxrss * 1024, "disk_peak": max(most[0], final), "disk": final}


def planned(coar, options, run):
    text = subprocess.run([coar, "plan", *options, "-o", run, "--time", "2", "--json"], check=True, capture_output=True).stdout
    plan = json.loads(text)
    return {"seconds": plan["devices"][0]["total_seconds"], "memory": max(s["memory_bytes"] for s in plan["stages"]),
            "disk_peak": plan["disk_peak_bytes"], "disk": plan["disk_final_bytes"],
            "stages": plan["devices"][0]["seconds"]}


def measure_jobs(coar, folder, rounds, quick):
    """name: what was planned and what it took, a list over rounds each."""
    found = {}
    run = os.path.join(folder, "plan.h5")
    for _ in range(rounds):
        for name, options in jobs(folder, quick).items():
            remove(run)
            plan = planned(coar, options, run)
            took = measured([coar, "run", *options, "-o", run], run)
            found.setdefault(name, []).append((plan, took))
            print(f"{name}: planned {plan['seconds']:.2f} s, took {took['seconds']:.2f}; " +
                  ", ".join(f"{k} {v:.2f}" for k, v in plan["stages"].items()), file=sys.stderr)
    remove(run)
    return found


def job_table(found):
    lines = ["| job | time planned, s | taken | off | memory planned, MiB | taken | off | disk at most planned, MB | taken | off "
             "| disk planned, MB | taken | off |", "|---|" + "---|" * 12]
    for name, rounds in found.items():
        cells = []
        for key, unit, digits in (("seconds", 1, 1), ("memory", 1 << 20, 0), ("disk_peak", 1e6, 2), ("disk", 1e6, 2)):
            plan, took = ([r[i][key] for r in rounds] for i in (0, 1))
            off = statistics.median(p / t - 1 for p, t in zip(plan, took))
            cells += [f"{statistics.median(plan) / unit:.{digits}f}", f"{statistics.median(took) / unit:.{digits}f}",
                      f"{100 * off:+.1f} %"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ weak scaling

MASKS_EACH = 64  # of one process


def together(coar, folder, commands):
    """Images a second that processes of one thread each make, a core each: of all their images, from the moment that the
    first begins with its units to the end of the last."""
    cores = sorted(os.sched_getaffinity(0))
    processes = [subprocess.Popen(["taskset", "-c", str(cores[i % len(cores)]), coar, "ablate", *c, "--threads", "1"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                 for i, c in enumerate(commands)]
    rate = 0
    for process in processes:
        out, errors = process.communicate()
        images = re.search(r"(\d+) images in ([\d.]+) s", out)
        if process.returncode or not images:
            sys.exit(f"coar ablate: {errors}")
        rate += int(images[1]) / float(images[2])
    return rate


def weak_round(coar, folder):
    options = jobs(folder, False)["ResNet-20, masks"]
    common = options[:options.index("--masks")] + ["--alpha", "0.1"]
    runs = [os.path.join(folder, f"weak{i}.h5") for i in range(2)]
    masks = ["--masks", str(MASKS_EACH)]
    both = ["--masks", str(2 * MASKS_EACH)]
    rates = []
    for commands in ([[*common, *masks, "-o", runs[0]]],
                     [[*common, *both, "-o", runs[0], "--shard", f"{i}/2"] for i in range(2)],
                     [[*common, *masks, "-o", runs[i]] for i in range(2)]):
        for run in runs:
            remove(run)
        rates.append(together(coar, folder, commands))
    for run in runs:
        remove(run)
    return rates


def weak_table(rounds):
    one, shards, apart = (statistics.median(r[i] for r in rounds) for i in range(3))
    share = statistics.median(r[1] / r[2] for r in rounds)
    return "\n".join(["| processes of one thread | masked images/s |", "|---|---|", f"| 1 | {one:.0f} |",
                      f"| 2 that share a run | {shards:.0f} |", f"| 2 with a run each | {apart:.0f} |", "",
                      f"Sharing: {share:.3f} of what independent processes reach (median of {len(rounds)})."])


# -------------------------------------------------------------------------------------------------------- main


def replace_between(path, name, table):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    begin, end = f"<!-- {name} begin -->", f"<!-- {name} end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        sys.exit(f"{path}: has no markers {begin} and {end}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{begin}\n{table}\n{end}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="an eighth of the masks")
    parser.add_argument("--only", choices=("jobs", "weak"))
    parser.add_argument("--doc")
    o = parser.parse_args()
    coar = os.path.join(os.path.abspath(o.build), "coar")
    os.makedirs(o.folder, exist_ok=True)
    folder = os.path.abspath(o.folder)
    pack(coar, folder)
    tables = {}
    if o.only != "weak":
        tables["plan-reality"] = job_table(measure_jobs(coar, folder, o.rounds, o.quick))
    if o.only != "jobs":
        tables["weak-scaling"] = weak_table([weak_round(coar, folder) for _ in range(o.rounds)])
    for name, table in tables.items():
        print(table + "\n")
        if o.doc:
            replace_between(o.doc, name, table)


if __name__ == "__main__":
    main()
