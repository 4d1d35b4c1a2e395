"""Which of several steps of one job puts it back into the queue, and how they see each other."""

import pytest

from launcher.schedulers.slurm.side_by_side import Step, Turn, parse_steps, turn_of

SHOWN = """StepId=801_3.batch UserId=7 StartTime=2026-11-28T20:09:50 TimeLimit=UNLIMITED
   State=RUNNING Partition=low NodeList=n2
   Nodes=1 CPUs=0 Tasks=1 Name=batch Network=(null)

StepId=801_3.0 UserId=7 StartTime=2026-11-28T20:09:50 TimeLimit=00:03:00
   State=RUNNING Partition=low NodeList=n2
   Nodes=1 CPUs=1 Tasks=1 Name=a StepId=9.9 TimeLimit=1 State=RUNNING Network=(null)

StepId=801_3.1 UserId=7 StartTime=2026-11-28T20:09:50 TimeLimit=1388-21:21:00
   State=RUNNING Partition=low NodeList=n2
   Nodes=1 CPUs=1 Tasks=1 Name=b Network=(null)

StepId=801_3.TDB UserId=7 StartTime=Unknown TimeLimit=UNLIMITED
   State=PENDING Partition=low NodeList=n2
   Nodes=1 CPUs=1 Tasks=1 Name=(null) Network=(null)
"""


def steps(**has_left: bool) -> list[Step]:
    return [Step(number=int(name[1:]), has_left=left) for name, left in has_left.items()]


def test_the_steps_of_a_job() -> None:
    assert list(parse_steps(SHOWN)) == steps(s0=False, s1=True)
    assert parse_steps("") == ()


@pytest.mark.parametrize(
    ("others", "turn"),
    [
        ({}, Turn()),
        ({"s3": False}, Turn()),  # itself
        ({"s0": False, "s4": True, "s9": False}, Turn(wait_for=(0, 9))),
        ({"s1": True, "s2": True}, Turn(left_to=1)),
        ({"s3": True, "s4": True}, Turn()),
    ],
)
def test_whose_turn_it_is(others: dict[str, bool], turn: Turn) -> None:
    assert turn_of(3, steps(**others)) == turn
