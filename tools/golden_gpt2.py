#!/usr/bin/env python3
"""Writes the GPT-2 part of tests/golden/models: a tiny language model with random weights, and what PyTorch computes with
components ablated. Files and names of their parts are those of tools/golden_models.py, but for

    tools/golden_gpt2.py [FOLDER]          needs torch, numpy and safetensors; PyTorch's own layers do the arithmetic

images-tokens.npy       the E texts, i32 [E, T]; labels are their lengths, and what lies behind a text is random
gpt2.safetensors        weights in Hugging Face's names, [in, out]; gpt2_prefixed: the same with `transformer.` before
                        them, the tensors of the causal mask, and the head as a tensor of its own
...-golden              also the losses under zero ablation as SET.loss
...-gradients           also d loss / d keep with zero ablation as SET.loss

The output of a text is the mean over its positions but the last (docs/design.md, section 2).
"""
import copy
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from golden_models import EXAMPLES, LEVELS, MASKS, Site, ablate, sites_of
from safetensors.torch import save_file
from torch import nn

VOCABULARY, CONTEXT, TOKENS, WIDTH, HEADS, DEPTH = 29, 16, 11, 12, 3, 2
LENGTHS = [11, 8, 2, 11, 5]
SETS = ("neurons", "heads", "blocks")


