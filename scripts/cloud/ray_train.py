"""Two spot nodes of a Ray cluster with eight GPUs each: relaunch inside Ray Train.

python scripts/cloud/ray_train.py         (on the head node, or as `ray job submit`)
"""

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from launcher.bridges import RelaunchTrainLoop

trainer = DataParallelTrainer(
    RelaunchTrainLoop("/shared/code/train.py", "--epochs", "20", strategy="fsdp", max_restarts=3),
    # A worker for each node, with all its GPUs.
    scaling_config=ScalingConfig(
        num_workers=2,
        resources_per_worker={"CPU": 64, "GPU": 8},
        use_gpu=True,
        placement_strategy="STRICT_SPREAD",
    ),
    run_config=RunConfig(
        name="train",
        storage_path="/shared/runs",
        # Preemptions are counted apart. Exit codes 2 and 93 are failures for Ray: start them again
        # and they end the same way, so that relaunch restarts what can be (max_restarts above).
        failure_config=FailureConfig(max_preemption_failures=-1, max_failures=0),
    ),
)
print(trainer.fit().return_value)
