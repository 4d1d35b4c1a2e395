"""What the nodes tell each other carries the run's secret; a stranger's message is dropped."""

import signal
import time

import pytest

pytestmark = pytest.mark.timeout(150)
PLACE = "10.231.7.1:29511"
DROPPED = f"relaunch: what was written at {PLACE} in the name of node {{}} is dropped: its HMAC"

# A rank is a stranger too: it reaches the store and does not know the secret.
STRANGER = """
print(any(os.environ.get("HOSTS_TEST_MARK") == v for k, v in os.environ.items() if "SECRET" in k))
from torch.distributed import TCPStore
place, port = os.environ["PLACE"].split(":")
store = TCPStore(place, int(port), is_master=False, wait_for_workers=False)
kept = {key: store.get(key).decode() for key in ("lead", "everyone/0", "node/1")}
time.sleep(0.6)
decided = '{"attempt": 0, "members": [], "port": 0, "decided": true, "code": 42, "said": "gone"}'
fails = '{"node_rank": 1, "host": "x", "nnodes": "2:2", "local_world_size": 1, "end": {"code": 3}}'
begun = time.monotonic()
seen = pathlib.Path(os.environ["SEEN"])
while rank == 1 and (past := time.monotonic() - begun) < 40 and (past < 3 or not seen.exists()):
    for text in (os.urandom(200), b"", decided.encode(), fails.encode(), b"0" * (4 << 20)):
        for key in ("lead", "everyone/0", "node/0", "node/1", "claim/1", "session"):
            store.set(key, text.decode("latin-1"))
    for key, text in kept.items():
        store.set(key, text)
        store.set("lead", text)
    time.sleep(0.02)
print("done")
"""


def test_strangers_are_not_obeyed(hosts):
    script = hosts.script(STRANGER)
    seen = hosts.folder / "seen"
    env = {"PLACE": PLACE, "SEEN": str(seen)}
    nodes = [hosts.static(host, script, env=env) for host in (0, 1)]
    end = time.monotonic() + 60
    while not all(node.ended() or node.said() for node in nodes) and time.monotonic() < end:
        time.sleep(0.05)
    seen.touch()  # on a busy machine a node looks seldom, and then nothing may stand there
    assert [node.wait(60) for node in nodes] == [0, 0], [node.stderr for node in nodes]
    for node, other in zip(nodes, (1, 0), strict=True):
        assert node.stdout.replace("[rank 1] ", "") == "False\ndone\n"
        (line,) = node.said()
        assert line.startswith(DROPPED.format(other))


def test_a_node_with_another_secret_is_told_and_waits_in_vain(hosts):
    script = hosts.script("print('started')")
    words = ("--rdzv-conf", "join_timeout=6", script)
    secret = hosts.folder / "secret"
    secret.write_text("the secret of another run\n")
    secret.chmod(0o600)
    nodes = [
        hosts.static(0, *words),
        hosts.static(1, "--secret-file", str(secret), *words),
    ]
    assert [node.wait(60) for node in nodes] == [1, 1]
    for node, other in zip(nodes, (1, 0), strict=True):
        assert node.stdout == ""
        last = node.said()[-1]
        assert last.startswith("relaunch: error: gave up: waiting for node ")
        assert f"in the name of node {other} is dropped" in last
        assert "That node has another secret, another --rdzv-id or another version" in last
        assert "the secret of another run" not in node.stderr


def test_without_a_secret_it_is_said_once_and_the_run_s_id_tells_runs_apart(hosts):
    script = hosts.script("print(rank)")
    bare = {"RELAUNCH_SECRET": None}
    words = ("--rdzv-id", "job", script)
    nodes = [hosts.static(host, *words, env=bare) for host in (0, 1)]
    assert [node.wait(60) for node in nodes] == [0, 0], [node.stderr for node in nodes]
    sentence = (
        f"relaunch: the nodes share no secret: anyone who reaches {PLACE} and knows --rdzv-id"
    )
    for node in nodes:
        (line,) = node.said()
        assert line.startswith(sentence)
    waits = hosts.static(0, "--rdzv-id", "job", script, env=bare)
    other = hosts.static(1, "--rdzv-id", "another", script, env=bare)
    end = time.monotonic() + 60
    while not any("is dropped" in line for line in waits.said()):
        assert time.monotonic() < end, waits.stderr
        time.sleep(0.05)
    for node in (waits, other):
        node.send(signal.SIGTERM)
    assert [node.wait(60) for node in (waits, other)] == [75, 75]
