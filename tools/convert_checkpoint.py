#!/usr/bin/env python3
"""Makes a safetensors file that coar reads from a PyTorch checkpoint (needs PyTorch).

    python3 tools/convert_checkpoint.py CHECKPOINT.pth OUT.safetensors [key=value ...]

CHECKPOINT: a state dict, or a dictionary that holds one as state_dict, model_state_dict or model. Tensors become fp32, their
names stay (but for a leading `module.` of DataParallel), counters of BatchNorm are left out. It is loaded without running
code from it (weights_only), so a pickled model is refused: save its state_dict() first.

key=value: metadata for coar (docs/commands.md, --arch), for example heads=12 mean=.485,.456,.406 std=.229,.224,.225.
"""
import json
import struct
import sys


def write_safetensors(path, tensors, metadata, half=False):
    """fp32 or fp16, in the dictionary's order, the same bytes each time (the format's own library shuffles the metadata)."""
    header, end = {"__metadata__": metadata}, 0
    kind, bytes, dtype = ("F16", 2, "<f2") if half else ("F32", 4, "<f4")
    for name, tensor in tensors.items():
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [end, end + bytes * tensor.numel()]}
        end += bytes * tensor.numel()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.float().contiguous().numpy().astype(dtype).tobytes())


def state_dict(checkpoint):
    import torch

    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    tensors = {}
    for name, value in checkpoint.items():
        if not isinstance(value, torch.Tensor):
            sys.exit(f"convert_checkpoint: '{name}' is no tensor: this is no state dict")
        if not name.endswith("num_batches_tracked"):
            tensors[name.removeprefix("module.")] = value.detach()
    return tensors


def main():
    if len(sys.argv) < 3 or not all("=" in word for word in sys.argv[3:]):
        print(__doc__, file=sys.stderr)
        return 2
    import torch

    checkpoint = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, dict):
        sys.exit(f"convert_checkpoint: {sys.argv[1]} holds no dictionary of tensors")
    tensors = state_dict(checkpoint)
    write_safetensors(sys.argv[2], tensors, {"format": "pt"} | dict(word.split("=", 1) for word in sys.argv[3:]))
    print(f"{sys.argv[2]}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} numbers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
