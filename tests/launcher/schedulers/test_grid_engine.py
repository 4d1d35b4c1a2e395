"""A job of Grid Engine as its environment, its host file and its signals describe it."""

import shlex
import signal
from pathlib import Path

import pytest

from launcher.agent.hand_over import HandOver
from launcher.command_line.parser import parse_command_line
from launcher.contract.launcher_signals import SignalInbox
from launcher.errors import UsageError
from launcher.plan.given_options import Given, Words
from launcher.plan.launch_plan import LaunchPlan, make_plan
from launcher.plan.machine import Machine
from launcher.schedulers.grid_engine.agents import common_code, qrsh_command
from launcher.schedulers.grid_engine.environment import GridEngineEnvironment
from launcher.schedulers.grid_engine.job import Job, hosts_of, read_job
from launcher.schedulers.grid_engine.verdict import notice, wants_back

ENVIRON = {
    "JOB_ID": "17",
    "JOB_SCRIPT": "/spool/n0/job_scripts/17",
    "SGE_JOB_SPOOL_DIR": "/spool/17.1",
    "SGE_TASK_ID": "undefined",
    "PE_HOSTFILE": "/spool/17.1/pe_hostfile",
    "RESTARTED": "0",
}
FILES = {
    "/spool/17.1/config": "pe=relaunch\nnotify=10\njob_id=17\n",
    "/spool/17.1/pe_hostfile": "n0 1 all.q@n0 UNDEFINED\nn1 2 all.q@n1 UNDEFINED\n",
}


def read(**changes: str) -> Job:
    return read_job({**ENVIRON, **changes}, host="n0", read=FILES.get)


def place(job: Job, said: list[str], **environ: str) -> GridEngineEnvironment:
    return GridEngineEnvironment(job, {**ENVIRON, **environ}, ("train.py",), said.append)


def words(**given: str) -> Words:
    options = {f"--{name.replace('_', '-')}": text for name, text in given.items()}
    return Words(
        given={name: Given(text=text, spelled=f"{name} {text}") for name, text in options.items()},
        rest=("train.py",),
    )


def plan_of(tmp_path: Path) -> LaunchPlan:
    (tmp_path / "train.py").write_text("from launcher import Run\n")
    options = parse_command_line(
        ("--run-dir", str(tmp_path / "run"), str(tmp_path / "train.py")), {}, lambda given: given
    )
    assert not isinstance(options, str)
    return make_plan(options, Machine.here({}))


def test_a_job_script_on_two_hosts() -> None:
    job = read()
    assert (job.key, job.hosts, job.slots) == ("17", ("n0", "n1"), (1, 2))
    assert (job.notify_s, job.is_batch, job.was_restarted) == (10, True, False)


def test_an_element_of_an_array_has_a_name_of_its_own() -> None:
    job = read(SGE_TASK_ID="3", RESTARTED="1")
    assert (job.key, job.was_restarted) == ("17.3", True)
    assert job.port != read(SGE_TASK_ID="4").port


