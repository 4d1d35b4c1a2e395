import inspect
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from launcher.training.recipe.tracker_names import check_trackers
from launcher.training.reporting.tracker_resume import WAYS, flattened, run_id, same_run
from launcher.training.reporting.trackers import FOLDER, Trackers
from strategies import ConfigError


class Listener(GeneralTracker):
    name = "listener"
    requires_logging_directory = False

    def __init__(self, fails=False):
        super().__init__()
        self.told, self.fails = [], fails

    @property
    def tracker(self):
        return self

    def start(self):
        self.told.append("start")

    def store_init_configuration(self, values):
        self.told.append(("made of", values))

    def log(self, values, step=None):
        if self.fails:
            raise ConnectionError("no way out")
        self.told.append((step, values))

    def finish(self):
        self.told.append("finish")


def test_a_tracker_of_accelerates_kind_is_told_everything(tmp_path):
    listener, warned = Listener(), []
    trackers = Trackers(
        [listener], tmp_path, first_step=0, description={"seed": 0}, warn=warned.append
    )
    table = {"val/confusion": [[3.0, 1.0], [0.0, 2.0]]}
    trackers.log({"step": 3, "time": 1.0, "attempt": 1, "loss": 0.5, "val/loss": 0.4, **table})
    trackers.finish()
    trackers.finish()
    assert listener.told == [
        "start",
        ("made of", {"seed": 0}),
        (3, {"train/loss": 0.5, "val/loss": 0.4}),
        "finish",
    ]
    assert warned == []


def test_one_that_fails_is_said_once_and_ends_nothing(tmp_path):
    listener, warned = Listener(fails=True), []
    trackers = Trackers([listener], tmp_path, first_step=0, description={}, warn=warned.append)
    trackers.log({"step": 1, "loss": 0.5})
    trackers.log({"step": 2, "loss": 0.5})
    (sentence,) = warned
    assert "listener is no longer used: ConnectionError: no way out" in sentence


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def start(first_step, steps, loss):
        trackers = Trackers(
            None, tmp_path, first_step=first_step, description={"seed": 0}, warn=pytest.fail
        )
        for step in steps:
            trackers.log({"step": step, "loss": loss})
        trackers.finish()

    start(0, range(1, 6), 1.0)
    start(3, range(4, 8), 2.0)
    found = EventAccumulator(str(tmp_path / FOLDER)).Reload().Scalars("train/loss")
    assert [(f.step, f.value) for f in found] == [
        *((step, 1.0) for step in (1, 2, 3)),
        *((step, 2.0) for step in (4, 5, 6, 7)),
    ]


def test_nothing_is_told_where_nothing_is_asked(tmp_path):
    Trackers([], tmp_path, first_step=0, description={}, warn=pytest.fail).log({"step": 1})
    assert list(tmp_path.iterdir()) == []


def test_every_start_has_the_same_id(tmp_path):
    identity = run_id(tmp_path)
    assert run_id(tmp_path) == identity
    assert same_run("wandb", tmp_path)["id"] == identity
    assert same_run("wandb", tmp_path)["resume"] == "allow"
    assert same_run("another", tmp_path) == {}


def test_each_tracker_is_built_with_what_it_takes(tmp_path):
    """Against Accelerate's own constructors: a word that one does not know would be an error."""
    for name, tracker in LOGGER_TYPE_TO_CLASS.items():
        if name == "tensorboard":  # written by ours
            continue
        inspect.signature(tracker).bind("run", **same_run(name, tmp_path))
    assert set(WAYS) <= set(LOGGER_TYPE_TO_CLASS)


class Chooser(Listener):
    """Stands for MLflow: chooses its run's id itself, and takes no other configuration later."""

    name = "mlflow"
    opened: ClassVar[list[Any]] = []

    def __init__(self, experiment, run_name, run_id):
        super().__init__()
        self.opened.append(run_id)
        self.info = SimpleNamespace(run_id=run_id or "chosen")

    def store_init_configuration(self, values):
        assert "start" in self.told
        self.opened.append(values)


def test_an_id_that_the_tracker_chose_is_kept_and_its_configuration_not_repeated(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", Chooser)
    for attempt in (1, 2):
        trackers = Trackers(
            ["mlflow"],
            tmp_path,
            first_step=0,
            description={"attempt": attempt, "versions": {"torch": "2"}, "arguments": ["a", "b"]},
            warn=pytest.fail,
        )
        trackers.finish()
    told = {"attempt": 1, "versions/torch": "2", "arguments": "a b"}
    assert Chooser.opened == [None, told, "chosen"]


def test_a_description_is_flat_for_trackers():
    assert flattened({"a": {"b": 1, "c": {"d": None}}, "e": True, "f": [1, "x"], "g": 1.5}) == {
        "a/b": 1,
        "e": True,
        "f": "1 x",
        "g": 1.5,
    }


@pytest.mark.parametrize(
    ("track", "message"),
    [
        (["wandbb"], 'track="wandbb" is unknown; choose from'),
        ([3], "track=3 has no log and no finish"),
    ],
)
def test_what_cannot_be_told_is_refused_before_training(track, message):
    with pytest.raises(ConfigError, match=message):
        check_trackers(track)


def test_what_can_be_told_is_accepted():
    check_trackers(None)
    check_trackers([])
    check_trackers([Listener()])
