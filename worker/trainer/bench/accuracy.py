"""`make bench-accuracy`: whether bf16 costs accuracy. One study with three seeds in fp32 and the same in bf16, both by `mtinet run`.

The difference of the means must lie within the spread of the seeds in fp32: what another seed changes anyway. At 128 pixels all
that bf16 covers is computed in it, attention included. Needs only Python's own library, and no privileges.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import report
import runs
from report import figure

SEEDS = [0, 1, 2]
PRECISIONS = ["fp32", "bf16"]
METRICS = {"dsc": ("DSC", "%"), "mae": ("MAE", "raw intensity")}
# Below this a network has not learned what a tumour looks like, and all precisions are alike.
LEARNED = 50.0


def study_file(args, precision):
    path = args.work / f"{precision}.toml"
    path.write_text(
        f'name = "bench-accuracy-{precision}"\ndataset = "{args.work / "dataset"}"\narms = ["mti-net"]\n'
        f"folds = {list(range(args.folds))}\nseeds = {SEEDS}\n"
        # Without skips, a few hundred steps do not reach small lesions.
        f'[model]\npreset = "{args.preset}"\nskip = "add1x1"\nmdief_levels = "all"\n'
        f'[train]\nprecision = "{precision}"\nsteps = {args.steps}\nbatch_size = 4\nlearning_rate = 2e-3\nimage_size = {args.size}\n'
        "eval_every = 0\n[train.loss]\ndice = 1.0\n"
        '[preprocess]\nhealthy_fraction = 0.25\n[resources]\ndevice = "cpu"\n[output]\npredictions = false\n')
    return path


def by_seed(trials, metric):
    """The mean over the folds, seed by seed."""
    return [statistics.mean(trial[metric] for trial in trials if trial["seed"] == seed) for seed in SEEDS]


def compared(metric, values, note):
    """The figures of one metric; `values` by precision, seed by seed."""
    name, unit = METRICS[metric]
    means = {precision: statistics.mean(values[precision]) for precision in PRECISIONS}
    span = max(values["fp32"]) - min(values["fp32"])
    found = []
    for precision in PRECISIONS:
        each = values[precision]
        seeds = ", ".join(f"{value:.2f}" for value in each)
        learned = LEARNED if metric == "dsc" else None
        found.append(figure(
            f"{name} in {precision}, mean over seeds", means[precision], unit, at_least=learned,
            note=f"seeds {seeds}: range {max(each) - min(each):.2f}, standard deviation {statistics.stdev(each):.2f}; {note}"))
    found.append(figure(
        f"{name}: distance of bf16 from fp32", abs(means["bf16"] - means["fp32"]), unit, at_most=span,
        note=f"target: the range of the seeds in fp32; bf16 - fp32 = {means['bf16'] - means['fp32']:+.2f}"))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=Path("target/release"), help="where mtinet, mtinet-worker and mtinet-trainer are")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/accuracy.json"))
    parser.add_argument("--quick", action="store_true", help="few steps at 64 pixels: does it work?")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    args.bin = args.bin.resolve()
    if args.quick:
        args.size, args.steps, args.preset = 64, 40, "tiny64"
    runs.two_cores()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="accuracy-", dir=args.out.parent) as work:
        args.work = Path(work).resolve()
        phantom = [args.bin / "mtinet", "data", "phantom", args.work / "dataset", "--subjects", args.subjects, "--size", args.size]
        runs.measured(phantom, args.work / "phantom.log")
        trials, walls = {}, []
        for precision in PRECISIONS:
            out = args.work / precision
            run = runs.mtinet_run(args.bin / "mtinet", study_file(args, precision), out, "cpu:2")
            trials[precision] = runs.results(out)["mti-net"]
            walls.append(f"{precision} {run.wall:.0f} s")
            print(f"{precision}: {run.wall:.0f} s", flush=True)
    note = f"{args.folds} fold(s), {args.steps} steps of 4 slices at {args.size} pixels, {args.preset}; {', '.join(walls)}"
    figures = []
    for metric in METRICS:
        figures += compared(metric, {precision: by_seed(trials[precision], metric) for precision in PRECISIONS}, note)
    report.write(figures, args.out)
    print("\n" + report.table(figures))
    print(f"\nJSON: {args.out}")


if __name__ == "__main__":
    main()
