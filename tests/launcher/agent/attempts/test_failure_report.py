"""The text of the report."""

from pathlib import Path

import pytest

from launcher.agent.attempts.attempt import warning_text
from launcher.agent.attempts.failure_report import failure_report, how_it_ended, own_command_text
from launcher.contract.exit_codes import RankEnd
from launcher.contract.files.error_file import ErrorRecord


def outcome(rank, status, *, by_launcher=False):
    since_s = 0.5 if by_launcher else None
    place = {"rank": rank, "local_rank": rank - 8, "pid": 4000}
    return RankEnd(**place, status=status, alive_s=0.0, seen_s=1.0, ending_since_s=since_s)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (42, "failed with exit code 42"),
        (-11, "was killed by SIGSEGV"),
        (-9, "was killed by SIGKILL (often the kernel, when memory runs out)"),
        (-63, "was killed by signal 63"),
        (None, "did not end, even after SIGKILL"),
    ],
)
def test_how_it_ended(status, text):
    assert how_it_ended(status) == text


def test_everything_there_is_to_say():
    first = outcome(11, 1)
    others = [outcome(8, -15, by_launcher=True), outcome(9, 75), outcome(10, -9, by_launcher=True)]
    text = failure_report(
        first,
        [*others, first],
        record=ErrorRecord(message="ValueError: a\nb"),
        log_path=Path("/logs/rank-11.log"),
        tail=["x", "y"],
    )
    assert text.splitlines() == [
        "the last lines of rank 11:",
        "  x",
        "  y",
        "rank 11 (local rank 3, pid 4000) failed with exit code 1.",
        "ValueError: a",
        "b",
        "its whole output: /logs/rank-11.log",
        "2 other ranks failed as a result.",
    ]


def test_exception_found_in_the_output():
    first = outcome(8, 1)
    assert failure_report(first, [first], exception="ValueError: a").splitlines()[1:] == [
        "ValueError: a"
    ]


@pytest.mark.parametrize(("num", "text"), [(1, "1 process"), (3, "3 processes")])
def test_out_of_memory(num, text):
    assert how_it_ended(-9, num_oom_kills=num) == (
        f"was killed by SIGKILL: out of memory, the kernel's OOM killer ended {text}"
    )


def test_alone():
    first = outcome(8, 1)
    assert failure_report(first, [first]) == (
        "rank 8 (local rank 0, pid 4000) failed with exit code 1."
    )


@pytest.mark.parametrize(
    ("cause", "num_ranks", "grace_s", "text"),
    [
        ("SIGTERM", 1, None, "SIGTERM: asking the rank to save and exit, and waiting."),
        (
            "Ctrl-C",
            4,
            30.0,
            "Ctrl-C: asking all 4 ranks to save and exit, and waiting for at most 30 s. "
            "Press Ctrl-C again to kill now.",
        ),
    ],
)
def test_warning_text(cause, num_ranks, grace_s, text):
    assert warning_text(cause, num_ranks, grace_s) == text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "subprocess.CalledProcessError: Command '['tar', 'x.tar']' died with "
            "<Signals.SIGTERM: 15>.",
            "the command '['tar', 'x.tar']', which the script had started, was ended by SIGTERM: "
            "it also received the notice. Start it in a session of its own "
            "(start_new_session=True), or catch this error after a preemption notice.",
        ),
        ("CalledProcessError: Command 'a b' died with <Signals.SIGSEGV: 11>.", None),
        ("CalledProcessError: Command 'a b' returned non-zero exit status 1.", None),
        (None, None),
    ],
)
def test_a_command_of_the_scripts_own_that_died_of_the_notice(words, told):
    assert own_command_text(words) == told
    first = outcome(8, 1)
    for warned in (True, False):
        text = failure_report(first, [first], exception=words, warned=warned)
        assert (told is not None and told in text) is (warned and told is not None)
