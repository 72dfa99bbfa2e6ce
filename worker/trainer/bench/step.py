"""`make bench-step`: one training step, ours against PyTorch's, turn by turn on the same machine.

Every program keeps its process and makes steps when it is asked for them, so that all of them meet the same disturbances:
A B C, A B C, ... Medians and spread (half the range of the middle half, in percent) go to a table and a JSON file.

  same   our step with the settings of PyTorch eager, for fp32 and for bf16
  best   the fastest of our settings against the fastest of PyTorch's stock settings: fused Adam, channels_last, bf16,
         torch.compile

The JSON file holds each ratio with its target; what was measured, and on which machine, is in a second file beside it.

Needs only Python's own library; PyTorch runs with the interpreter that `--python` names.
"""

import argparse
import itertools
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import report
from report import figure, median, spread

HERE = Path(__file__).resolve().parent
ARMS, PRESETS, SIZES, BATCHES = ["mti-net", "unet"], ["small", "paper"], [64, 128, 256], [1, 8]
QUICK = [("mti-net", "small", 64, 8), ("unet", "small", 64, 1), ("mti-net", "paper", 256, 1)]
# What a PyTorch user can switch on without changing the network.
STOCK = ["fused", "fused,channels_last", "fused,bf16", "fused,channels_last,bf16"]
COMPILED = ["fused,compile", "fused,channels_last,compile", "fused,channels_last,bf16,compile"]
# Our settings that "best" chooses from: all of them are keys of a study file.
OURS = {"fp32": 'precision = "fp32"\n', "bf16": 'precision = "bf16"\n', "auto": 'precision = "auto"\n'}


