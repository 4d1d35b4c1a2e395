"""What an exact run needs of torch and its kernels on a GPU; none is needed here."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from launcher.training.exact import conditions
from launcher.training.loop.steps.kernel_check import KernelCheck
from launcher.training.reporting.resume_report import changed_conditions
from strategies import ConfigError

GPU = torch.device("cuda", 0)


def check_of(*, exact: bool, device: torch.device) -> KernelCheck:
    options = SimpleNamespace(exact=exact, compile_blocks=True)
    ranks = SimpleNamespace(device=device)
    return KernelCheck(cast(Any, SimpleNamespace(options=options, ranks=ranks)))


@pytest.fixture
def matmul() -> Iterator[Any]:
    backends: Any = torch.backends
    before = backends.cuda.matmul.fp32_precision
    yield backends.cuda.matmul
    backends.cuda.matmul.fp32_precision = before


def test_a_change_of_precision_is_told(monkeypatch: pytest.MonkeyPatch, matmul: Any) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    matmul.fp32_precision = "ieee"
    saved = conditions(GPU)
    matmul.fp32_precision = "none"  # by another name
    assert changed_conditions(saved, conditions(GPU)) == []
    matmul.fp32_precision = "tf32"
    assert changed_conditions(saved, conditions(GPU)) == ["float32 matmuls: ieee -> tf32"]
    assert changed_conditions({"torch": saved["torch"]}, conditions(GPU)) == []  # an older save


def test_convolutions_are_not_chosen_by_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with pytest.raises(ConfigError, match=r"--exact needs the same kernels.*\(step\.backward\)"):
        check_of(exact=True, device=GPU).end("step.backward")
    check_of(exact=False, device=GPU).end("step.backward")
    check_of(exact=True, device=torch.device("cpu")).end("step.backward")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    check_of(exact=True, device=GPU).end("step.backward")
