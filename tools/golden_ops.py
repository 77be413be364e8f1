#!/usr/bin/env python3
"""Makes tests/golden/ops/*.npy: what PyTorch says about every op and its derivatives, for tests/unit/golden_ops.c.

    python3 tools/golden_ops.py [tests/golden/ops]

Needs PyTorch; the files are committed, so the tests do not. Arithmetic is float64 on float32 numbers. Each file is one
case, a flat float64 array of these pieces in this order, those that the case has:

    inputs (one, or q, k, v)   weight   scale   shift   residual   keep   fill   expected
    dy   and the derivatives of sum(dy * expected) by: inputs   residual   keep   fill

Values are in the engine's layout [positions][channels]; weights are [O][I][kernel_h][kernel_w]. The table at the end
is the twin of `cases` in tests/unit/golden_ops.c.
"""
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
ACTIVATIONS = {
    "none": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quickgelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def numbers(rng, *shape):
    """Random normal float32 numbers as float64, to be differentiated by."""
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32).astype(np.float64)).requires_grad_()


def image(x):
    """[1, C, H, W] to the engine's [H, W, C]."""
    return x[0].permute(1, 2, 0)


def golden(rng, arrays, y, inputs, layout=lambda x: x, residual=None, mask=None):
    """The pieces of a file. `layout`: from an input's layout to the engine's."""
    dy = numbers(rng, *y.shape)
    others = ([] if residual is None else [residual]) + (mask.arrays() if mask else [])
    found = torch.autograd.grad(y, inputs + others, dy)
    return arrays + [y, dy] + [layout(d) for d in found[: len(inputs)]] + list(found[len(inputs) :])


class Mask:
    """keep: one of 0, 1/2, 1, 2 for each component in turn; x becomes k x + (1 - k) fill, channels in the last dimension."""

    def __init__(self, rng, place, channels, width, fill):
        self.place = place
        if place is None:
            return
        levels = torch.tensor([0.0, 1.0, 0.5, 2.0])
        self.keep = levels[torch.arange(channels // width) % 4].requires_grad_()
        self.fill = numbers(rng, channels) if fill else None
        self.k = self.keep.repeat_interleave(width)
        self.c = self.fill if fill else torch.zeros(channels)

    def at(self, place, x):
        return self.k * x + (1 - self.k) * self.c if self.place == place else x

    def arrays(self):
        if self.place is None:
            return []
        return [self.keep] + ([] if self.fill is None else [self.fill])


def conv(rng, h, w, c, out, kernel, stride, pad, act="none", scale=True, shift=True, residual=False, place=None, width=1,
         fill=False):
    kh, kw = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    x, weight = numbers(rng, 1, c, h, w), numbers(rng, out, c, kh, kw)
    y = image(F.conv2d(x, weight, stride=stride, padding=pad))
    arrays = [image(x), weight]
    mask = Mask(rng, place, out, width, fill)
    y = mask.at("pre", y)
    if scale:
        arrays.append(numbers(rng, out))
        y = y * arrays[-1]
    if shift:
        arrays.append(numbers(rng, out))
        y = y + arrays[-1]
    y = mask.at("post", y)
    added = None
    if residual:
        added = numbers(rng, *y.shape)
        arrays.append(added)
        y = y + added
    y = mask.at("out", ACTIVATIONS[act](y))
    return golden(rng, arrays + mask.arrays(), y, [x], image, added, mask)


def pool(rng, function, h, w, c, kernel, **options):
    x = numbers(rng, 1, c, h, w)
    return golden(rng, [image(x)], image(function(x, kernel, **options)), [x], image)


def subsample(rng, h, w, c, out, stride, before):
    x = numbers(rng, 1, c, h, w)
    y = image(F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, before, out - c - before)))
    return golden(rng, [image(x)], y, [x], image)


def embed(rng, h, w, c):
    x, weight = numbers(rng, h * w, c), numbers(rng, h * w + 1, c)
    return golden(rng, [x, weight], torch.cat([torch.zeros(1, c), x]) + weight, [x])


def mean_token(rng, h, w, c):
    x, weight = numbers(rng, h * w, c), numbers(rng, h * w + 1, c)
    return golden(rng, [x, weight], torch.cat([x.mean(0, keepdim=True), x]) + weight, [x])


def normalise(rng, tokens, c):
    x = numbers(rng, tokens, c)
    return golden(rng, [x], F.normalize(x, dim=-1), [x])


def layernorm(rng, tokens, c, eps, affine=True, place=None, fill=False):
    x = (numbers(rng, tokens, c) * 3 + 5).float().double()
    eps = float(np.float32(eps))
    gamma, beta = (numbers(rng, c), numbers(rng, c)) if affine else (None, None)
    mask = Mask(rng, place, c, 1, fill)
    y = mask.at("out", F.layer_norm(x, (c,), gamma, beta, eps))
    return golden(rng, [x] + ([gamma, beta] if affine else []) + mask.arrays(), y, [x], mask=mask)


