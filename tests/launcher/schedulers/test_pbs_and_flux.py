"""PBS and Flux, by their environment and node file alone: no real one was tried."""

import socket
from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.plan.given_options import Given, Words
from launcher.schedulers.flux import FluxEnvironment
from launcher.schedulers.pbs import PbsEnvironment, port_of, rank_of

FLUX = {"FLUX_JOB_ID": "f7", "FLUX_JOB_NNODES": "2", "FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "1"}
JOIN = {"--nnodes": "2", "--node-rank": "1", "--master-addr": "10.0.0.1"}


def words(**given: str) -> Words:
    options = {f"--{name.replace('_', '-')}": text for name, text in given.items()}
    return Words(
        given={name: Given(text=text, spelled=f"{name} {text}") for name, text in options.items()},
        rest=("train.py",),
    )


def texts(found: Words, names: dict[str, str]) -> dict[str, str | None]:
    return {name: found.text(name) for name in names}


def test_a_node_of_pbs_has_its_place_in_the_node_file(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("n0\nn0\nn1.cluster\nn1.cluster\n")
    there = PbsEnvironment("12.server", str(hosts), "n1")
    found = there.supply(words(master_addr="10.0.0.1"))
    assert texts(found, JOIN) == JOIN
    assert found.text("--rdzv-id") == "12.server"


def test_one_node_of_pbs_needs_no_others(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{socket.gethostname()}\n" * 4)
    found = PbsEnvironment("12.server", str(hosts), socket.gethostname()).supply(words())
    assert set(found.given) == {"--rdzv-id"}


@pytest.mark.parametrize(
    ("job", "given", "sentence"),
    [
        ("gone", {}, "cannot be read here"),
        ("hosts", {}, "n9 is none of them"),
        ("hosts", {"nnodes": "3"}, "--nnodes 3, but PBS job 12 has 2 hosts"),
    ],
)
def test_what_pbs_did_not_write(
    tmp_path: Path, job: str, given: dict[str, str], sentence: str
) -> None:
    (tmp_path / "hosts").write_text("n0\nn1\n")
    with pytest.raises(UsageError, match=sentence):
        PbsEnvironment("12", str(tmp_path / job), "n9").supply(words(**given))
    by_hand = words(nnodes="2", node_rank="0")
    assert PbsEnvironment("12", "gone", "n9").supply(by_hand) == by_hand


def test_names_and_ports_of_pbs() -> None:
    assert rank_of("n1.a", ("n0", "n1"), "PBS job 1") == 1
    assert rank_of("n1", ("n0.a", "n1.a"), "PBS job 1") == 1
    assert len({port_of("12.server"), port_of("13.server"), port_of("12[1].server")}) == 3


def test_a_task_of_flux() -> None:
    found = FluxEnvironment(FLUX).supply(words(master_addr="10.0.0.1"))
    assert texts(found, JOIN) == JOIN


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Pass --master-addr with the first host"),
        ({"FLUX_JOB_SIZE": "16"}, "16 tasks on 2 nodes.*flux run --nodes=2 --tasks-per-node=1"),
        ({"FLUX_TASK_RANK": "one"}, "FLUX_TASK_RANK=one"),
    ],
)
def test_what_flux_lacks(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        FluxEnvironment({**FLUX, **changes}).supply(words())


def test_one_node_of_flux_needs_no_address() -> None:
    one = {**FLUX, "FLUX_JOB_NNODES": "1", "FLUX_JOB_SIZE": "1", "FLUX_TASK_RANK": "0"}
    assert set(FluxEnvironment(one).supply(words()).given) == {"--rdzv-id"}
