"""Whether ranks can be forked once an import has looked for GPUs."""

import pytest
import torch

from launcher.workers.forkserver.server import _accelerator_in_use


@pytest.mark.parametrize(
    ("built_for", "is_bad", "named"),
    [
        ("13.0", True, "asked CUDA for its devices"),
        ("13.0", False, None),
        (None, True, None),  # a CPU build has no CUDA to spoil
    ],
)
def test_an_import_that_counts_gpus_is_found(monkeypatch, built_for, is_bad, named):
    """`torch.cuda.is_available()` spoils forks, and `is_initialized()` is False all the same."""
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: is_bad)
    reason = _accelerator_in_use()
    assert reason is None if named is None else named in reason


def test_an_initialised_accelerator_is_found(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert _accelerator_in_use() == "an import has initialised torch.cuda"
