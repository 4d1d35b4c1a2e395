"""Two pods of an indexed Job, with the environment that scripts/kubernetes/job.yaml gives."""

import pytest

from tests import kubernetes_pods

pytestmark = pytest.mark.timeout(150)
ADDRESS = "10.231.7.1"
"""Node 0's, in place of the name that a cluster gives it."""


def test_two_pods_meet_by_their_environment_alone(hosts):
    script = hosts.script("print(*(os.environ[n] for n in ('RANK', 'GROUP_RANK', 'WORLD_SIZE')))")
    nodes = []
    for index in (1, 0):
        env = {
            **kubernetes_pods.environment("job", index),
            "PET_MASTER_ADDR": ADDRESS,
            "PET_NNODES": "2",
        }
        nodes.append(hosts.start(index, script, env=env))
    assert [node.wait() for node in nodes] == [0, 0], [node.stderr for node in nodes]
    assert [node.stdout.removeprefix("[rank 1] ") for node in nodes] == ["1 1 2\n", "0 0 2\n"]
    assert [node.said() for node in nodes] == [[], []]
