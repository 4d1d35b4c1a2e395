"""The files of scripts/cloud, read by the packages that they are for.

Those are not among the extras: `pip install skypilot dstack`.
"""

import shlex
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

FOLDER = Path(__file__).parents[1] / "scripts" / "cloud"
SAVED, FINAL = 75, (2, 93)
"""Exit codes: the same command resumes the run, or would end the same way."""


def given(name: str) -> dict[str, Any]:
    found = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_skypilot_reads_its_file() -> None:
    sky = pytest.importorskip("sky")
    task = sky.Task.from_yaml(str(FOLDER / "skypilot.yaml"))
    (resources,) = task.resources
    assert task.num_nodes == 2
    assert resources.use_spot
    assert resources.job_recovery["recover_on_exit_codes"] == [SAVED]
    assert resources.job_recovery["max_restarts_on_errors"] == 0


def test_dstack_reads_its_file() -> None:
    configurations = pytest.importorskip("dstack._internal.core.models.configurations")
    found = configurations.parse_run_configuration(given("dstack.yml"))
    assert (found.nodes, found.stop_duration) == (2, 300)
    assert {event.value for event in found.retry.on_events} == {
        *("no-capacity", "interruption", "error")
    }


def test_only_a_saved_run_is_recovered_by_skypilot() -> None:
    recovery = given("skypilot.yaml")["resources"]["job_recovery"]
    assert SAVED in recovery["recover_on_exit_codes"]
    assert not set(FINAL) & set(recovery["recover_on_exit_codes"])


@pytest.mark.parametrize(
    ("name", "command", "environ"),
    [
        (
            "skypilot.yaml",
            lambda found: found["run"],
            {
                "$SKYPILOT_NUM_NODES": "2",
                "$SKYPILOT_NODE_RANK": "1",
                "$(echo $SKYPILOT_NODE_IPS | head -n 1)": "10.0.0.1",
                "$SKYPILOT_TASK_ID": "sky-1",
                "$SKYPILOT_NUM_GPUS_PER_NODE": "1",
            },
        ),
        (
            "dstack.yml",
            lambda found: found["commands"][-1],
            {
                "$DSTACK_NODES_NUM": "2",
                "$DSTACK_NODE_RANK": "1",
                "$DSTACK_MASTER_NODE_IP": "10.0.0.1",
                "$DSTACK_RUN_NAME": "train",
                "$DSTACK_GPUS_PER_NODE": "1",
            },
        ),
    ],
)
def test_the_command_of_a_file_is_understood(
    name: str, command: Any, environ: dict[str, str]
) -> None:
    from launcher.command_line.parser import parse_command_line

    text = (
        command(given(name))
        .replace('"$(echo "', "'$(echo ")
        .replace('" | head -n 1)"', " | head -n 1)'")
    )
    words = [environ.get(word, word) for word in shlex.split(text.replace("\\\n", " "))]
    assert words[:2] == ["exec", "relaunch"]
    assert not [word for word in words if "$" in word]
    options = parse_command_line(words[2:], {}, lambda words: words)
    assert not isinstance(options, str)
    assert (options.nodes.node_rank, options.nodes.master_addr) == (1, "10.0.0.1")
