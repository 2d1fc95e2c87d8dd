"""How to get the same again."""

import json

from goat_ray.report.blocks import Cell, Section, Table
from goat_ray.report.data import Cohort


def reproduction(cohort: Cohort) -> Section:
    """Versions, weights and settings of each run."""
    blocks = []
    for run in cohort.runs:
        record = run.record
        ensemble = record.get("ensemble") or {}
        facts: dict[str, object] = {
            "settings that change results": record.get("fingerprint"),
            "versions": record.get("versions"),
            "weights (sha256)": ensemble.get("members"),
            "code": record.get("git_commit"),
            "machine": record.get("machine"),
            "inputs (sha256 of ids and names)": record.get("inputs_sha256"),
            "tables made from": record.get("tables_of"),
        }
        rows: list[list[Cell]] = [
            [name, value if isinstance(value, str) else json.dumps(value, sort_keys=True)]
            for name, value in facts.items()
            if value
        ]
        blocks.append(Table(f"Run {run.name}", "From its run.json.", ("what", "value"), rows, keys=2))
    text = ("The numbers of all tables lie beside this file, as CSV and parquet, with their intervals and patients.",)
    return Section("reproduction", "How to reproduce it", text, blocks)
