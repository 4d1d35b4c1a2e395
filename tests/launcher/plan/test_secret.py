"""The secret that the nodes share."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.plan.secret import RunSecret, read_secret, unbound_text, with_secret

LONG = "0123456789abcdef"


@pytest.fixture(autouse=True)
def usual_umask():
    former = os.umask(0o022)
    yield
    os.umask(former)


def secret_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_file_goes_first(tmp_path):
    file = secret_file(tmp_path / "secret", f"{LONG}-file\n")
    found = read_secret(file, {"RELAUNCH_SECRET": f"{LONG}-variable"})
    assert found == RunSecret(value=f"{LONG}-file".encode(), source=f"--secret-file {file}")
    found = read_secret(None, {"RELAUNCH_SECRET": f"{LONG}-variable"})
    assert found == RunSecret(value=f"{LONG}-variable".encode(), source="RELAUNCH_SECRET")


@pytest.mark.parametrize("environ", [{}, {"RELAUNCH_SECRET": ""}, {"RELAUNCH_SECRET": " \n"}])
def test_none(environ):
    assert read_secret(None, environ) == RunSecret()


@pytest.mark.parametrize("short", ["x", "012345678901234", " 012345678901234 "])
def test_too_short(short):
    with pytest.raises(UsageError, match=r"of RELAUNCH_SECRET has 1?[0-9] characters"):
        read_secret(None, {"RELAUNCH_SECRET": short})


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"--secret-file .* cannot be read: No such file"):
        read_secret(tmp_path / "none", {"RELAUNCH_SECRET": LONG})
    with pytest.raises(UsageError, match="has 0 characters"):
        read_secret(secret_file(tmp_path / "empty", ""), {})


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602])
def test_a_file_of_others_is_refused_and_its_remedy_helps(tmp_path, mode):
    file = secret_file(tmp_path / "my secret", LONG, mode)
    with pytest.raises(UsageError, match=rf"by others \(mode 0{mode:03o}\)") as refused:
        read_secret(file, {})
    remedy = str(refused.value).partition("Make a new one with: ")[2]
    # Its words, with another source of random digits: openssl may not be installed.
    line = remedy.replace("openssl rand -hex 32", f"echo {LONG}{LONG}")
    assert line != remedy
    subprocess.run(["bash", "-c", line], check=True)
    assert read_secret(file, {}).value == f"{LONG}{LONG}".encode()


def test_the_remedy_for_a_short_one_makes_a_file_that_is_taken(tmp_path):
    file = secret_file(tmp_path / "my secret", "short")
    with pytest.raises(UsageError, match="Make one with: ") as refused:
        read_secret(file, {})
    line = str(refused.value).partition("Make one with: ")[2]
    file.unlink()
    subprocess.run(["bash", "-c", re.sub("openssl.*32", f"echo {LONG}", line)], check=True)
    assert read_secret(file, {}).value == LONG.encode()


def test_a_pipe_is_its_makers_alone():
    read, write = os.pipe()
    os.write(write, LONG.encode())
    os.close(write)
    try:
        assert read_secret(Path(f"/proc/self/fd/{read}"), {}).value == LONG.encode()
    finally:
        os.close(read)


@pytest.mark.parametrize(("given", "used"), [({}, "made"), ({"RELAUNCH_SECRET": " \n"}, "made")])
def test_an_empty_variable_does_not_win_over_the_secret_made_for_a_job(given, used):
    assert with_secret({"A": "b", **given}, "made") == {"A": "b", "RELAUNCH_SECRET": used}
    assert with_secret({"RELAUNCH_SECRET": LONG}, "made") == {"RELAUNCH_SECRET": LONG}


def test_it_is_shown_nowhere():
    secret = read_secret(None, {"RELAUNCH_SECRET": LONG})
    assert LONG not in f"{secret!r} {secret} {secret.describe('job')}"
    assert secret.describe("job") == "carry the secret of RELAUNCH_SECRET"
    assert RunSecret().describe("job") == "carry no secret, only --rdzv-id job"
    assert RunSecret().describe(None) == "carry no secret, only the default --rdzv-id"
    assert unbound_text("job", "a:1").startswith(
        "the nodes share no secret: anyone who reaches a:1 and knows --rdzv-id job can send "
        "messages as a node."
    )
