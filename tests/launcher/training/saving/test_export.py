"""The export at a run's end, which a notice breaks off."""

from itertools import count

import pytest

from checkpointing import LocalCommunicator
from launcher.run_folder.folder import RunFolder
from launcher.training.reporting.run_log import left_text
from launcher.training.saving.export import export_model
from launcher.training.saving.model_config import ExportedModel
from strategies import ConfigError


def export(folder, asked, fits=lambda: True) -> bool:
    run = RunFolder(folder)
    return export_model(run, run.checkpoints, 30, LocalCommunicator(), asked=asked, fits=fits)


def test_an_export_is_broken_off_and_leaves_nothing(folder):
    for num_looks in (0, 1):  # before it began, and between two pieces
        looks = count()
        assert not export(folder, lambda looks=looks, most=num_looks: next(looks) >= most)
        exported = folder / "export"
        assert not exported.exists() or list(exported.iterdir()) == []


def test_one_that_is_broken_off_leaves_the_former_as_it_was(folder):
    assert export(folder, lambda: False)
    before = (folder / "export" / "model.safetensors").read_bytes()
    looks = count()
    assert not export(folder, lambda: next(looks) > 0)
    assert [path.name for path in (folder / "export").iterdir()] == ["model.safetensors"]
    assert (folder / "export" / "model.safetensors").read_bytes() == before


def test_one_for_which_the_time_is_too_short_is_not_begun(folder):
    assert not export(folder, lambda: False, fits=lambda: False)
    assert not (folder / "export").exists()


def test_the_texts_of_leaving_after_the_training():
    assert left_text("job.test", 30, asked=True, cause="SIGTERM") == (
        "preemption notice (SIGTERM) in job.test, which will be repeated: the training is saved up "
        "to step 30. The same command resumes the run."
    )
    assert left_text("job.export", 30, asked=False, cause=None) == (
        "the time left is too short for job.export, which the next start will do: the training is "
        "saved up to step 30. The same command resumes the run."
    )


def test_a_notice_whose_cause_is_not_known_here_is_one():
    """It may have come to another rank, and be agreed before the launcher tells this one."""
    text = left_text("job.test", 30, asked=True, cause=None)
    assert text.startswith("preemption notice in job.test, which will be repeated")


def test_there_is_nothing_to_merge_without_an_adapter(folder):
    run = RunFolder(folder)
    why = "1 trained parameters (w) do not belong to its adapter default"
    for adapter, said in (
        (None, r"no adapter to merge\. "),
        (why, r"no adapter to merge: 1 train"),
    ):
        model = ExportedModel(factory=dict, config=None, adapter=adapter)
        with pytest.raises(ConfigError, match=said):
            export_model(run, run.checkpoints, 30, LocalCommunicator(), model=model, merged=True)
    assert not (folder / "export").exists()
