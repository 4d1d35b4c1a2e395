"""NCCL's failures as sentences, and a GPU that others use; no GPU is needed."""

import pytest
import torch
import torch.distributed as dist

from strategies import ConfigError, StrategyError, process_groups
from strategies.collectives import process_group as module
from strategies.collectives.gpu_errors import explained, in_use_text

HEAD = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled system error "
    "(run with NCCL_DEBUG=INFO for details), NCCL version 2.27.3\nncclSystemError: System call "
    "(e.g. socket, malloc) or external library call failed or device error. \nLast error:\n"
)


@pytest.mark.parametrize(
    ("cause", "kind", "says"),
    [
        ("Bootstrap : no socket interface found", StrategyError, "NCCL_SOCKET_IFNAME=eth0"),
        (
            "socketStartConnect: Connect to 10.0.0.1<40000> failed : No route to host",
            StrategyError,
            "10.0.0.1<40000> failed : No route to host. The ranks must reach each other",
        ),
        (
            "socketPollConnect: connect to 10.0.0.1<40000> returned Connection refused",
            StrategyError,
            "relaunch doctor measures the connection of each pair",
        ),
        (
            "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000",
            ConfigError,
            "RELAUNCH_CUDA_BACKEND=gloo",
        ),
        ("Cuda failure 2 'out of memory'", StrategyError, "nvidia-smi shows by whom"),
    ],
)
def test_what_nccl_answers_is_a_sentence(cause: str, kind: type[Exception], says: str) -> None:
    error = explained(HEAD + cause)
    assert type(error) is kind
    assert str(error).startswith(f"NCCL could not connect the ranks: {cause}. ")
    assert says in str(error)


@pytest.mark.parametrize("text", [HEAD + "something new", "gloo: Connection refused", ""])
def test_other_words_are_left_as_they_are(text: str) -> None:
    assert explained(text) is None


@pytest.mark.parametrize(
    ("cause", "raised"),
    [("No route to host", StrategyError), ("something new", dist.DistBackendError)],
)
def test_ranks_that_cannot_meet(
    monkeypatch: pytest.MonkeyPatch, cause: str, raised: type[Exception]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise dist.DistBackendError(HEAD + cause)

    monkeypatch.setattr(dist, "init_process_group", refuse)
    groups = process_groups(rank=0, local_rank=0, world_size=1)
    with pytest.raises(raised, match=cause), groups:
        pass


def test_memory_of_others_is_a_warning_with_its_numbers() -> None:
    gib = 2**30
    assert in_use_text("cuda:1", 79 * gib, 80 * gib, 0) is None
    assert in_use_text("cuda:1", 60 * gib, 80 * gib, 19 * gib) is None
    text = in_use_text("cuda:1", 39 * gib, 80 * gib, gib)
    assert text is not None
    assert text.startswith("cuda:1: 40.0 of 80.0 GiB are in use before the training")


def test_on_a_cpu_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.memory_in_use(torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    text = module.memory_in_use(torch.device("cuda", 3))
    assert text is not None
    assert "cuda:3: 79.0 of 80.0 GiB" in text
