"""What a user of Ray Train runs: a cluster on this machine, and runs on two workers of it.

ray_driver.py FOLDER STEP: drains a node at STEP, and writes FOLDER/results.json. A process of its
own, since Ray leaves threads.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

STORE_BYTES = 80 << 20
TRIES = 6
DEADLINE_S = 60.0
WAIT_S = 600.0
Started = TypeVar("Started")
SCRIPT = Path(__file__).with_name("ray_script.py")
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from ray.core.generated import autoscaler_pb2  # noqa: E402
from ray.train import RunConfig, ScalingConfig  # noqa: E402
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # noqa: E402

from launcher.bridges import RelaunchTrainLoop  # noqa: E402


def started(start: Callable[[], Started]) -> Started:
    """Start a part of the cluster, for which Ray gives it 30 s each time."""
    for _ in range(TRIES - 1):
        try:
            return start()
        except Exception as error:
            print("once more:", error, flush=True)
    return start()


def fit(folder: Path, name: str, *words: str, **options: Any) -> dict[str, Any]:
    """Run the script on two workers; return how it ended."""
    config = options.pop("config", None)
    trainer = DataParallelTrainer(
        RelaunchTrainLoop(SCRIPT, *words, strategy="ddp", **options),
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=2, placement_strategy="SPREAD"),
        run_config=RunConfig(name=name, storage_path=str(folder)),
    )
    try:
        result = trainer.fit()
    except ray.train.WorkerGroupError as error:
        failures = error.worker_failures.values()
        return {"failures": [(type(one).__name__, str(one)) for one in failures]}
    return {"returned": result.return_value}


def drain_when_waiting(run_dir: Path, node_id: str) -> None:
    """Have Ray announce the end of a node, once both ranks wait for a notice."""
    end = time.monotonic() + WAIT_S
    while not all((run_dir / f"waits-{rank}").exists() for rank in (0, 1)):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {WAIT_S:g} s for the ranks to wait for a notice")
        time.sleep(0.1)
    gcs = ray._private.worker.global_worker.gcs_client
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + DEADLINE_S) * 1000)
    print("drained:", gcs.drain_node(node_id, reason, "spot", deadline_ms), flush=True)


def main(folder: Path, gate: int) -> None:
    """Run everything, and write what came of it."""
    head = {"num_cpus": 2, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = started(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        node = started(lambda: cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES))
        ray.init(address=cluster.address)
        threading.Thread(
            target=drain_when_waiting, args=(folder / "drained", node.node_id), daemon=True
        ).start()
        results = {
            "drained": fit(folder, "drained", config={"gate": gate}),
            "refused": fit(folder, "refused", precision="fp99"),
        }
        (folder / "results.json").write_text(json.dumps(results))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
