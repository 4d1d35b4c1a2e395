"""Why a rank may not be forked from the warm server."""

import pytest

from launcher.plan.program import Program, ProgramKind
from launcher.plan.python_command import (
    PYTHON_FLAGS,
    PythonProgram,
    parse_python_command,
    why_not_source,
    why_other_python,
)
from launcher.workers.forkserver.eligibility import module_names, other_variables, shadowed_modules

AT_IMPORT = {"PATH": "/bin", "OMP_NUM_THREADS": "1", "RANK": "7"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, None),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, None),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "3"}, None),
        ({"TORCHELASTIC_RUN_ID": "x", "RELAUNCH_RUN_DIR": "y", "NCCL_DEBUG": "INFO"}, None),
        ({"TORCH_FR_DUMP_TEMP_FILE": "a", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": "b"}, None),
        ({"OMP_NUM_THREADS": "2"}, "OMP_NUM_THREADS"),
        ({"TORCH_LOGS": "dynamo"}, "TORCH_LOGS"),
        ({"KMP_AFFINITY": "a", "MKL_NUM_THREADS": "1"}, "KMP_AFFINITY, MKL_NUM_THREADS"),
        ({"PATH": None}, "PATH"),
    ],
)
def test_other_variables(change, named):
    wanted = {k: v for k, v in {**AT_IMPORT, **change}.items() if v is not None}
    reason = other_variables(wanted, AT_IMPORT)
    assert reason == (
        named
        and f"{named} may be read while torch is imported, and are not the same for every rank"
    )


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"train", "model"}, None),
        ({"train", "queue"}, "queue"),
        ({"numpy", "queue"}, "numpy, queue"),
        ({"helper"}, None),
        ({"sys"}, None),
    ],
)
def test_shadowed_modules(beside, named):
    loaded = {
        "queue": "/usr/lib/queue.py",
        "numpy": "/site/numpy/__init__.py",
        "helper": "/project/helper.py",
        "sys": None,
    }
    reason = shadowed_modules(beside, loaded, "/project/")
    expected = "beside the script would be imported in place of what is loaded"
    assert reason == (named and f"{named} {expected}")


def test_module_names():
    files = ["train.py", "fast.cpython-311-x86_64-linux-gnu.so", "notes.txt", "old.pyc", "data"]
    assert module_names(files, ["model"]) == {"train", "fast", "old", "model"}


def test_the_command_of_a_script_is_read_back():
    program = Program(kind=ProgramKind.SCRIPT, name="train.py", args=("-m", "1"))
    command = program.command({"PYTHON_EXEC": "/bin/python"})
    assert parse_python_command(command, "/bin/python") == PythonProgram(
        name="train.py", is_module=False, args=("-m", "1")
    )


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (
            (*PYTHON_FLAGS, "-m", "package.train", "x"),
            PythonProgram(name="package.train", is_module=True, args=("x",)),
        ),
        (("train.py",), None),
        ((*PYTHON_FLAGS, "-c", "pass"), None),
        ((*PYTHON_FLAGS, "-m"), None),
        (PYTHON_FLAGS, None),
    ],
)
def test_parse_python_command(words, program):
    assert parse_python_command(("/bin/python", *words), "/bin/python") == program


def test_another_python_is_no_python_of_ours():
    command = ("/other/python", *PYTHON_FLAGS, "train.py")
    assert parse_python_command(command, "/bin/python") is None
    reason = why_other_python(command, "/bin/python")
    assert reason == "PYTHON_EXEC names /other/python, and relaunch itself runs in /bin/python"
    assert why_other_python(("/bin/python", *PYTHON_FLAGS, "train.py"), "/bin/python") is None
    assert why_other_python(("/bin/echo", "train.py"), "/bin/python") is None


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train.py", b"print(1)", None),
        ("empty.py", b"", None),
        ("app.pyz", b"PK\x03\x04...", "is an archive"),
        ("train.pyc", b"....", "is compiled already"),
    ],
)
def test_why_not_source(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    program = PythonProgram(name=str(path), is_module=False, args=())
    assert why_not_source(program) == (reason and f"{path} {reason}")


def test_a_folder_is_no_source(tmp_path):
    program = PythonProgram(name=str(tmp_path), is_module=False, args=())
    assert why_not_source(program) == f"{tmp_path} is a folder"
