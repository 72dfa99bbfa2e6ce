"""`mtinet run` as a process that is measured: wall time, processor time, the study's events and its results.

Needs only Python's own library, and no privileges.
"""

import json
import os
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

# How often the processor time of the agent's trainers is read. The agent lives on for longer than this after the last of
# them: it stores the results first.
POLL = 0.05


@dataclass
class Measured:
    wall: float
    # Processor time of the process and of all that it started, seconds.
    cpu: float
    # Of this, that of the trainers; None where there are none.
    trainers: float | None = None


def two_cores():
    """Keeps this process and all that it starts on two cores, so that the form of a bench is the same everywhere."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("error: this bench needs two cores")
    os.sched_setaffinity(0, cores)


def measured(command, log, agent_pid=None):
    """Runs a command to its end, its output in `log`. `agent_pid` is where `mtinet run` keeps its agent's process number."""
    words = [str(word) for word in command]
    since, trainers = time.perf_counter(), None
    with open(log, "w") as out:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG if agent_pid else 0)
                if pid:
                    break
                trainers = children_cpu(agent_pid, trainers)
                time.sleep(POLL)
        except BaseException:
            # Interrupted: what was started must not outlive the directory that it works in.
            process.terminate()
            process.wait()
            raise
    wall, process.returncode = time.perf_counter() - since, os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        end = "\n".join(Path(log).read_text().splitlines()[-20:])
        raise SystemExit(f"error: {' '.join(words)} ended with {process.returncode}; {log} ends:\n{end}")
    return Measured(wall, usage.ru_utime + usage.ru_stime, trainers)


def children_cpu(pid_file, before):
    """Processor time of the children that a process has waited for."""
    try:
        stat = Path(f"/proc/{int(pid_file.read_text())}/stat").read_text()
    except (OSError, ValueError):
        # Not there yet, or not any more.
        return before
    # The name, in brackets, may hold anything; the fields after it begin with the third.
    fields = stat.rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def mtinet_run(mtinet, study, out, devices):
    """A study from its file to its report."""
    command = [mtinet, "run", study, "--plain", "--workers", 1, "--devices", devices, "--out", out]
    return measured(command, out.with_suffix(".log"), out / "work/local-0/agent.pid")


@dataclass
class Attempt:
    trial: str
    slots: list
    # Seconds since the study was submitted.
    began: float
    ended: float = 0.0
    # Seconds of training, and of training and evaluating, as the trainer measured them.
    trained: float = 0.0
    evaluated: float = 0.0


def attempts(run):
    """Every execution of a trial, and the seconds from the study's submission to its end, from the event log."""
    log = sqlite3.connect(f"file:{run / 'coordinator/events.db'}?mode=ro", uri=True)
    running, over, since = {}, [], None
    for time_ms, kind, trial, text in log.execute("SELECT time_ms, kind, trial, json FROM events ORDER BY id"):
        since = time_ms if since is None else since
        now = (time_ms - since) / 1e3
        event = json.loads(text)
        if kind == "attempt_started":
            slots = [(place["worker"], place["slot"]) for place in event["placements"]]
            running[trial] = Attempt(trial, slots, now)
        elif kind == "metrics":
            for record in event["records"]:
                running[trial].evaluated = record["train_seconds"]
                if record["scope"] == "step":
                    running[trial].trained = record["train_seconds"]
        elif kind == "attempt_ended":
            running[trial].ended = now
            over.append(running.pop(trial))
        elif kind == "study_finished":
            log.close()
            return over, now
    raise SystemExit(f"error: {run} holds no finished study")


def results(run):
    """The trials of each arm, from the report's summary."""
    return {arm["arm"]: arm["trials"] for arm in json.loads((run / "report/summary.json").read_text())["arms"]}
