#!/usr/bin/env python3
"""Recomputes the figures of a run's report from what lies below them, and compares.

For whoever does not want to take the report's word, or its program's: nothing here is shared with mtinet. DSC, IoU and
areas come from the NIfTI masks (the predicted ones and the data set's labels), MAE, accuracy and confusion from the
curves and probabilities in slices.csv. Means over folds, deviations and pooled values are formed anew. With --images the
true curves are measured again in the data set's images; that is shown and not judged, because a study that trains at
another size than the images' measures its curves at its own. Exits with 1 where anything differs from trials.csv,
subjects.csv, slices.csv or summary.json by more than the tolerance, 2 where it cannot compare.

Needs Python 3.9, numpy and nibabel.

    recompute_report.py runs/NAME --dataset DATASET_DIRECTORY

A run's directory holds report/ and predictions/; `mtinet report STUDY --out R/report --predictions R/predictions`
makes one of any study.
"""

import argparse
import csv
import json
import math
import pathlib
import statistics
import sys
from collections import defaultdict

import nibabel
import numpy as np


class Differences:
    """Counts comparisons and keeps the worst."""

    def __init__(self, tolerance):
        self.tolerance, self.count, self.bad = tolerance, 0, []
        self.worst, self.where = 0.0, "nothing"

    def compare(self, where, reported, computed):
        self.count += 1
        if reported is None or computed is None:
            difference = 0.0 if reported is computed else math.inf
        else:
            difference = abs(reported - computed)
        if not difference <= self.tolerance:
            self.bad.append(f"{where}: reported {reported}, computed {computed}")
        if difference > self.worst:
            self.worst, self.where = difference, where


def number(text):
    return float(text) if text not in ("", None) else None


def mean(values):
    values = [value for value in values if value is not None]
    return math.fsum(values) / len(values) if values else None


def deviation(values):
    return statistics.stdev(values) if len(values) > 1 else None


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Masks:
    """Slices of label and predicted masks, a case at a time."""

    def __init__(self, dataset, predictions):
        self.dataset, self.predictions, self.labels = dataset, predictions, {}
        self.cases = {}
        for line in (dataset / "cases.jsonl").read_text().splitlines():
            case = json.loads(line)
            self.cases[case["case"]] = case

    @staticmethod
    def read(path):
        return np.asarray(nibabel.load(path).dataobj)

    def label(self, name):
        if name not in self.labels:
            entry = self.cases[name]["label"]
            raw, mask = self.read(self.dataset / entry["path"]), None
            # Values that the data set maps to 1, the tumour.
            tumour = [int(value) for value, to in entry.get("remap", {"1": 1}).items() if to == 1]
            mask = np.isin(raw, tumour)
            self.labels[name] = mask
        return self.labels[name]

    def predicted(self, trial, name):
        path = self.predictions.joinpath(*trial, f"{name}.nii.gz")
        return self.read(path) != 0 if path.exists() else None

    def image(self, name, phase):
        return self.read(self.dataset / self.cases[name]["images"][phase]["path"]).astype(np.float64)


def overlap(truth, predicted):
    """Areas, Dice and IoU in percent of one slice; no Dice where the truth is empty."""
    areas = int(truth.sum()), int(predicted.sum()), int((truth & predicted).sum())
    t, p, both = areas
    if t == 0:
        return areas, None, None
    return areas, 200.0 * both / (t + p), 100.0 * both / (t + p - both)


def predicted_class(probabilities):
    """Of equal ones the last: a tie between hemangioma and HCC is HCC."""
    return max(range(len(probabilities)), key=lambda index: (probabilities[index], index))


def probabilities(row, classes):
    rest = [number(row[f"p_{index}"]) for index in range(1, classes)]
    if any(value is None for value in rest):
        return None
    first = number(row.get("p_0")) if row.get("p_0") else 1.0 - math.fsum(rest)
    return [first, *rest]


