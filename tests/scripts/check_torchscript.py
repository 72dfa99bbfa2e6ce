#!/usr/bin/env python3
"""Loads networks that `mtinet export --format torchscript` wrote with torch.jit.load, and compares what they answer.

The other side of the comparison is `mtinet-trainer forward` with the same trial's weights as safetensors. One, two and
three images are tried, so that a number of images that was recorded with the network would be seen, and the parameters
are compared with the safetensors file by name and value. Exits with 1 where an answer differs by more than the
tolerance.

Needs Python 3.9, torch 2.11 and safetensors.

    check_torchscript.py --trainer target/release/mtinet-trainer NETWORK.pt WEIGHTS.safetensors [more pairs]
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file


def check(trainer, network, weights, tolerance):
    extra = {"mtinet.json": ""}
    module = torch.jit.load(network, _extra_files=extra).eval()
    about = json.loads(extra["mtinet.json"])
    arm, size = about["arm"], int(about["image_size"])
    phases = len(json.loads(about["phases"]))
    stored, own = load_file(weights), module.state_dict()
    bad = [f"state_dict: {name}" for name in own if name not in stored or not torch.equal(own[name], stored[name])]
    if set(own) != set(stored):
        bad.append(f"state_dict: {sorted(set(own) ^ set(stored))[:5]}")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        folder = pathlib.Path(folder)
        for count in (2, 1, 3, 3, 1):
            x = torch.randn(count, phases, size, size, generator=torch.Generator().manual_seed(count))
            save_file({"x": x}, folder / "x.safetensors")
            command = [trainer, "forward", "--arm", arm, "--weights", weights, "--input", folder / "x.safetensors"]
            subprocess.run([*command, "--out", folder / "y.safetensors"], check=True)
            expected, found = load_file(folder / "y.safetensors"), module(x)
            if list(found) != about["outputs"] or set(found) != set(expected):
                bad.append(f"outputs: {list(found)}, {about['outputs']}, {sorted(expected)}")
            for name, value in expected.items():
                if name not in found or found[name].shape != value.shape:
                    bad.append(f"{name} of {count} images")
                    continue
                difference = (found[name] - value).abs().max().item() / max(1.0, value.abs().max().item())
                worst = max(worst, difference)
                if not difference <= tolerance:
                    bad.append(f"{name} of {count} images differs by {difference:.3g}")
    sizes = [pathlib.Path(file).stat().st_size / 1e6 for file in (network, weights)]
    print(f"{arm:16} outputs {','.join(about['outputs']):14} worst {worst:.2e}  {sizes[0]:.1f} MB ({sizes[1]:.1f} MB of weights)")
    return [f"{network}: {problem}" for problem in bad]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainer", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-5, help="relative to the largest answer (default 1e-5)")
    parser.add_argument("files", nargs="+", metavar="NETWORK.pt WEIGHTS.safetensors")
    options = parser.parse_args()
    if len(options.files) % 2:
        parser.error("give pairs: NETWORK.pt WEIGHTS.safetensors")
    bad = []
    for network, weights in zip(options.files[::2], options.files[1::2]):
        bad += check(options.trainer, network, weights, options.tolerance)
    print("\n".join(bad) or "all alike")
    sys.exit(1 if bad else 0)


main()
