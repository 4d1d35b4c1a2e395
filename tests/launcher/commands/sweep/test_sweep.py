import math
import shutil

import pytest

from launcher.commands.sweep import run
from launcher.commands.sweep.results import Result, spread_table, trial_table
from launcher.commands.sweep.search import FixedSearch, OptunaSearch
from launcher.commands.sweep.space import Choices, Span, draw, grid, parse_space, repeated
from launcher.commands.sweep.trial import last_error
from launcher.errors import UsageError


def test_a_space_is_read():
    assert parse_space(["a=1,2", "b=0:0.5", "c=1e-4:1e-1:log", "d=x"]) == {
        "a": Choices(values=("1", "2")),
        "b": Span(low=0.0, high=0.5),
        "c": Span(low=1e-4, high=1e-1, is_log=True),
        "d": Choices(values=("x",)),
    }


@pytest.mark.parametrize(
    "word", ["a", "=1", "a=", "a=1:b", "a=2:1", "a=0:1:log", "a=1:2:lin", "a=1,1", "a=1:2:log:x"]
)
def test_what_is_no_space(word):
    with pytest.raises(UsageError):
        parse_space([word])


def test_a_grid_has_every_combination():
    assert grid(parse_space(["a=1,2", "b=x,y"])) == [
        {"a": "1", "b": "x"},
        {"a": "1", "b": "y"},
        {"a": "2", "b": "x"},
        {"a": "2", "b": "y"},
    ]
    with pytest.raises(UsageError, match="a is a range, and a grid needs a list"):
        grid(parse_space(["a=0:1"]))


def test_random_settings_are_those_of_the_seed_and_more_trials_change_none():
    space = parse_space(["lr=1e-4:1e-1:log", "width=16,32"])
    few, many = draw(space, 5, 7), draw(space, 200, 7)
    assert many[:5] == few
    assert draw(space, 5, 8) != few
    rates = [float(t["lr"]) for t in many]
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert 0.35 < sum(math.log10(rate) < -2.5 for rate in rates) / 200 < 0.65
    assert {t["width"] for t in many} == {"16", "32"}


def test_seeds_and_folds_repeat_each_setting():
    assert repeated([{"a": "1"}], seeds=0, folds=2) == [
        {"a": "1", "fold": "0", "folds": "2"},
        {"a": "1", "fold": "1", "folds": "2"},
    ]
    assert [t["seed"] for t in repeated([{}], seeds=3, folds=0)] == ["0", "1", "2"]
    assert len(repeated([{}, {"a": "1"}], seeds=3, folds=2)) == 12
    assert repeated([{"a": "1"}], seeds=0, folds=0) == [{"a": "1"}]