class Conv1D(nn.Module):
    """x W + b, W [in, out]; the Site stands before the product: its channels are the rows of W."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.empty(outputs))
        self.site = Site("neurons", inputs, axis=-1)

    def forward(self, x):
        return self.site(x) @ self.weight + self.bias


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_attn, self.c_proj = Conv1D(WIDTH, 3 * WIDTH), Conv1D(WIDTH, WIDTH)
        self.heads = Site("heads", HEADS, WIDTH // HEADS, axis=-1)

    def forward(self, x):
        q, k, v = [y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in self.c_attn(x).split(WIDTH, -1)]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.c_proj(self.heads(y))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_fc, self.c_proj = Conv1D(WIDTH, 4 * WIDTH), Conv1D(4 * WIDTH, WIDTH)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH, 1e-5), nn.LayerNorm(WIDTH, 1e-5)
        self.attn, self.mlp = Attention(), Mlp()
        self.attn_branch, self.mlp_branch = [Site("blocks", 1, WIDTH, axis=-1) for _ in range(2)]

    def forward(self, x):
        x = x + self.attn_branch(self.attn(self.ln_1(x)))
        return x + self.mlp_branch(self.mlp(self.ln_2(x)))


class Gpt2(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.h = nn.ModuleList(Block() for _ in range(DEPTH))
        self.ln_f = nn.LayerNorm(WIDTH, 1e-5)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.T


def prefixed(state):
    """What a GPT2LMHeadModel of Hugging Face's older versions saves."""
    out = {f"transformer.{name}": values for name, values in state.items()}
    out["lm_head.weight"] = state["wte.weight"].clone()
    for i in range(DEPTH):
        out[f"transformer.h.{i}.attn.bias"] = torch.ones(CONTEXT, CONTEXT, dtype=torch.uint8).tril()[None, None]
        out[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    return out


def load(tensors):
    """The network of a file of either kind; any other tensor is an error, and so is a head that is not the embedding."""
    state = {name.removeprefix("transformer."): values for name, values in tensors.items()}
    assert torch.equal(state.pop("lm_head.weight", state["wte.weight"]), state["wte.weight"])
    model = Gpt2()
    model.load_state_dict({k: v for k, v in state.items() if not k.endswith((".attn.bias", ".attn.masked_bias"))})
    return model


def randomise(model, generator):
    """Weights as large as a trained network's, so that ablations show."""
    for name, p in model.named_parameters():
        if "ln_" in name and name.endswith("weight"):
            p.data.uniform_(0.6, 1.4, generator=generator)
        elif name.endswith("bias"):
            p.data.uniform_(-0.3, 0.3, generator=generator)
        else:
            p.data.normal_(0, 0.5, generator=generator)


def outputs(model, tokens, lengths):
    """Margins and losses [E]: means over positions 0 .. length - 2 of what each says of the next token."""
    logits, following = model(tokens)[:, :-1], tokens[:, 1:]
    own = logits.gather(2, following[..., None])[..., 0]
    largest = logits.scatter(2, following[..., None], -torch.inf).max(2).values
    loss = F.cross_entropy(logits.transpose(1, 2), following, reduction="none")
    counts = (torch.arange(TOKENS - 1)[None] < lengths[:, None] - 1).to(own.dtype)
    mean = lambda y: (y * counts).sum(1) / counts.sum(1)
    return mean(own - largest), mean(loss)


def run(model, sites, x, keeps, **how):
    rows = []
    for k in keeps:
        ablate(sites, k, **how)
        rows.append(torch.stack(outputs(model, *x)))
    for site in sites:
        site.keep = None
    return torch.stack(rows, 1)


def check_zeroed_rows(model, keeps, expected, x):
    """The published procedure: zero the rows of the weights, then an ordinary forward pass."""
    saved, first = {k: v.clone() for k, v in model.state_dict().items()}, 0
    for module in model.modules():
        if isinstance(module, Conv1D):
            rows = len(module.weight)
            module.weight.data[keeps[first : first + rows] == 0] = 0
            first += rows
    assert first == len(keeps)
    torch.testing.assert_close(outputs(model, *x)[0], expected, rtol=0, atol=1e-5)
    model.load_state_dict(saved)


def golden(model, x, generator):
    out = {"labels": x[1].float()}
    for component_set in SETS:
        sites = sites_of(model, component_set)
        n = sum(s.count for s in sites)
        keeps = (torch.rand(MASKS, n, generator=generator) > 0.25).float()
        keeps[0] = 1
        keeps[1, 0] = keeps[2, -1] = 0
        half = torch.rand(2, n, generator=generator)
        model(x[0])
        means = [s.mean.clone() for s in sites]  # of the unablated model over these examples and all positions
        results = {"scale": run(model, sites, x, keeps, gain=0.3)[0], "mean": run(model, sites, x, keeps, means=means)[0],
                   "half": run(model, sites, x, half)[0], "keeps": keeps, "half_keeps": half}
        results["zero"], results["loss"] = run(model, sites, x, keeps)
        if component_set == "neurons":
            check_zeroed_rows(model, keeps[1], results["zero"][1], x)
        out |= {f"{component_set}.{part}": values for part, values in results.items()}
    return out


def keep_gradient(model, sites, x, e, keeps, which=0, means=None):
    """d output / d keeps [n] of text e; and for each site x and d output / d y."""
    keeps = keeps.clone().requires_grad_()
    ablate(sites, keeps, means=means)
    output = outputs(model, x[0][e : e + 1], x[1][e : e + 1])[which][0]
    gradient, *at_sites = torch.autograd.grad(output, [keeps] + [s.y for s in sites])
    return gradient, [s.x.detach() for s in sites], at_sites


@torch.enable_grad()
def gradients(model, x, generator):
    """Derivatives in float64, one text at a time."""
    model = copy.deepcopy(model).double()
    out = {"labels": x[1]}
    for component_set in SETS:
        sites = sites_of(model, component_set)
        n = sum(s.count for s in sites)
        levels = torch.tensor([0, 0.5, 1, 1])[torch.randint(4, (LEVELS, n), generator=generator)].double()
        levels[0] = 1
        for site in sites:
            site.keep = None
        model(x[0])
        means = [s.mean.detach().clone() for s in sites]
        one = lambda e, k, **how: keep_gradient(model, sites, x, e, k, **how)
        every = lambda **how: torch.stack([torch.stack([one(e, k, **how)[0] for e in range(EXAMPLES)]) for k in levels])
        results = {"levels": levels, "zero": every(), "mean": every(means=means), "loss": every(which=1)}
        influence, conductance, before = [], [], None
        for e in range(EXAMPLES):
            _, xs, dys = one(e, levels[-1])
            dxs = [dy * s.keep.detach() for s, dy in zip(sites, dys)]
            changes = [now - then for now, then in zip(xs, before or xs)]
            influence.append(torch.cat([s.sums(dx) for s, dx in zip(sites, dxs)]))
            conductance.append(torch.cat([s.sums(dx * change) for s, dx, change in zip(sites, dxs, changes)]))
            before = xs
        results["influence"], results["conductance"] = map(torch.stack, (influence, conductance))
        out |= {f"{component_set}.{part}": values for part, values in results.items()}
        for site in sites:
            site.keep = None
    return {name: values.float().contiguous() for name, values in out.items()}


@torch.no_grad()
def main(folder):
    torch.manual_seed(30)
    generator = torch.Generator().manual_seed(31)
    tokens = torch.randint(VOCABULARY, (EXAMPLES, TOKENS), generator=generator)
    x = tokens, torch.tensor(LENGTHS)
    np.save(os.path.join(folder, "images-tokens.npy"), tokens.numpy().astype(np.int32))

    model = Gpt2().eval()
    randomise(model, generator)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    metadata = {"heads": str(HEADS)}
    save_file(state, os.path.join(folder, "gpt2.safetensors"), metadata)
    save_file(prefixed(state), os.path.join(folder, "gpt2_prefixed.safetensors"), metadata)
    save_file(golden(model, x, generator), os.path.join(folder, "gpt2-golden.safetensors"))
    save_file(gradients(model, x, generator), os.path.join(folder, "gpt2-gradients.safetensors"))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/models")
