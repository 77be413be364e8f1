#!/usr/bin/env python3
"""Makes tests/golden/digits/NET-baselines.npy: the paper's baselines in doubles (needs PyTorch and safetensors).

    python3 tools/golden_baselines.py

f32 [4, 4, n] for NET = resnet (n = 180) and vit (n = 896): baselines loo, gp, nc, ii (docs/design.md, section 7) x the first
four examples of examples.npy x components; the output is the margin. Written from the definitions, not from masks:
    loo  margin less the margin with the component's weight row set to zero
    gp   sum over the row's weights of weight times derivative of the margin
    nc   sum over positions p and steps s < 50 of g_p(s + 1) (y_p(s + 1) - y_p(s)); y_p(s) is the row's output at position p for
         s/50 of the normalised image, g_p the derivative of the margin with respect to it
    ii   sum over positions p and steps s = 1 .. 50 of g_p(s) / 50
A row's bias is part of y here: it changes neither g nor differences of y.
"""
import numpy as np
import torch

from digits_nets import NETS
from golden_digits import FOLDER, load, margins

EXAMPLES, STEPS = 4, 50


def margin_of(logits, label):
    return logits[:, label] - logits[:, [k for k in range(logits.shape[1]) if k != label]].amax(1)


def gradient_times_weight(net, x, label):
    parameters = dict(net.named_parameters())
    net.zero_grad()
    margin_of(net(x), label).sum().backward()
    scores = []
    for name, row, count in net.components():
        weight = parameters[name]
        scores.append((weight * weight.grad)[row : row + count].flatten(1).sum(1).detach())
    return torch.cat(scores)


def site_of(net, tensor):
    """The module whose output is the rows' output, and the axis that they are on."""
    owner = tensor.rsplit(".", 1)[0]
    module = net.get_submodule(owner + ".rows" if tensor.endswith("in_proj_weight") else owner)
    return module, 1 if isinstance(module, torch.nn.Conv2d) else 2


def path_scores(net, x, label):
    """Conductance and influence along STEPS steps from the zero image to x [1, C, H, W]."""
    outputs, handles = {}, []
    for tensor in {name for name, _, _ in net.components()}:
        module, axis = site_of(net, tensor)

        def keep(module, inputs, output, tensor=tensor, axis=axis):
            output.retain_grad()
            outputs[tensor] = output, axis

        handles.append(module.register_forward_hook(keep))
    path = torch.arange(STEPS + 1).double()[:, None, None, None] / STEPS * x
    margin_of(net(path), label).sum().backward()
    for handle in handles:
        handle.remove()
    conductance, influence = [], []
    for tensor, row, count in net.components():
        output, axis = outputs[tensor]
        y, g = (t.detach().movedim(axis, 1)[:, row : row + count].flatten(2) for t in (output, output.grad))
        conductance.append((g[1:] * (y[1:] - y[:-1])).sum((0, 2)))
        influence.append(g[1:].sum((0, 2)) / STEPS)
    return torch.cat(conductance), torch.cat(influence)


def leave_one_out(net, x, label):
    n = sum(count for _, _, count in net.components())
    masks = np.ones((n + 1, n), bool)
    masks[np.arange(n), np.arange(n)] = False
    labels = torch.tensor([label])
    with torch.no_grad():
        values = np.concatenate([margins(net, x, labels, mask) for mask in masks])
    return torch.from_numpy(values[-1] - values[:-1])


def main():
    examples = np.load(f"{FOLDER}/examples.npy")[:EXAMPLES]
    images = np.load("data/digits-images.npy")[examples].astype(np.float64) / 255
    labels = np.load("data/digits-labels.npy")[examples].astype(int)
    for name in NETS:
        net, mean, std = load(name)
        pixels = torch.from_numpy((images - mean) / std).permute(0, 3, 1, 2)
        scores = []
        for x, label in zip(pixels.split(1), labels):
            conductance, influence = path_scores(net, x, label)
            scores.append(torch.stack([leave_one_out(net, x, label), gradient_times_weight(net, x, label), conductance,
                                       influence]))
        scores = torch.stack(scores, 1).float().numpy()
        np.save(f"{FOLDER}/{name}-baselines.npy", scores)
        print(f"{name}: largest score of loo, gp, nc, ii", np.abs(scores).max((1, 2)))


if __name__ == "__main__":
    main()
