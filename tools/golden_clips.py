#!/usr/bin/env python3
"""Writes the CLIPs of tests/golden/models, as golden_models.py does the other networks: tiny image encoders with random
weights as zero-shot classifiers, in the names of OpenAI, OpenCLIP and Hugging Face, and what PyTorch computes with
components ablated.

    tools/golden_clips.py [FOLDER]         needs torch, numpy and safetensors, and the images of golden_models.py

clip-classes.npy        class embeddings, f32 [CLASSES, 11], of any length
clip_vit_openai, clip_vit_hf                the same network twice, QuickGELU; beside it parts of a text encoder
clip_vit_openclip       its weights under OpenCLIP's names, the text encoder apart, with GELU: other numbers
clip_rn                 a ModifiedResNet of two stages
"""
import copy
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import golden_models as gm

EMBEDDING, LOGIT_SCALE = 11, 1.0
PIXELS = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


class Zero(nn.Module):
    """Logits of an image encoder's embedding."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))

    def forward(self, x):
        x, c = F.normalize(self.encode(x), dim=-1), F.normalize(self.classes.to(x.dtype), dim=-1)
        return self.logit_scale.exp() * x @ c.T


class ClipVit(Zero):
    def __init__(self, classes, act, width=18, heads=3, hidden=26, depth=2, patch=8, side=32):
        super().__init__(classes)
        self.token = nn.Parameter(torch.randn(width) * 0.5)
        self.positions = nn.Parameter(torch.randn(1 + (side // patch) ** 2, width) * 0.5)
        self.patch = nn.Conv2d(3, width, patch, patch, bias=False)
        self.before = nn.LayerNorm(width, 1e-5)
        self.blocks = nn.ModuleList(gm.VitBlock(width, heads, hidden, 1e-5, act) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-5)
        self.proj = nn.Parameter(torch.randn(width, EMBEDDING) * width**-0.5)

    def encode(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.before(torch.cat([self.token.expand(len(x), 1, -1), x], 1) + self.positions)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0]) @ self.proj


class Bottleneck(nn.Module):
    """Average pools have the stride."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        out, self.stride = 4 * width, stride
        for k, (i, o, kernel) in enumerate([(inputs, width, 1), (width, width, 3), (width, out, 1)], 1):
            setattr(self, f"conv{k}", gm.conv(i, o, kernel))
            setattr(self, f"bn{k}", nn.BatchNorm2d(o))
            setattr(self, f"site{k}", gm.Site("filters", o))
        self.branch = gm.Site("blocks", 1, out)
        self.downsample = nn.Sequential(gm.conv(inputs, out, 1), nn.BatchNorm2d(out)) if stride > 1 or inputs != out else None

    def forward(self, x):
        pool = lambda y: F.avg_pool2d(y, self.stride) if self.stride > 1 else y
        y = F.relu(self.bn1(self.site1(self.conv1(x))))
        y = pool(F.relu(self.bn2(self.site2(self.conv2(y)))))
        y = self.branch(self.bn3(self.site3(self.conv3(y))))
        return F.relu(y + (self.downsample(pool(x)) if self.downsample else x))


class AttentionPool(nn.Module):
    def __init__(self, positions, width, heads):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(positions + 1, width) * width**-0.5)
        self.q_proj, self.k_proj, self.v_proj = [nn.Linear(width, width) for _ in range(3)]
        self.c_proj = nn.Linear(width, EMBEDDING)

    def forward(self, x):
        x = x.flatten(2).permute(2, 0, 1)  # [pixels, N, C]
        x = torch.cat([x.mean(0, keepdim=True), x]) + self.positional_embedding[:, None]
        q, k, v = self.q_proj, self.k_proj, self.v_proj
        y, _ = F.multi_head_attention_forward(
            x[:1], x, x, x.shape[2], self.heads, None, torch.cat([q.bias, k.bias, v.bias]), None, None, False, 0.0,
            self.c_proj.weight, self.c_proj.bias, training=False, need_weights=False, use_separate_proj_weight=True,
            q_proj_weight=q.weight, k_proj_weight=k.weight, v_proj_weight=v.weight)
        return y[0]


