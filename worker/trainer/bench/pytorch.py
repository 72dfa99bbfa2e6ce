"""The training step of MODEL.md in plain PyTorch, timed when the driver says.

The networks and losses are those of the golden values (`worker/models/tests/fixtures/make_golden.py`), at other sizes,
with the fused attention and the dropout that a user would write. `step.py` starts this, alone or under torchrun, and asks
for steps over a socket: a line `N`, answered with one line of JSON. `train.py` trains whole trials with the same step.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import socket
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

CHANNELS = {
    "paper": ([64, 128, 256, 512], [256, 128, 64, 32], 64),
    "fast": ([32, 64, 128, 256], [128, 64, 32, 16], 32),
    "small": ([16, 32, 64, 128], [64, 32, 16, 16], 32),
    "tiny64": ([4, 8, 8, 16], [16, 8, 8, 8], 32),
}


def networks(preset, size, dropout):
    """The module of the golden values, set to the sizes of a preset."""
    path = Path(__file__).parents[2] / "models/tests/fixtures/make_golden.py"
    spec = importlib.util.spec_from_file_location("networks", path)
    m = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    m.ENC, m.DEC, m.UNET_BASE = CHANNELS[preset]
    m.SIZE, m.P = size, size // 16

    def attention(self, x):
        b, n, w = x.shape
        split = lambda layer: layer(x).view(b, n, self.heads, w // self.heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(
            split(self.query), split(self.key), split(self.value), scale=1 / self.divisor)
        return self.out(y.transpose(1, 2).flatten(2))

    m.Attention.forward = attention
    # The filter depends on the size alone; a user computes it once.
    f = torch.fft.fftfreq(size) * size
    response = 1 - torch.exp(-(f[:, None] ** 2 + f[None, :] ** 2) / (2 * (size / 16) ** 2))
    half = response[:, : size // 2 + 1].contiguous()
    m.high_pass = lambda x, cfg: torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * half, s=x.shape[-2:], norm="ortho")

    def block(self, z, p=0.0):
        z = z + self.attn(self.attention_norm(z))
        hidden = F.dropout(F.gelu(self.ffn.fc1(self.ffn_norm(z))), p)
        return z + F.dropout(self.ffn.fc2(hidden), p)

    def tokens(self, x_f):
        z = F.dropout(x_f.reshape(x_f.shape[0], 4 * m.ENC[3], m.P * m.P) + self.pos_embed, dropout)
        for i in (1, 2, 3):
            z = getattr(self, f"block{i}")(z, dropout)
        return self.norm(z)

    m.Block.forward, m.Transformer.tokens = block, tokens
    return m


def options(text):
    """`fused,channels_last,bf16,compile` in any combination; `eager` is none of them."""
    return set(text.split(",")) - {"eager"}


class Step:
    def __init__(self, args):
        stock = options(args.stock)
        self.m = networks(args.preset, args.size, 0.1)
        self.arm, self.cfg = args.arm, self.m.DEFAULTS
        torch.manual_seed(0)
        mti = args.arm != "unet"
        self.net = self.m.MtiNet(args.arm, self.cfg) if mti else self.m.UNet(self.m.UNET_BASE)
        self.d = self.m.Discriminator(64, False) if mti else None
        self.bf16 = "bf16" in stock
        n, s = args.batch, args.size
        self.data = {
            "x": torch.randn(n, 4, s, s), "mask": (torch.rand(n, 1, s, s) < 0.1).float(), "curve": torch.randn(n, 4),
            "class": torch.randint(2, (n,)), "tumour": torch.arange(n),
        }
        if "channels_last" in stock:
            self.net = self.net.to(memory_format=torch.channels_last)
            self.data["x"] = self.data["x"].contiguous(memory_format=torch.channels_last)
        fused = "fused" in stock
        self.net.train()
        adam = lambda module: torch.optim.Adam(module.parameters(), lr=args.learning_rate, fused=fused or None)
        self.opt = adam(self.net)
        if mti:
            self.d.train()
            self.opt_d = adam(self.d)
        self.forward = self.net
        if args.ranks > 1:
            ddp = torch.nn.parallel.DistributedDataParallel
            self.forward = ddp(self.net, gradient_as_bucket_view=True)
            if mti:
                self.d_forward = ddp(self.d, gradient_as_bucket_view=True, broadcast_buffers=False)
        elif mti:
            self.d_forward = self.d
        if "compile" in stock:
            self.forward = torch.compile(self.forward)

    def __call__(self):
        data = self.data
        self.opt.zero_grad(set_to_none=True)
        autocast = torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext()
        with autocast:
            out = self.forward(data["x"])
        out = {key: value.float() for key, value in out.items()}
        if self.d is None:
            total = F.binary_cross_entropy_with_logits(out["seg"], data["mask"])
        else:
            total = self.adversarial(out)
        total.backward()
        self.opt.step()
        return float(total.detach())

    def adversarial(self, out):
        """D's step, and the loss of G with D as it is then (MODEL.md 3.11)."""
        m, mask = self.m, self.data["mask"]
        total = F.binary_cross_entropy_with_logits(out["seg"], mask)
        rows = self.data["tumour"]
        if len(rows) == 0:
            return total
        # Slices without tumour have neither curve nor class.
        among = lambda values: values if len(rows) == len(mask) else values[rows]
        x, curve, label = (among(self.data[key]) for key in ("x", "curve", "class"))
        seg, answered, logits = (among(out[key]) for key in ("seg", "curve", "cls"))
        truth = F.one_hot(label, 2).float() * 0.8 + 0.1
        probs = logits.softmax(1)
        self.opt_d.zero_grad(set_to_none=True)
        n = len(truth)
        both = self.d_forward(torch.cat([curve, answered.detach()]), torch.cat([truth, probs.detach()]), None)
        (0.5 * (m.bce(both[:n], 1.0) + m.bce(both[n:], 0.0))).backward()
        self.opt_d.step()
        self.d.requires_grad_(False)
        total = total + (answered - curve).abs().mean() + F.cross_entropy(logits, label)
        if self.arm != "no-tim":
            s = torch.sigmoid(seg)
            y_si = (s * x).sum((2, 3)) / (s.sum((2, 3)) + 1e-6)
            total = total + 0.5 * (y_si - curve).abs().mean()
        total = total + 0.1 * m.bce(self.d(answered, probs, None), 1.0)
        self.d.requires_grad_(True)
        return total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arm", choices=["mti-net", "unet"])
    parser.add_argument("--preset", choices=list(CHANNELS))
    for name in ("size", "batch", "threads", "ranks"):
        parser.add_argument(f"--{name}", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--stock", default="eager")
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rank = 0
    if args.ranks > 1:
        torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank()
    step = Step(args)
    lines = socket.create_connection(("127.0.0.1", args.port)).makefile("rw") if rank == 0 else None
    asked = torch.zeros(1, dtype=torch.int64)
    while True:
        if rank == 0:
            asked[0] = int(lines.readline() or 0)
        if args.ranks > 1:
            torch.distributed.broadcast(asked, 0)
        if not asked[0]:
            break
        seconds = []
        for _ in range(int(asked[0])):
            since = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - since)
        if rank == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            lines.write(json.dumps({"seconds": seconds, "peak_kib": peak}) + "\n")
            lines.flush()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
