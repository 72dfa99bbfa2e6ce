#!/usr/bin/env python3
"""Reads a run's TensorBoard files with the tensorboard package and compares them with the report.

For whoever does not want to take our tests' word for the format. For each trial: the scalars and images that TensorBoard
finds, whether steps ascend (those that were taken again after a resume must be gone), and whether the last held-out DSC, IoU,
MAE and accuracy are those of trials.csv. Exits with 1 where something differs or is missing, 2 where there is nothing to read.

Needs Python 3.9 and tensorboard.

    check_tensorboard.py runs/NAME
"""

import csv
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, TENSORS, EventAccumulator

EVERYTHING = {SCALARS: 0, TENSORS: 0, IMAGES: 0}


def values(events, tag):
    if tag not in events.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in events.Scalars(tag)]


def check(directory, row):
    """Prints a line about a trial; returns what is wrong with it."""
    events = EventAccumulator(str(directory), size_guidance=EVERYTHING)
    events.Reload()
    tags, wrong = events.Tags(), []
    for tag in tags["scalars"]:
        steps = [step for step, _ in values(events, tag)]
        if any(later <= earlier for earlier, later in zip(steps, steps[1:])):
            wrong.append(f"{tag}: steps do not ascend")
    for tag in tags["images"]:
        for image in events.Images(tag):
            if not image.encoded_image_string.startswith(b"\x89PNG") or image.width < 1:
                wrong.append(f"{tag}: no PNG")
    for name in ("dsc", "iou", "mae", "accuracy"):
        reported, held_out = row.get(name) or None, values(events, f"held_out/{name}")
        if reported is None:
            continue
        if not held_out:
            wrong.append(f"held_out/{name} is missing")
        # TensorBoard's numbers have single precision.
        elif abs(held_out[-1][1] - float(reported)) > 1e-5 * max(1.0, abs(float(reported))):
            wrong.append(f"held_out/{name} ends with {held_out[-1][1]}, trials.csv has {reported}")
    points = sum(len(values(events, tag)) for tag in tags["scalars"])
    print(f"{directory}: {len(tags['scalars'])} scalars, {points} points, {len(tags['images'])} images")
    return wrong


def main(run):
    root = pathlib.Path(run)
    report = root / "report" if (root / "report").is_dir() else root
    try:
        with open(report / "trials.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    bad = 0
    for row in rows:
        directory = root / "tensorboard" / row["arm"] / row["fold"] / row["seed"]
        wrong = check(directory, row) if directory.is_dir() else ["no TensorBoard files"]
        for problem in wrong:
            print(f"  {row['arm']}/{row['fold']}/{row['seed']}: {problem}")
        bad += len(wrong)
    print(f"{len(rows)} trials, {bad} problems")
    return 1 if bad else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
