"""`make bench-data`: data sets of growing size, the slice cache, and the start of a trainer.

Phantoms with volumes of 32 x 32 x 6 voxels, so that the number of subjects counts and not their size, are made, imported,
checked, split and cached; every stage is a process of its own, whose time and peak memory the kernel counts. From one size to
the next, ten times as large, time per subject must not grow, and memory only by what is kept of each case.

A phantom as large as the paper's cohort is cached with one thread and with as many as the machine has, opened again, and a
trainer started on it. With --python (an interpreter that has numpy and nibabel) the same conversion as a plain loop over
nibabel is the peer.

Needs only Python's own library.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHASES = ["pre", "art", "pv", "del"]
TINY = 32
COHORT = 238
# As in a study file.
STUDY = """name = "bench"
dataset = "data"
arms = ["mti-net"]
[model]
preset = "{preset}"
[train]
image_size = {size}
batch_size = 1
steps = 1000000
eval_every = 0
[checkpoint]
every = "30d"
"""
# What the peer does: read each case's volumes, write its slices as float32.
PEER = """
import sys, numpy as np, nibabel as nib, pathlib
root, out = pathlib.Path(sys.argv[1]), open(sys.argv[2], "wb")
for label in sorted((root / "labels").iterdir()):
    case = label.name.removesuffix(".nii.gz")
    names = [root / "images" / f"{case}_{phase}.nii.gz" for phase in ("pre", "art", "pv", "del")]
    volumes = np.stack([np.asarray(nib.load(name).dataobj, np.float32) for name in names])
    mask = np.asarray(nib.load(label).dataobj, np.uint8)
    out.write(np.ascontiguousarray(volumes.transpose(3, 0, 2, 1)).tobytes())
    out.write(np.ascontiguousarray(mask.transpose(2, 1, 0)).tobytes())
