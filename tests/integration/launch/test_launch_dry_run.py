"""`--dry-run` shows what would be started, and starts nothing."""

import pytest

pytestmark = pytest.mark.timeout(120)


def test_what_is_printed_is_what_rank_0_gets(launch):
    script = launch.script(
        """
        pathlib.Path("started").touch()
        for name in sorted(os.environ): print(f"  {name}={os.environ[name]}")
        """
    )
    words = ("--nproc", "2", "--strategy", "ddp", "--run-dir", "run", "--grace", "9", script, "a b")
    env = {"HF_TOKEN": "hf_geheim", "PLAIN": "x"}
    shown = launch("--dry-run", *words, env=env)
    assert shown.wait() == 0
    assert not (launch.folder / "started").exists()
    assert not (launch.folder / "run").exists()
    assert "hf_geheim" not in shown.stdout + shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == "plan:"
    assert lines[1].endswith(" -u train.py 'a b'")
    assert "  ranks on this node: 2" in lines
    assert f"  logs: {launch.folder}/run/logs" in lines
    assert "  grace: 9 s" in lines
    assert "  HF_TOKEN=***" in lines
    assert "  PLAIN=x" in lines

    launched = launch(*words, env=env)
    assert launched.wait() == 0
    seen = [line for line in launched.stdout.splitlines() if not line.startswith("[rank")]
    names = [line.partition("=")[0] for line in lines[lines.index("environment of rank 0:") + 1 :]]
    assert sorted(names) == sorted(
        [line.partition("=")[0] for line in seen] + ["  and unchanged from here:"]
    )
    only_a_start_knows = ("RUN_ID", "_FILE", "MASTER_PORT", "TOKEN", "SHLVL")
    for line in seen:
        assert line in lines or any(part in line for part in only_a_start_knows), line


def test_a_mistake_is_told_instead(launch):
    launched = launch("--dry-run", "missing.py")
    assert launched.wait() == 2
    assert launched.stdout == ""


def test_the_secret_of_the_nodes_is_not_shown(launch):
    (launch.folder / "secret").write_text("geheim-in-a-file\n")
    (launch.folder / "secret").chmod(0o600)
    words = ("--dry-run", "--nnodes", "2", "--node-rank", "0", "--master-addr", "127.0.0.1")
    env = {"RELAUNCH_SECRET": "geheim-in-a-variable"}
    script = launch.script("pass")
    shown = [launch(*words, *more, script, env=env) for more in ((), ("--secret-file", "secret"))]
    assert [launched.wait() for launched in shown] == [0, 0]
    for launched, source in zip(shown, ("RELAUNCH_SECRET", "--secret-file secret"), strict=True):
        assert "geheim" not in launched.stdout + launched.stderr
        assert f"  messages between nodes: carry the secret of {source}" in launched.stdout
    (launch.folder / "secret").write_text("short")
    refused = launch(*words, "--secret-file", "secret", script)
    assert refused.wait() == 2
    assert "has 5 characters, and needs 16 or more." in refused.stderr


def test_a_secret_among_the_arguments_is_masked(launch):
    env = {"HF_TOKEN": "hf_geheim"}
    words = ("--token=hf_geheim", "--api-key", "geheim-2", "https://h/?sig=geheim-3")
    launched = launch("--dry-run", launch.script("pass"), *words, env=env)
    assert launched.wait() == 0
    assert "geheim" not in launched.stdout
    assert launched.stdout.splitlines()[1].endswith(
        "train.py '--token=***' --api-key '***' 'https://h/?sig=***'"
    )
