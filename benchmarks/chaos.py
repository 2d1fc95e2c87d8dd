"""Sixty cases on S3 behind a proxy that breaks exchanges, on a cluster of three nodes that are not left in peace.

Workers are killed at random, a node dies and comes back, the driver is killed three times and started again. What
is there in the end is compared, byte for byte, with what an undisturbed run leaves.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    CHAOS_PAUSE_S="1.5",
    AWS_ACCESS_KEY_ID="test-key",
    AWS_SECRET_ACCESS_KEY="test-secret",  # noqa: S106 - of a server on loopback
    AWS_DEFAULT_REGION="us-east-1",
    AWS_EC2_METADATA_DISABLED="true",
)

import boto3
from ray.cluster_utils import Cluster

from benchmarks._record import record
from goat_ray.config import RunConfig, S3Config
from goat_ray.ledger import read_ledger
from goat_ray.runs import read_run
from goat_ray.storage import RunStore
from tests import chaos
from tests.cohorts import write_tiny_ensemble

HEALTHY, CORRUPT = 54, 5
SEED = int(sys.argv[1]) if sys.argv[1:] else 1
FAULT_RATE = 0.1
WORKER_KILLS = 12
DRIVER_KILLS_AT = (10, 22, 36)
NODE_KILL_AT = 16
BUCKET = "s3://chaos"


@contextmanager
def server(*command: str) -> Iterator[str]:
    """A server on loopback in a process of its own; gives its address."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = process.stdout.readline()
        yield line.strip().rpartition(" ")[2]
    finally:
        process.terminate()
        process.wait()


MOTO = """
from moto.server import ThreadedMotoServer
import time
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
print(f"http://{host}:{port}", flush=True)
time.sleep(1e6)
"""


class Cohort:
    """The run that is disturbed: its configuration on disk, and drivers that carry it out."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.config = config
        self._path = folder / f"{config.out.rpartition('/')[2]}.json"
        self._path.write_text(config.model_dump_json())

    def drive(self) -> subprocess.Popen[bytes]:
        """Start a driver, in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos", str(self._path)], stderr=subprocess.DEVNULL, start_new_session=True
        )

    def committed(self) -> int:
        """Number of commits."""
        return len(RunStore(self.config.out).list("commits"))


def disturb(cohort: Cohort, cluster: Cluster, rng: random.Random) -> dict[str, object]:
    """Kill what there is to kill until the run has come to its end; tells what was killed."""
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    root, driver_kills, node_kills = cohort.config.out, [], []
    with chaos.killer(root, SEED, WORKER_KILLS, pause_s=4) as worker_kills:
        driver = cohort.drive()
        while driver.poll() is None:
            done = cohort.committed()
            if len(driver_kills) < len(DRIVER_KILLS_AT) and done >= DRIVER_KILLS_AT[len(driver_kills)]:
                os.killpg(driver.pid, signal.SIGKILL)
                driver.wait()
                chaos.log(root, "kill", "driver")
                driver_kills.append(done)
                driver = cohort.drive()
            elif not node_kills and done >= NODE_KILL_AT:
                cluster.remove_node(nodes.pop(rng.randrange(len(nodes))), allow_graceful=False)
                chaos.log(root, "kill", "node")
                node_kills.append(done)
                nodes.append(cluster.add_node(num_cpus=2))
            time.sleep(0.1)
    return {
        "worker_kills": len(worker_kills),
        "worker_kills_by_stage": {name: worker_kills.count(name) for name in sorted(set(worker_kills))},
        "node_kills_at_commits": node_kills,
        "driver_kills_at_commits": driver_kills,
        "exit_code_of_the_last_driver": driver.returncode,
    }


def verdict(calm: str, wild: str) -> dict[str, object]:
    """Everything that must be true in the end."""
    store = RunStore(wild)
    record_, ledger = read_run(store), read_ledger(store, read_run(store)["run_id"], verify=True)
    theirs, ours = chaos.lasting(calm), chaos.lasting(wild)
    predictions = [what for _, event, what in chaos.events(wild) if event == "predict"]
    counts = record_["counts"]
    return {
        "counts": counts,
        "discovered_is_ok_plus_failed": counts["discovered"] == counts["ok"] + counts["failed"],
        "failures": {case_id: str(failed.failure.category) for case_id, failed in sorted(ledger.failures.items())},
        "objects_compared": len(theirs),
        "objects_that_differ": sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)),
        "commits_that_do_not_count": len(ledger.void),
        "suspects_left": len(store.list("suspects")),
        "predictions": len(predictions),
        "predicted_again_without_a_kill_in_between": chaos.predicted_without_need(wild),
        "most_predictions_of_a_case": max(map(predictions.count, set(predictions))),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name, server("-c", MOTO) as direct:
        folder = Path(name)
        log = folder / "faults.json"
        proxy = ["-m", "tests.fault_proxy", "--upstream", direct, "--port", "0", "--seed", str(SEED)]
        os.environ["AWS_ENDPOINT_URL"] = direct
        boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
        chaos.write_cohort(folder / "cohort", HEALTHY, CORRUPT)
        chaos.upload(folder / "cohort", f"{BUCKET}/cohort")
        ensemble = write_tiny_ensemble(folder / "ensemble")
        for path in chaos.journals():
            path.unlink()
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        base = RunConfig(
            cohort=f"{BUCKET}/cohort",
            ensemble=str(ensemble),
            out=f"{BUCKET}/calm",
            threads=1,
            workers=3,
            address=cluster.address,
        )
        started = time.monotonic()
        cluster_nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        Cohort(folder, base).drive().wait()
        for node in cluster_nodes:
            cluster.remove_node(node)
        calm_s = time.monotonic() - started
        with server(*proxy, "--rate", str(FAULT_RATE), "--log", str(log)) as faulty:
            wild = base.model_copy(update={"out": f"{BUCKET}/wild", "s3": S3Config(endpoint_url=faulty)})
            started = time.monotonic()
            kills = disturb(Cohort(folder, wild), cluster, random.Random(SEED))
            wild_s = time.monotonic() - started
        found = verdict(f"{BUCKET}/calm", f"{BUCKET}/wild")
        cluster.shutdown()
        faults = json.loads(log.read_text())
    payload = {
        "seed": SEED,
        "cases": {"healthy": HEALTHY, "corrupt": CORRUPT, "deadly": 1},
        "fault_rate": FAULT_RATE,
        "calm_wall_s": calm_s,
        "wild_wall_s": wild_s,
        **kills,
        "http": faults,
        **found,
    }
    record("chaos", payload, ("ray", "s3fs", "moto"))
    print(json.dumps(payload, indent=1))


if __name__ == "__main__":
    main()
