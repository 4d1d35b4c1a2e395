"""The node list's grammar, compared with Slurm's own program where that is installed."""

import os
import shutil
import subprocess

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from launcher.errors import UsageError
from launcher.schedulers.slurm.hostlist import expand_counts, expand_nodes, in_order


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("a", ("a",)),
        ("a,b", ("a", "b")),
        ("n[1-3,7],m[01-02]", ("n1", "n2", "n3", "n7", "m01", "m02")),
        ("n[08-11]", ("n08", "n09", "n10", "n11")),
        ("n[9-10]", ("n9", "n10")),
        ("n[001-2]", ("n001", "n002")),
        ("r[0-1]n[0-1]", ("r0n0", "r0n1", "r1n0", "r1n1")),
        ("n[1-2]-ib", ("n1-ib", "n2-ib")),
        ("gpu-a[1,3]x[2-3]", ("gpu-a1x2", "gpu-a1x3", "gpu-a3x2", "gpu-a3x3")),
        (
            "a[0-1]b[0-1]c[0-1]",
            ("a0b0c0", "a0b0c1", "a1b0c0", "a1b0c1", "a0b1c0", "a0b1c1", "a1b1c0", "a1b1c1"),
        ),
        ("x[1-2],,y", ("x1", "x2", "y")),
    ],
)
def test_expand_nodes(text, names):
    assert expand_nodes(text) == names


@pytest.mark.parametrize(
    "text", ["n[", "n[1", "n]1", "n[]", "n[1-]", "n[a-b]", "n[3-2]", "n[[1]]", "n[0-70000]", "a b"]
)
def test_what_is_no_list_is_refused(text):
    with pytest.raises(UsageError):
        expand_nodes(text)


def test_a_list_of_too_many_nodes_is_refused_before_it_is_made():
    with pytest.raises(UsageError, match="more than 65536"):
        expand_nodes("n[0-9999]x[0-9999]y[0-9999]")


@pytest.mark.parametrize(
    ("text", "counts"), [("1", (1,)), ("2(x3),1", (2, 2, 2, 1)), ("8(x2)", (8, 8))]
)
def test_expand_counts(text, counts):
    assert expand_counts(text) == counts


@pytest.mark.parametrize("text", ["", "x", "2x3", "2(3)", "-1"])
def test_no_counts(text):
    with pytest.raises(UsageError):
        expand_counts(text)


@st.composite
def ranges(draw):
    low = draw(st.integers(0, 120))
    width = draw(st.sampled_from([0, 0, 2, 4]))
    high = low + draw(st.integers(0, 6))
    first = str(low).zfill(width)
    return first if draw(st.booleans()) else f"{first}-{str(high).zfill(len(first))}"


@st.composite
def entries(draw):
    text = draw(st.sampled_from(["n", "gpu", "node-", "a.b", "rack7-n"]))
    for _ in range(draw(st.integers(0, 2))):
        text += f"[{','.join(draw(st.lists(ranges(), min_size=1, max_size=3)))}]"
        # Slurm takes nothing behind a bracket but another bracket or a name that goes on to one.
        if draw(st.booleans()):
            text += draw(st.sampled_from(["x", "-c"])) + f"[{draw(ranges())}]"
    return text


NODE_LISTS = st.lists(entries(), min_size=1, max_size=4).map(",".join)


CONF = """\
ClusterName=grammar
SlurmctldHost=localhost
NodeName=n0
PartitionName=p Nodes=n0
"""


@pytest.fixture(scope="module")
def hostnames(tmp_path_factory):
    """`scontrol show hostnames`, which asks nobody but reads a configuration."""
    if shutil.which("scontrol") is None:
        pytest.skip("there is no scontrol here (scripts/install --with-slurm)")
    conf = tmp_path_factory.mktemp("conf") / "slurm.conf"
    conf.write_text(CONF)

    def ask(text):
        words = ["scontrol", "show", "hostnames", text]
        environ = {**os.environ, "SLURM_CONF": str(conf)}
        return subprocess.run(words, capture_output=True, text=True, timeout=10, env=environ)

    assert ask("n[1-2]").stdout.split() == ["n1", "n2"]
    return ask


@settings(max_examples=120, deadline=None)
@given(text=NODE_LISTS)
def test_the_same_as_scontrol(hostnames, text):
    done = hostnames(text)
    # It knows fewer dimensions than ours, and shorter names.
    assume("Invalid" not in done.stderr and "Too many" not in done.stderr)
    assert list(expand_nodes(text)) == done.stdout.split()


@pytest.mark.parametrize(
    ("listed", "order"),
    [
        ("n2\nn0\nn1\n", ("n2", "n0", "n1")),
        ("n1,n1,n0,n2", ("n1", "n0", "n2")),
        ("n[1-2]\nn0", ("n1", "n2", "n0")),
        ("other,n1,n0,n2", ("n1", "n0", "n2")),
        ("", ("n0", "n1", "n2")),
        ("n2\nn0", ("n0", "n1", "n2")),
        ("n[", ("n0", "n1", "n2")),
    ],
)
def test_the_order_of_a_file(listed, order):
    assert in_order(("n0", "n1", "n2"), listed) == order
