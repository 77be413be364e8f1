"""The two small networks of data/, in PyTorch: for train_digits.py, golden_digits.py, golden_edited.py and
golden_baselines.py.

Tensor names are those of published models, so that coar recognises them: DigitsResNet has the CIFAR ResNet layout of
He et al. 2016 (section 4.2; option-A shortcuts), DigitsViT the names of torchvision's VisionTransformer. `components`
gives the masked rows of each in coar's order (docs/design.md, section 2): a list of (tensor name, first row, rows).
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.extra = stride, planes - inputs

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.extra:  # option A: every second pixel, zero channels half before, half after
            before = self.extra // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra - before))
        return F.relu(y + x)


class DigitsResNet(nn.Module):
    """6 n + 2 layers with n = 1: one block in each of three stages; of the digits on 8x8, 4x4 and 2x2 pixels."""

    def __init__(self, widths=(12, 24, 48), blocks=1, inputs=1, classes=10, image=8):
        super().__init__()
        self.image = image
        self.conv1 = nn.Conv2d(inputs, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for stage, planes in enumerate(widths):
            layers = []
            for block in range(blocks):
                layers.append(Block(inputs, planes, 2 if stage and not block else 1))
                inputs = planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))

    def components(self):
        """`filters`: every row of every convolution, in module order."""
        convs = [(name, module) for name, module in self.named_modules() if isinstance(module, nn.Conv2d)]
        return [(f"{name}.weight", 0, module.out_channels) for name, module in convs]

    def metadata(self):
        return {"image": str(self.image)}  # a convolutional network does not tell the size of its images


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.rows = nn.Identity()  # where the rows of q, k and v can be looked at
        self.heads = heads
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x):  # [N, T, D]
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for t in self.rows(F.linear(x, self.in_proj_weight, self.in_proj_bias)).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    def __init__(self, width, heads, hidden, eps):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps)
        self.self_attention = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps)
        # torchvision numbers the two linear layers 0 and 3: activation and dropout lie between them.
        self.mlp = nn.ModuleDict({"0": nn.Linear(width, hidden), "3": nn.Linear(hidden, width)})

    def forward(self, x):
        x = x + self.self_attention(self.ln_1(x))
        return x + self.mlp["3"](F.gelu(self.mlp["0"](self.ln_2(x))))


class DigitsViT(nn.Module):
    EPS = 1e-6

    def __init__(self, patch=2, width=32, depth=4, heads=4, hidden=64):
        super().__init__()
        tokens = (8 // patch) ** 2 + 1
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.conv_proj = nn.Conv2d(1, width, patch, patch)
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.encoder.layers = nn.ModuleDict(
            {f"encoder_layer_{i}": EncoderBlock(width, heads, hidden, self.EPS) for i in range(depth)})
        self.encoder.ln = nn.LayerNorm(width, self.EPS)
        self.heads = nn.ModuleDict({"head": nn.Linear(width, 10)})
        self.head_count, self.width, self.hidden = heads, width, hidden

    def forward(self, x):
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.encoder.pos_embedding
        for layer in self.encoder.layers.values():
            x = layer(x)
        return self.heads["head"](self.encoder.ln(x)[:, 0])

    def components(self):
        """`neurons`: rows of q, k, v, the output projection and the two MLP layers of each block."""
        rows = []
        for layer in self.encoder.layers:
            block, width = f"encoder.layers.{layer}", self.width
            rows += [(f"{block}.self_attention.in_proj_weight", part * width, width) for part in range(3)]
            rows += [(f"{block}.self_attention.out_proj.weight", 0, width),
                     (f"{block}.mlp.0.weight", 0, self.hidden), (f"{block}.mlp.3.weight", 0, width)]
        return rows

    def metadata(self):
        return {"heads": str(self.head_count), "ln_eps": f"{self.EPS:g}"}


NETS = {"resnet": DigitsResNet, "vit": DigitsViT}
