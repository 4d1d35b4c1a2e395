import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import launcher
from launcher.commands.watch import run
from launcher.commands.watch.command import is_launched_again, lines, watch
from launcher.commands.watch.sentences import _SENTENCES, event_sentence
from launcher.errors import UsageError
from launcher.run_folder.jsonl import append_event
from launcher.run_folder.lines.fields import is_metric
from launcher.run_folder.lines.follow import Follower, is_newer_metric


def test_a_run_that_has_ended_is_told_and_left(tmp_path, write_run):
    shown = []
    watch(write_run(tmp_path / "run"), every_s=0.1, show=shown.append)
    assert shown[0].endswith("attempt 3 resumes from step 300: zero2 on 1 rank (cpu), fp32")
    assert "step 320" in shown[1]
    assert "finished at step 400: early stop, val/loss is | flat" in shown[-2]
    assert "test/accuracy 0.9" in shown[-1]


def test_it_ends_with_the_launcher_of_a_script_without_run(tmp_path):
    shown = []
    (tmp_path / "events.jsonl").touch()

    def tell(restart):
        details = {"attempt": 1, "ranks": 1, "code": 3, "seconds": 1.0, "error": "x"}
        append_event(tmp_path, "attempt", **details, restart=restart)

    timers = [threading.Timer(0.3, tell, (True,)), threading.Timer(0.9, tell, (False,))]
    for timer in timers:
        timer.start()
    watch(tmp_path, every_s=0.1, show=shown.append)
    assert [line[10:] for line in shown] == [
        "the ranks ended with code 3: x; starting again",
        "the ranks ended with code 3: x",
    ]
    shown.clear()
    watch(tmp_path, every_s=0.1, show=shown.append)  # what is over is told, and left
    assert len(shown) == 2
    (tmp_path / "logs" / "attempt-2").mkdir(parents=True)
    assert is_launched_again(tmp_path, [{"event": "attempt", "attempt": 1}])


def test_it_ends_with_the_run(tmp_path, write_run):
    folder = write_run(tmp_path / "run", ends=False)
    shown = []

    def end():
        event = {
            "time": "2033-05-18T03:33:20.000+00:00",
            "event": "end",
            "step": 400,
            "ending": "completed",
        }
        with (folder / "events.jsonl").open("a") as file:
            file.write(json.dumps(event | {"reason": "all 400 steps are done"}) + "\n")

    timer = threading.Timer(0.5, end)
    timer.start()
    watch(folder, every_s=0.1, show=shown.append)
    timer.join()
    assert shown[-1].endswith("finished at step 400: completed, all 400 steps are done")


def test_of_many_records_the_measured_ones_and_the_newest_are_told():
    records = [{"step": n, "epoch": 0, "time": float(n)} for n in range(1, 9)]
    records[3]["val/loss"] = 0.5
    events = [
        {"time": "1970-01-01T00:00:05.500+00:00", "event": "saved", "step": 5, "size_bytes": 2048}
    ]
    assert [line.split("  ", 1)[1] for line in lines(events, records)] == [
        "step 4  epoch 0  val/loss 0.5",
        "saved step 5 (2 KiB)",
        "step 8  epoch 0",
    ]


def test_what_is_written_anew_is_not_told_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path, is_metric, is_newer_metric)
    assert follower.news() == []
    path.write_text('{"step": 1, "time": 1.0}\n{"step": 2, "time": 2.0}\n{"step"')
    assert [r["step"] for r in follower.news()] == [1, 2]
    other = tmp_path / "other"
    other.write_text('{"step": 1, "time": 1.0}\n{"step": 2, "time": 9.0}\n')
    other.replace(path)
    assert follower.news() == [{"step": 2, "time": 9.0}]
    assert follower.news() == []


