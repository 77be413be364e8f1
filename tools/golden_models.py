#!/usr/bin/env python3
"""Writes tests/golden/models: tiny networks with random weights, and what PyTorch computes with components ablated.

    tools/golden_models.py [FOLDER]        needs torch, numpy and safetensors; PyTorch's own layers do the arithmetic

NAME.safetensors        weights, in the names of the library that the network stands for
NAME-gradients.safetensors labels [E]; for each component set: SET.levels [L, n] (keeps of 0, 1/2 and 1, the first row all ones),
                        d margin / d keep under them with zero and mean ablation as SET.zero and SET.mean [L, E, n], and
                        under the last of them SET.influence and SET.conductance [E, n] (backend.h); fp32 of float64
NAME-golden.safetensors labels [E]; for each component set: SET.keeps [M, n] (0 and 1, the first row all ones) and the
                        margins [M, E] under zero, scale (0.3) and mean ablation as SET.zero, SET.scale, SET.mean;
                        SET.half_keeps [2, n] in [0, 1] and SET.half [2, E] (zero ablation); all fp32
images-HxW.npy          the E images, u8 [E, H, W, 3]

A component is ablated where docs/design.md, section 2, says: a Site stands at that place in the forward pass, and turns x
into k x + (1 - k) c per channel. For filters and neurons a row of zeros in the weight file must do the same as the
Site: the script checks that for every network before it writes anything.
"""
import copy
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

EXAMPLES, MASKS, LEVELS, CLASSES = 5, 4, 3, 7
LABELS = torch.arange(EXAMPLES) * 3 % CLASSES


class Site(nn.Module):
    """Identity until somebody sets keep and fill, which are per channel; remembers the mean of x per channel, x and y."""

    def __init__(self, component_set, count, width=1, axis=1):
        super().__init__()
        self.set, self.count, self.width, self.axis = component_set, count, width, axis
        self.keep = self.fill = self.mean = None

    def forward(self, x):
        self.mean = x.mean([d for d in range(x.dim()) if d != self.axis % x.dim()])
        if self.keep is None:
            return x
        shape = [1] * x.dim()
        shape[self.axis] = -1
        self.x, self.y = x, self.keep.view(shape) * x + ((1 - self.keep) * self.fill).view(shape)
        return self.y

    def sums(self, values):
        """[1, ...] with the channels in self.axis: added up over positions and the channels of each component."""
        return values.movedim(self.axis, 0).reshape(self.count, -1).sum(1)


# ------------------------------------------------------------------------------------------------ ResNets


def conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Basic (expansion 1) or bottleneck (expansion 4). `shortcut`: 'downsample', 'shortcut' or None (option A)."""

    def __init__(self, inputs, width, stride, expansion, shortcut):
        super().__init__()
        out = width * expansion
        plan = [(inputs, width, 3, stride), (width, out, 3, 1)]
        if expansion > 1:
            plan = [(inputs, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        self.convs, self.stride, self.extra = len(plan), stride, out - inputs
        for k, (i, o, kernel, s) in enumerate(plan, 1):
            setattr(self, f"conv{k}", conv(i, o, kernel, s))
            setattr(self, f"bn{k}", nn.BatchNorm2d(o))
            setattr(self, f"site{k}", Site("filters", o))
        self.branch = Site("blocks", 1, out)
        self.side = None
        if shortcut and (stride != 1 or inputs != out):
            setattr(self, shortcut, nn.Sequential(conv(inputs, out, 1, stride), nn.BatchNorm2d(out)))
            self.side = shortcut

    def forward(self, x):
        y = x
        for k in range(1, self.convs + 1):
            y = getattr(self, f"bn{k}")(getattr(self, f"site{k}")(getattr(self, f"conv{k}")(y)))
            y = self.branch(y) if k == self.convs else F.relu(y)
        if self.side:
            x = getattr(self, self.side)(x)
        elif self.stride != 1 or self.extra:
            before = self.extra // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra - before))
        return F.relu(x + y)


class ResNet(nn.Module):
    def __init__(self, widths, blocks, stem=3, expansion=1, shortcut="downsample", head="fc"):
        super().__init__()
        self.stages, self.pool, self.head = len(widths), stem == 7, head
        self.conv1 = conv(3, widths[0], stem, 2 if stem == 7 else 1)
        self.bn1, self.site1 = nn.BatchNorm2d(widths[0]), Site("filters", widths[0])
        inputs = widths[0]
        for s, (width, count) in enumerate(zip(widths, blocks), 1):
            layers = []
            for i in range(count):
                layers.append(Block(inputs, width, 2 if s > 1 and i == 0 else 1, expansion, shortcut))
                inputs = width * expansion
            setattr(self, f"layer{s}", nn.Sequential(*layers))
        setattr(self, head, nn.Linear(inputs, CLASSES))

    def forward(self, x):
        x = F.relu(self.bn1(self.site1(self.conv1(x))))
        if self.pool:
            x = F.max_pool2d(x, 3, 2, 1)
        for s in range(1, self.stages + 1):
            x = getattr(self, f"layer{s}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class MiniResNet(nn.Module):
    def __init__(self, planes, blocks):
        super().__init__()
        self.conv1, self.bn1 = conv(3, planes, 3), nn.BatchNorm2d(planes)
        self.site1 = Site("filters", planes)
        self.layer = nn.Sequential(*[Block(planes, planes, 1, 1, None) for _ in range(blocks)])
        self.linear = nn.Linear(16 * planes, CLASSES)

    def forward(self, x):
        x = self.layer(F.relu(self.bn1(self.site1(self.conv1(x)))))
        return self.linear(F.avg_pool2d(x, 8).flatten(1))


# ----------------------------------------------------------------------------------------------------- ViT


class Linear(nn.Linear):
    """The Site stands between the product and the bias."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.site = Site("neurons", outputs, axis=-1)

    def forward(self, x):
        return self.site(F.linear(x, self.weight)) + self.bias


