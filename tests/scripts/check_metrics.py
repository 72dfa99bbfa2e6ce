#!/usr/bin/env python3
"""Reads the metrics of a running coordinator or worker with Prometheus's own Python client.

For whoever does not want to take our tests' word for the format. Prints each metric with its type, unit and number of
samples; exits with 1 where the parser refuses the text or a name breaks Prometheus's conventions, 2 where nothing answers.

Needs Python 3.9 and prometheus_client.

    check_metrics.py http://127.0.0.1:7078/metrics [http://127.0.0.1:7079/metrics ...]
"""

import re
import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

UNITS = {"seconds", "bytes", "ratio", "celsius"}
FORBIDDEN = re.compile(r"_(ms|milliseconds|percent|kb|mb|gb|minutes|hours|total|count|sum|bucket)$")


def problems(family):
    """What Prometheus's naming conventions have against a metric."""
    if not re.fullmatch(r"(mtinet|process)_[a-z0-9_]+", family.name):
        yield "its name has no prefix of ours, or other letters than a-z, 0-9 and _"
    if FORBIDDEN.search(family.name):
        yield "its name ends with what is no base unit, or is reserved"
    if family.unit and family.unit not in UNITS:
        yield f"its unit {family.unit} is no base unit"
    if not family.documentation:
        yield "it has no help"


def main(urls):
    bad = 0
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                kind, text = answer.headers["Content-Type"], answer.read().decode()
        except OSError as error:
            print(f"{url}: {error}", file=sys.stderr)
            return 2
        print(f"{url}: {kind}")
        try:
            families = list(text_string_to_metric_families(text))
        except ValueError as error:
            print(f"  refused: {error}")
            return 1
        for family in families:
            print(f"  {family.type:10} {family.name} ({family.unit or '-'}): {len(family.samples)} samples")
            for problem in problems(family):
                print(f"    {problem}")
                bad += 1
        print(f"  {len(families)} metrics, {sum(len(family.samples) for family in families)} samples")
    return 1 if bad else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
