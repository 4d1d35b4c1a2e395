"""What a worker of Ray Train decides, from its place, from exit codes and from Ray's notices."""

import sys
from pathlib import Path

import pytest

from launcher.bridges.ray_train.decisions import (
    LINGER_S,
    NO_DEADLINE_S,
    TEARDOWN_S,
    Meeting,
    Option,
    Place,
    RunFailed,
    RunPreempted,
    RunRefused,
    awaits_teardown,
    command_of,
    environment_of,
    error_of,
    is_watch_over,
    option_words,
    run_folder_of,
    teardown_at_s,
)
from launcher.command_line.parser import parse_command_line
from launcher.contract.own_command import OWN_START
from launcher.plan.options import LaunchOptions
from strategies import ConfigError

MEETING = Meeting(addr="10.0.0.1", port=4711, secret="0123456789abcdef")
RUN = Path("/shared/runs/one")


def place(*, rank: int = 1, num_workers: int = 2, gpus: tuple[str, ...] = ()) -> Place:
    return Place(rank=rank, num_workers=num_workers, addr="10.0.0.2", gpus=gpus, name="one")


def understood(
    where: Place, *, nproc_per_node: int | None = None, **options: Option
) -> LaunchOptions:
    words = command_of(
        where,
        MEETING,
        run_dir=RUN,
        nproc_per_node=nproc_per_node,
        options=option_words(options),
        script=("train.py", "--data", "/d"),
        settings={"lr": 0.1},
    )
    assert words[:3] == [sys.executable, "-c", OWN_START]
    assert words[-4:] == ["train.py", "--data", "/d", "--lr=0.1"]
    found = parse_command_line(words[3:], {}, lambda words: words)
    assert isinstance(found, LaunchOptions)
    return found


def test_a_worker_is_a_node() -> None:
    found = understood(place(), strategy="fsdp", hybrid_shard=True, precision=None, exact=False)
    nodes = found.nodes
    assert (nodes.node_rank, nodes.master_addr, nodes.master_port) == (1, "10.0.0.1", 4711)
    assert (nodes.local_addr, nodes.run_id) == ("10.0.0.2", "one")
    assert (found.run.run_dir, found.run.strategy) == (RUN, "fsdp")
    assert (found.run.hybrid_shard, found.run.precision, found.run.exact) == (True, None, False)


def test_a_single_worker_meets_nobody() -> None:
    found = understood(place(rank=0, num_workers=1))
    assert found.nodes.master_port is None


@pytest.mark.parametrize(
    ("gpus", "given", "ranks"),
    [((), None, "1"), (("4", "5"), None, "2"), (("4", "5"), 1, "1"), ((), 3, "3")],
)
def test_the_number_of_ranks(gpus: tuple[str, ...], given: int | None, ranks: str) -> None:
    words = command_of(
        place(gpus=gpus),
        MEETING,
        run_dir=RUN,
        nproc_per_node=given,
        options=(),
        script=("train.py",),
        settings={},
    )
    assert words[words.index("--nproc-per-node") + 1] == ranks


@pytest.mark.parametrize("name", ["nnodes", "master_port", "rdzv_endpoint", "secret_file"])
def test_what_follows_from_ray_cannot_be_given(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} cannot be given.*num_workers"):
        option_words({name: "1", "strategy": "ddp"})


@pytest.mark.parametrize(
    ("inherited", "gpus", "devices"),
    [
        ({}, (), {}),
        ({"CUDA_VISIBLE_DEVICES": ""}, (), {"CUDA_VISIBLE_DEVICES": ""}),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, ("2", "3"), {"CUDA_VISIBLE_DEVICES": "2,3"}),
        ({}, ("1",), {"CUDA_VISIBLE_DEVICES": "1"}),
        ({"HIP_VISIBLE_DEVICES": "0,1"}, ("1",), {"HIP_VISIBLE_DEVICES": "1"}),
    ],
)
def test_a_worker_shows_its_own_gpus(
    inherited: dict[str, str], gpus: tuple[str, ...], devices: dict[str, str]
) -> None:
    found = environment_of(inherited, place(gpus=gpus), MEETING, Path("/n"))
    assert {k: v for k, v in found.items() if k.endswith("VISIBLE_DEVICES")} == devices


def test_the_rank_that_ray_made_is_none_of_ours() -> None:
    of_ray = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "9", "PET_NNODES": "4"}
    found = environment_of({**of_ray, "PATH": "/bin"}, place(), MEETING, Path("/n"))
    assert found == {
        "PATH": "/bin",
        "RELAUNCH_SECRET": MEETING.secret,
        "RELAUNCH_RAY_NOTICE": "/n",
    }


def test_the_run_folder() -> None:
    assert run_folder_of(RUN, None, "s3:bucket/x") == RUN
    assert run_folder_of(None, "/ray/one", "/ray/one") == Path("/ray/one")
    with pytest.raises(ConfigError, match=r"at s3:bucket/x, .* run_dir=FOLDER"):
        run_folder_of(None, None, "s3:bucket/x")


@pytest.mark.parametrize(
    ("first", "code", "since_s", "noticed", "over"),
    [
        (False, None, 0.0, False, False),
        (True, None, 0.0, False, True),
        (False, 0, 1e6, False, False),
        (False, 75, 1e6, True, False),
        (False, 1, LINGER_S - 1, False, False),
        (False, 1, LINGER_S, False, True),
        (False, 1, LINGER_S, True, False),
    ],
)
def test_when_a_worker_stops_asking_ray(
    first: bool, code: int | None, since_s: float, noticed: bool, over: bool
) -> None:
    found = is_watch_over(
        first_has_ended=first, code=code, ended_since_s=since_s, was_noticed=noticed
    )
    assert found == over


@pytest.mark.parametrize(
    ("code", "noticed", "waits"),
    [
        (0, True, False),
        (75, True, True),
        (75, False, False),
        (1, True, True),
        (1, False, False),
        (2, True, False),
        (93, True, False),
    ],
)
def test_what_ray_is_to_count_as_a_preemption(code: int, noticed: bool, waits: bool) -> None:
    assert awaits_teardown(code, noticed) == waits


@pytest.mark.parametrize(
    ("deadline_s", "until_s"),
    [(50.0, 50.0 + TEARDOWN_S), (None, 10.0 + NO_DEADLINE_S + TEARDOWN_S)],
)
def test_how_long_ray_is_awaited(deadline_s: float | None, until_s: float) -> None:
    assert teardown_at_s(deadline_s, 10.0) == until_s


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (75, RunPreempted, "saved step 5. The run in /shared/runs/one resumes at its next start."),
        (93, RunRefused, "exit code 93 on worker 1: saved step 5."),
        (2, RunRefused, "exit code 2 on worker 1: saved step 5."),
        (1, RunFailed, "exit code 1 on worker 1:\nrelaunch: error: saved step 5.\nlast"),
    ],
)
def test_what_is_raised(code: int, kind: type[Exception], says: str) -> None:
    error = error_of(code, 1, ["relaunch: error: saved step 5.", "last"], RUN)
    assert type(error) is kind
    assert says in str(error)


def test_a_complete_run_raises_nothing() -> None:
    assert error_of(0, 1, ["relaunch: finished"], RUN) is None
    assert "/shared/runs/one/logs" in str(error_of(1, 1, [], RUN))
