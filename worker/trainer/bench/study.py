"""`make bench-study`: a study through `mtinet run` against a shell loop over a plain PyTorch script, on two cores.

Both train all folds of three arms for the same number of steps on the same slices and evaluate the held-out ones, in two forms:
one trial after another with two threads, and two at a time with one thread each; the forms take turns. The loop starts
`train.py`, as a researcher would have it: slices in memory, fused Adam, weights stored at the end. PyTorch's slices are prepared
before the clock starts; mtinet prepares its own, checks the data set, keeps checkpoints and writes the report while it runs.

Needs only Python's own library; `train.py` and `slices.py` run with the interpreter that `--python` names. No privileges.
"""

import argparse
import hashlib
import json
import shlex
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import report
import runs
from report import figure, median

HERE = Path(__file__).resolve().parent
SIZE, BATCH, LEARNING_RATE = 64, 8, 1e-3


@dataclass
class Form:
    name: str
    at_once: int
    ours: list = field(default_factory=list)
    loop: list = field(default_factory=list)
    # Of each turn: our attempts with the seconds to the study's end, and what the loop's script said of its trials.
    orders: list = field(default_factory=list)
    scripts: list = field(default_factory=list)

    @property
    def threads(self):
        return 2 // self.at_once


def study_file(args, folds):
    arms = ", ".join(f'"{arm}"' for arm in args.arms)
    path = args.work / "study.toml"
    path.write_text(
        f'name = "bench-study"\ndataset = "{args.work / "dataset"}"\narms = [{arms}]\nfolds = {list(folds)}\n'
        f'[model]\npreset = "{args.preset}"\n[train]\nsteps = {args.steps}\nbatch_size = {BATCH}\nlearning_rate = {LEARNING_RATE}\n'
        f"image_size = {SIZE}\neval_every = 0\n"
        # The loop writes no masks either.
        '[resources]\ndevice = "cpu"\n[output]\npredictions = false\n')
    return path


def shell_loop(args, form, folds, out):
    """What a researcher types: a loop, or `xargs -P` where trials run side by side."""
    trial = [args.python, HERE / "train.py", "--slices", args.work / "slices.npz", "--preset", args.preset, "--size", SIZE,
             "--batch", BATCH, "--steps", args.steps, "--learning-rate", LEARNING_RATE, "--threads", form.threads]
    trial = f"OMP_NUM_THREADS={form.threads} " + shlex.join(str(word) for word in trial)
    trial += f' --arm "$1" --fold "$2" --out {shlex.quote(str(out))}/"$1-$2".pt || exit 255'
    each = " ".join(f"'{arm} {fold}'" for arm in args.arms for fold in folds)
    if form.at_once == 1:
        return f"for trial in {each}; do set -- $trial; {trial}; done"
    return f"printf '%s\\n' {each} | xargs -P {form.at_once} -L 1 sh -c {shlex.quote(trial)} trial"


def prepare(args):
    """The data set and PyTorch's slices; also brings both programs' libraries into memory before the clock starts."""
    run = lambda *words: subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout
    run(args.bin / "mtinet", "data", "phantom", args.work / "dataset", "--subjects", args.subjects, "--size", SIZE)
    digest = run(args.python, HERE / "slices.py", args.work / "dataset", args.work / "slices.npz").strip()
    run(args.python, "-c", "import torch")
    run(args.bin / "mtinet-trainer", "devices")
    return digest


def turn(args, form, number, folds, study, digest):
    """One turn of a form: ours, then the loop."""
    out = args.work / f"{form.at_once}-{number}"
    form.ours.append(runs.mtinet_run(args.bin / "mtinet", study, out, f"cpu:{form.at_once}"))
    form.orders.append(runs.attempts(out))
    images, = out.glob("work/local-0/cache/slices/*/images.f32")
    if hashlib.sha256(images.read_bytes()).hexdigest() != digest:
        raise SystemExit("error: mtinet and PyTorch were not given the same pixels")
    weights = args.work / f"{form.at_once}-{number}-loop"
    weights.mkdir()
    log = weights.with_suffix(".log")
    form.loop.append(runs.measured(["bash", "-c", shell_loop(args, form, folds, weights)], log))
    trials = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    if len(trials) != len(args.arms) * len(folds):
        raise SystemExit(f"error: the loop finished {len(trials)} trials; see {log}")
    form.scripts.append(trials)
    print(f"{form.name}: mtinet run {form.ours[-1].wall:.1f} s, shell loop {form.loop[-1].wall:.1f} s", flush=True)
    return runs.results(out)


