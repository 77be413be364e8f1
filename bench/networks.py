"""The networks of the benchmarks in PyTorch, and the reference's procedure: what coar is compared with.

Weights are random; no figure of speed depends on them. Names of modules are those of the published checkpoints, so
that main_job.py can load one.
"""
import torch
import torch.nn.functional as F
from torch import nn


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


DEPTHS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}


def build(name):
    """(network, image side, masked weights: one tensor per component group)"""
    side = 32
    if name in DEPTHS:
        net = CifarResNet([DEPTHS[name]] * 3, 16, option_a=True)
    elif name == "resnet18_cifar":
        net = CifarResNet([2, 2, 2, 2], 64, option_a=False)
    elif name == "mini_resnet_256":
        net = MiniResNet(256)
    else:
        import torchvision  # wanted for the ImageNet networks only

        net, side = getattr(torchvision.models, name)(weights=None), 224
    if name.startswith("vit"):
        masked = []
        for layer in net.encoder.layers:
            masked += [layer.self_attention.in_proj_weight, layer.self_attention.out_proj.weight]
            masked += [layer.mlp[0].weight, layer.mlp[3].weight]
    else:
        masked = [module.weight for path, module in net.named_modules()
                  if isinstance(module, nn.Conv2d) and "conv" in path]
    return net.eval().to(memory_format=torch.channels_last), side, masked


def margins(net, images, labels, batch):
    """The label's logit less the largest other, of all images."""
    parts = []
    for first in range(0, len(images), batch):
        logits = net(images[first : first + batch])
        own = labels[first : first + batch, None]
        parts.append(logits.gather(1, own)[:, 0] - logits.scatter(1, own, float("-inf")).amax(1))
    return torch.cat(parts)


def ablated_pass(net, masked, keep, images, labels, batch):
    """The procedure of the method's authors for one mask: the ablated rows of the weights are set to zero, all images
    are passed through, the rows are put back. keep: one bool for each row of the masked tensors, in their order."""
    saved = []
    for weight, rows in zip(masked, keep.split([len(w) for w in masked])):
        rows = (~rows).nonzero().flatten()
        saved.append((weight, rows, weight[rows].clone()))
        weight[rows] = 0
    result = margins(net, images, labels, batch)
    for weight, rows, values in saved:
        weight[rows] = values
    return result
