"""On paper: 100,000 cases in S3 on 64 GPUs, from what was measured here and from what has to be assumed.

Measured are the figures of `scale`, `cpu_cost`, `report_scale` and `resume`, and the requests of a case, which are
counted here before a server that speaks S3. Nothing of this ran on 64 GPUs.

    python -m benchmarks.scale_estimate
"""

import json
import os
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import boto3
import s3fs
from moto.server import ThreadedMotoServer

from benchmarks._record import record, recorded
from goat_ray.config import RunConfig
from tests.chaos import ThresholdPredict
from tests.cohorts import write_case, write_tiny_ensemble
from tests.fault_proxy import FaultProxy
from tests.inline import predict_inline

CASES, GPUS, NODES = 100_000, 64, 8


@dataclass(frozen=True, slots=True)
class Assumed:
    """What nobody measured here."""

    gpu_s: float
    cpus_per_node: int = 96
    request_s: float = 0.03
    case_bytes: float = 11e6
    node_bytes_per_s: float = 3e9
    dollars_per_put: float = 5e-6
    dollars_per_get: float = 4e-7


def main() -> None:
    """Count, compute, record."""
    measured = {**_recorded(), "requests_per_case": _requests()}
    print(json.dumps(measured, indent=2))
    estimates = []
    for gpu_s in (0.3, 1.0, 5.0):
        assumed = Assumed(gpu_s)
        estimates.append({"assumed": asdict(assumed), "estimate": _estimate(measured, assumed)})
        print(json.dumps(estimates[-1], indent=2))
    size = {"cases": CASES, "gpus": GPUS, "nodes": NODES}
    record("scale_estimate", {**size, "measured": measured, "estimates": estimates}, ("ray", "s3fs", "moto"))


def _recorded() -> dict[str, float]:
    scale, cost, resume = (recorded(name) for name in ("scale", "cpu_cost", "resume"))
    tables_mb = scale["driver"]["memory_mb"]["after_tables"] - scale["driver"]["memory_mb"]["after_all"]
    return {
        "gap_s": scale["workers"]["gap_ms_between_cases"]["mean"] / 1000,
        "driver_cpu_s_per_case": scale["driver"]["cpu_ms_per_case"] / 1000,
        "driver_mb": scale["driver"]["memory_mb"]["after_all"],
        "driver_kb_per_case": scale["driver"]["slope_kb_per_case"],
        "tables_kb_per_case": 1024 * max(0.0, tables_mb) / scale["cases"],
        "feeding_cpu_s_per_case": sum(
            max(part[stage]["all"]["median"] for part in cost["summary"].values())
            for stage in ("read", "finish", "commit")
        ),
        "resume_cpu_s_per_case": min(one["cpu_s"] for one in resume["resumes"]) / resume["cases"],
        "report_s": recorded("report_scale")["wall_s"],
    }


def _requests() -> dict[str, float]:
    """Requests of one more case, by method: three cases against one."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    secrets = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret"}
    os.environ |= {**secrets, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="runs")
    with tempfile.TemporaryDirectory() as name:
        one, three = (_counted(Path(name), f"http://{host}:{port}", cases) for cases in (1, 3))
    server.stop()
    return {method: (three[method] - one[method]) / 2 for method in sorted(three)}


def _counted(root: Path, server: str, cases: int) -> Counter[str]:
    """Requests of a run over so many cases, by method."""
    folder = root / str(cases)
    for number in range(cases):
        write_case(folder / "cohort", f"case-{number}", number + 1)
    ensemble = write_tiny_ensemble(folder / "ensemble")
    with FaultProxy(server) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.address
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().put(str(folder / "cohort"), f"runs/{cases}/", recursive=True)
        before = proxy.counts["requests"].copy()
        places = {"cohort": f"s3://runs/{cases}/cohort", "out": f"s3://runs/{cases}/run"}
        summary = predict_inline(RunConfig(**places, ensemble=str(ensemble)), worker=ThresholdPredict)
        if summary.ok != cases:
            raise SystemExit(f"{summary.ok} of {cases} cases were predicted")
        return proxy.counts["requests"] - before


def _estimate(measured: dict[str, Any], assumed: Assumed) -> dict[str, Any]:
    """Cases a second that each part could do; the slowest one sets the pace."""
    requests = measured["requests_per_case"]
    pace = {
        "the GPUs": GPUS / (assumed.gpu_s + measured["gap_s"]),
        "the driver": 1 / measured["driver_cpu_s_per_case"],
        "the CPUs": NODES * (assumed.cpus_per_node - 2 * GPUS // NODES) / measured["feeding_cpu_s_per_case"],
        "the network": NODES * assumed.node_bytes_per_s / assumed.case_bytes,
    }
    slowest = min(pace, key=lambda part: pace[part])
    hours = CASES / pace[slowest] / 3600
    # A commit and its time are read at the end, 32 at a time.
    reading_s = 2 * CASES * assumed.request_s / 32
    drivers = max(1, -(-int(1000 * pace["the GPUs"]) // int(1000 * pace["the driver"])))
    return {
        "cases_per_s": {part: round(value, 1) for part, value in pace.items()},
        "slowest": slowest,
        "hours": round(hours, 2),
        "gpus_busy_percent": round(100 * pace[slowest] * assumed.gpu_s / GPUS, 1),
        "tables_minutes": round((reading_s + CASES * measured["resume_cpu_s_per_case"]) / 60, 1),
        "driver_mb_at_the_end": round(
            measured["driver_mb"] + CASES * (measured["driver_kb_per_case"] + measured["tables_kb_per_case"]) / 1024
        ),
        "jobs_that_keep_the_gpus_busy": drivers,
        "request_dollars": round(
            CASES
            * (
                (requests["PUT"] + requests.get("POST", 0)) * assumed.dollars_per_put
                + (requests["GET"] + requests["HEAD"]) * assumed.dollars_per_get
            ),
            2,
        ),
    }


if __name__ == "__main__":
    main()