def results(*values):
    return [
        Result(number=n, parameters={"lr": str(n // 2), "seed": str(n % 2)}, state="finished")
        if value is None
        else Result(
            number=n,
            parameters={"lr": str(n // 2), "seed": str(n % 2)},
            state="finished",
            value=value,
            step=10,
        )
        for n, value in enumerate(values)
    ]


@pytest.mark.parametrize(("mode", "order"), [("min", "1302"), ("max", "0312")])
def test_the_best_trial_stands_first(mode, order):
    table = trial_table(results(0.9, 0.1, None, 0.5), "val/loss", mode).splitlines()
    assert "".join(line.split()[0] for line in table[1:]) == order


def test_mean_and_spread_over_seeds():
    table = spread_table(results(1.0, 3.0, 0.5, 0.5), "val/loss", "min").splitlines()
    assert [line.split() for line in table[1:]] == [
        ["lr=1", "2", "0.5", "0"],
        ["lr=0", "2", "2", "1.41"],
    ]


def test_why_a_trial_was_refused(tmp_path):
    (tmp_path / "output.log").write_text("relaunch: error: one.\nelse\nrelaunch: error: two.\n")
    assert last_error(tmp_path) == "two."
    (tmp_path / "output.log").write_text(
        "usage: t.py\nt.py: error: unrecognized arguments: --seed=0\n"
        "relaunch: rank 1 failed with exit code 2.\n"
    )
    where = f"see {tmp_path / 'output.log'}"
    assert last_error(tmp_path) == f"t.py: error: unrecognized arguments: --seed=0 ({where})"
    (tmp_path / "output.log").write_text("relaunch: rank 1 was killed by SIGKILL.\n\n")
    assert last_error(tmp_path) == f"{where}."


def test_a_list_of_trials_ends():
    search = FixedSearch([{"a": "1"}])
    assert search.trial(0) == {"a": "1"}
    assert search.trial(1) is None


def test_optuna_goes_on_after_a_restart_and_ends_hopeless_trials(tmp_path):
    pytest.importorskip("optuna")
    space = parse_space(["lr=1e-4:1e-1:log", "width=16,32"])

    def search():
        return OptunaSearch(space, 8, 0, "min", tmp_path)

    first = search()
    settings = [first.trial(number) for number in range(4)]
    for number in range(3):
        for step in (10, 20):
            assert not first.is_hopeless(number, step, 1.0)
        first.finished(number, 1.0, pruned=False)
    again = search()  # as after a SIGKILL in trial 3
    assert [again.trial(number) for number in range(4)] == settings
    assert again.is_hopeless(3, 10, 5.0)
    assert again.is_hopeless(3, 10, 5.0)
    again.finished(3, None, pruned=True)
    again.finished(3, None, pruned=True)
    assert again.trial(7) is not None
    assert again.trial(8) is None


def test_optuna_proposes_after_a_restart_what_it_would_have_without(tmp_path):
    pytest.importorskip("optuna")
    space = parse_space(["lr=1e-4:1e-1:log"])

    def search(name):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return OptunaSearch(space, 14, 0, "min", folder)

    proposed = {"once": [], "often": []}
    whole = search("once")
    for number in range(14):
        for name, one in (("once", whole), ("often", search("often"))):
            rate = float(one.trial(number)["lr"])
            one.finished(number, (math.log10(rate) + 2) ** 2, pruned=False)
            proposed[name].append(rate)
    assert proposed["once"] == proposed["often"]
    assert len(set(proposed["once"])) == 14


def test_optuna_judges_a_setting_by_the_mean_of_its_folds(tmp_path):
    optuna = pytest.importorskip("optuna")
    folds = repeated([{}], seeds=0, folds=3)

    def search():
        return OptunaSearch(parse_space(["lr=1e-4:1e-1:log"]), 6, 0, "min", tmp_path, folds)

    first = search()
    given = [first.trial(number) for number in range(3)]
    assert [one["fold"] for one in given] == ["0", "1", "2"]
    assert len({one["lr"] for one in given}) == 1
    assert first.trial(3)["lr"] != given[0]["lr"]
    for setting, values in enumerate([(1.0, 2.0, 3.0), (1.0, 2.0, None), (1.0, 1.0, 1.0)]):
        for fold, value in enumerate(values):
            number = 3 * setting + fold
            first.trial(number)
            assert not first.is_given_up(number)
            assert not first.is_hopeless(number, 10, 99.0)
            first.finished(number, value, pruned=False)
    for number in (9, 10, 11):
        first.trial(number)
        first.finished(number, 1.5, pruned=False)

    again = search()  # as after a SIGKILL: what is over is told anew, in order
    for number in range(12):
        again.trial(number)
        again.finished(number, 50.0, pruned=False)
    again.trial(12)
    again.finished(12, 50.0, pruned=False)
    assert [again.is_given_up(number) for number in (12, 13, 14)] == [False, True, True]
    assert search().is_given_up(13)
    study = optuna.load_study(study_name="sweep", storage=again._study._storage)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "PRUNED"]
    assert [trial.value for trial in study.trials] == [2.0, None, 1.0, 1.5, 50.0]
    assert again.trial(17) is not None
    assert again.trial(18) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--monitor m a=1 -- x.py", "--sweep-dir"),
        ("--sweep-dir s --monitor m a=1 -- x.py", "--monitor m needs --mode min or --mode max"),
        (
            "--sweep-dir s --monitor val/accuracy --mode min a=1 -- x.py",
            "a higher accuracy is better",
        ),
        ("--sweep-dir s --monitor m a=1", "no script is given"),
        ("--sweep-dir s --monitor loss -- x.py", "nothing is searched"),
        ("--sweep-dir s --monitor loss --folds 1 -- x.py", "leaves nothing to train on"),
        ("--sweep-dir s --monitor loss --trials 0 a=1 -- x.py", "--trials 0 is too small"),
    ],
)
def test_wrong_usage(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        run(words.split())


def test_one_place_for_the_checkpoints_of_all_trials_is_refused(tmp_path):
    words = ["--sweep-dir", str(tmp_path), "--monitor", "x", "a=1,2", "--"]
    with pytest.raises(UsageError, match="s3://bucket/run is one place, and each trial needs its"):
        run([*words, "--checkpoints", "s3://bucket/run", "train.py"])


@pytest.mark.parametrize("text", [b"\xff", b"[]", b"{"])
def test_a_damaged_plan_is_named(text, tmp_path):
    (tmp_path / "sweep.json").write_bytes(text)
    words = ["--sweep-dir", str(tmp_path), "--monitor", "val/loss", "lr=1,2", "--", "train.py"]
    with pytest.raises(UsageError, match=r"sweep.json is damaged. Remove it"):
        run(words)


WORDS = ("--monitor", "val/loss", "--seeds", "2", "--", "no-such-script.py")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=f"--sweep-dir {folder} cannot be written: "):
            run(["--sweep-dir", str(folder), *WORDS])


def test_a_disk_that_fails_in_the_middle_is_one_sentence(tmp_path, capfd):
    (tmp_path / "results.txt").mkdir()
    assert run(["--sweep-dir", str(tmp_path), *WORDS]) == 2
    told = capfd.readouterr().err
    assert f"warning: {tmp_path}/results.txt cannot be written (" in told
    assert "trial 0 cannot be started: no-such-script.py does not exist" in told

    shutil.rmtree(tmp_path / "trial-000")
    (tmp_path / "trial-000").write_text("")
    assert run(["--sweep-dir", str(tmp_path), *WORDS]) == 1
    told = capfd.readouterr().err
    assert f"error: {tmp_path}/trial-000: File exists. Afterwards the same command" in told