class VitBlock(nn.Module):
    def __init__(self, width, heads, hidden, eps, act=F.gelu):
        super().__init__()
        self.heads, self.act = heads, act
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.q, self.k, self.v, self.out = [Linear(width, width) for _ in range(4)]
        self.fc1, self.fc2 = Linear(width, hidden), Linear(hidden, width)
        self.head_site = Site("heads", heads, width // heads, axis=-1)
        self.attn_branch, self.mlp_branch = [Site("blocks", 1, width, axis=-1) for _ in range(2)]

    def forward(self, x):
        y = self.norm1(x)
        q, k, v = [f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)]
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.attn_branch(self.out(self.head_site(y)))
        return x + self.mlp_branch(self.fc2(self.act(self.fc1(self.norm2(x)))))


class Vit(nn.Module):
    def __init__(self, width=18, heads=3, hidden=26, depth=2, patch=8, side=32, eps=1e-6):
        super().__init__()
        tokens = 1 + (side // patch) ** 2
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.5)
        self.positions = nn.Parameter(torch.randn(1, tokens, width) * 0.5)
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.ModuleList(VitBlock(width, heads, hidden, eps) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width, eps), nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def rename(state, table):
    """Tensor names by longest matching prefix of `table`."""
    out = {}
    for name, value in state.items():
        best = max((p for p in table if name.startswith(p)), key=len)
        out[table[best] + name[len(best) :]] = value
    return out


def vit_state(model, naming):
    state = dict(model.state_dict())
    table = {}
    if naming == "torchvision":
        table = {"token": "class_token", "positions": "encoder.pos_embedding", "patch": "conv_proj",
                 "norm": "encoder.ln", "head": "heads.head"}
        parts = {"norm1": "ln_1", "norm2": "ln_2", "out": "self_attention.out_proj", "fc1": "mlp.0", "fc2": "mlp.3",
                 "qkv.weight": "self_attention.in_proj_weight", "qkv.bias": "self_attention.in_proj_bias"}
        block = "encoder.layers.encoder_layer_"
    elif naming == "timm":
        table = {"token": "cls_token", "positions": "pos_embed", "patch": "patch_embed.proj", "norm": "norm", "head": "head"}
        parts = {"norm1": "norm1", "norm2": "norm2", "out": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
                 "qkv": "attn.qkv"}
        block = "blocks."
    else:
        table = {"token": "vit.embeddings.cls_token", "positions": "vit.embeddings.position_embeddings",
                 "patch": "vit.embeddings.patch_embeddings.projection", "norm": "vit.layernorm", "head": "classifier"}
        parts = {"norm1": "layernorm_before", "norm2": "layernorm_after", "out": "attention.output.dense",
                 "fc1": "intermediate.dense", "fc2": "output.dense", "q": "attention.attention.query",
                 "k": "attention.attention.key", "v": "attention.attention.value"}
        block = "vit.encoder.layer."
    for i in range(len(model.blocks)):
        if naming != "hf":
            for kind in ("weight", "bias"):
                rows = [state.pop(f"blocks.{i}.{p}.{kind}") for p in "qkv"]
                state[f"blocks.{i}.qkv.{kind}"] = torch.cat(rows)
        table |= {f"blocks.{i}.{part}": f"{block}{i}.{name}" for part, name in parts.items()}
    return rename(state, table)


# ------------------------------------------------------------------------------------------------ goldens


