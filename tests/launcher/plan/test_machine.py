"""Counting GPUs as CUDA would, without CUDA."""

import pytest

from launcher.plan import machine as machine_module
from launcher.plan.machine import (
    Machine,
    count_amd,
    count_installed,
    count_visible,
    devices_variable,
)


@pytest.mark.parametrize(
    ("variable", "installed", "count"),
    [
        (None, 0, 0),
        (None, 8, 8),
        ("", 8, 0),
        ("0", 8, 1),
        ("0,1,2,3", 8, 4),
        (" 3 , 1 ", 8, 2),
        ("-1", 8, 0),
        ("0,-1,2", 8, 1),
        ("NoDevFiles", 8, 0),
        ("0,8,1", 8, 1),
        ("0,0", 8, 0),
        ("00,0", 8, 0),
        ("GPU-8932f937,GPU-0b1a", 8, 2),
        ("MIG-4a", 1, 1),
        ("0,1", 0, 0),
    ],
)
def test_count_visible(variable, installed, count):
    assert count_visible(variable, installed) == count


@pytest.mark.parametrize(
    ("names", "is_amd", "name"),
    [
        ((), False, "CUDA_VISIBLE_DEVICES"),
        ((), True, "CUDA_VISIBLE_DEVICES"),
        (("HIP_VISIBLE_DEVICES",), False, "CUDA_VISIBLE_DEVICES"),
        (("HIP_VISIBLE_DEVICES",), True, "HIP_VISIBLE_DEVICES"),
        (("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"), True, "HIP_VISIBLE_DEVICES"),
    ],
)
def test_which_variable_counts(names, is_amd, name):
    assert devices_variable(dict.fromkeys(names, "0"), is_amd=is_amd) == name


def test_gpus_of_amds_driver_are_counted(tmp_path):
    for number, gpu_id in enumerate(("0", "51235", "2091")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "gpu_id").write_text(f"{gpu_id}\n")
    assert count_amd(tmp_path) == 2
    assert count_amd(tmp_path / "none") == 0


def test_the_variable_that_counts_is_named():
    machine = Machine(
        num_gpus=2, num_cpus=6, cuda_visible_devices="4,5", variable="HIP_VISIBLE_DEVICES"
    )
    assert machine.describe_gpus() == "2 GPUs (HIP_VISIBLE_DEVICES=4,5)"


@pytest.mark.parametrize(
    ("libraries", "usable", "out_of_reach"),
    [
        ((), 0, 2),  # `docker run` without --gpus on a machine with GPUs
        (("libcuda.so.1",), 2, 0),  # NVIDIA_DRIVER_CAPABILITIES=compute
    ],
)
def test_gpus_of_which_only_the_kernel_tells(
    tmp_path, monkeypatch, libraries, usable, out_of_reach
):
    """Counted as they would be by CUDA: without its library no rank can use one."""
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()

    def load(name):
        if name not in libraries:
            raise OSError(name)
        return name

    monkeypatch.setattr(machine_module.ctypes, "CDLL", load)
    monkeypatch.setattr(machine_module, "_OF_DRIVER", tmp_path)
    monkeypatch.setattr(machine_module, "count_amd", lambda: 0)
    found = Machine.here({})
    assert (found.num_gpus, found.out_of_reach) == (usable, out_of_reach)
    assert Machine.here({"CUDA_VISIBLE_DEVICES": ""}).out_of_reach == 0


def test_gpus_out_of_reach_are_told():
    seen = Machine(num_gpus=0, num_cpus=6, out_of_reach=8)
    assert seen.describe_gpus() == (
        "no GPU (NVIDIA's driver lists 8, and its libraries are not here: start the container "
        "with --gpus all, or --nv)"
    )


def test_probe_answers_on_any_machine():
    assert count_installed() >= 0


@pytest.mark.gpu
def test_probe_agrees_with_torch():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    import os

    visible = count_visible(os.environ.get("CUDA_VISIBLE_DEVICES"), count_installed())
    assert visible == torch.cuda.device_count()


@pytest.mark.parametrize(
    ("num_gpus", "variable", "text"),
    [
        (0, None, "no GPU"),
        (1, None, "1 GPU"),
        (2, "4,5", "2 GPUs (CUDA_VISIBLE_DEVICES=4,5)"),
        (0, "", "no GPU (CUDA_VISIBLE_DEVICES=)"),
    ],
)
def test_description(num_gpus, variable, text):
    seen = Machine(num_gpus=num_gpus, num_cpus=1, cuda_visible_devices=variable)
    assert seen.describe_gpus() == text
