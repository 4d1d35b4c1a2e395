import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import launcher.commands.report.command as command
from launcher.commands.report import run as report
from launcher.commands.report.curves import NoMatplotlibError, panels
from launcher.commands.report.page import page, told_apart
from launcher.errors import UsageError
from launcher.run_folder.goodput import goodput
from launcher.run_folder.history import read_run
from launcher.run_folder.jsonl import append_event

BEGAN_S = 1_800_000_000.0
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def folder(tmp_path, write_run):
    return write_run(tmp_path / "three")


def test_the_attempts_are_read(folder):
    facts = read_run(folder)
    rows = [
        (a.number, a.strategy, a.world_size, a.step, a.end_step, a.ending) for a in facts.attempts
    ]
    assert rows == [
        (1, "ddp", 2, 0, 180, None),
        (2, "fsdp", 3, 150, 300, "preempted"),
        (3, "zero2", 1, 300, 400, "early stop"),
    ]
    assert facts.attempts[0].command_s == BEGAN_S
    assert facts.attempts[0].last_sign_s == BEGAN_S + 10 + 180
    assert facts.is_over
    assert facts.best["step"] == 380


def test_the_best_is_of_the_past_that_the_run_has(folder):
    def append(**event):
        line = {"time": "2033-05-18T03:33:20.000+00:00", **event}
        with (folder / "events.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    append(event="rolled back", from_step=400, step=350, jumped_steps=50, reason="nan.")
    assert read_run(folder).best["step"] == 100
    assert "- nan. It rolled back from step 400 to step 350 and skipped" in page(
        read_run(folder), picture=None
    )
    append(event="best", step=390, monitor="val/loss", value=0.1)
    assert read_run(folder).best["step"] == 390


def test_a_finished_run_stays_finished_when_it_is_started_again(folder):
    start = {"event": "start", "attempt": 4, "step": 400, "resumed": True, "device": "cpu"}
    start |= {"strategy": "single", "world_size": 1, "precision": "fp32", "start_s": 5.0}
    over = {"event": "already over", "attempt": 4, "ending": "early stop", "reason": "flat"}
    with (folder / "events.jsonl").open("a") as file:
        for event in (start, over):
            file.write(json.dumps({"time": "2033-05-18T03:33:20.000+00:00", **event}) + "\n")
    facts = read_run(folder)
    assert facts.is_over
    assert facts.attempts[-1].end_step == 400
    assert "Finished at step 400: early stop, flat." in page(facts, picture=None)


def test_each_second_is_counted_once(folder):
    spent = goodput(read_run(folder))
    assert spent.total_s == pytest.approx(10 + 180 + 105 + 150 + 105 + 100)
    assert spent.starting_s == 20.0
    assert spent.waiting_s == pytest.approx(200.0)
    assert spent.lost_s == 30.0
    assert spent.saving_s == pytest.approx(0.25 + 2 * 0.5)
    assert spent.evaluating_s == pytest.approx(20 * 0.5)
    assert sum(spent.share(s) for _, s in spent.rows()) == pytest.approx(1.0)


def test_the_page_and_the_picture(folder, capsys):
    pytest.importorskip("matplotlib")
    assert report([str(folder)]) == 0
    text = (folder / "report.md").read_text()
    assert "Finished at step 400: early stop" in text
    assert "| 2 | 2027-01-15 08:04:55 | fsdp, fp32, cpu | 3 | 150 to 300 | 2:30 min |" in text
    assert "killed without a message |" in text
    assert "early stop: val/loss is \\| flat |" in text
    assert "| lost work | 30.0 s | 4.6% |" in text
    assert "Best: val/loss 0.144742 at step 380." in text
    assert "Test: test/loss 0.5, test/accuracy 0.9." in text
    assert "![curves](curves.png)" in text
    assert (folder / "curves.png").read_bytes().startswith(PNG)
    assert "wrote" in capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert names == {"run.json", "metrics.jsonl", "events.jsonl", "report.md", "curves.png"}


def test_what_is_drawn(folder):
    assert [(p.label, p.names) for p in panels(read_run(folder))] == [
        ("loss", ("loss", "val/loss")),
        ("val/accuracy", ("val/accuracy",)),
        ("learning rate", ("lr",)),
        ("gradient norm", ("grad_norm",)),
        ("samples / s", ("samples_per_s",)),
    ]


def test_without_matplotlib_the_page_says_so(folder, monkeypatch):
    def missing(facts, path):
        raise NoMatplotlibError("matplotlib is not installed.")

    monkeypatch.setattr(command, "draw", missing)
    assert report([str(folder)]) == 0
    text = (folder / "report.md").read_text()
    assert "There is no picture: matplotlib is not installed." in text
    assert "curves.png" not in text
    assert not (folder / "curves.png").exists()


@pytest.mark.parametrize("options", [{"ends": False}, {"ends": False, "records": False}])
def test_a_run_that_goes_on_has_a_report(tmp_path, options, write_run):
    folder = write_run(tmp_path / "running", **options)
    assert report([str(folder)]) == 0
    assert "running, or killed without a message" in (folder / "report.md").read_text()


def test_several_runs_stand_in_one_table(tmp_path, write_run, capsys):
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", ends=False)]
    assert report([str(folder) for folder in folders]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(("a ", "b "))]
    assert [row[0] for row in rows] == ["a", "b"]
    assert "val/loss 0.14474" in lines[-2]
    assert "running or killed" in lines[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: RUN"),
        (["nowhere"], "nowhere is not a folder; pass a run folder"),
        (["--what", "x"], "--what"),
    ],
)
def test_wrong_usage(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        report(words)


def test_a_table_is_shown_whole_and_in_no_column(folder, capsys):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    newest = {**json.loads(lines[-1]), "val/confusion": [[3.0, 1.0], [0.0, None]]}
    (folder / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(newest)]) + "\n")
    tested = {"event": "test", "weights": "best", "test/confusion": [[5.0]], "test/accuracy": 0.5}
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": "2033-05-18T03:33:20.000+00:00", **tested}) + "\n")
    facts = read_run(folder)
    assert "val/confusion" not in facts.records.metric_names()
    assert report([str(folder)]) == 0
    text = (folder / "report.md").read_text()
    assert f"val/confusion at step {newest['step']}:" in text
    assert "|  | 0 | 1 |\n| --- | --- | --- |\n| **0** | 3 | 1 |\n| **1** | 0 |  |" in text
    assert "test/confusion in the test of the best weights:\n\n|  | 0 |" in text
    assert "| val/confusion |" not in text
    shown = capsys.readouterr().out
    assert "accuracy 0.5" in shown
    assert "confusion" not in shown


