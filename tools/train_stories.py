#!/usr/bin/env python3
"""Trains the small GPT-2 of data/ on little stories (tools/stories.py; needs PyTorch, one thread).

    python3 tools/train_stories.py [FOLDER]

Writes stories-vocab.json, stories-merges.txt, stories.txt (texts that it was not trained on, separated by <|endoftext|>) and
stories-gpt2.safetensors (Hugging Face's names and layout, fp16) into FOLDER (data), and stories-tokens.npy with the
tokens of stories.txt into tests/golden. Prints the mean loss of a token in training and on the held-out stories.
Seeded: the same PyTorch on the same kind of CPU makes the same weights.
"""
import json
import math
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from convert_checkpoint import write_safetensors
from stories import Tokenizer, stories, train_bpe

VOCABULARY, CONTEXT, WIDTH, HEADS, DEPTH = 512, 96, 128, 4, 4
TRAINING, HELD_OUT, BATCH, STEPS, RATE = 20000, 96, 16, 900, 2e-3


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.c_fc, self.mlp_proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = [y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in self.c_attn(self.ln_1(x)).split(WIDTH, -1)]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.c_proj(y)
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.h = nn.ModuleList(Block() for _ in range(DEPTH))
        self.ln_f = nn.LayerNorm(WIDTH)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * DEPTH) if "proj" in name else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.T


def hugging_face(net):
    """Tensors in Hugging Face's names: linear layers as [in, out]."""
    places = {"c_attn": "attn.c_attn", "c_proj": "attn.c_proj", "c_fc": "mlp.c_fc", "mlp_proj": "mlp.c_proj"}
    out = {}
    for name, p in net.state_dict().items():
        parts = name.split(".")
        if parts[0] == "h" and parts[2] in places:
            name = ".".join(parts[:2] + [places[parts[2]], parts[3]])
            p = p.T if p.dim() > 1 else p
        out[name] = p.contiguous()
    return out


def pad(texts):
    """Tokens [N, T], zeros behind each, and what counts of what follows: [N, T - 1]."""
    longest = max(map(len, texts))
    tokens = torch.zeros(len(texts), longest, dtype=torch.long)
    for row, text in zip(tokens, texts):
        row[: len(text)] = torch.tensor(text)
    lengths = torch.tensor([len(t) for t in texts])
    return tokens, (torch.arange(longest - 1)[None] < lengths[:, None] - 1).float()


def loss_of(net, texts):
    tokens, counts = pad(texts)
    losses = F.cross_entropy(net(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return (losses * counts).sum() / counts.sum()


def train(texts):
    torch.manual_seed(0)
    net = Gpt2()
    optimiser = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS, pct_start=0.1)
    order = torch.randperm(len(texts)).tolist()
    for step in range(STEPS):
        loss = loss_of(net, [texts[i] for i in order[step * BATCH % len(texts) :][:BATCH]])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1)
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    return net.eval(), loss.item()


def main(folder):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    start = time.time()
    texts, held_out = stories(TRAINING, 1), stories(HELD_OUT, 2)
    vocabulary, merges = train_bpe(texts[:2000], VOCABULARY)
    tokenizer = Tokenizer(vocabulary, merges)
    with open(os.path.join(folder, "stories-vocab.json"), "w") as f:
        json.dump({t: i for i, t in enumerate(vocabulary)}, f, indent=0)
        f.write("\n")
    with open(os.path.join(folder, "stories-merges.txt"), "w") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    with open(os.path.join(folder, "stories.txt"), "w") as f:
        f.write("\n<|endoftext|>\n".join(held_out) + "\n")
    tokens = [tokenizer.encode(t)[:CONTEXT] for t in texts]
    test = [tokenizer.encode(t)[:CONTEXT] for t in held_out]
    np.save("tests/golden/stories-tokens.npy", pad(test)[0].numpy().astype(np.int32))
    net, last = train(tokens)
    tensors = hugging_face(net)
    path = os.path.join(folder, "stories-gpt2.safetensors")
    write_safetensors(path, tensors, {"format": "pt", "heads": str(HEADS)}, half=True)
    with torch.no_grad():
        print(json.dumps({"file": path, "parameters": sum(t.numel() for t in tensors.values()),
                          "tokens": [min(map(len, test)), max(map(len, test))], "last_loss": round(last, 4),
                          "test_loss": round(loss_of(net, test).item(), 4), "seconds": round(time.time() - start)}))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "data")
