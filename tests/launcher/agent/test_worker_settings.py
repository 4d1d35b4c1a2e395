"""From the plan to what the ranks are told."""

from dataclasses import replace
from pathlib import Path

import pytest

from launcher.agent.launch import no_time_text
from launcher.agent.worker_settings import group_settings
from launcher.command_line.parser import parse_command_line
from launcher.contract.environment import GRACE, Limits, RankFiles, WorkerPlace, worker_environment
from launcher.plan.launch_plan import make_plan
from launcher.plan.machine import Machine

MACHINE = Machine(num_gpus=0, num_cpus=2, cuda_visible_devices=None)


@pytest.fixture
def plan_of(tmp_path):
    (tmp_path / "train.py").write_text("")

    def plan(*words, limits=None):
        options = parse_command_line([*words, str(tmp_path / "train.py")], {})
        return replace(make_plan(options, MACHINE), limits=limits or Limits())

    return plan


def told(plan):
    settings = group_settings(
        plan,
        run_id="abc",
        scratch=Path("/tmp/x"),
        master_addr="127.0.0.1",
        master_port=1,
        restart_count=0,
        attempt=None,
        interface=None,
    )
    place = {"rank": 0, "local_rank": 0, "world_size": 1, "local_world_size": 1}
    group = {"group_rank": 0, "group_world_size": 1, "role_rank": 0, "role_world_size": 1}
    environment = worker_environment(
        WorkerPlace(**place, **group, role_name="default"),
        settings,
        files=RankFiles.of(Path("/tmp/x"), 0),
        inherited={},
    )
    return environment.get(GRACE)


@pytest.mark.parametrize(
    ("words", "limits", "grace"),
    [
        ((), Limits(), None),
        (("--grace", "20"), Limits(), "20.0"),
        (("--grace", "0"), Limits(grace_s=60.0), "0.0"),
        ((), Limits(grace_s=60.0), "60.0"),
        (("--grace", "90"), Limits(grace_s=60.0), "60.0"),
        (("--grace", "20"), Limits(grace_s=60.0), "20.0"),
    ],
)
def test_the_ranks_are_told_the_shorter_grace(plan_of, words, limits, grace):
    assert told(plan_of(*words, limits=limits)) == grace


def test_a_grace_without_time_is_told(plan_of):
    assert no_time_text(plan_of("--grace", "5")) is None
    assert no_time_text(plan_of()) is None
    assert no_time_text(plan_of("--grace", "0")).startswith("--grace 0 leaves no time to save: ")
