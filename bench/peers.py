#!/usr/bin/env python3
"""One peer that coar bench is compared with, as a process that measures when it is told to (bench/throughput.py).

  peers.py --network resnet20 --peer pytorch --alpha 0.1 --threads 2

Sets itself up (compiles, tries batch sizes, keeps the fastest), prints one line of JSON that says what it is, then for
every line of standard input, a number of seconds, measures for that long and prints one line of JSON with
`images_per_second`. Ends with its input.

  pytorch, pytorch-autocast, pytorch-bf16       the reference's procedure, ablated, a new mask every --images examples;
                                                inference mode, channels_last; fp32, bf16 autocast, model.to(bfloat16)
  torch.compile, torch.compile-bf16             dense: nothing ablated, weights frozen into the code
  onnxruntime, openvino, openvino-bf16          dense
"""
import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time

import torch

import networks

TRIAL_SECONDS = 0.5  # twice; where the first step takes four times as long, that is the trial


@dataclasses.dataclass
class Batches:
    """Sizes that are tried: of each side the best counts. Dense peers are compiled for each of theirs."""

    masked: tuple
    dense: tuple
    per_mask: int  # examples, as coar bench has them


def batches_of(network):
    if network.tokens:
        return Batches((1, 2, 4, 8), (1, 2, 4), 32)
    if network.side == 32:
        return Batches((8, 16, 32, 64, 100, 200), (8, 32, 100), 200)
    return Batches((4, 8, 16, 32), (4, 8, 16), 64)


class Masked:
    """PyTorch doing what coar does. A step is one mask."""

    def __init__(self, options, kind):
        network = networks.build(options.network)
        batches = batches_of(network)
        count = options.images or batches.per_mask
        self.net, self.masked = network.net, network.masked
        self.alpha, self.images_per_step = options.alpha, count
        self.batches = [b for b in batches.masked if b <= count]
        if kind == "bf16":
            self.net = self.net.to(torch.bfloat16)  # in place: masked still holds
        self.inputs, self.labels = network.examples(count, torch.bfloat16 if kind == "bf16" else torch.float32)
        self.autocast = kind == "autocast"
        self.version = "PyTorch " + torch.__version__

    def step(self, batch):
        rows = sum(len(w) for w in self.masked)
        cast = torch.autocast("cpu", torch.bfloat16) if self.autocast else contextlib.nullcontext()

        def one():
            with torch.inference_mode(), cast:
                networks.ablated_pass(self.net, self.masked, torch.rand(rows) >= self.alpha, self.inputs, self.labels,
                                      batch)

        return one, self.images_per_step


class Compiled:
    """torch.compile. A step is one batch."""

    def __init__(self, options, kind):
        import torch._inductor.config

        torch._inductor.config.freezing = True  # weights are constants: folded and laid out beforehand
        self.network = networks.build(options.network)
        self.type = torch.bfloat16 if kind == "bf16" else torch.float32
        self.net = torch.compile(self.network.net.to(self.type), dynamic=False)
        self.batches = batches_of(self.network).dense
        self.version = "PyTorch " + torch.__version__

    def step(self, batch):
        inputs, _ = self.network.examples(batch, self.type)

        def one():
            with torch.no_grad():  # as freezing wants it
                self.net(inputs)

        return one, batch


@contextlib.contextmanager
def exported(network):
    """The path of the network as ONNX, batch size free; the file, of hundreds of megabytes, is gone afterwards."""
    inputs, _ = network.examples(2)
    with tempfile.TemporaryDirectory(prefix="coar-bench-") as folder:
        path = os.path.join(folder, "net.onnx")
        with contextlib.redirect_stdout(sys.stderr):  # whatever it says is no answer of ours
            torch.onnx.export(network.net, (inputs,), path, input_names=["inputs"], dynamo=True, verbose=False,
                              external_data=False, dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},))
        yield path


class OnnxRuntime:
    def __init__(self, options, kind):
        import onnxruntime

        self.network = networks.build(options.network)
        with exported(self.network) as path, open(path, "rb") as file:
            self.model = file.read()
        self.threads, self.batches = options.threads, batches_of(self.network).dense
        self.version = "ONNX Runtime " + onnxruntime.__version__

    def step(self, batch):
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = self.threads
        settings.log_severity_level = 3
        settings.add_free_dimension_override_by_name("batch", batch)
        session = onnxruntime.InferenceSession(self.model, settings, providers=["CPUExecutionProvider"])
        inputs = {"inputs": self.network.examples(batch)[0].numpy()}
        return lambda: session.run(None, inputs), batch


class OpenVino:
    """Each batch size in both ways it has of using threads: all on one batch, or several batches at once."""

    def __init__(self, options, kind):
        import openvino

        self.network = networks.build(options.network)
        self.core = openvino.Core()
        with exported(self.network) as path:
            self.model = self.core.read_model(path)
        self.settings = {"INFERENCE_NUM_THREADS": options.threads,
                         "INFERENCE_PRECISION_HINT": "bf16" if kind == "bf16" else "f32"}
        self.batches = [(b, hint) for b in batches_of(self.network).dense for hint in ("LATENCY", "THROUGHPUT")]
        self.version = "OpenVINO " + openvino.__version__.split("-")[0]

    def step(self, batch):
        import openvino

        size, hint = batch
        inputs = self.network.examples(size)[0].numpy()
        self.model.reshape(list(inputs.shape))
        compiled = self.core.compile_model(self.model, "CPU", {**self.settings, "PERFORMANCE_HINT": hint})
        if hint == "LATENCY":
            request = compiled.create_infer_request()
            return lambda: request.infer([inputs], share_inputs=True), size
        queue = openvino.AsyncInferQueue(compiled)

        def one():
            for _ in range(len(queue)):
                queue.start_async([inputs], share_inputs=True)
            queue.wait_all()

        return one, size * len(queue)


PEERS = {"pytorch": (Masked, "fp32"), "pytorch-autocast": (Masked, "autocast"), "pytorch-bf16": (Masked, "bf16"),
         "torch.compile": (Compiled, "fp32"), "torch.compile-bf16": (Compiled, "bf16"),
         "onnxruntime": (OnnxRuntime, "fp32"), "openvino": (OpenVino, "fp32"), "openvino-bf16": (OpenVino, "bf16")}


def rate(seconds, step, images):
    """Images per second over at least `seconds`."""
    steps, start = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - start < seconds:
        step()
        steps += 1
    return steps * images / (time.perf_counter() - start)


def fastest(peer):
    """(batch, its step, images of a step): tried in turn; the first call of each compiles or plans. Those that are
    behind are dropped at once, with the memory they hold."""
    best = None
    for batch in peer.batches:
        step, images = peer.step(batch)
        trial = rate(0, step, images)
        if images / trial < 4 * TRIAL_SECONDS:
            trial = max(rate(TRIAL_SECONDS, step, images) for _ in range(2))
        if best is None or trial > best[0]:
            best = trial, batch, step, images
    return best[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", required=True)
    parser.add_argument("--peer", required=True, choices=PEERS)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--images", type=int, help="images per mask (200 at 32x32, 64 at 224x224), or texts (32)")
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not by the signal itself, which would leave files behind
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    kind, precision = PEERS[options.peer]
    peer = kind(options, precision)
    batch, step, images = fastest(peer)
    print(json.dumps({"peer": options.peer, "version": peer.version, "batch": batch}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"images_per_second": rate(float(line), step, images)}), flush=True)


if __name__ == "__main__":
    main()
