#!/usr/bin/env python3
"""Masked images a second of coar on the standard networks and, with --peers, of everybody else, in turn.

  throughput.py BUILD [--peers] [--networks LIST] [--rounds 5] [--seconds 4] [--threads T] [--isa NAME]
                      [--write docs/performance.md] [--json FILE]

BUILD holds the coar binary. A round measures every side once, one after the other, each for --seconds (or for one mask,
where that takes longer), while the others are stopped; rounds are repeated, so that what else the machine does falls on
all, and medians are compared. coar is a new process each time; a peer (peers.py) lives from round to round and has
compiled, and chosen its batch size, before the first.

Peers are PyTorch's masked procedure, as the method's authors have it, and torch.compile, ONNX Runtime and OpenVINO,
which cannot ablate and so run dense; each in fp32, and where coar may use the processor's bf16 instructions in that as
well. They need a Python with torch, torchvision, onnx, onnxscript, onnxruntime and openvino: PEERS_PYTHON names one,
otherwise BUILD/peers becomes a virtual environment with them (pip's usual variables apply). --write puts the table into
a file, between its two markers.
"""
import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
# name: title, and alpha as in the paper
NETWORKS = {"resnet20": ("ResNet-20, CIFAR", 0.10), "resnet18_cifar": ("ResNet-18, CIFAR", 0.10),
            "mini_resnet_256": ("MiniResNet, 256 planes", 0.10), "resnet50": ("ResNet-50, 224x224", 0.05),
            "vit_b_16": ("ViT-B/16, 224x224", 0.05), "clip_vit_b_16": ("CLIP ViT-B/16, 224x224", 0.05),
            "clip_rn50": ("CLIP ResNet-50, 224x224", 0.05), "gpt2": ("GPT-2 of 124M, texts of 128 tokens", 0.025)}