"""


class Figures:
    """The table for people and the file for programs."""

    def __init__(self):
        self.rows = []

    def add(self, what, value, unit, note="", at_most=None, at_least=None, peer=None):
        target = at_most if at_most is not None else at_least
        ok = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        self.rows.append({"what": what, "value": value, "unit": unit, "target": target, "ok": ok, "peer": peer, "note": note})
        limit = "" if target is None else f"  ({'at most' if at_most is not None else 'at least'} {target:g}: {'yes' if ok else 'NO'})"
        beside = "" if peer is None else f"  peer {peer:.4g}"
        print(f"{what:<58}{value:12.4g} {unit:<12}{limit}{beside}  {note}", flush=True)

    def write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.rows, indent=1) + "\n")


class Measured:
    """A process that has ended as it should."""

    def __init__(self, command, threads=None, codes=(0,)):
        environment = dict(os.environ)
        if threads is not None:
            environment["MTINET_DATA_THREADS"] = str(threads)
        since = time.monotonic()
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [str(word) for word in command], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
            _, status, used = os.wait4(process.pid, 0)
            self.seconds = time.monotonic() - since
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode not in codes:
                errors.seek(0)
                raise SystemExit(f"{' '.join(map(str, command))}: {errors.read().decode(errors='replace')[-2000:]}")
        self.cpu, self.peak_mib = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def as_nnunet(dataset, target):
    """The data set in nnU-Net's layout, with the same files."""
    for folder in ["imagesTr", "labelsTr"]:
        (target / folder).mkdir(parents=True)
    lines = ["case,subject,class"]
    with open(dataset / "cases.jsonl") as cases:
        for case in map(json.loads, cases):
            name = case["case"]
            for channel, phase in enumerate(PHASES):
                os.link(dataset / case["images"][phase]["path"], target / "imagesTr" / f"{name}_{channel:04}.nii.gz")
            os.link(dataset / case["label"]["path"], target / "labelsTr" / f"{name}.nii.gz")
            lines.append(f"{name},{case['subject']},{case['class']}")
    (target / "cases.csv").write_text("\n".join(lines) + "\n")
    (target / "dataset.json").write_text(json.dumps({
        "channel_names": {str(channel): phase for channel, phase in enumerate(PHASES)},
        "labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}))


def study(path, size, preset="tiny64"):
    path.write_text(STUDY.format(size=size, preset=preset))
    return path


def stages(subjects, work, args):
    """Makes a phantom of this size and takes it through all stages; what each took, by name."""
    root = work / str(subjects)
    root.mkdir()
    made, raw, imported = root / "phantom", root / "nnunet", root / "imported"
    took = {"phantom": Measured([args.mtinet, "data", "phantom", made, "--subjects", subjects, "--size", TINY])}
    as_nnunet(made, raw)
    took["import"] = Measured([args.mtinet, "data", "import", "nnunet", raw, imported])
    # At this size a lesion in ten thousand may have no pixel, which the check refuses.
    took["check"] = Measured([args.mtinet, "data", "check", imported], codes=(0, 1))
    took["split"] = Measured([args.mtinet, "data", "split", imported, "--folds", "5", "--seed", "1"])
    # `bench-step` looks for a data set that is named by the size of its slices.
    (root / str(TINY)).symlink_to(imported)
    open_cache = [args.trainer, "bench-step", "--study", study(root / "study.toml", TINY), "--data", root, "--prepare"]
    took["cache"] = Measured(open_cache)
    took["open the cache again"] = Measured(open_cache)
    shutil.rmtree(root)
    return took


def linearity(work, args, figures):
    sizes = [100, 1_000] if args.quick else [100, 1_000, 10_000]
    took = {}
    for subjects in sizes:
        print(f"-- {subjects} subjects", flush=True)
        took[subjects] = stages(subjects, work, args)
        for stage, measured in took[subjects].items():
            figures.add(f"{stage}, {subjects} subjects", 1e3 * measured.seconds / subjects, "ms/subject",
                        f"{measured.seconds:.2f} s, {measured.cpu:.2f} s of all cores, peak {measured.peak_mib:.0f} MiB")
    for few, many in zip(sizes, sizes[1:]):
        for stage in took[many]:
            a, b, times = took[few][stage], took[many][stage], many / few
            figures.add(f"{stage}: time per subject, {many} / {few}", b.seconds / a.seconds / times, "ratio",
                        f"of processor time {b.cpu / a.cpu / times:.2f}", at_most=1.2)
            growth = 1024 * (b.peak_mib - a.peak_mib) / (many - few)
            figures.add(f"{stage}: memory per further subject, {many} - {few}", growth, "KiB/subject",
                        f"peak {a.peak_mib:.0f} and {b.peak_mib:.0f} MiB; a case in memory has some 5 KiB",
                        at_most=16 if many > 1_000 else None)
    if not args.quick:
        figures.add("split, 10000 subjects", took[10_000]["split"].seconds, "s", at_most=10)


def cohort(work, args, figures):
    """The slice cache of a data set as large as the paper's."""
    root = work / "cohort"
    root.mkdir()
    size, subjects = (64, 60) if args.quick else (256, COHORT)
    dataset, threads = root / str(size), os.cpu_count()
    name = f"cache of {subjects} subjects, {size} x {size}"
    print(f"-- {name}", flush=True)
    Measured([args.mtinet, "data", "phantom", dataset, "--subjects", subjects, "--size", size])
    prepare = [args.trainer, "bench-step", "--study", study(root / "study.toml", size), "--data", root, "--prepare"]
    built = {}
    # Alternating, so that a disturbance meets both.
    for _ in range(args.rounds):
        for count in [1, threads]:
            shutil.rmtree(root / "cache", ignore_errors=True)
            built.setdefault(count, []).append(Measured(prepare, threads=count))
    seconds = {count: statistics.median(build.seconds for build in builds) for count, builds in built.items()}
    peer = peer_seconds(dataset, root, args)
    cache_mib = sum(file.stat().st_size for file in (root / "cache").rglob("*") if file.is_file()) / 2**20
    peak = max(build.peak_mib for build in built[threads])
    figures.add(name, seconds[threads], "s", f"{threads} threads, {cache_mib:.0f} MiB, peak memory {peak:.0f} MiB; peer: "
                "one loop over nibabel" if peer else f"{threads} threads, {cache_mib:.0f} MiB, peak memory {peak:.0f} MiB", peer=peer)
    if threads > 1:
        figures.add(f"the same, {threads} threads against one", seconds[1] / seconds[threads], "times",
                    f"{seconds[1]:.2f} and {seconds[threads]:.2f} s, medians of {args.rounds}", at_least=0.85 * threads)
    again = [Measured(prepare) for _ in range(5)]
    figures.add("opening it again", statistics.median(one.seconds for one in again), "s", "the whole process with libtorch")
    empty = Measured([args.trainer, "--version"])
    figures.add("memory of an open cache", max(one.peak_mib for one in again) - empty.peak_mib, "MiB",
                f"beyond the program's own {empty.peak_mib:.0f} MiB; the cache has {cache_mib:.0f} MiB and is mapped",
                at_most=max(64, cache_mib / 10))
    start(root, size, args, figures)


def peer_seconds(dataset, root, args):
    if args.python is None:
        return None
    loop = [args.python, "-c", PEER, dataset, root / "peer.bin"]
    took = statistics.median(Measured(loop).seconds for _ in range(args.rounds))
    (root / "peer.bin").unlink()
    return took


def start(root, size, args, figures):
    """From the start of a trainer's process to its readiness and to the end of its first step, with a cache that is there."""
    for preset in ["tiny64"] if args.quick else ["small", "paper"]:
        command = [args.trainer, "bench-step", "--study", study(root / f"{preset}.toml", size, preset), "--data", root]
        ready, stepped = [], []
        for _ in range(5):
            since = time.monotonic()
            process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            process.stdin.write("1\n")
            process.stdin.flush()
            step = json.loads(process.stdout.readline())["seconds"][0]
            stepped.append(time.monotonic() - since)
            ready.append(stepped[-1] - step)
            process.stdin.close()
            process.wait()
        words = f"median of 5: {', '.join(f'{seconds:.2f}' for seconds in sorted(ready))}"
        figures.add(f"start of a trainer, {preset} {size}", statistics.median(ready), "s", words, at_most=2)
        figures.add(f"the same and its first step, {preset} {size}", statistics.median(stepped), "s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mtinet", type=Path, default=Path("target/release/mtinet"))
    parser.add_argument("--trainer", type=Path, default=Path("target/release/mtinet-trainer"))
    parser.add_argument("--python", type=Path, help="an interpreter that has numpy and nibabel, for the peer")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/data.json"))
    parser.add_argument("--work", type=Path, help="where data sets of some gigabytes may lie for a while; by default beside --out")
    parser.add_argument("--quick", action="store_true", help="without 10,000 subjects and the whole cohort")
    parser.add_argument("--only", choices=["linearity", "cohort"])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.mtinet, args.trainer = args.mtinet.resolve(), args.trainer.resolve()
    beside = args.work or args.out.parent
    beside.mkdir(parents=True, exist_ok=True)
    beside = beside.resolve()
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="data-", dir=beside) as work:
        for name, part in [("linearity", linearity), ("cohort", cohort)]:
            if args.only in [None, name]:
                part(Path(work), args, figures)
                figures.write(args.out)
    print(f"\n{sum(not row['ok'] for row in figures.rows)} target(s) missed; JSON: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