def randomise(model, generator):
    """Batch statistics and norms as a trained network might have them; biases that matter."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            module.weight.data.uniform_(0.6, 1.4, generator=generator)
            module.bias.data.uniform_(-0.3, 0.3, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            module.bias.data.uniform_(-0.3, 0.3, generator=generator)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.weight.data *= 2.5  # PyTorch's initial values are so small that ablations would hardly show


def sites_of(model, component_set):
    return [m for m in model.modules() if isinstance(m, Site) and m.set == component_set]


def ablate(sites, keeps, gain=0.0, means=None):
    """keeps [n]: 0 becomes `gain`; means: one array per site, or None for zeros."""
    first = 0
    for i, site in enumerate(sites):
        k = keeps[first : first + site.count]
        first += site.count
        # where `gain` is 0 the keep itself, which has a derivative there
        site.keep = (torch.where(k == 0, torch.tensor(gain), k) if gain else k).repeat_interleave(site.width)
        site.fill = torch.zeros_like(site.keep) if means is None else means[i]


def margins(model, x, labels):
    logits = model(x)
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).max(1).values


def run(model, sites, x, labels, keeps, **how):
    rows = []
    for k in keeps:
        ablate(sites, k, **how)
        rows.append(margins(model, x, labels))
    for site in sites:
        site.keep = None
    return torch.stack(rows)


def check_zeroed_rows(model, component_set, keeps, expected, x, labels):
    """The published procedure: zero the rows of the weights, then an ordinary forward pass."""
    saved, first = {k: v.clone() for k, v in model.state_dict().items()}, 0
    for name, module in model.named_modules():
        is_filter = component_set == "filters" and isinstance(module, nn.Conv2d) and "conv" in name.split(".")[-1]
        if is_filter or (component_set == "neurons" and isinstance(module, Linear)):
            rows = len(module.weight)
            module.weight.data[keeps[first : first + rows] == 0] = 0
            first += rows
    assert first == len(keeps), (first, len(keeps))
    torch.testing.assert_close(margins(model, x, labels), expected, rtol=0, atol=1e-5)
    model.load_state_dict(saved)


def normalise(images, pixels):
    mean, std = [torch.tensor(p).view(1, -1, 1, 1) for p in pixels]
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


def golden(model, x, generator):
    out = {"labels": LABELS.float()}
    for component_set in ("filters", "neurons", "heads", "blocks"):
        sites = sites_of(model, component_set)
        n = sum(s.count for s in sites)
        if not n:
            continue
        keeps = (torch.rand(MASKS, n, generator=generator) > 0.25).float()
        keeps[0] = 1
        keeps[1, 0] = keeps[2, -1] = 0
        half = torch.rand(2, n, generator=generator)
        model(x)
        means = [s.mean.clone() for s in sites]  # of the unablated model over these examples
        out[f"{component_set}.keeps"], out[f"{component_set}.half_keeps"] = keeps, half
        out[f"{component_set}.zero"] = run(model, sites, x, LABELS, keeps)
        out[f"{component_set}.scale"] = run(model, sites, x, LABELS, keeps, gain=0.3)
        out[f"{component_set}.mean"] = run(model, sites, x, LABELS, keeps, means=means)
        out[f"{component_set}.half"] = run(model, sites, x, LABELS, half)
        if component_set in ("filters", "neurons"):
            check_zeroed_rows(model, component_set, keeps[1], out[f"{component_set}.zero"][1], x, LABELS)
    return out


def keep_gradient(model, sites, x, label, keeps, means=None):
    """d margin / d keeps [n] of one example x [1, ...]; and for each site x and d margin / d y."""
    keeps = keeps.clone().requires_grad_()
    ablate(sites, keeps, means=means)
    gradient, *at_sites = torch.autograd.grad(margins(model, x, label)[0], [keeps] + [s.y for s in sites])
    return gradient, [s.x.detach() for s in sites], at_sites


@torch.enable_grad()
def gradients(model, x, generator):
    """Derivatives in float64, one example at a time."""
    model, x = copy.deepcopy(model).double(), x.double()
    out = {"labels": LABELS}
    for component_set in ("filters", "neurons", "heads", "blocks"):
        sites = sites_of(model, component_set)
        n = sum(s.count for s in sites)
        if not n:
            continue
        levels = torch.tensor([0, 0.5, 1, 1])[torch.randint(4, (LEVELS, n), generator=generator)].double()
        levels[0] = 1
        for site in sites:
            site.keep = None
        model(x)
        means = [s.mean.detach().clone() for s in sites]
        one = lambda e, k, **how: keep_gradient(model, sites, x[e : e + 1], LABELS[e : e + 1], k, **how)
        out[f"{component_set}.levels"] = levels
        out[f"{component_set}.zero"] = torch.stack([torch.stack([one(e, k)[0] for e in range(EXAMPLES)]) for k in levels])
        out[f"{component_set}.mean"] = torch.stack(
            [torch.stack([one(e, k, means=means)[0] for e in range(EXAMPLES)]) for k in levels])
        influence, conductance, before = [], [], None
        for e in range(EXAMPLES):
            _, xs, dys = one(e, levels[-1])
            dxs = [dy * s.keep.detach().view([-1 if d == s.axis % dy.dim() else 1 for d in range(dy.dim())])
                   for s, dy in zip(sites, dys)]
            changes = [now - then for now, then in zip(xs, before or xs)]
            influence.append(torch.cat([s.sums(dx) for s, dx in zip(sites, dxs)]))
            conductance.append(torch.cat([s.sums(dx * change) for s, dx, change in zip(sites, dxs, changes)]))
            before = xs
        out[f"{component_set}.influence"], out[f"{component_set}.conductance"] = map(torch.stack, (influence, conductance))
        for site in sites:
            site.keep = None
    return {name: values.float().contiguous() for name, values in out.items()}


def smooth_images(height, width, generator):
    """Low-frequency noise: like photographs, neighbouring pixels are alike."""
    small = torch.rand(EXAMPLES, 3, 6, 6, generator=generator)
    large = F.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    noise = 0.1 * torch.rand(EXAMPLES, 3, height, width, generator=generator)
    return ((0.9 * large + noise) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


PIXELS = ([0.45, 0.5, 0.55], [0.25, 0.22, 0.27])
MINI_PIXELS = ([0.4914, 0.4822, 0.4465], [0.2022, 0.1994, 0.2010])


def text(values):
    return ",".join(str(v) for v in values)


def mini_state(model):
    """Each block twice, as the published checkpoints have it."""
    state = dict(model.state_dict())
    for name in list(state):
        if name.startswith("layer."):
            state["block" + name[len("layer.") :]] = state[name].clone()
    return state


@torch.no_grad()
def main(folder):
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(20)
    generator, levels = torch.Generator().manual_seed(21), torch.Generator().manual_seed(22)
    images = {}
    for size in ((32, 32), (45, 37)):
        images[size] = smooth_images(*size, generator)
        np.save(os.path.join(folder, f"images-{size[0]}x{size[1]}.npy"), images[size])

    convolutional = [
        ("cifar_option_a", ResNet((4, 8, 16), (1, 1, 1), shortcut=None, head="linear"), (32, 32)),
        ("cifar_shortcut", ResNet((5, 7, 9, 11), (1, 1, 1, 1), shortcut="shortcut", head="linear"), (32, 32)),
        ("basic_cifar_stem", ResNet((4, 5, 6, 7), (2, 1, 1, 1)), (32, 32)),
        ("bottleneck", ResNet((4, 3, 5, 4), (1, 2, 1, 1), stem=7, expansion=4), (45, 37)),
        ("mini_resnet", MiniResNet(8, 2), (32, 32)),
    ]
    for name, model, size in convolutional:
        model.eval()
        randomise(model, generator)
        mini = name == "mini_resnet"
        x = normalise(images[size], MINI_PIXELS if mini else PIXELS)  # the MiniResNet's are the family's default
        last = getattr(model, "linear" if hasattr(model, "linear") else "fc")
        last.weight.data *= 2 / model(x).std()  # margins of order one
        metadata = {} if mini else {"mean": text(PIXELS[0]), "std": text(PIXELS[1])}
        state = mini_state(model) if mini else model.state_dict()
        save_file({k: v.contiguous() for k, v in state.items()}, os.path.join(folder, f"{name}.safetensors"), metadata)
        save_file(golden(model, x, generator), os.path.join(folder, f"{name}-golden.safetensors"))
        save_file(gradients(model, x, levels), os.path.join(folder, f"{name}-gradients.safetensors"))

    model = Vit().eval()
    randomise(model, generator)
    metadata = {"heads": "3", "mean": text(PIXELS[0]), "std": text(PIXELS[1])}
    for naming in ("torchvision", "timm", "hf"):
        state = {k: v.contiguous() for k, v in vit_state(model, naming).items()}
        extra = {"ln_eps": "1e-6"} if naming == "hf" else {}
        save_file(state, os.path.join(folder, f"vit_{naming}.safetensors"), metadata | extra)
    x = normalise(images[32, 32], PIXELS)
    save_file(golden(model, x, generator), os.path.join(folder, "vit-golden.safetensors"))
    save_file(gradients(model, x, levels), os.path.join(folder, "vit-gradients.safetensors"))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/models")