PACKAGES = ["torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "openvino", "safetensors"]
# name, whether it ablates, precision class
PEERS = [("pytorch", True, "fp32"), ("pytorch-autocast", True, "bf16"), ("pytorch-bf16", True, "bf16"),
         ("torch.compile", False, "fp32"), ("torch.compile-bf16", False, "bf16"), ("onnxruntime", False, "fp32"),
         ("openvino", False, "fp32"), ("openvino-bf16", False, "bf16")]
# Environment of every peer: glibc keeps what is freed. As it is, activations of some megabytes are given back to the system and
# faulted in again at every op, which costs PyTorch a quarter of its speed on ResNet-20.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}
SECONDS_TO_END = 10  # of a peer that is asked to; then it is killed
MARKERS = ("<!-- throughput: make bench PEERS=1 writes from here -->", "<!-- throughput: to here -->")


def log(*words):
    print(*words, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------ the machine


def processor():
    """(model name, flags) of the first processor of /proc/cpuinfo."""
    fields = {}
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    name = fields.get("model name", "unknown processor")
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    return name, fields.get("flags", fields.get("Features", "")).split()


def install(command):
    """Runs it, silently; where it fails, ends with the line of what it said that tells why."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()] or ["it said nothing"]
        why = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])
        sys.exit(f"throughput: {' '.join(command[:3])} failed: {why}. It needs Python's venv and a network; otherwise "
                 f"let PEERS_PYTHON name a Python that has {', '.join(PACKAGES)}")


def peers_python(build):
    """A Python that has the peers, installed if there is none."""
    if os.environ.get("PEERS_PYTHON"):
        return os.environ["PEERS_PYTHON"]
    folder = os.path.join(build, "peers")
    python = os.path.join(folder, "bin", "python")
    have = subprocess.run([python, "-c", "import " + ", ".join(PACKAGES)], capture_output=True) \
        if os.path.exists(python) else None
    if not have or have.returncode:
        log(f"throughput: installing {', '.join(PACKAGES)} into {folder}")
        install([sys.executable, "-m", "venv", folder])
        install([python, "-m", "pip", "install", "--quiet", *PACKAGES])
    return python


# -------------------------------------------------------------------------------------------------- the sides


class PeerError(Exception):
    """A peer that has ended or answers nonsense; the text names it and says why."""


class Coar:
    """A side: `name`, `version`, `precision`, `batch`, `masked`, and `measure`, which adds to `rates`."""

    name, masked = "coar", True

    def __init__(self, options, network, alpha):
        self.command = [os.path.join(options.build, "coar"), "bench", "--model", network, "--alpha", str(alpha),
                        "--threads", str(options.threads), "--json"]
        self.command += ["--isa", options.isa] if options.isa else []
        self.rates, self.results, self.precision = [], [], options.precision

    def measure(self, seconds):
        # `auto` tries precisions on thousands of passes: once is enough
        command = [*self.command, "--precision", self.precision, "--time", str(seconds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"coar bench ended with {done.returncode}"]
            sys.exit(f"throughput: {lines[-1]}")
        result = json.loads(done.stdout)
        self.precision, self.version, self.batch = result["precision"], result["isa"], result["batch"]
        self.results.append(result)
        self.rates.append(result["images_per_second"])

    def median(self, key):
        return statistics.median(r[key] for r in self.results)

    def close(self):
        pass


class Peer:
    """A process of peers.py, stopped except while it prepares or measures: some threads spin while they have nothing to
    do. `prepare` and `measure` raise PeerError; `close` ends the process in any state."""

    def __init__(self, options, python, network, alpha, name, masked, precision):
        self.name, self.masked, self.precision, self.rates = name, masked, precision, []
        environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads), **KEEP_MEMORY)
        if options.isa == "avx2":  # these two obey
            environment.update(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2")
        command = [python, os.path.join(HERE, "peers.py"), "--network", network, "--peer", name, "--alpha", str(alpha),
                   "--threads", str(options.threads)]
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        text=True, env=environment)

    def prepare(self):
        """Waits until it has compiled and chosen its batch size."""
        hello = self.answer()
        self.version, self.batch = hello["version"], hello["batch"]
        self.process.send_signal(signal.SIGSTOP)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines() or ["it ended without a message"]
            raise PeerError(f"{self.name}: {lines[-1]}")
        try:
            return json.loads(line)
        except ValueError:
            raise PeerError(f"{self.name}: no JSON: {line.strip()}") from None

    def measure(self, seconds):
        self.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # answer() knows more of a process that has ended
            self.process.stdin.write(f"{seconds}\n")
            self.process.stdin.flush()
        self.rates.append(self.answer()["images_per_second"])
        self.process.send_signal(signal.SIGSTOP)

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # a request that it did not read
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()


def drop(sides, side, network, error):
    """Goes on without a peer that has failed."""
    log(f"{network}: left out: {error}")
    side.close()
    sides.remove(side)


def start_peers(sides, options, python, network, alpha, bf16):
    """Adds to `sides` before it waits, so that whoever closes them knows all processes there are."""
    for name, masked, precision in PEERS:
        if precision == "bf16" and not bf16:
            continue
        peer = Peer(options, python, network, alpha, name, masked, precision)
        sides.append(peer)
        try:
            peer.prepare()
            log(f"{network}: {peer.version}, {precision}: batch {peer.batch}")
        except PeerError as error:
            drop(sides, peer, network, error)


def run_rounds(options, python, network, alpha, bf16):
    """All sides of a network that lasted, measured. coar first."""
    sides = [Coar(options, network, alpha)]
    try:
        if python:
            start_peers(sides, options, python, network, alpha, bf16)
        for number in range(options.rounds):
            for side in list(sides):
                try:
                    side.measure(options.seconds)
                except PeerError as error:
                    drop(sides, side, network, error)
            log(f"{network} round {number + 1}: " + ", ".join(f"{s.name} {digits(s.rates[-1])}" for s in sides))
    finally:
        for side in sides:
            side.close()
    return sides


# -------------------------------------------------------------------------------------------------- the table


def digits(value):
    """Three significant digits at least."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def cell(side):
    """The median, and the least and the greatest of the rounds."""
    if not side:
        return "-"
    return f"{digits(statistics.median(side.rates))} ({digits(min(side.rates))} to {digits(max(side.rates))})"


def fastest(sides):
    return max(sides, key=lambda s: statistics.median(s.rates), default=None)


def ratio(coar, other):
    return f"{statistics.median(coar.rates) / statistics.median(other.rates):.2f}" if other else "-"


@dataclasses.dataclass
class Row:
    """A network's sides, and those among them that coar is compared with."""

    network: str
    alpha: float
    sides: list

    def __post_init__(self):
        self.coar, peers = self.sides[0], self.sides[1:]
        bf16 = self.coar.precision != "fp32"
        # bf16 is compared with whatever is fastest, fp32 with fp32
        masked = [s for s in peers if s.masked and (bf16 or s.precision == "fp32")]
        dense = {kind: fastest([s for s in peers if s.name.split("-")[0] == kind and
                                s.precision == ("bf16" if bf16 and kind != "onnxruntime" else "fp32")])
                 for kind in ("torch.compile", "onnxruntime", "openvino")}
        self.masked, self.dense = fastest(masked), dense
        self.best_dense = fastest([s for s in dense.values() if s])

    def text(self):
        coar = self.coar
        words = [NETWORKS[self.network][0], max(f"{self.alpha:.2f}", f"{self.alpha:g}", key=len).lstrip("0"), coar.precision, cell(coar),
                 f"{100 * coar.median('peak_fraction'):.0f} %", f"{100 * coar.median('executed_fraction'):.0f} %",
                 cell(self.masked), ratio(coar, self.masked), *map(cell, self.dense.values()),
                 ratio(coar, self.best_dense)]
        return "| " + " | ".join(words) + " |"


HEADS = ["network", "alpha", "coar in", "coar, masked images/s (of GPT-2 texts/s)", "of peak, dense flops", "executed",
         "PyTorch's masked procedure", "coar / PyTorch", "torch.compile, dense", "ONNX Runtime, dense",
         "OpenVINO, dense", "coar / fastest dense"]


def peaks(rows):
    """Measured, in each precision that coar ran in."""
    found = {}
    for row in rows:
        found.setdefault(row.coar.precision, []).append(row.coar.median("peak_flops"))
    return " and ".join(f"{statistics.median(flops) / 1e9:.0f} GFLOP/s in {precision}"
                        for precision, flops in found.items())


def table(rows, options, name):
    machine = rows[0].coar
    versions = sorted({s.version for r in rows for s in r.sides[1:]})
    lines = [f"{name}, {options.threads} threads, {machine.version} kernels, "
             f"measured peak {peaks(rows)}, measured memory bandwidth {machine.median('bandwidth') / 1e9:.0f} GB/s; "
             f"{datetime.date.today():%d %B %Y}. {', '.join(versions) or 'No peers'}. Medians of "
             f"{options.rounds} interleaved rounds of {options.seconds:g} s, in brackets the slowest and the fastest."]
    lines += ["", "| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    return "\n".join(lines + [r.text() for r in rows])


def around_markers(path):
    """What a file has before and behind the place for the table."""
    try:
        with open(path) as file:
            before, first, rest = file.read().partition(MARKERS[0])
    except OSError as error:
        sys.exit(f"throughput: --write: {error}")
    _, second, after = rest.partition(MARKERS[1])
    if not first or not second:
        sys.exit(f"throughput: --write: {path} lacks the lines '{MARKERS[0]}' and '{MARKERS[1]}'")
    return before, after


def write_between_markers(path, text):
    before, after = around_markers(path)
    with open(path + ".tmp", "w") as file:
        file.write(f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{after}")
    os.replace(path + ".tmp", path)


def record(rows, name, path):
    sides = [{"network": r.network, "alpha": r.alpha, "side": s.name, "version": s.version, "precision": s.precision,
              "batch": s.batch, "rates": s.rates} for r in rows for s in r.sides]
    with open(path, "w") as file:
        json.dump({"machine": name, "date": f"{datetime.date.today()}", "sides": sides}, file, indent=1)


def at_least_one(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 on")
    return int(text)


def coar_of(build):
    """The program in the folder, which must be there."""
    path = os.path.join(build, "coar")
    if not os.access(path, os.X_OK):
        sys.exit(f"{path}: no such program; make it first")
    return path


def exit_on_signals():
    """Interrupts end the script as errors do: what it started is closed. Then no second one is listened to."""
    interrupts = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

    def leave(number, _):
        for other in interrupts:
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in interrupts:
        signal.signal(number, leave)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", help="folder of the coar binary")
    parser.add_argument("--peers", action="store_true", help="also everybody else")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="of " + ", ".join(NETWORKS))
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of one measurement")
    parser.add_argument("--threads", type=at_least_one, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--alpha", type=float, help="the paper's for each network")
    parser.add_argument("--precision", default="auto", help="of coar")
    parser.add_argument("--isa", default=os.environ.get("COAR_ISA") or None,
                        help="instruction set of coar; avx2 holds PyTorch to it as well")
    parser.add_argument("--write", metavar="FILE", help="put the table between the markers of this file")
    parser.add_argument("--json", metavar="FILE", help="every round's figures")
    options = parser.parse_args()
    networks = options.networks.split(",")
    for network in networks:
        if network not in NETWORKS:
            parser.error(f"--networks: '{network}' is none of {', '.join(NETWORKS)}")

    if options.write:
        around_markers(options.write)  # rather now than after an hour

    coar_of(options.build)
    exit_on_signals()
    name, flags = processor()
    # with other instruction sets coar emulates bf16, which is not to be compared with anybody's
    bf16 = bool({"avx512_bf16", "amx_bf16"} & set(flags)) and options.isa in (None, "avx512bf16")
    python = peers_python(options.build) if options.peers else None
    rows = []
    for network in networks:
        alpha = options.alpha or NETWORKS[network][1]
        rows.append(Row(network, alpha, run_rounds(options, python, network, alpha, bf16)))
        text = table(rows, options, name)  # after each network: what there is survives an interrupt
        if options.write:
            write_between_markers(options.write, text)
        if options.json:
            record(rows, name, options.json)
    print(text)


if __name__ == "__main__":
    main()
