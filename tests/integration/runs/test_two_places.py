"""On a GPU every operation finds its tensors there, and the host waits for it once in a step.

Without a GPU: one is pretended; see workers/two_places.py. The same runs on the host give the same
weights, by the other branches.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = str(Path(__file__).parents[1] / "workers" / "two_places_worker.py")
FEATURES = (
    "plain,bf16,ema,penalty,norms,exact,exact-norms,digests,log,scalar,by-name,unfreeze,fused,"
    "foreach,momentum,adagrad,adafactor,fp16,recompute,exact-recompute,rollback,ending"
)
AN_EARLIER_POINT = "an event, with work after it"
"""The device still has work meanwhile."""
MORE_IN_A_STEP = {
    "digests": 1,  # what was asked for
}

WHILE_ANOTHER_THREAD_COPIES = """
    import threading
    import torch
    from two_places import TwoPlaces

    with TwoPlaces() as world:
        begun, read = threading.Event(), threading.Event()
        value = []
        def copy():
            begun.set()
            read.wait(0.5)
            value.append(7)
        world.give(copy)
        event = torch.cuda.Event()
        event.record()
        beside = threading.Thread(target=event.synchronize)
        beside.start()
        begun.wait(30)
        event.synchronize()
        found = list(value)
        read.set()
        beside.join()
    assert found == [7]
"""


def test_a_wait_beside_another_threads(launch: Any) -> None:
    """The pretended GPU itself: what another thread waits for is done before anybody goes on."""
    launched = launch("--nproc-per-node", "1", launch.script(WHILE_ANOTHER_THREAD_COPIES))
    assert launched.wait(60) == 0, launched.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("world_size", "strategies", "cases"),
    [
        (1, "single", FEATURES),
        (1, "fsdp", "offload," + FEATURES),
        (2, "ddp,fsdp", "plain,norms,exact,exact-norms,ema,fp16,recompute,rollback,ending"),
        (1, "zero1", "offload," + FEATURES),
        (1, "zero2", "offload," + FEATURES),
        (1, "zero3", "offload," + FEATURES),
        (2, "zero1,zero2,zero3", "plain,exact,fp16,offload"),
        (1, "accelerate", "plain,bf16,exact,ema,fused"),
    ],
)
def test_every_feature(
    launch: Callable[..., Any], tmp_path: Path, world_size: int, strategies: str, cases: str
) -> None:
    require_as_on_the_host(launch, tmp_path, world_size, strategies, cases)


@pytest.mark.timeout(240)
def test_a_run(launch: Callable[..., Any], tmp_path: Path) -> None:
    require_as_on_the_host(launch, tmp_path, 1, "single,fsdp", "exact-norms")


@pytest.mark.timeout(400)
def test_gradients_that_deepspeed_copies_to_the_host(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    require_as_on_the_host(launch, tmp_path, 1, "zero2", "offload")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("kind", "world_size"),
    [
        ("plain", 1),
        ("ddp", 2),
        ("accelerate", 1),
        *(pytest.param(f"zero{stage}", 1, marks=pytest.mark.slow) for stage in (1, 2, 3)),
    ],
)
def test_a_loop_of_ones_own(
    launch: Callable[..., Any], tmp_path: Path, kind: str, world_size: int
) -> None:
    """run.step waits at most for the step before, while the device has work; a save for all."""
    worker = str(Path(WORKER).with_name("two_places_own_loop.py"))
    launched = launch("--nproc-per-node", str(world_size), worker, str(tmp_path), kind)
    assert launched.wait(100) == 0, launched.stderr
    told = json.loads((tmp_path / "steps.json").read_text())
    assert told["same"]
    steps = told["steps"]
    assert len(steps) == 15
    assert all(AN_EARLIER_POINT in how for found in steps for how in found), steps
    if kind in ("plain", "ddp"):  # the others have waited for the device in each batch
        assert sum(sum(found.values()) for found in steps) >= 5


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_hugging_faces_trainer(launch: Callable[..., Any], tmp_path: Path) -> None:
    """The Trainer waits by itself; a vote, a heartbeat and the records wait for nothing."""
    pytest.importorskip("transformers")
    worker = str(Path(WORKER).with_name("two_places_trainer.py"))
    told = {}
    for place in ("cuda", "cpu"):
        launched = launch("--nproc-per-node", "1", worker, str(tmp_path), place)
        assert launched.wait(190) == 0, launched.stderr
        told[place] = json.loads((tmp_path / f"{place}.json").read_text())
    assert told["cuda"]["weights"] == told["cpu"]["weights"]
    of_trainers_own = ("_run_epoch", "_at_boundary", "_repeat_evaluation", "saving.py", "main_")
    ours = [how for how in told["cuda"]["waits"] if not any(o in how for o in of_trainers_own)]
    assert ours == []


def require_as_on_the_host(
    launch: Callable[..., Any], out: Path, world_size: int, strategies: str, cases: str
) -> None:
    words = ("--nproc-per-node", str(world_size), WORKER, str(out), strategies, cases)
    launched = launch(*words)
    assert launched.wait(850) == 0, launched.stderr
    told = json.loads((out / "found.json").read_text())
    assert len(told) == len(strategies.split(",")) * len(cases.split(","))
    for name, found in told.items():
        assert found["weights"] == found["metrics"] == 0.0, (name, found)
        if found["steps"]:
            assert sum(found["evaluation"].values()) == 1, (name, found)
            strategy, case = name.split()
            require_few_waits(strategy, case, found["steps"])


def require_few_waits(strategy: str, case: str, steps: list[dict[str, int]]) -> None:
    """Look at steps that save nothing and are not the first of a start."""
    (usual, _), *_ = Counter(json.dumps(step, sort_keys=True) for step in steps).most_common(1)
    found = json.loads(usual)
    waits = {how: count for how, count in found.items() if AN_EARLIER_POINT not in how}
    if strategy == "zero3" or case == "offload":  # zero3 waits in each micro-batch
        waits = {how: count for how, count in waits.items() if "deepspeed" not in how}
    if strategy == "accelerate":  # clip_grad_norm_ sorts by places that C++ sees
        waits.pop("accelerate.py:_apply (to cpu)", None)
    if case == "offload":  # torch's own, for each gradient that goes to the host
        waits = {how: count for how, count in waits.items() if "_accumulate" not in how}
    assert sum(waits.values()) == 1 + MORE_IN_A_STEP.get(case, 0), (case, found)
    earlier = sum(found.values()) - sum(waits.values())
    # The count; of an exact step, which parameters have a gradient.
    assert earlier <= 1 + case.startswith("exact") or case == "offload", (case, found)
