"""Slices of a phantom data set as one `.npz` file, as a PyTorch user prepares them once before training.

A phantom's images have the networks' size already: nothing is resampled. The file holds raw intensities, masks, curves,
classes (-1 for a slice without tumour) and which slices each fold holds out. Prints the SHA-256 of the intensities in the
layout of mtinet's slice cache, so that both can be seen to train on the same pixels.
"""

import hashlib
import json
import sys
from pathlib import Path

import nibabel
import numpy as np

PHASES = ["pre", "art", "pv", "del"]
CLASSES = ["hemangioma", "hcc"]


def volume(path):
    """Slices from inferior to superior, each [rows to posterior, columns to the left]."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return np.asanyarray(image.dataobj)[::-1, ::-1].transpose(2, 1, 0)


def main(dataset, out):
    cases = [json.loads(line) for line in (dataset / "cases.jsonl").read_text().splitlines()]
    images, masks, classes, names = [], [], [], []
    for case in cases:
        phases = [volume(dataset / case["images"][phase]["path"]) for phase in PHASES]
        mask = volume(dataset / case["label"]["path"]) > 0
        for z, drawn in enumerate(mask):
            images.append(np.stack([phase[z] for phase in phases]).astype("<f4"))
            masks.append(drawn)
            classes.append(CLASSES.index(case["class"]) if drawn.any() else -1)
            names.append(case["case"])
    images, masks, names = np.stack(images), np.stack(masks), np.array(names)
    pixels = masks.sum((1, 2))
    curves = (images.astype("f8") * masks[:, None]).sum((2, 3)) / np.maximum(pixels, 1)[:, None]
    folds = json.loads((dataset / "splits_final.json").read_text())
    held_out = np.stack([np.isin(names, fold["val"]) for fold in folds])
    np.savez(out, images=images, masks=masks.astype("u1"), curves=curves.astype("f4"), classes=np.array(classes), held_out=held_out)
    print(hashlib.sha256(images.tobytes()).hexdigest())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
