"""A report over 10,000 cases of 20 sites, five regions and 100,000 lesions: time, memory, size of the page.

The tables are drawn at random in the form that runs write them; there are no images and no thumbnails.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._record import record
from goat_ray.report.page import write_report
from goat_ray.tables import SCHEMAS

CASES = int(sys.argv[1]) if sys.argv[1:] else 10_000
SITES, LESIONS = 20, 10 * CASES
REGIONS = ("WT", "TC", "ET", "NETC", "SNFH")


def make_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    ids = pd.DataFrame({"case_id": [f"BraTS-GLI-{number:05d}-000" for number in range(CASES)]})
    ids["site"] = [f"site {number:02d}" for number in rng.integers(0, SITES, CASES)]
    ids["cohort"] = "GLI"
    failed = rng.random(CASES) < 0.01
    cases = ids.assign(status=np.where(failed, "failed", "ok"))
    cases["failure_category"] = np.where(failed, "unreadable_file", None)
    cases["evaluation"] = np.where(failed, None, "ok")
    for axis in "xyz":
        cases[f"spacing_{axis}_mm"] = 1.0
        cases[f"size_{axis}_vox"] = rng.choice([240, 155], CASES, p=[0.95, 0.05])
    cases["members"] = [["ResNetL", "ResNetM"]] * CASES
    cases["mean_entropy"], cases["mean_margin"] = rng.beta(2, 8, CASES), rng.beta(8, 2, CASES)
    done = ids[~failed].reset_index(drop=True)
    regions = pd.concat([scores(done.assign(region=region), rng) for region in REGIONS], ignore_index=True)
    owner = rng.integers(0, len(done), LESIONS)
    lesions = (
        done.iloc[owner]
        .reset_index(drop=True)
        .assign(region=rng.choice(REGIONS, LESIONS), spec="brats2023-gli", kind="gt", scored=True)
    )
    lesions["volume_mm3"] = rng.lognormal(5, 2, LESIONS)
    lesions["detected"] = rng.random(LESIONS) < 0.8
    lesions["shell_match_only"] = lesions["detected"] & (rng.random(LESIONS) < 0.02)
    failures = ids[failed].assign(stage="read", category="unreadable_file", message="it ends too early", hint="copy it")
    timings = done.assign(step="predict", seconds=rng.gamma(3, 2, len(done)))
    return {"cases": cases, "regions": regions, "lesions": lesions, "failures": failures, "timings": timings}


def write_table(frame: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    """A table in full width; columns that were not drawn are null."""
    columns = [
        pa.array(frame[field.name], field.type, from_pandas=True)
        if field.name in frame
        else pa.nulls(len(frame), field.type)
        for field in schema
    ]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path)


def scores(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    n = len(rows)
    volume = rng.lognormal(9, 1, n) * (rng.random(n) > 0.02)
    predicted = volume * rng.lognormal(0, 0.2, n) * (rng.random(n) > 0.01)
    return rows.assign(
        spec="brats2023-gli",
        official=rows["region"].isin(["WT", "TC", "ET"]),
        penalised=False,
        fp=rng.poisson(0.4, n),
        tp=rng.poisson(2, n),
        fn=rng.poisson(0.3, n),
        **{name: rng.beta(8, 2, n) for name in ("lw_dice", "lw_nsd_1_0", "dice", "mean_probability")},
        **{name: rng.beta(8, 2, n) for name in ("member_dice_mean", "member_dice_min", "member_volume_cv")},
        **{name: rng.gamma(2, 5, n) for name in ("lw_hd95_mm", "lw_hd95_found_mm", "hd95_mm")},
        gt_volume_mm3=volume,
        gt_empty=volume == 0,
        pred_volume_mm3=predicted,
        pred_empty=predicted == 0,
        raw_volume_mm3=volume * rng.lognormal(0, 0.2, n),
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        (run / "tables").mkdir(parents=True)
        document = {"run_id": "0", "kind": "evaluate", "fingerprint": {}, "config": {}, "state": "finished"}
        (run / "run.json").write_text(json.dumps(document))
        made = make_tables(np.random.default_rng(0))
        for table, schema in SCHEMAS.items():
            write_table(made.get(table, pd.DataFrame()), schema, run / f"tables/{table}.parquet")
        before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        wall, cpu = time.perf_counter(), time.process_time()
        write_report([str(run)], f"{name}/report.html")
        payload = {
            "cases": CASES,
            "sites": SITES,
            "lesions": LESIONS,
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "mb_before": before_mb,
            "html_mb": Path(f"{name}/report.html").stat().st_size / 2**20,
        }
    record("report_scale", payload, ("matplotlib", "pandas", "statsmodels"))
    print(payload)


if __name__ == "__main__":
    main()