def check_slices(trial, table, masks, phases, classes, curves, differences):
    """One trial's slices against masks and curves. Returns what the fold's metrics are formed from."""
    by_case, checked, seen = defaultdict(list), [], 0
    for row in table:
        by_case[row["case"]].append(row)
    for name, of_case in by_case.items():
        truth, predicted = masks.label(name), masks.predicted(trial, name)
        volumes = {phase: masks.image(name, phase) for phase in phases} if curves else {}
        for row in of_case:
            z, where = int(row["slice"]), f"{'/'.join(trial)} {name} slice {row['slice']}"
            result = {"subject": row["subject"], "class": number(row["class_index"]), "dsc": None, "iou": None}
            result["predicted"] = None
            differences.compare(f"{where} truth_pixels", number(row["truth_pixels"]), int(truth[:, :, z].sum()))
            if row["predicted_pixels"] and predicted is not None:
                seen += 1
                areas, result["dsc"], result["iou"] = overlap(truth[:, :, z], predicted[:, :, z])
                result["predicted"], result["truth"] = areas[1], areas[0]
                differences.compare(f"{where} predicted_pixels", number(row["predicted_pixels"]), areas[1])
                if "overlap_pixels" in row:
                    differences.compare(f"{where} overlap_pixels", number(row["overlap_pixels"]), areas[2])
                for metric in ("dsc", "iou"):
                    differences.compare(f"{where} {metric}", number(row[metric]), result[metric])
            curve = [number(row[f"true_{phase}"]) for phase in phases]
            answer = [number(row[f"predicted_{phase}"]) for phase in phases]
            errors = [abs(t - p) for t, p in zip(curve, answer) if t is not None and p is not None]
            result["phases"] = errors or None
            result["mae"] = mean(errors)
            differences.compare(f"{where} mae", number(row["mae"]), result["mae"])
            for phase, volume in volumes.items():
                if truth[:, :, z].any():
                    measured = volume[:, :, z][truth[:, :, z]].mean()
                    curves.compare(f"{where} true_{phase}", number(row[f"true_{phase}"]), measured)
            result["p"] = probabilities(row, classes) if result["class"] is not None else None
            if result["p"]:
                chosen = predicted_class(result["p"])
                result["right"] = chosen == result["class"]
                result["chosen"] = chosen
                differences.compare(f"{where} pred_class_index", number(row["pred_class_index"]), chosen)
            checked.append(result)
    return checked, seen


def fold_metrics(slices, phases, classes, minimum):
    """The metrics of a fold in the report's names."""
    tumour = [s for s in slices if s["class"] is not None]
    healthy = [s for s in slices if s["class"] is None and s["predicted"] is not None]
    subjects = defaultdict(list)
    for one in tumour:
        subjects[one["subject"]].append(one)
    metrics = {name: mean(s[name] for s in tumour) for name in ("dsc", "iou", "mae")}
    for index, phase in enumerate(phases):
        metrics[f"mae_{phase}"] = mean(s["phases"][index] if s["phases"] else None for s in tumour)
    metrics["mae_sum"] = mean(math.fsum(s["phases"]) if s["phases"] else None for s in tumour)
    for name in ("dsc", "iou", "mae"):
        metrics[f"{name}_per_subject"] = mean(mean(s[name] for s in of) for of in subjects.values())
        if name == "mae":
            continue
        scored = [s for s in slices if s["predicted"] is not None]
        both = [s for s in scored if s["truth"] == 0 and s["predicted"] == 0]
        values = [s[name] if s["truth"] else 0.0 for s in scored if s not in both]
        metrics[f"{name}_skip_both_empty"] = mean(values)
        metrics[f"{name}_both_empty_one"] = mean(values + [100.0] * len(both))
    metrics["healthy_fp_rate"] = mean(100.0 * (s["predicted"] >= minimum) for s in healthy)
    metrics["healthy_fp_pixels"] = mean(float(s["predicted"]) for s in healthy)
    answered = [s for s in tumour if s["p"]]
    metrics["accuracy"] = mean(100.0 * s["right"] for s in answered)
    confusion = [[0] * classes for _ in range(classes)]
    for one in answered:
        confusion[int(one["class"])][one["chosen"]] += 1
    metrics["confusion"] = confusion if answered else None
    if answered and classes == 2:
        recall = [100.0 * row[index] / sum(row) if sum(row) else None for index, row in enumerate(confusion)]
        metrics["specificity"], metrics["sensitivity"] = recall
    rights = []
    for of in subjects.values():
        if all(s["p"] for s in of):
            average = [mean(s["p"][index] for s in of) for index in range(classes)]
            rights.append(100.0 * (predicted_class(average) == of[0]["class"]))
    metrics["subject_accuracy"] = mean(rights)
    metrics["n_slices"], metrics["n_subjects"] = len(tumour), len({s["subject"] for s in slices})
    metrics["n_healthy_slices"] = len(slices) - len(tumour)
    return metrics


def check_trial(key, metrics, trial_row, summary_trial, names, differences):
    where = "/".join(key)
    for name, value in metrics.items():
        if name == "confusion":
            if value is None:
                continue
            for truth, row in zip(names, value):
                for predicted, count in zip(names, row):
                    column = f"n_{truth}_as_{predicted}"
                    differences.compare(f"{where} trials.csv {column}", number(trial_row[column]), count)
            differences.compare(f"{where} confusion", 0, 0 if summary_trial["confusion"] == value else 1)
            continue
        if name in trial_row:
            differences.compare(f"{where} trials.csv {name}", number(trial_row[name]), value)
        if name in summary_trial:
            differences.compare(f"{where} summary.json {name}", summary_trial[name], value)


