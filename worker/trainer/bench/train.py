"""One trial in plain PyTorch, as a researcher's script trains it: what `study.py` runs in a shell loop.

Networks, losses and step are those of `pytorch.py`. The slices that `slices.py` prepared stay in memory, normalised once; the
last weights are evaluated on the held-out slices and stored. Prints one line of JSON.
"""

import argparse
import json
import time

SINCE = time.perf_counter()

import numpy as np
import torch

import pytorch

IMPORTED = time.perf_counter() - SINCE


class Data:
    """A fold in memory, normalised by its training slices."""

    def __init__(self, path, fold):
        file = np.load(path)
        held_out = torch.from_numpy(file["held_out"][fold])
        self.train, self.held_out = torch.nonzero(~held_out)[:, 0], torch.nonzero(held_out)[:, 0]
        raw = torch.from_numpy(file["images"])
        self.std, self.mean = (float(v) for v in torch.std_mean(raw[self.train], correction=0))
        self.x = (raw - self.mean) / self.std
        self.mask = torch.from_numpy(file["masks"])[:, None].float()
        self.curve = (torch.from_numpy(file["curves"]) - self.mean) / self.std
        self.label = torch.from_numpy(file["classes"])

    def batch(self, rows):
        label = self.label[rows]
        return {"x": self.x[rows], "mask": self.mask[rows], "curve": self.curve[rows], "class": label.clamp(min=0),
                "tumour": torch.nonzero(label >= 0)[:, 0]}


def train(step, data, steps, batch):
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) == 0:
            order = data.train[torch.randperm(len(data.train))]
            # The last batch of an epoch is filled up, as in mtinet.
            order = torch.cat([order, order[: -len(order) % batch]])
        rows, order = order[:batch], order[batch:]
        step.data = data.batch(rows)
        loss = step()
    return loss


@torch.inference_mode()
def evaluate(net, data):
    """Mean Dice in percent, and MAE of the curve in raw units where the network has one, over slices with tumour."""
    net.eval()
    dice, errors = [], []
    for rows in data.held_out[data.label[data.held_out] >= 0].split(16):
        batch = data.batch(rows)
        out = net(batch["x"])
        found, drawn = out["seg"] >= 0, batch["mask"] > 0
        dice.append(2 * (found & drawn).sum((1, 2, 3)) / (found.sum((1, 2, 3)) + drawn.sum((1, 2, 3))))
        if "curve" in out:
            errors.append(data.std * (out["curve"] - batch["curve"]).abs().mean(1))
    mean = lambda values: float(torch.cat(values).mean()) if values else None
    return {"dsc": 100 * mean(dice), "mae": mean(errors)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--slices", required=True)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--preset", required=True)
    for name in ("fold", "size", "batch", "threads", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.stock, args.ranks = "fused", 1
    since = time.perf_counter()
    data, step = Data(args.slices, args.fold), pytorch.Step(args)
    began = time.perf_counter()
    train(step, data, args.steps, args.batch)
    trained = time.perf_counter()
    results = evaluate(step.net, data)
    evaluated = time.perf_counter()
    torch.save(step.net.state_dict(), args.out)
    seconds = {"import": IMPORTED, "load": began - since, "train": trained - began, "evaluate": evaluated - trained}
    print(json.dumps({"arm": args.arm, "fold": args.fold, **results, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
