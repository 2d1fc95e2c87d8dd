"""Damaged inputs by the thousand: how each target's mutations end, and the most time and memory that one takes."""

import argparse
import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._record import record
from tests.fuzz.engine import LONGEST_S, MOST_BYTES, Target, try_mutation
from tests.fuzz.targets import make_targets

MOST_FINDINGS = 20


def indices(options: argparse.Namespace, seconds: float) -> Iterator[int]:
    """The mutations of one target: a number of them, or what fits into its share of the time."""
    if options.mutations:
        return iter(range(options.mutations))
    end = time.monotonic() + seconds
    return itertools.takewhile(lambda _: time.monotonic() < end, itertools.count())


def fuzz(target: Target, seed: int, numbers: Iterator[int]) -> dict[str, Any]:
    for content in target.intact:
        target.read(content)  # what the first call imports is not the mutation's
    verdicts: Counter[str] = Counter()
    findings: list[str] = []
    worst_s = worst_bytes = 0.0
    for index in numbers:
        try:
            outcome = try_mutation(target, seed, index)
        except AssertionError as finding:
            verdicts["finding"] += 1
            findings.append(str(finding)[:300])
            continue
        verdicts[outcome.verdict] += 1
        worst_s, worst_bytes = max(worst_s, outcome.seconds), max(worst_bytes, outcome.grown_bytes)
    accepted = verdicts.pop("accepted", 0)
    total = accepted + verdicts.total()
    print(f"{target.name}: {total} mutations, {accepted} accepted, {len(findings)} findings")
    return {
        "target": target.name,
        "mutations": total,
        "accepted": accepted,
        "refused": dict(verdicts.most_common()),
        "worst_s": round(worst_s, 3),
        "worst_mb": round(worst_bytes / 1e6, 1),
        "findings": findings[:MOST_FINDINGS],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, help="for each target; without it, --seconds counts")
    parser.add_argument("--seconds", type=float, default=180, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        targets = make_targets(Path(folder))
        share = options.seconds / len(targets)
        rows = [fuzz(target, options.seed, indices(options, share)) for target in targets.values()]
    found = sum(len(row["findings"]) for row in rows)
    limits = {"longest_s": LONGEST_S, "most_mb": MOST_BYTES / 1e6}
    unit = "worst_s: CPU seconds of one call; worst_mb: growth of the process's peak memory in one call"
    summary = {"seed": options.seed, "mutations": sum(row["mutations"] for row in rows), "findings": found}
    packages = ("nibabel", "numpy", "pyarrow", "pydantic", "PyYAML", "isal", "torch")
    record("fuzz", {**summary, "limits": limits, "unit": unit, "rows": rows}, packages)
    return os.EX_SOFTWARE if found else os.EX_OK


if __name__ == "__main__":
    raise SystemExit(main())