EXAMPLES = {
    "rolled back": (
        {"from_step": 8, "step": 4, "jumped_steps": 4, "reason": "val/loss is nan at step 8."},
        "rolled back from step 8 to step 4 and skipped the data of 4 steps: val/loss is nan",
    ),
    "rate cut": ({"step": 8, "reason": "cut to 0.5"}, "step 8: cut to 0.5"),
    "saves keep failing": ({"in_a_row": 3, "newest": 4}, "THE LAST 3 SAVES HAVE ALL FAILED"),
    "weights": ({"path": "a.safetensors"}, "begins with the weights in a.safetensors"),
    "strategy": ({"chosen": "ddp", "reason": "it fits"}, "chose ddp: it fits"),
    "not deleted": ({"step": 3, "reason": "step 3 is busy"}, "step 3 is busy"),
    "memory not locked": ({"reason": "rank 0: CUDA did not"}, "rank 0: CUDA did not"),
    "saved in the foreground": ({"reason": "rank 1: no memory"}, "rank 1: no memory"),
    "attempt": ({"code": 1, "error": "rank 0", "restart": True}, "rank 0; starting again"),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_happens_is_told(kind):
    details, words = EXAMPLES[kind]
    event = {"time": "1970-01-01T00:00:05.500+00:00", "event": kind, **details}
    assert words in event_sentence(event)


def test_every_kind_of_event_has_a_sentence():
    written = set()
    for path in (Path(launcher.__file__).parent).rglob("*.py"):
        written |= set(re.findall(r'event\(\s*(?:\w+, )?"([a-z ]+)"', path.read_text()))
    assert {"start", "end", "saved", "rolled back"} <= written
    # What "resumed" says is in the start's own sentence.
    assert written - {"resumed"} <= set(_SENTENCES)


def test_a_disk_that_does_not_answer_for_a_while(tmp_path, write_run, monkeypatch):
    folder, shown, real = write_run(tmp_path / "run", ends=False), [], Follower.news
    answers = iter([OSError(errno.ESTALE, "stale"), None, None, None])

    def news(follower):
        if (error := next(answers, None)) is not None:
            raise error
        return real(follower)

    monkeypatch.setattr(Follower, "news", news)
    end = {"step": 400, "ending": "completed", "reason": "done"}
    timer = threading.Timer(0.3, append_event, (folder, "end"), end)
    timer.start()
    watch(folder, every_s=0.1, show=shown.append)
    timer.join()
    assert shown[-1].endswith("finished at step 400: completed, done")


def test_ctrl_c_leaves_quietly(tmp_path, write_run):
    folder = write_run(tmp_path / "run", ends=False)
    code = f"from launcher.cli import main; main(['watch', {str(folder)!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 0
    assert error == "relaunch: left; the run continues.\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nowhere"], "not a folder"), ([".", "--every", "0"], "too often"), ([], "RUN")],
)
def test_wrong_usage(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        run(words)


def test_what_others_have_written_moves_no_terminal():
    bad = "x\x1b[2J\nfaked"
    record = {"step": 1, "epoch": 0, "time": 1.0, f"val/{bad}": 0.5}
    event = {"event": "checkpoint refused", "time": "2027-01-15T08:00:00", "reason": bad}
    assert lines([event], [record]) == [
        r"00:00:01  step 1  epoch 0  val/x\x1b[2J\nfaked 0.5",
        r"08:00:00  x\x1b[2J\nfaked",
    ]


def test_a_script_without_run_shows_its_attempts_its_output_and_its_end(tmp_path):
    """Instead of nothing, for ever: its launcher and its log are all that tells of it."""
    shown = []
    append_event(tmp_path, "launched", attempt=1, ranks=2)
    append_event(tmp_path, "attempt", attempt=1, ranks=2, code=75, seconds=3.0, restart=False)
    append_event(tmp_path, "launched", attempt=2, ranks=2)
    for number in (1, 2):
        log = tmp_path / "logs" / f"attempt-{number}" / "rank-0.log"
        log.parent.mkdir(parents=True)
        log.write_text(f"loading\nstep {number}\n")

    def end():
        append_event(tmp_path, "attempt", attempt=2, ranks=2, code=0, seconds=3.0, restart=False)

    timer = threading.Timer(0.3, end)
    timer.start()
    watch(tmp_path, every_s=0.1, show=shown.append)
    timer.join()
    assert [line[10:] if line[2] == ":" else line for line in shown] == [
        "attempt 2: 2 ranks started; the script reports no steps",
        "rank 0: step 2",
        "the ranks have ended",
    ]


def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path, capfd):
    (tmp_path / "events.jsonl").mkdir()
    assert run([str(tmp_path)]) == 1
    assert f"error: {tmp_path}/events.jsonl cannot be read: " in capfd.readouterr().err