def attention(rng, tokens, c, heads, place=None, width=1, fill=False):
    q, k, v = (numbers(rng, tokens, c) for _ in range(3))
    split = lambda x: x.reshape(1, tokens, heads, c // heads).transpose(1, 2)
    y = F.scaled_dot_product_attention(split(q), split(k), split(v)).transpose(1, 2).reshape(tokens, c)
    mask = Mask(rng, place, c, width, fill)
    return golden(rng, [q, k, v] + mask.arrays(), mask.at("out", y), [q, k, v], mask=mask)


def select(rng, tokens, c):
    x = numbers(rng, tokens, c)
    return golden(rng, [x], x[0], [x])


CASES = {
    "conv-3x3": lambda r: conv(r, 5, 7, 3, 5, 3, 1, 1, "relu"),
    "conv-3x3-stride-2": lambda r: conv(r, 9, 6, 4, 3, 3, 2, 1, "relu", residual=True),
    "conv-7x7-stride-2": lambda r: conv(r, 11, 8, 3, 2, 7, 2, 3, scale=False),
    "conv-1x1-stride-2": lambda r: conv(r, 5, 6, 7, 4, 1, 2, 0, shift=False),
    "conv-patches": lambda r: conv(r, 8, 12, 3, 6, 4, 4, 0, scale=False),
    "conv-1x3": lambda r: conv(r, 4, 6, 2, 3, (1, 3), 1, 0),
    "conv-pad-0": lambda r: conv(r, 6, 5, 2, 3, 3, 1, 0, scale=False, shift=False),
    "conv-5x5-pad-1-stride-3": lambda r: conv(r, 10, 9, 2, 3, 5, 3, 1),
    "linear-gelu": lambda r: conv(r, 1, 5, 6, 9, 1, 1, 0, "gelu", scale=False),
    "linear-gelu-tanh": lambda r: conv(r, 1, 5, 6, 9, 1, 1, 0, "gelu_tanh", scale=False),
    "linear-quickgelu": lambda r: conv(r, 1, 5, 6, 9, 1, 1, 0, "quickgelu", scale=False),
    "mask-pre": lambda r: conv(r, 4, 3, 3, 7, 3, 1, 1, "relu", residual=True, place="pre"),
    "mask-pre-fill": lambda r: conv(r, 4, 3, 3, 7, 3, 1, 1, "relu", residual=True, place="pre", fill=True),
    "mask-post": lambda r: conv(r, 4, 3, 3, 8, 3, 1, 1, "relu", residual=True, place="post", width=2),
    "mask-post-branch": lambda r: conv(r, 4, 3, 3, 5, 3, 1, 1, "relu", residual=True, place="post", width=5, fill=True),
    "mask-out": lambda r: conv(r, 1, 4, 3, 7, 1, 1, 0, "gelu", scale=False, place="out"),
    "mask-out-fill": lambda r: conv(r, 1, 4, 3, 7, 1, 1, 0, "gelu", residual=True, place="out", fill=True),
    "maxpool-3x3-stride-2": lambda r: pool(r, F.max_pool2d, 7, 10, 3, 3, stride=2, padding=1),
    "maxpool-2x2": lambda r: pool(r, F.max_pool2d, 5, 5, 2, 2, stride=2),
    "avgpool-global": lambda r: pool(r, F.avg_pool2d, 5, 3, 4, (5, 3)),
    "avgpool-2x2": lambda r: pool(r, F.avg_pool2d, 7, 6, 3, 2, stride=2),
    "subsample": lambda r: subsample(r, 5, 6, 3, 8, 2, 2),
    "embed": lambda r: embed(r, 2, 3, 5),
    "layernorm": lambda r: layernorm(r, 4, 7, 1e-5),
    "layernorm-plain": lambda r: layernorm(r, 3, 6, 1e-2, affine=False),
    "layernorm-mask": lambda r: layernorm(r, 4, 9, 1e-6, place="out", fill=True),
    "attention": lambda r: attention(r, 5, 6, 2),
    "attention-mask-rows": lambda r: attention(r, 7, 6, 3, place="out"),
    "attention-mask-heads": lambda r: attention(r, 4, 12, 4, place="out", width=3, fill=True),
    "select": lambda r: select(r, 4, 5),
    "mean-token": lambda r: mean_token(r, 2, 3, 5),
    "normalise": lambda r: normalise(r, 4, 7),
}


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/golden/ops"
    os.makedirs(folder, exist_ok=True)
    for seed, (name, make) in enumerate(CASES.items()):
        arrays = make(np.random.default_rng(seed))
        flat = np.concatenate([a.detach().reshape(-1).numpy() for a in arrays])
        np.save(os.path.join(folder, name + ".npy"), flat)


if __name__ == "__main__":
    main()