class ClipResNet(Zero):
    def __init__(self, classes, width=6, blocks=(2, 1), heads=3, side=32):
        super().__init__(classes)
        for k, (i, o, stride) in enumerate([(3, width // 2, 2), (width // 2, width // 2, 1), (width // 2, width, 1)], 1):
            setattr(self, f"conv{k}", gm.conv(i, o, 3, stride))
            setattr(self, f"bn{k}", nn.BatchNorm2d(o))
            setattr(self, f"site{k}", gm.Site("filters", o))
        inputs, self.stages = width, len(blocks)
        for s, count in enumerate(blocks):
            layers = []
            for i in range(count):
                layers.append(Bottleneck(inputs, width << s, 2 if s and not i else 1))
                inputs = 4 * width << s
            setattr(self, f"layer{s + 1}", nn.Sequential(*layers))
        self.attnpool = AttentionPool((side // (4 << len(blocks) - 1)) ** 2, inputs, heads)

    def encode(self, x):
        for k in (1, 2, 3):
            x = F.relu(getattr(self, f"bn{k}")(getattr(self, f"site{k}")(getattr(self, f"conv{k}")(x))))
        x = F.avg_pool2d(x, 2)
        for s in range(1, self.stages + 1):
            x = getattr(self, f"layer{s}")(x)
        return self.attnpool(x)


def randomise(model, generator, calm, attentions):
    """As for the other networks, but with queries and keys `calm` times as large: behind a softmax that has one token alone
    there is little but rounding in the derivatives."""
    gm.randomise(model, generator)
    for layer in attentions:
        layer.weight.data *= calm
        layer.bias.data *= calm


# ------------------------------------------------------------------------------------------------- namings

OPENAI = {"token": "visual.class_embedding", "positions": "visual.positional_embedding", "patch": "visual.conv1",
          "before": "visual.ln_pre", "norm": "visual.ln_post", "proj": "visual.proj", "logit_scale": "logit_scale"}
OPENAI_BLOCK = {"norm1": "ln_1", "norm2": "ln_2", "qkv.weight": "attn.in_proj_weight", "qkv.bias": "attn.in_proj_bias",
                "out": "attn.out_proj", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}
HF = {"token": "vision_model.embeddings.class_embedding", "patch": "vision_model.embeddings.patch_embedding",
      "positions": "vision_model.embeddings.position_embedding.weight", "before": "vision_model.pre_layrnorm",
      "norm": "vision_model.post_layernorm", "proj": "visual_projection.weight", "logit_scale": "logit_scale"}
HF_BLOCK = {"norm1": "layer_norm1", "norm2": "layer_norm2", "q": "self_attn.q_proj", "k": "self_attn.k_proj",
            "v": "self_attn.v_proj", "out": "self_attn.out_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}

def text_tower(naming):
    """A few of the tensors that a text encoder has beside the image encoder."""
    openai = {"transformer.resblocks.0.attn.in_proj_weight": torch.ones(6, 2), "token_embedding.weight": torch.ones(3, 2),
              "positional_embedding": torch.ones(4, 2), "ln_final.weight": torch.ones(2), "ln_final.bias": torch.ones(2),
              "text_projection": torch.ones(2, EMBEDDING)}
    if naming == "openai":
        return openai
    if naming == "openclip":
        return {"text." + name: value for name, value in openai.items()}
    return {"text_model.embeddings.token_embedding.weight": torch.ones(3, 2), "text_projection.weight": torch.ones(EMBEDDING, 2),
            "text_model.embeddings.position_ids": torch.arange(4)[None],
            "vision_model.embeddings.position_ids": torch.arange(17)[None]}


def vit_names(model, naming):
    """The prefixes of tensor names here, and for each that of the file."""
    table, parts, block = (HF, HF_BLOCK, "vision_model.encoder.layers.") if naming == "hf" else (
        OPENAI, OPENAI_BLOCK, "visual.transformer.resblocks.")
    return table | {f"blocks.{i}.{part}": f"{block}{i}.{name}"
                    for i in range(len(model.blocks)) for part, name in parts.items()}


def vit_state(model, naming):
    state = dict(model.state_dict())
    if naming == "hf":
        state["proj"] = state["proj"].T
    else:
        for i in range(len(model.blocks)):
            for kind in ("weight", "bias"):
                state[f"blocks.{i}.qkv.{kind}"] = torch.cat([state.pop(f"blocks.{i}.{p}.{kind}") for p in "qkv"])
    return gm.rename(state, vit_names(model, naming)) | text_tower(naming)


def resnet_state(model):
    state = {name if name == "logit_scale" else "visual." + name: value for name, value in model.state_dict().items()}
    return state | text_tower("openai")


def load(name, tensors, classes):
    """The network that NAME.safetensors holds; a tensor that is neither its own nor a text encoder's is an error."""
    naming = name.removeprefix("clip_vit_") if name != "clip_rn" else "openai"
    state = {k: v for k, v in tensors.items() if k not in text_tower(naming)}
    if name == "clip_rn":
        model = ClipResNet(classes)
        model.load_state_dict({k.removeprefix("visual."): v for k, v in state.items()})
        return model
    model = ClipVit(classes, F.gelu if naming == "openclip" else quick_gelu)
    state = gm.rename(state, {theirs: ours for ours, theirs in vit_names(model, naming).items()})
    if naming == "hf":
        state["proj"] = state["proj"].T
    else:
        for i in range(len(model.blocks)):
            for kind in ("weight", "bias"):
                rows = state.pop(f"blocks.{i}.qkv.{kind}").chunk(3)
                state |= {f"blocks.{i}.{part}.{kind}": values for part, values in zip("qkv", rows)}
    model.load_state_dict(state)
    return model


def save(folder, name, state, metadata):
    save_file({k: v.contiguous() for k, v in state.items()}, os.path.join(folder, f"{name}.safetensors"), metadata)


def save_goldens(folder, name, model, x, generator, levels):
    save_file(gm.golden(model, x, generator), os.path.join(folder, f"{name}-golden.safetensors"))
    save_file(gm.gradients(model, x, levels), os.path.join(folder, f"{name}-gradients.safetensors"))


@torch.no_grad()
def main(folder):
    torch.manual_seed(34)
    generator, levels = torch.Generator().manual_seed(31), torch.Generator().manual_seed(33)
    x = gm.normalise(np.load(os.path.join(folder, "images-32x32.npy")), PIXELS)
    classes = torch.randn(gm.CLASSES, EMBEDDING) * torch.linspace(0.2, 3, gm.CLASSES)[:, None]
    np.save(os.path.join(folder, "clip-classes.npy"), classes.numpy())

    quick = ClipVit(classes, quick_gelu).eval()
    randomise(quick, generator, 0.5, [layer for block in quick.blocks for layer in (block.q, block.k)])
    exact = copy.deepcopy(quick)
    for block in exact.blocks:
        block.act = F.gelu
    save(folder, "clip_vit_openai", vit_state(quick, "openai"), {"heads": "3"})
    save(folder, "clip_vit_hf", vit_state(quick, "hf"), {"heads": "3", "activation": "quick_gelu"})
    save(folder, "clip_vit_openclip", vit_state(exact, "openclip"), {"heads": "3", "activation": "gelu"})
    save_goldens(folder, "clip_vit", quick, x, generator, levels)
    save_goldens(folder, "clip_vit_erf", exact, x, generator, levels)

    resnet = ClipResNet(classes).eval()
    randomise(resnet, generator, 0.15, [resnet.attnpool.q_proj, resnet.attnpool.k_proj])
    save(folder, "clip_rn", resnet_state(resnet), {"heads": "3"})
    save_goldens(folder, "clip_rn", resnet, x, generator, levels)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/models")
