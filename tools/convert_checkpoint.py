#!/usr/bin/env python3
"""Converts a PyTorch checkpoint (.pt, .pth, .bin) to a safetensors file that coar reads. Optional; needs torch and
safetensors.

    tools/convert_checkpoint.py CHECKPOINT OUTPUT.safetensors [KEY=VALUE ...]

The checkpoint is a state_dict, or a dict that holds one under state_dict, model or model_state_dict. A prefix `module.`
(DataParallel) or `_orig_mod.` (torch.compile) is removed from the names. It is loaded with weights_only=True, so a
hostile file cannot run code; checkpoints that pickle whole models must be saved again as a state_dict.

KEY=VALUE pairs become the file's metadata, where coar looks for what names and shapes do not tell:
    heads=12 ln_eps=1e-6 bn_eps=1e-5 activation=gelu mean=.485,.456,.406 std=.229,.224,.225

Tensors that share memory are written once each under every name they have; fp16, bf16, fp32 and fp64 stay as they are.
"""
import argparse
import os
import sys

import torch
from safetensors.torch import save_file

NESTED = ("state_dict", "model", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.")
KEYS = ("heads", "ln_eps", "bn_eps", "activation", "pool", "mean", "std", "image")


def state_dict_of(checkpoint):
    """The innermost dict of tensors."""
    while isinstance(checkpoint, dict):
        inner = next((checkpoint[k] for k in NESTED if isinstance(checkpoint.get(k), dict)), None)
        if inner is None:
            break
        checkpoint = inner
    if not isinstance(checkpoint, dict) or not checkpoint:
        raise SystemExit("error: the checkpoint holds no state_dict")
    others = [k for k, v in checkpoint.items() if not isinstance(v, torch.Tensor)]
    if others:
        raise SystemExit(f"error: '{others[0]}' is not a tensor: is this a state_dict?")
    return checkpoint


def without_prefix(name):
    prefix = next((p for p in PREFIXES if name.startswith(p)), None)
    return without_prefix(name[len(prefix) :]) if prefix else name


def metadata_of(pairs):
    metadata = {"format": "pt"}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in KEYS:
            raise SystemExit(f"error: '{pair}' is not KEY=VALUE with KEY one of {', '.join(KEYS)}")
        metadata[key] = value
    return metadata


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("output")
    parser.add_argument("metadata", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    metadata = metadata_of(arguments.metadata)
    state = state_dict_of(torch.load(arguments.checkpoint, map_location="cpu", weights_only=True))
    tensors = {}
    for name, tensor in state.items():
        short = without_prefix(name)
        if short in tensors:
            raise SystemExit(f"error: '{name}' and another tensor would both be called '{short}'")
        tensors[short] = tensor.detach().clone().contiguous()  # a copy: safetensors refuses shared memory
    temporary = f"{arguments.output}.tmp.{os.getpid()}"
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, arguments.output)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    print(f"{arguments.output}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values())} elements", file=sys.stderr)


if __name__ == "__main__":
    main()