class Ours:
    """`mtinet-trainer bench-step`, all ranks of it."""

    def __init__(self, shape, train, args, ranks=1):
        arm, preset, size, batch = shape
        study = args.work / f"{arm}-{preset}-{size}-{batch}-{ranks}-{abs(hash(train))}.toml"
        study.write_text(
            f'name = "bench"\ndataset = "data"\narms = ["{arm}"]\n[model]\npreset = "{preset}"\n[train]\nimage_size = {size}\n'
            f"batch_size = {batch}\nreplicas = {ranks}\nsteps = 1000000\neval_every = 0\n{train}"
            '[preprocess]\nhealthy_fraction = 0.0\n[checkpoint]\nevery = "30d"\n')
        self.command = [args.trainer, "bench-step", "--study", study, "--data", args.work / "data"]
        subprocess.run([*self.command, "--prepare"], check=True)
        self.ranks, self.threads, self.processes = ranks, args.threads // ranks, []

    def start(self):
        port = 0
        for rank in range(self.ranks):
            more = ["--threads", self.threads, "--rank", rank, "--ranks", self.ranks, "--port", port]
            process = subprocess.Popen(
                [str(word) for word in [*self.command, *more]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.processes.append(process)
            if rank == 0 and self.ranks > 1:
                port = process.stdout.readline().split()[1]

    def steps(self, count):
        for process in self.processes:
            process.stdin.write(f"{count}\n")
            process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for process in self.processes]
        return answers[0]

    def stop(self):
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait()
        self.processes = []


class PyTorch:
    """`pytorch.py`, alone or under torchrun."""

    def __init__(self, shape, stock, args, ranks=1):
        arm, preset, size, batch = shape
        self.listener = socket.create_server(("127.0.0.1", 0))
        torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone"] if ranks > 1 else []
        self.command = [
            args.python, *torchrun, HERE / "pytorch.py", "--arm", arm, "--preset", preset, "--size", size, "--batch", batch,
            "--threads", args.threads // ranks, "--ranks", ranks, "--stock", stock, "--port", self.listener.getsockname()[1]]
        self.threads = args.threads // ranks

    def start(self):
        # torchrun would set one thread; the variable also reaches the libraries that do not ask PyTorch.
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        self.process = subprocess.Popen(
            [str(word) for word in self.command], env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.listener.settimeout(1)
        while True:
            try:
                self.lines = self.listener.accept()[0].makefile("rw")
                return
            except TimeoutError:
                if self.process.poll() is not None:
                    raise RuntimeError(self.process.stderr.read()[-2000:]) from None

    def steps(self, count):
        self.lines.write(f"{count}\n")
        self.lines.flush()
        line = self.lines.readline()
        if not line:
            raise RuntimeError(self.process.stderr.read()[-2000:])
        return json.loads(line)

    def stop(self):
        self.lines.close()
        # Ranks other than the first hear of the end through the first.
        self.process.wait()


def turns(programs, args, keep):
    """Asks every program in turn, round after round; returns what each measured, by name."""
    measured = {name: {"seconds": [], "peak_kib": 0} for name in programs}
    counts, running = {}, set()
    try:
        for _ in range(args.rounds):
            for name, program in programs.items():
                if name not in running:
                    program.start()
                    running.add(name)
                    # The first steps pay for memory and for choices that are kept; the last of them says how many fit a turn.
                    last = program.steps(args.warmup)["seconds"][-1]
                    counts.setdefault(name, max(1, min(50, int(args.seconds / last))))
                answer = program.steps(counts[name])
                measured[name]["seconds"] += answer["seconds"]
                measured[name]["peak_kib"] = max(measured[name]["peak_kib"], answer["peak_kib"])
                if not keep:
                    program.stop()
                    running.discard(name)
    finally:
        for name in running:
            programs[name].stop()
    return measured


def fastest_stock(shape, args, ranks):
    """The fastest of PyTorch's stock settings, each tried alone for some steps."""
    tried = {}
    for stock in STOCK + ([] if args.no_compile else COMPILED):
        program = PyTorch(shape, stock, args, ranks)
        try:
            program.start()
            program.steps(args.warmup)
            tried[stock] = min(program.steps(3)["seconds"])
            program.stop()
        except RuntimeError as error:
            print(f"  {stock}: does not work here: {str(error).strip().splitlines()[-1][:150]}", flush=True)
    print("  stock: " + ", ".join(f"{name} {1e3 * s:.1f} ms" for name, s in tried.items()), flush=True)
    return min(tried, key=tried.get), tried


def bench(shape, args, ranks=1):
    name = "{} {} {} b{}".format(*shape) + (f" x{ranks}" if ranks > 1 else "")
    print(name, flush=True)
    best, tried = fastest_stock(shape, args, ranks)
    programs = {}
    for ours in args.ours.split(","):
        programs[f"ours {ours}"] = Ours(shape, OURS[ours], args, ranks)
    for stock in dict.fromkeys(["eager", "bf16", best]):
        programs[f"PyTorch {stock}"] = PyTorch(shape, stock, args, ranks)
    heavy = shape[3] * shape[2] ** 2 >= 8 * 256**2
    measured = turns(programs, args, keep=not heavy)
    row = {"shape": name, "ranks": ranks, "best_stock": best, "stock_seconds": tried, "programs": {}}
    for program, value in measured.items():
        seconds = value["seconds"]
        row["programs"][program] = {
            "median": median(seconds), "fastest": min(seconds), "spread_percent": spread(seconds), "steps": len(seconds),
            "peak_mib": value["peak_kib"] / 1024}
    at = row["programs"]
    mine = min((name for name in at if name.startswith("ours")), key=lambda name: at[name]["median"])
    row["compared"] = compared = {"best / eager fp32": (mine, "PyTorch eager"), "best / stock": (mine, f"PyTorch {best}")}
    for precision, stock in [("fp32", "eager"), ("bf16", "bf16")]:
        if f"ours {precision}" in at:
            pair = (f"ours {precision}", f"PyTorch {stock}")
            compared |= {f"same {precision}": pair, f"memory {precision}": pair}
    row["ratios"] = ratios = {}
    for key, (ours, theirs) in compared.items():
        kind = "peak_mib" if key.startswith("memory") else "median"
        ratios[key] = at[ours][kind] / at[theirs][kind]
    for program, value in row["programs"].items():
        print("  {:<36}{:9.1f} ms  min {:9.1f}  +-{:4.1f}%  {:6.0f} MiB".format(
            program, 1e3 * value["median"], 1e3 * value["fastest"], value["spread_percent"], value["peak_mib"]), flush=True)
    print("  " + ", ".join(f"{key} {value:.2f}" for key, value in ratios.items()), flush=True)
    return row


def summary(rows):
    keys = ["same fp32", "same bf16", "best / eager fp32", "best / stock", "memory fp32", "memory bf16"]
    lines = ["| shape | ours fp32 | eager fp32 | ours best | stock best (which) | " + " | ".join(keys) + " |"]
    lines.append("|" + " --- |" * (5 + len(keys)))
    for row in rows:
        programs, best = row["programs"], f"PyTorch {row['best_stock']}"
        ms = lambda value: f"{1e3 * value['median']:.1f}" if value else "-"
        mine = min((v for k, v in programs.items() if k.startswith("ours")), key=lambda v: v["median"])
        cells = [row["shape"], ms(programs.get("ours fp32")), ms(programs["PyTorch eager"]), ms(mine),
                 f"{ms(programs[best])} ({row['best_stock']})"]
        cells += [f"{row['ratios'][key]:.2f}" if key in row["ratios"] else "-" for key in keys]
        lines.append("| " + " | ".join(cells) + " |")
    for title, pick in [("median", median), ("largest", max)]:
        values = [[row["ratios"][key] for row in rows if key in row["ratios"]] for key in keys]
        lines.append(f"| {title} | | | | | " + " | ".join(f"{pick(v):.2f}" if v else "-" for v in values) + " |")
    return "\n".join(lines)


def figures(rows, settings):
    """The ratios of every shape and their medians, with the targets that they have."""
    found = []
    for row in rows:
        found += of_shape(row)
    single = [row for row in rows if row["ranks"] == 1]
    for key in ("same fp32", "same bf16", "best / stock"):
        values = [row["ratios"][key] for row in single if key in row["ratios"]]
        if values:
            at_most = 0.8 if key == "best / stock" else 1.0
            note = f"{len(values)} shapes on one rank; {settings}"
            found.append(figure(f"median over shapes: {key}", median(values), "x", note, at_most=at_most))
    return found


def of_shape(row):
    """One shape's ratios; the peer is PyTorch's figure in the unit that the note names."""
    several = row["ranks"] > 1
    at_most = {"same fp32": 1.1, "same bf16": 1.1, "best / stock": 1.0, "memory fp32": 1.1, "memory bf16": 1.1}
    if several:
        at_most |= {"same fp32": 1.0, "same bf16": 1.0}
    if row["shape"] == "mti-net paper 256 b1":
        at_most["best / eager fp32"] = 0.33
    for key, ratio in row["ratios"].items():
        ours, theirs = (row["programs"][name] for name in row["compared"][key])
        names = "{} / {}".format(*row["compared"][key])
        if key.startswith("memory"):
            peer, note = theirs["peak_mib"], f"{names}: {ours['peak_mib']:.0f} / {theirs['peak_mib']:.0f} MiB at most; peer in MiB"
        else:
            peer = 1e3 * theirs["median"]
            note = "{}: {:.1f} ms +-{:.1f} % ({} steps) / {:.1f} ms +-{:.1f} % ({} steps); peer in ms".format(
                names, 1e3 * ours["median"], ours["spread_percent"], ours["steps"], peer, theirs["spread_percent"], theirs["steps"])
        yield figure(f"{row['shape']}: {key}", ratio, "x", note, at_most=at_most.get(key), peer=peer)


def wanted(args):
    if args.quick:
        return [(shape, 1) for shape in QUICK] + [(("mti-net", "small", 64, 4), 2)]
    shapes = [(shape, 1) for shape in itertools.product(ARMS, PRESETS, SIZES, BATCHES)]
    shapes += [((arm, preset, *rest), 2) for arm in ARMS for preset, *rest in
               [("small", 64, 4), ("small", 256, 1), ("paper", 128, 1), ("paper", 256, 1)]]
    return [item for item in shapes if args.only in "{} {} {} b{}".format(*item[0]) + f" x{item[1]}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", type=Path, default=Path("target/release/mtinet-trainer"))
    parser.add_argument("--python", type=Path, required=True, help="an interpreter that has torch")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/step.json"))
    parser.add_argument("--quick", action="store_true", help="four shapes, without torch.compile")
    parser.add_argument("--only", default="", help="shapes whose name contains this, e.g. 'small 64' or 'x2'")
    parser.add_argument("--ours", default="fp32,bf16,auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.no_compile, args.rounds = True, 3
    rows, found, since = [], [], time.time()
    about = report.machine()
    with tempfile.TemporaryDirectory() as work:
        args.work = Path(work)
        for shape, ranks in wanted(args):
            rows.append(bench(shape, args, ranks))
            about |= {"load_after": os.getloadavg(), "seconds": time.time() - since, "threads": args.threads}
            report.write({"machine": about, "rows": rows}, args.out.with_name(f"{args.out.stem}-raw.json"))
            settings = f"{about['processor']}, {args.threads} threads, load {about['load_before'][0]:.1f} before"
            found = figures(rows, settings)
            report.write(found, args.out)
    print("\n" + summary(rows))
    print("\n" + report.table([each for each in found if each["target"] is not None]))
    print(f"\nJSON: {args.out}")


if __name__ == "__main__":
    main()
