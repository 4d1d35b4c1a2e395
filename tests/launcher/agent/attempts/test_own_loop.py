"""What a notice did to a script without `Run`, and which lines would have saved it."""

import pytest

from launcher.agent.attempts.own_loop import (
    died_text,
    ended_with_0_text,
    left_text,
    lines_text,
    lost_text,
    spawn_text,
    without_run_text,
)


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ({"torch", "transformers"}, "callbacks=[RelaunchCallback()]"),
        ({"trl", "datasets"}, "RelaunchCallback.last(args)"),
        ({"lightning"}, "callbacks=[RelaunchLightning()] and a ResumableLoader"),
        ({"pytorch_lightning"}, "RelaunchLightning()"),
        ({"torch"}, "docs/launching.md"),
        ((), "docs/launching.md"),
    ],
)
def test_the_lines_follow_what_the_script_imports(modules: set[str], says: str) -> None:
    assert says in lines_text(modules)


def test_what_happened_and_what_it_cost() -> None:
    assert died_text(1, 15) == "rank 1 ended on SIGTERM: nothing in the script handles it."
    assert lost_text(130.0, None).startswith("Its work in 2:10 min")
    assert ", up to step 7 is lost" in lost_text(30.0, 7)
    assert left_text(15) == "the script exited with 75 after SIGTERM: the same command resumes it."
    assert spawn_text("train.py", 7).startswith("warning: train.py:7 starts processes with torch.")
    assert "relaunch exits with 75" in ended_with_0_text(10)


def test_options_that_a_script_without_run_does_not_take_are_named() -> None:
    text = without_run_text("train.py", ["--strategy fsdp", "--exact"])
    assert text.startswith("warning: --strategy fsdp, --exact have no effect unless")
