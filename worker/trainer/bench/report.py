"""What the benches beside this share: figures with their targets, as a table and as JSON, and what the machine is.

Needs only Python's own library.
"""

import json
import os
import platform
import statistics


def figure(what, value, unit, note="", at_most=None, at_least=None, peer=None):
    """A measured value; `ok` says whether it meets its target, and is true where there is none."""
    target = at_most if at_most is not None else at_least
    met = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    return {"what": what, "value": value, "unit": unit, "target": target, "ok": bool(met), "peer": peer, "note": note}


def write(figures, path):
    """One JSON document: a list of figures, or whatever else a bench keeps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")


def table(figures):
    """The figures as Markdown."""
    rows = [["what", "value", "unit", "target", "ok", "peer", "note"]]
    for f in figures:
        ok = "yes" if f["ok"] else "NO"
        rows.append([f["what"], rounded(f["value"]), f["unit"], rounded(f["target"]), ok, rounded(f["peer"]), f["note"]])
    # A note is as long as it has to be, and stands last.
    widths = [max(len(row[column]) for row in rows) for column in range(6)] + [4]
    line = lambda cells: "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
    return "\n".join([line(rows[0]), line(["-" * width for width in widths]), *map(line, rows[1:])])


def rounded(value):
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def median(values):
    return statistics.median(values)


def spread(values):
    """Half the range of the middle half, in percent of the median."""
    if len(values) < 4:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return 50 * (high - low) / median(values)


def machine():
    """What the figures were measured on, and how busy that was."""
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "")
    return {"processor": model, "cores": os.cpu_count(), "kernel": platform.release(),
            "amx_bf16": "amx_bf16" in flags, "avx512_bf16": "avx512_bf16" in flags, "load_before": os.getloadavg()}
