"""Which device a rank takes, and what sums over the ranks there."""

import warnings

import pytest
import torch

from strategies import ConfigError
from strategies.collectives import process_group
from strategies.collectives.process_group import _backend, _device


@pytest.fixture
def gpus(monkeypatch):
    def show(count, visible=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return show


@pytest.mark.parametrize(
    ("count", "visible", "local_rank", "shares", "device"),
    [
        (0, None, 3, False, "cpu"),
        (4, None, 3, False, "cuda:3"),
        (4, "0,1,2,3", 2, False, "cuda:2"),
        (1, "GPU-5f2a", 3, False, "cuda:0"),  # a GPU of its own for each rank
        (1, None, 1, True, "cuda:0"),
        (2, "0,1", 3, True, "cuda:1"),
    ],
)
def test_the_device_of_a_rank(gpus, count, visible, local_rank, shares, device):
    gpus(count, visible)
    assert _device(local_rank, shares=shares) == torch.device(device)


@pytest.mark.parametrize(("count", "visible"), [(1, None), (2, "0,1"), (2, None)])
def test_a_rank_without_a_gpu_of_its_own_is_refused(gpus, count, visible):
    """NCCL would say "Duplicate GPU detected", in a traceback, some time later."""
    gpus(count, visible)
    with pytest.raises(ConfigError) as caught:
        _device(count, shares=False)
    text = str(caught.value)
    assert f"local rank {count} has no GPU of its own: this process sees {count}" in text
    assert f"Start {count} rank" in text
    assert "RELAUNCH_CUDA_BACKEND=gloo" in text


def test_gpus_that_torch_cannot_use_are_no_reason_for_the_cpu(gpus, monkeypatch):
    """A driver that is too old: is_available() warns and says no, and all would train on CPUs."""
    gpus(8)

    def too_old():
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old (found version "
            "11040). Please update your GPU driver.\nAlternatively, go to ...",
            stacklevel=1,
        )
        return False

    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    with pytest.raises(ConfigError) as caught:
        _device(0, shares=False)
    text = str(caught.value)
    assert f"this process sees 8 GPUs, and torch {torch.__version__}" in text
    assert "cannot use them: CUDA initialization: The NVIDIA driver" in text
    assert (
        "found version 11040). Please update your GPU driver. Update the driver (after an" in text
    )
    assert "relaunch doctor shows both" in text
    assert "CUDA_VISIBLE_DEVICES= to train on the CPU" in text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)  # hidden
    assert _device(0, shares=False) == torch.device("cpu")


def test_what_sums_over_the_ranks():
    gpu = torch.device("cuda", 0)
    assert _backend(torch.device("cpu"), shares=True) == "gloo"
    assert _backend(gpu, shares=False) == "cpu:gloo,cuda:nccl"
    assert _backend(gpu, shares=True) == "cpu:gloo,cuda:gloo"


@pytest.mark.parametrize(
    ("said", "listed", "visible", "is_refused"),
    [
        ("CUDA initialization: Unexpected error: driver/library mismatch", 2, None, True),
        ("CUDA initialization: Unexpected error: driver/library mismatch", 2, "0", True),
        ("CUDA initialization: Unexpected error: driver/library mismatch", 2, "", False),
        ("CUDA initialization: you might not have a GPU", 0, None, False),
        (None, 2, None, False),  # a container without the driver, on a machine that has it
    ],
)
def test_a_driver_that_does_not_answer(
    gpus, monkeypatch, tmp_path, said, listed, visible, is_refused
):
    """After an update without a restart nothing counts its GPUs, and torch only warns."""
    gpus(0, visible)
    for number in range(listed):
        (tmp_path / str(number)).mkdir()
    monkeypatch.setattr(process_group, "_OF_DRIVER", tmp_path)

    def fails():
        if said is not None:
            warnings.warn(said, stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", fails)
    if not is_refused:
        assert _device(0, shares=False) == torch.device("cpu")
        return
    with pytest.raises(ConfigError, match=r"2 GPUs.*driver/library mismatch"):
        _device(0, shares=False)