def test_runs_of_one_name_are_told_apart(tmp_path, write_run, capsys):
    folders = [write_run(tmp_path / a / "r") for a in ("a", "b")]
    assert report([*map(str, folders), str(write_run(tmp_path / "c"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["a/r", "b/r", "c"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/x/a/r", "/x/b/r"], ["a/r", "b/r"]),
        (["/x/a/r", "/y/a/r", "/x/q"], ["x/a/r", "y/a/r", "q"]),
        (["/x/r", "/x/r"], ["r", "r"]),
        (["/r", "/x/r"], ["/r", "x/r"]),
    ],
)
def test_the_shortest_names_that_differ(paths, names):
    assert told_apart([Path(path) for path in paths]) == names


def launched(folder, *ends):
    """Write a folder of a script that does not use `Run`."""
    folder.mkdir()
    for number, (code, error) in enumerate(ends, start=1):
        append_event(
            *(folder, "attempt"),
            now=datetime.fromtimestamp(BEGAN_S + 100 * number, UTC),
            attempt=number,
            ranks=2,
            code=code,
            seconds=60.0,
            step=None,
            error=error,
            restart=False,
            reason=None,
        )
    return folder


def test_what_the_launcher_knows_of_a_script_without_run(tmp_path, capsys):
    folder = launched(tmp_path / "plain", (1, "ValueError: x"), (0, None))
    assert report([str(folder)]) == 0
    text = (folder / "report.md").read_text()
    assert "It ended with code 0, after 1:00 min on 2 ranks. What it has trained is not" in text
    row = "| 1 | 2027-01-15 08:00:40 | 2 | 1:00 min | 1 | logs/attempt-1 | ValueError: x |"
    assert row in text
    assert "| 0 | logs/attempt-2 | done |" in text
    assert "There is no picture: nothing has been measured yet." in text
    assert "Where the time went" not in text
    assert not (folder / "curves.png").exists()
    assert "ended, code 0" in capsys.readouterr().out


def test_a_script_without_run_has_a_report_while_it_runs(tmp_path, capsys):
    folder = launched(tmp_path / "plain", (75, None))
    append_event(folder, "launched", attempt=2, ranks=2)
    assert report([str(folder)]) == 0
    text = (folder / "report.md").read_text()
    assert "on 2 ranks: running, or killed without a message. Its script reports no steps" in text
    assert "its output is in logs/attempt-2." in text
    assert "| 75 | logs/attempt-1 | preempted; the same command starts it again |" in text
    assert "|  | logs/attempt-2 | running, or killed without a message |" in text
    shown = capsys.readouterr().out
    assert "running or killed" in shown
    assert "not begun" not in shown


def test_a_failed_attempt_says_why(folder):
    text = (
        (folder / "events.jsonl").read_text().replace('"attempt": 3, "step": 400', '"attempt": 9')
    )
    lines = [line for line in text.splitlines() if '"event": "end"' not in line]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    append_event(
        *(folder, "attempt"),
        attempt=3,
        ranks=1,
        code=1,
        seconds=60.0,
        step=400,
        error="train.py:9: no",
        restart=False,
    )
    text = page(read_run(folder), picture=None)
    assert "| code 1: train.py:9: no |" in text
    assert "in attempt 3. It ended with code 1" in text


def test_a_run_that_never_began_has_a_report(tmp_path):
    event = {"time": "2033-05-18T03:33:20.000+00:00", "event": "attempt", "code": 2}
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
    assert report([str(tmp_path)]) == 0
    assert "No step has been done yet." in (tmp_path / "report.md").read_text()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"holds no events\.jsonl"):
        report([str(tmp_path)])


@pytest.mark.parametrize("module", ["report", "watch"])
def test_both_start_without_torch_and_matplotlib(module):
    code = (
        f"import sys, launcher.commands.{module}\n"
        "print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


HOSTILE = "x\x1b[2J\n# faked\u202e <img src=h> ![p](http://h/p.png) $\\bad$"


def test_nobody_elses_text_is_obeyed(tmp_path, write_run, capsys):
    """Neither by the terminal, nor as Markdown or HTML, nor by what draws the curves."""
    folder = write_run(tmp_path / "foreign")
    (folder / "run.json").write_text(json.dumps({"script": HOSTILE, HOSTILE: 1}))
    for name in ("metrics.jsonl", "events.jsonl"):
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        changed = [
            {k.replace("val/loss", f"val/{HOSTILE}"): v for k, v in line.items()} for line in lines
        ]
        for line in changed:
            line.update({k: HOSTILE for k in ("reason", "strategy", "monitor") if k in line})
            line.update({f"test/{HOSTILE}": 0.5} if line.get("event") == "test" else {})
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in changed))
    append_event(folder, "checkpoint refused", now=datetime.now(UTC), reason=HOSTILE)
    assert report([str(folder)]) == 0
    shown = capsys.readouterr().out
    text = (folder / "report.md").read_text()
    assert text.count("faked") > 5
    assert "faked" in shown
    for written in (text, shown):
        assert all(c == "\n" or c.isprintable() for c in written)
        assert not any(line.startswith("# faked") for line in written.splitlines())
    assert "<" not in text
    assert "![p]" not in text


def test_a_folder_that_cannot_be_read(tmp_path, write_run, capfd):
    folder = write_run(tmp_path / "run")
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    assert report([str(folder)]) == 1
    assert f"{folder}/metrics.jsonl cannot be read" in capfd.readouterr().err


def test_of_several_folders_those_that_are_no_runs_are_left_out(tmp_path, write_run, capfd):
    good = write_run(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    unreadable = write_run(tmp_path / "unreadable")
    (unreadable / "metrics.jsonl").unlink()
    (unreadable / "metrics.jsonl").mkdir()
    unwritable = write_run(tmp_path / "unwritable")
    (unwritable / "report.md").mkdir()
    names = ("empty", "good", "unreadable", "unwritable", "gone")
    assert report([str(tmp_path / name) for name in names]) == 1
    told = capfd.readouterr()
    assert f"error: {tmp_path}/empty holds no events.jsonl" in told.err
    assert f"error: {tmp_path}/gone is not a folder" in told.err
    assert f"error: {tmp_path}/unreadable/metrics.jsonl cannot be read" in told.err
    assert f"report of {unwritable} cannot be written" in told.err
    assert f"wrote {good}/report.md" in told.out
    rows = told.out.strip().splitlines()[-2:]
    assert [row.split()[0] for row in rows] == ["good", "unwritable"]