def least(times, slots):
    """No order of these trials ends sooner: not before the longest, nor before the mean work of a slot, nor before the shortest of
    those that some slot must take."""
    some_slot = -(-len(times) // slots)
    return max(max(times), sum(times) / slots, sum(sorted(times)[:some_slot]))


def of_orders(form, value):
    return median([value(*order) for order in form.orders])


def idle(attempts, makespan, slots):
    """Share of the slots' time in which they hold no rank, percent."""
    held = sum((attempt.ended - attempt.began) * len(attempt.slots) for attempt in attempts)
    return 100 * (1 - held / (slots * makespan))


def untrained(attempts, makespan, slots):
    """Share of the slots' time in which nothing is trained or evaluated, percent."""
    return 100 * (1 - sum(attempt.evaluated * len(attempt.slots) for attempt in attempts) / (slots * makespan))


def untrained_in_loop(form):
    trained = lambda trials: sum(trial["seconds"]["train"] + trial["seconds"]["evaluate"] for trial in trials)
    return median([100 * (1 - trained(trials) / (form.at_once * run.wall)) for trials, run in zip(form.scripts, form.loop)])


def times(attempts):
    return [attempt.ended - attempt.began for attempt in attempts]


def figures_of(form):
    slots, name = form.at_once, form.name
    ours, loop = (median([run.wall for run in which]) for which in (form.ours, form.loop))
    orchestration = [(run.cpu - run.trainers) for run in form.ours]
    share = median([100 * cpu / run.cpu for cpu, run in zip(orchestration, form.ours)])
    makespan = of_orders(form, lambda attempts, makespan: makespan)
    ratio = of_orders(form, lambda attempts, makespan: makespan / least(times(attempts), slots))
    simple = of_orders(form, lambda attempts, makespan: makespan / max(max(times(attempts)), sum(times(attempts)) / slots))
    per_trial = of_orders(form, lambda attempts, _: median([a.ended - a.began - a.evaluated for a in attempts]))
    count = len(form.orders[0][0])
    walls = lambda which: ", ".join(f"{run.wall:.1f}" for run in which)
    return [
        figure(f"{name}: wall time of mtinet run", ours, "s", peer=loop,
               note=f"peer: the shell loop; {count} trials, {slots} at a time, {form.threads} thread(s) each; turns: {walls(form.ours)}; "
                    f"the loop's: {walls(form.loop)}"),
        figure(f"{name}: mtinet run / shell loop", ours / loop, "x", at_most=1.0,
               note="whole commands: start, data, training, evaluation, report"),
        figure(f"{name}: processor time, mtinet run / shell loop",
               median([run.cpu for run in form.ours]) / median([run.cpu for run in form.loop]), "x",
               note="all processes; tells more than wall time where others use the machine"),
        figure(f"{name}: slots without a rank", of_orders(form, lambda a, makespan: idle(a, makespan, slots)), "%",
               note="of slots x time from submission to the study's end, from its events; the last slots have nothing left to do"),
        figure(f"{name}: slots in which nothing is trained or evaluated",
               of_orders(form, lambda a, makespan: untrained(a, makespan, slots)), "%", peer=untrained_in_loop(form),
               note=f"the former and start, storing of results and end of the trainers: median {per_trial:.2f} s a trial; peer: of the loop's time"),
        figure(f"{name}: makespan / lower bound", ratio, "x", at_most=1.05,
               note=f"{makespan:.1f} s from submission to the study's end; bound: the most of the longest trial, the sum over slots and the "
                    f"shortest {-(-count // slots)} trials; without the last of these {simple:.3f}"),
        figure(f"{name}: orchestration", share, "%", at_most=0.5,
               note=f"processor time of all that is not a trainer (coordinator, agent, data check, report: {median(orchestration):.2f} s) of that "
                    "of the whole run"),
    ]


def accuracy(form, arms, ours):
    """Whether both did the same work in the last turn: they differ by initial weights and order only."""
    mean = lambda values: sum(values) / len(values)
    loop = form.scripts[-1]
    return [
        figure(f"{form.name}: DSC of {arm}, mean over folds", mean([trial["dsc"] for trial in ours[arm]]), "%",
               peer=mean([trial["dsc"] for trial in loop if trial["arm"] == arm]), note="other initial weights and order of slices")
        for arm in arms
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=Path("target/release"), help="where mtinet, mtinet-worker and mtinet-trainer are")
    parser.add_argument("--python", type=Path, required=True, help="an interpreter that has torch, numpy and nibabel")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/study.json"))
    parser.add_argument("--quick", action="store_true", help="two folds, few steps, one turn")
    # U-Net takes longest and goes first: what comes last should be short, in the loop as in the study.
    parser.add_argument("--arms", type=lambda text: text.split(","), default=["unet", "mti-net", "no-tim"])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    args.bin = args.bin.resolve()
    if args.quick:
        args.folds, args.steps, args.rounds = min(args.folds, 2), 20, 1
    folds = range(args.folds)
    runs.two_cores()
    about = report.machine()
    forms = [Form("one after another", 1), Form("two at a time", 2)]
    # Beside the runs of a user: on a disk, where what is synchronised costs what it costs.
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="study-", dir=args.out.parent) as work:
        args.work = Path(work).resolve()
        digest, study = prepare(args), study_file(args, folds)
        for number in range(args.rounds):
            for form in forms:
                ours = turn(args, form, number, folds, study, digest)
    figures = [figure for form in forms for figure in figures_of(form)] + accuracy(forms[-1], args.arms, ours)
    busy = f"{about['processor']}, load before {about['load_before'][0]:.1f}; {args.steps} steps of {BATCH} slices at {SIZE} pixels, preset {args.preset}"
    figures[0]["note"] += f"; {busy}"
    report.write(figures, args.out)
    print("\n" + report.table(figures))
    print(f"\nJSON: {args.out}")


if __name__ == "__main__":
    main()
