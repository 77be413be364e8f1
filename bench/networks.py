"""The networks of the benchmarks in PyTorch, and the reference's procedure: what coar is compared with.

Weights are random; no figure of speed depends on them. Names of modules are those of the published checkpoints, so
that main_job.py can load one.
"""
import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

import clip_gpt2


class BasicBlock(nn.Module):
    """He et al., arXiv 1512.03385. Without a convolution in it, the shortcut is option A: every second pixel, zero
    channels added on both sides."""

    def __init__(self, inputs, outputs, stride, option_a):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padding = (outputs - inputs) // 2
        self.shortcut = None
        if not option_a and (stride != 1 or inputs != outputs):
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(x + y)


class CifarResNet(nn.Module):
    """blocks: of each stage; every stage but the first halves the image and doubles the channels."""

    def __init__(self, blocks, width, option_a, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages, inputs = len(blocks), width
        for stage, count in enumerate(blocks):
            layer, outputs = [], width << stage
            for b in range(count):
                layer.append(BasicBlock(inputs, outputs, 2 if stage and not b else 1, option_a))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.linear(x.mean((2, 3)))


class MiniResNet(nn.Module):
    """COAR's (docs/design.md, section 2): four blocks of equal width at 32x32, average pooling to 4x4."""

    def __init__(self, planes, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, planes, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.layer = nn.Sequential(*(BasicBlock(planes, planes, 1, option_a=False) for _ in range(4)))
        self.linear = nn.Linear(16 * planes, classes)

    def forward(self, x):
        x = self.layer(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.avg_pool2d(x, 8).flatten(1))


@dataclasses.dataclass
class Network:
    net: nn.Module
    masked: list  # masked_weights
    side: int  # of its images
    tokens: int  # of its texts; 0: it takes images

    def examples(self, count, dtype=torch.float32):
        """Random inputs and their labels. What follows a text's last token is not asked for."""
        if self.tokens:
            texts = torch.randint(0, self.net.wte.num_embeddings, (count, self.tokens))
            return texts[:, :-1].contiguous(), texts[:, 1:].contiguous()
        images = torch.randn(count, 3, self.side, self.side, dtype=dtype)
        return images.to(memory_format=torch.channels_last), torch.randint(0, 10, (count,))


DEPTHS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
TOKENS = 128  # of a text, as coar bench has them


def masked_weights(net):
    """Weights whose rows are components, one tensor per component group."""
    if isinstance(net, (clip_gpt2.ClipVit, clip_gpt2.Gpt2)):
        return net.masked()
    if not hasattr(net, "encoder"):
        return [module.weight for path, module in net.named_modules()
                if isinstance(module, nn.Conv2d) and "conv" in path]
    masked = []
    for layer in net.encoder.layers:
        masked += [layer.self_attention.in_proj_weight, layer.self_attention.out_proj.weight]
        masked += [layer.mlp[0].weight, layer.mlp[3].weight]
    return masked


def build(name):
    """The network of that name in coar, in inference mode."""
    side, tokens = 224, 0
    if name in DEPTHS:
        net, side = CifarResNet([DEPTHS[name]] * 3, 16, option_a=True), 32
    elif name == "resnet18_cifar":
        net, side = CifarResNet([2, 2, 2, 2], 64, option_a=False), 32
    elif name == "mini_resnet_256":
        net, side = MiniResNet(256), 32
    elif name == "clip_vit_b_16":
        net = clip_gpt2.ClipVit()
    elif name == "clip_rn50":
        net = clip_gpt2.ClipResNet()
    elif name == "gpt2":
        net, tokens = clip_gpt2.Gpt2(), TOKENS
    else:
        import torchvision  # wanted for these ImageNet networks only

        net = getattr(torchvision.models, name)(weights=None)
    return Network(net.eval().to(memory_format=torch.channels_last), masked_weights(net), side, tokens)


def margins(net, inputs, labels, batch):
    """The label's logit less the largest other, of all inputs; of a text the mean over its positions."""
    parts = []
    for first in range(0, len(inputs), batch):
        logits = net(inputs[first : first + batch])
        label = labels[first : first + batch, ..., None]
        own = logits.gather(-1, label)[..., 0]
        margin = own - logits.scatter_(-1, label, float("-inf")).amax(-1)
        parts.append(margin.mean(1) if margin.dim() > 1 else margin)
    return torch.cat(parts)


def ablated_pass(net, masked, keep, inputs, labels, batch):
    """The procedure of the method's authors for one mask: the ablated rows of the weights are set to zero, all inputs
    are passed through, the rows are put back. keep: one bool for each row of the masked tensors, in their order."""
    saved = []
    for weight, rows in zip(masked, keep.split([len(w) for w in masked])):
        rows = (~rows).nonzero().flatten()
        saved.append((weight, rows, weight[rows].clone()))
        weight[rows] = 0
    result = margins(net, inputs, labels, batch)
    for weight, rows, values in saved:
        weight[rows] = values
    return result