def check_arm(arm, trials, asked, differences):
    """Means over folds, each the mean over its seeds; only of complete arms, as the report does."""
    complete = len(trials) == asked
    if complete != arm["complete"]:
        differences.compare(f"{arm['arm']} complete", float(arm["complete"]), float(complete))
    for name, reported in arm["mean"].items():
        folds = defaultdict(list)
        for (_, fold, _), metrics in trials.items():
            folds[fold].append(metrics.get(name, "not recomputed"))
        values = [v for of in folds.values() for v in of]
        if "not recomputed" in values or not values:
            continue
        whole = complete and None not in values
        by_fold = [mean(of) for of in folds.values()] if whole else []
        differences.compare(f"{arm['arm']} mean {name}", reported, mean(by_fold))
        differences.compare(f"{arm['arm']} std {name}", arm["std"][name], deviation(by_fold))


def check_pooled(arm, slices, seeds, differences):
    """Over slices of all folds together; with several seeds a slice counts once, which this leaves alone."""
    if seeds > 1 or not arm["complete"]:
        return
    for name in ("dsc", "iou", "mae"):
        values = [s[name] for s in slices if s["class"] is not None and s[name] is not None]
        reported = arm["pooled"]["slices"][name] or {"mean": None, "std": None, "n": 0}
        differences.compare(f"{arm['arm']} pooled {name} mean", reported["mean"], mean(values))
        differences.compare(f"{arm['arm']} pooled {name} std", reported["std"], deviation(values))
        differences.compare(f"{arm['arm']} pooled {name} n", reported["n"], len(values))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="a run's directory, with report/ and predictions/")
    parser.add_argument("--dataset", type=pathlib.Path, help="the data set; default RUN/dataset")
    parser.add_argument("--images", action="store_true", help="measure the true curves in the images again, slower")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="largest difference; default 1e-6")
    options = parser.parse_args()
    report, dataset = options.run / "report", options.dataset or options.run / "dataset"
    for needed in (report / "summary.json", report / "slices.csv", dataset / "cases.jsonl"):
        if not needed.is_file():
            print(f"{needed} is not there; give a run's directory and its data set", file=sys.stderr)
            return 2
    summary = json.loads((report / "summary.json").read_text())
    phases, names = summary["phases"], summary["classes"]
    minimum = summary.get("healthy_minimum_pixels", 10)
    by_trial = defaultdict(list)
    for row in rows(report / "slices.csv"):
        by_trial[row["arm"], row["fold"], row["seed"]].append(row)
    trial_rows = {(row["arm"], row["fold"], row["seed"]): row for row in rows(report / "trials.csv")}
    masks, differences = Masks(dataset, options.run / "predictions"), Differences(options.tolerance)
    curves = Differences(options.tolerance) if options.images else None
    segmented = recomputed = 0
    for arm in summary["arms"]:
        trials, pool, asked = {}, [], len(arm["trials"])
        for entry in arm["trials"]:
            key = arm["arm"], str(entry["fold"]), str(entry["seed"])
            if key not in by_trial:
                if entry["status"] == "done":
                    differences.compare(f"{'/'.join(key)} slices.csv", 1, None)
                continue
            slices, seen = check_slices(
                key, by_trial[key], masks, phases, len(names), curves, differences
            )
            segmented, recomputed = segmented + seen, recomputed + 1
            trials[key] = fold_metrics(slices, phases, len(names), minimum)
            check_trial(key, trials[key], trial_rows[key], entry, names, differences)
            pool.extend(slices)
        check_arm(arm, trials, asked, differences)
        check_pooled(arm, pool, len(summary["seeds"]), differences)
    print(
        f"{recomputed} trials, {segmented} predicted masks of slices, {differences.count} comparisons; worst difference "
        f"{differences.worst:.3g} ({differences.where}); tolerance {options.tolerance:g}"
    )
    if curves:
        print(
            f"true curves against the images: {curves.count} values, worst difference {curves.worst:.3g} raw units "
            f"({curves.where})"
        )
    if not recomputed:
        print("no trial is finished: nothing was compared", file=sys.stderr)
        return 2
    for line in differences.bad[:20]:
        print(f"differs: {line}", file=sys.stderr)
    if differences.bad:
        print(f"{len(differences.bad)} figures differ", file=sys.stderr)
    return 1 if differences.bad else 0


if __name__ == "__main__":
    sys.exit(main())
