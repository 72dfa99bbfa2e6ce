#!/usr/bin/env python3
"""Computes the answers of `mtinet predict` anew and compares: masks, curves and class probabilities.

Nothing here is shared with mtinet but the trained networks, which come as TorchScript from `mtinet export --format
torchscript`, one a trial. Volumes are read with nibabel, prepared with numpy, answered by torch one network after
another, and the answers averaged: tumour probabilities on the network's grid, curves in raw intensity, class
probabilities. A pixel whose probability is within the tolerance of 1/2 may go either way. Exits with 1 where anything
else differs.

Needs Python 3.9, numpy, nibabel and torch 2.11.

    check_predictions.py OUTDIR IMAGES NETWORK.pt [NETWORK.pt ...]

OUTDIR is what `mtinet predict` wrote, IMAGES the folder with CASE_0000.nii.gz to CASE_0003.nii.gz.
"""

import argparse
import csv
import json
import pathlib
import sys

import nibabel
import numpy as np
import torch


def canonical(image):
    """Voxels [slice, row, column]: inferior to superior, anterior to posterior, the patient's right to left."""
    ras = nibabel.as_closest_canonical(image)
    return np.ascontiguousarray(ras.get_fdata(dtype=np.float32).transpose(2, 1, 0)[:, ::-1, ::-1])


def spacing(image):
    """Millimetres between rows and between columns."""
    zooms = nibabel.as_closest_canonical(image).header.get_zooms()
    return float(zooms[1]), float(zooms[0])


class Axis:
    """One axis of a slice: resampled around its centre, then padded or cropped to the network's size."""

    def __init__(self, source, ratio, size):
        self.source, self.ratio, self.size = source, 1.0 if abs(ratio - 1) < 1e-3 else ratio, size
        self.resampled = max(1, int(np.floor(source / self.ratio + 0.5)))
        self.offset = (size - self.resampled) // 2

    def matrix(self):
        """[size, source]: means over the resampled pixel, or linear interpolation where it is the smaller one."""
        matrix = np.zeros((self.size, self.source))
        support = max(self.ratio, 1.0)
        for i in range(self.resampled):
            place = i + self.offset
            if 0 <= place < self.size:
                centre = (i - (self.resampled - 1) / 2) * self.ratio + (self.source - 1) / 2
                centre = min(max(centre, 0), self.source - 1)
                weights = np.maximum(0, 1 - np.abs(np.arange(self.source) - centre) / support)
                matrix[place] = weights / weights.sum()
        return matrix

    def nearest(self):
        """For each source pixel the network's pixel, or -1."""
        at = (np.arange(self.source) - (self.source - 1) / 2) / self.ratio + (self.resampled - 1) / 2
        at = np.sign(at) * np.floor(np.abs(at) + 0.5)
        at = np.clip(at, 0, self.resampled - 1).astype(int) + self.offset
        return np.where((at >= 0) & (at < self.size), at, -1)


def answers(volumes, axes, networks, batch):
    """Tumour probabilities on the network's grid, curves and class probabilities of every slice: means over networks."""
    rows, columns = axes[0].matrix(), axes[1].matrix()
    squares = np.einsum("ry,pzyx,cx->zprc", rows, volumes.astype(np.float64), columns, optimize=True)
    squares = torch.from_numpy(squares.astype(np.float32))
    sums = {}
    for module, about in networks:
        mean, std = float(about["normalisation_mean"]), float(about["normalisation_std"])
        for first in range(0, len(squares), batch):
            found = module((squares[first : first + batch] - mean) / std)
            values = {}
            if "seg" in found:
                values["seg"] = found["seg"][:, 0].sigmoid().double()
            if "curve" in found:
                values["curve"] = found["curve"].double() * std + mean
            if "cls" in found:
                values["cls"] = found["cls"].double().softmax(-1)
            for name, value in values.items():
                whole = sums.setdefault(name, torch.zeros(len(squares), *value.shape[1:], dtype=torch.float64))
                whole[first : first + batch] += value / len(networks)
    return {name: value.numpy() for name, value in sums.items()}


def table(path):
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {(row["case"], row["slice"]): row for row in csv.DictReader(file)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outdir", type=pathlib.Path)
    parser.add_argument("images", type=pathlib.Path)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args()
    about = json.loads((options.outdir / "prediction.json").read_text())
    networks = []
    for path in options.networks:
        extra = {"mtinet.json": ""}
        module = torch.jit.load(path, _extra_files=extra).eval()
        networks.append((module, json.loads(extra["mtinet.json"])))
    trials = sorted(f"{a['arm']}/{a['fold']}/{a['seed']}" for _, a in networks)
    if trials != sorted(member["trial"] for member in about["members"]):
        sys.exit(f"these networks are {trials}, the prediction's {about['members']}")
    curves, classes = table(options.outdir / "curves.csv"), table(options.outdir / "classes.csv")
    bad, pixels, close, values, worst = [], 0, 0, 0, 0.0
    cases = sorted(path.name[: -len("_0000.nii.gz")] for path in options.images.glob("*_0000.nii.gz"))
    for case in cases:
        images = [nibabel.load(options.images / f"{case}_{p:04}.nii.gz") for p in range(len(about["phases"]))]
        volumes = np.stack([canonical(image) for image in images])
        size = about["image_size"]
        axes = [
            Axis(volumes.shape[2 + a], about["spacing_mm"] / spacing(images[0])[a], size) for a in range(2)
        ]
        with torch.no_grad():
            expected = answers(volumes, axes, networks, 16)
        if "seg" in expected:
            written = nibabel.load(options.outdir / f"{case}.nii.gz")
            if not np.array_equal(written.affine, images[about["phases"].index("pv")].affine):
                bad.append(f"{case}: another affine")
            padded = np.pad(expected["seg"], ((0, 0), (0, 1), (0, 1)))
            probability = padded[:, axes[0].nearest()][:, :, axes[1].nearest()]
            differ = (canonical(written) > 0) != (probability >= 0.5)
            near = np.abs(probability - 0.5) < options.tolerance
            pixels, close = pixels + differ.size, close + int((differ & near).sum())
            if (differ & ~near).any():
                bad.append(f"{case}: {int((differ & ~near).sum())} pixels of the mask differ")
        for name, rows, columns in (
            ("curve", curves, [f"predicted_{phase}" for phase in about["phases"]]),
            ("cls", classes, [f"p_{k}" for k in range(len(about["classes"]))]),
        ):
            for z, row in enumerate(expected.get(name, [])):
                told = [float(rows[case, str(z)][column]) for column in columns]
                difference = np.max(np.abs(row - told) / np.maximum(1, np.abs(row)))
                worst, values = max(worst, difference), values + len(told)
                if not difference <= options.tolerance:
                    bad.append(f"{case} slice {z}: {name} {told}, computed {row.tolist()}")
    print(f"{len(cases)} cases, {len(networks)} networks: {pixels} pixels ({close} too close to call), {values} values, worst {worst:.2e}")
    print("\n".join(bad[:20]) or "all alike")
    sys.exit(1 if bad else 0)


main()
