#!/usr/bin/env python3
"""Edited weights by numpy alone: edited_weights.py RUN EDIT ORIGINAL EDITED; prints what is wrong, nothing else.

The header must be the same to the byte, every tensor the original one but for the components of /edits/EDIT: of filters the
rows of GROUP.weight, of a torchvision ViT's heads the columns of the output projection.
"""
import json
import sys

import h5py
import numpy as np

TYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8"}


def read(path):
    """The header's bytes, and the tensors by name."""
    data = open(path, "rb").read()
    end = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:end]).items():
        if name == "__metadata__":
            continue
        begin, stop = (end + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:stop], TYPES[entry["dtype"]]).reshape(entry["shape"]).copy()
    return data[:end], tensors


def ablate(tensors, group, kind, index):
    if kind == "filter":
        tensors[f"{group}.weight"][index] = 0
    else:
        block = group.split(".")[1]
        columns = tensors[f"encoder.layers.encoder_layer_{block}.self_attention.out_proj.weight"]
        width = columns.shape[1] // 4
        columns[:, index * width : (index + 1) * width] = 0


def main(run, edit, original, edited):
    (header, expected), (other, tensors) = read(original), read(edited)
    if header != other:
        print("the headers differ")
    with h5py.File(run) as f:
        attributes = f[f"edits/{edit}"].attrs
        chosen = f[f"edits/{edit}/order"][: int(attributes["k"])]
        for name, kind, _, first, count in f["components"][()]:
            for component in chosen:
                if first <= component < first + count:
                    ablate(expected, name.decode(), kind.decode(), int(component - first))
    if len(chosen) == 0:
        print("no component was edited")
    for name, values in expected.items():
        if not np.array_equal(values, tensors[name]):
            print(f"{name} is not what the edit says")


main(*sys.argv[1:])
