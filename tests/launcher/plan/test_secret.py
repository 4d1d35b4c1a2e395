"""The secret that the nodes share."""

import pytest

from launcher.errors import UsageError
from launcher.plan.secret import RunSecret, read_secret, unbound_text

LONG = "0123456789abcdef"


def test_the_file_goes_first(tmp_path):
    file = tmp_path / "secret"
    file.write_text(f"{LONG}-file\n")
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
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="has 0 characters"):
        read_secret(tmp_path / "empty", {})


def test_it_is_shown_nowhere():
    secret = read_secret(None, {"RELAUNCH_SECRET": LONG})
    assert LONG not in f"{secret!r} {secret} {secret.describe('job')}"
    assert secret.describe("job") == "carry the secret of RELAUNCH_SECRET"
    assert RunSecret().describe("job") == "carry no secret, only --rdzv-id job"
    assert RunSecret().describe(None) == "carry no secret, only the default --rdzv-id"
    assert unbound_text("job", "a:1").startswith(
        "the nodes share no secret: who reaches a:1 and knows --rdzv-id job can speak for a node."
    )
