"""CLIP's image encoders and GPT-2 in PyTorch, in the fastest form that its own modules and functions give them.

Names of modules that matter to networks.py are those of the published checkpoints; weights are random.
"""
import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 1000  # embedded class names that an image is compared with


def heads_first(x, heads):
    """[N, T, D] -> [N, heads, T, D / heads]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class ZeroShot(nn.Module):
    """An image encoder as a classifier: the cosines of its embedding with those of the classes, scaled."""

    def __init__(self, embedding):
        super().__init__()
        self.classes = nn.Parameter(F.normalize(torch.randn(CLASSES, embedding), dim=-1))

    def forward(self, images):
        return 100 * F.normalize(self.encode(images), dim=-1) @ self.classes.T


# --------------------------------------------------------------------------------------------------- CLIP ViT


class QuickGelu(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), QuickGelu(), nn.Linear(4 * width, width))

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))

    def masked(self):
        return [self.attn.in_proj_weight, self.attn.out_proj.weight, self.mlp[0].weight, self.mlp[2].weight]


class ClipVit(ZeroShot):
    def __init__(self, width=768, depth=12, patch=16, side=224, embedding=512):
        super().__init__(embedding)
        self.patch = nn.Conv2d(3, width, patch, patch, bias=False)
        self.token = nn.Parameter(torch.randn(width))
        self.positions = nn.Parameter(torch.randn((side // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ClipBlock(width) for _ in range(depth))
        self.proj = nn.Linear(width, embedding, bias=False)

    def encode(self, images):
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = self.ln_pre(torch.cat([self.token.expand(x.shape[0], 1, -1), x], 1) + self.positions)
        for block in self.blocks:
            x = block(x)
        return self.proj(self.ln_post(x[:, 0]))

    def masked(self):
        return [weight for block in self.blocks for weight in block.masked()]


# ------------------------------------------------------------------------------------------------- CLIP ResNet


class Bottleneck(nn.Module):
    """Strides are average pools."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.AvgPool2d(stride) if stride > 1 else nn.Identity(),
                                            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.pool(F.relu(self.bn2(self.conv2(y))))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class AttentionPool(nn.Module):
    """The mean pixel asks all of them; nobody else does."""

    def __init__(self, pixels, width, embedding):
        super().__init__()
        self.heads = width // 64
        self.positions = nn.Parameter(torch.randn(pixels + 1, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, embedding)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positions
        q, k, v = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
        y = F.scaled_dot_product_attention(*(heads_first(part, self.heads) for part in (q, k, v)))
        return self.c_proj(y.transpose(1, 2).flatten(1))


class ClipResNet(ZeroShot):
    def __init__(self, blocks=(3, 4, 6, 3), width=64, side=224, embedding=1024):
        super().__init__(embedding)
        self.conv1, self.bn1 = nn.Conv2d(3, width // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv2, self.bn2 = nn.Conv2d(width // 2, width // 2, 3, 1, 1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv3, self.bn3 = nn.Conv2d(width // 2, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        layers, inputs = [], width
        for stage, count in enumerate(blocks):
            for b in range(count):
                layers.append(Bottleneck(inputs, width << stage, 2 if stage and not b else 1))
                inputs = 4 * width << stage
        self.layers = nn.Sequential(*layers)
        self.attnpool = AttentionPool((side >> len(blocks) + 1) ** 2, inputs, embedding)

    def encode(self, images):
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        return self.attnpool(self.layers(x))


# ------------------------------------------------------------------------------------------------------- GPT-2


class Conv1D(nn.Module):
    """x W + b with W [in, out]: its rows are what single inputs do, and the components."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) * 0.02), nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x.flatten(0, 1), self.weight).unflatten(0, x.shape[:2])


class Gpt2Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.heads = width // 64
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = Conv1D(width, 3 * width), Conv1D(width, width)
        self.mlp_fc, self.mlp_proj = Conv1D(width, 4 * width), Conv1D(4 * width, width)

    def forward(self, x):
        q, k, v = (heads_first(part, self.heads) for part in self.c_attn(self.ln_1(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).flatten(2))
        return x + self.mlp_proj(F.gelu(self.mlp_fc(self.ln_2(x)), approximate="tanh"))

    def masked(self):
        return [layer.weight for layer in (self.c_attn, self.c_proj, self.mlp_fc, self.mlp_proj)]


class Gpt2(nn.Module):
    """Tokens [N, T] -> logits [N, T, vocabulary] by the table of tokens once more."""

    def __init__(self, vocabulary=50257, context=1024, width=768, depth=12):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Gpt2Block(width) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)

    def masked(self):
        return [weight for block in self.blocks for weight in block.masked()]