@pytest.mark.parametrize("script", ["QRSH", "QLOGIN", "QRLOGIN"])
def test_a_session_is_no_batch_job_and_has_this_host(script: str) -> None:
    job = read(JOB_SCRIPT=script, PE_HOSTFILE="/elsewhere")
    assert (job.is_batch, job.hosts) == (False, ("n0",))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"SGE_JOB_SPOOL_DIR": "/gone"}, "job 17 of Grid Engine is over and its variables"),
        ({"SGE_JOB_SPOOL_DIR": "/gone"}, "env -u SGE_JOB_SPOOL_DIR relaunch"),
        ({"PE_HOSTFILE": "/gone"}, "PE_HOSTFILE=/gone cannot be read here"),
        ({"JOB_ID": "x"}, "JOB_ID=x in the environment is not a number"),
    ],
)
def test_what_grid_engine_did_not_write_is_one_sentence(
    changes: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        read(**changes)


def test_the_way_out_that_the_sentence_names() -> None:
    from launcher.schedulers.table import scheduler_of

    left = {name: text for name, text in ENVIRON.items() if name != "SGE_JOB_SPOOL_DIR"}
    assert scheduler_of(left) is None


def test_slots_of_several_queues_on_one_host_are_one_node() -> None:
    assert hosts_of("n0 1 a.q@n0 -\nn1 1 a.q@n1 -\nn0 2 b.q@n0 -\n", "f") == {"n0": 3, "n1": 1}
    for text in ("", "n0\n", "n0 many all.q\n"):
        with pytest.raises(UsageError, match="PE_HOSTFILE=f"):
            hosts_of(text, "f")


@pytest.mark.parametrize(
    ("signum", "notify_s", "cause", "deadline"),
    [
        (signal.SIGUSR1, 10, "suspension of the job, or its s_rt", 110.0),
        (signal.SIGUSR1, 0, "suspension of the job, or its s_rt", None),
        (signal.SIGUSR2, 10, "kill of the job: qdel, qmod -rj or h_rt", 110.0),
        (signal.SIGTERM, 10, "SIGTERM", None),
    ],
)
def test_what_a_signal_announces(
    signum: int, notify_s: int, cause: str, deadline: float | None
) -> None:
    found = notice(signum, notify_s, 100.0)
    assert (found.cause, found.deadline) == (cause, deadline)


@pytest.mark.parametrize(
    ("code", "warned_by", "back"),
    [
        (0, None, False),
        (0, signal.SIGUSR2, False),
        (75, None, True),
        (75, signal.SIGUSR1, True),
        (128 + signal.SIGUSR1, signal.SIGUSR1, True),
        (128 + signal.SIGUSR1, None, False),
        (1, signal.SIGUSR1, False),
        (2, None, False),
        (93, signal.SIGUSR2, False),
        (100, None, False),
    ],
)
def test_which_codes_bring_a_job_back(code: int, warned_by: int | None, back: bool) -> None:
    assert wants_back(code, warned_by) is back


def test_the_code_of_a_job_script(tmp_path: Path) -> None:
    said: list[str] = []
    plan, inbox = plan_of(tmp_path), SignalInbox()
    assert place(read(), said).conclude(75, plan, inbox) == 99
    assert said == [
        "exit code 99: Grid Engine puts job 17 back into the queue, unless it was deleted or "
        "its h_rt is over; the run resumes where it is now."
    ]
    assert place(read(), said).conclude(93, plan, inbox) == 93
    assert place(read(JOB_SCRIPT="QRSH"), said).conclude(75, plan, inbox) == 75


def test_an_agent_of_a_job_script_keeps_its_code(tmp_path: Path) -> None:
    told = HandOver(run_id="17", master_addr="10.0.0.1", master_port=1, grace_s=10.0)
    agent = place(read(), [], **told.to_environ())
    assert not agent.starts_agents
    plan = plan_of(tmp_path)
    assert agent.conclude(75, plan, SignalInbox()) == 75
    assert agent.run_agents(plan, SignalInbox()) is None
    assert agent.adjust(plan).limits.grace_s == 10.0


def test_a_job_that_gets_no_further_does_not_come_back(tmp_path: Path) -> None:
    said: list[str] = []
    plan, alone = plan_of(tmp_path), read(PE_HOSTFILE="", SGE_TASK_ID="2")
    codes = []
    for _ in range(5):
        assert place(alone, said).run_agents(plan, SignalInbox()) is None
        codes.append(place(alone, said).conclude(75, plan, SignalInbox()))
    assert codes == [99, 99, 99, 99, 93]
    assert place(alone, said).run_agents(plan, SignalInbox()) == 93
    assert "the job was started 5 times at step 0 and made no progress" in said[-1]
    other = read(PE_HOSTFILE="", SGE_TASK_ID="3")
    assert place(other, said).run_agents(plan, SignalInbox()) is None


def test_how_the_nodes_meet_follows_from_the_job() -> None:
    there = place(read(), [])
    given = there.supply(words(master_addr="10.0.0.1")).given
    assert {name: given[name].text for name in ("--nnodes", "--node-rank", "--master-addr")} == {
        "--nnodes": "2",
        "--node-rank": "0",
        "--master-addr": "10.0.0.1",
    }
    assert there.starts_agents


def test_words_that_say_how_the_nodes_meet_stay() -> None:
    there = place(read(), [])
    by_hand = words(node_rank="1", nnodes="4")
    assert there.supply(by_hand) == by_hand
    assert not there.starts_agents


def test_another_number_of_nodes_is_refused() -> None:
    with pytest.raises(UsageError, match="--nnodes 3, but Grid Engine job 17 has 2 hosts"):
        place(read(), []).supply(words(nnodes="3"))


def test_a_command_for_another_host_survives_its_shell() -> None:
    command = qrsh_command("n1", ["relaunch", "--name", "it's $HOME"], "/a folder")
    assert command[:5] == ["qrsh", "-inherit", "-nostdin", "-V", "n1"]
    assert shlex.split(command[5]) == [
        *("cd", "/a folder", "&&", "exec", "relaunch", "--name", "it's $HOME")
    ]


@pytest.mark.parametrize(
    ("codes", "code"),
    [((0, 0), 0), ((75, 75), 75), ((0, 75), 75), ((1, 75), 1), ((-9, 0), 137), ((0, -15), 143)],
)
def test_the_agents_have_one_code(codes: tuple[int, ...], code: int) -> None:
    assert common_code(codes) == code
