"""`relaunch slurm`: which words are whose, what is refused, and the script's exact text."""

import os
import shlex
from pathlib import Path

import pytest

from launcher.command_line.argv import read_words
from launcher.command_line.parser import parse_options
from launcher.commands.slurm.batch_script import BatchScript, quote
from launcher.commands.slurm.command import make_script, refusal_text, submit
from launcher.commands.slurm.sbatch_options import (
    check_options,
    split_words,
    submission_environment,
)
from launcher.errors import UsageError
from launcher.schedulers.slurm.scontrol import Answer

ROOT = Path(__file__).parents[4]
EXAMPLES = {
    "one_node": "--gpus-per-node=8 --time=24:00:00 train.py",
    "several_nodes": "--nodes=4 --gpus-per-node=8 --time=24:00:00 --strategy fsdp train.py",
    "array": "--array=0-3 --gpus-per-node=1 --time=4:00:00 train.py --seed $SLURM_ARRAY_TASK_ID",
}
"""What stands behind `relaunch slurm --dry-run` for each file of scripts/slurm."""


MIXED = "-N2 --strategy fsdp -p low --nproc-per-node=4 --time 1:00 --cold a.py -N 7"


def check(words: str) -> None:
    sbatch, own = split_words(words.split())
    check_options(sbatch, read_words(own, {}).given.get("--nnodes"))


def text(*words: str) -> str:
    sbatch, own = split_words(words)
    read = read_words(own, {})
    return make_script(sbatch, read, parse_options(read), program="relaunch").text()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_scripts_are_the_generators_text(name):
    assert (ROOT / "scripts" / "slurm" / f"{name}.sh").read_text() == text(*EXAMPLES[name].split())


def test_there_are_no_other_scripts():
    assert {path.stem for path in (ROOT / "scripts" / "slurm").iterdir()} == EXAMPLES.keys()


def test_words_of_both_kinds_may_be_mixed():
    sbatch, own = split_words(shlex.split(MIXED))
    assert sbatch.given == (("nodes", "2"), ("partition", "low"), ("time", "1:00"))
    assert own == ("--strategy", "fsdp", "--nproc-per-node=4", "--cold", "a.py", "-N", "7")


def test_the_scripts_words_are_quoted():
    line = text("train.py", "--name", "it's a run", "$HOME").splitlines()[-1]
    assert shlex.split(line) == ["exec", "relaunch", "train.py", "--name", "it's a run", "$HOME"]
    assert "'$HOME'" in line


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("plain", "plain"),
        ("$SLURM_ARRAY_TASK_ID", '"$SLURM_ARRAY_TASK_ID"'),
        ("a b/$SLURM_ARRAY_TASK_ID", "'a b/'\"$SLURM_ARRAY_TASK_ID\""),
        ("$HOME/$SLURM_ARRAY_TASK_ID.x", "'$HOME/'\"$SLURM_ARRAY_TASK_ID\".x"),
    ],
)
def test_only_the_number_of_an_arrays_element_is_left_to_the_shell(word, quoted):
    assert quote(word) == quoted


def test_what_was_given_is_kept():
    lines = text("--signal=B:TERM@30", "--no-requeue", "-o", "x.out", "-J", "job", "a.py")
    lines = lines.splitlines()
    assert "#SBATCH --signal=B:TERM@30" in lines
    assert "#SBATCH --no-requeue" in lines
    assert "#SBATCH --requeue" not in lines
    assert "#SBATCH --output=x.out" in lines
    assert lines[1] == "#SBATCH --job-name=job"


def test_the_one_task_of_a_node_may_have_its_gpus_by_task():
    check("--nodes=2 --gpus-per-task=8 a.py")


def test_the_elements_of_an_array_have_run_folders_of_their_own():
    last = text("--array=0-3", "--run-dir", "out/x", "a.py").splitlines()[-1]
    assert '--run-dir out/x/"$SLURM_ARRAY_TASK_ID"' in last


def test_the_elements_of_an_array_have_places_for_checkpoints_of_their_own():
    last = text("--array=0-3", "--checkpoints", "s3://bucket/x", "a.py").splitlines()[-1]
    assert '--checkpoints s3://bucket/x/"$SLURM_ARRAY_TASK_ID"' in last


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--nodes=2 --nnodes 4 a.py", "--nnodes 4, but --nodes=2"),
        ("--nnodes 4 a.py", "write --nodes=4"),
        ("--nodes=2 --ntasks-per-node=8 a.py", "Write: --nodes=2 --gpus-per-node=N"),
        ("--nodes=2 --ntasks=16 a.py", "--ntasks=16: relaunch starts the ranks"),
        ("--gpu-bind=single:1 a.py", "Write: --gpus-per-node=N"),
        ("--wrap=x a.py", "--wrap has no place here"),
        ("-Z a.py", "unknown option -Z"),
        ("--nodse=2 a.py", "unknown option --nodse"),
        ("--nodes", "--nodes needs a value"),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(words, sentence):
    with pytest.raises(UsageError, match=sentence):
        check(words)


@pytest.mark.parametrize(
    ("environ", "words", "kept"),
    [
        ({"SBATCH_ACCOUNT": "a"}, "a.py", {"SBATCH_ACCOUNT": "a"}),
        ({"SBATCH_ACCOUNT": "a"}, "-A b a.py", {}),
        ({"SBATCH_TIMELIMIT": "1"}, "--time=2 a.py", {}),
        ({"SBATCH_NO_REQUEUE": "1"}, "--requeue a.py", {}),
        ({"SLURM_CLUSTERS": "c", "SBATCH_WAIT": "1"}, "a.py", {"SLURM_CLUSTERS": "c"}),
        ({"SLURM_CONF": "/c", "SLURM_JWT": "t"}, "a.py", {"SLURM_CONF": "/c", "SLURM_JWT": "t"}),
        (
            {"SLURM_JOB_ID": "1", "SBATCH_PARTITION": "p", "SLURM_CONF": "/c", "HOME": "/h"},
            "a.py",
            {"SLURM_CONF": "/c", "HOME": "/h"},
        ),
        ({"SBATCH_ARRAY_INX": "0-3"}, "--array=0-1 a.py", {}),
    ],
)
def test_sbatch_is_given_the_profiles_variables_where_no_option_says_it(environ, words, kept):
    assert submission_environment(environ, split_words(words.split())[0]) == kept


def test_an_array_by_variable_is_refused():
    with pytest.raises(UsageError, match=r"SBATCH_ARRAY_INX=0-3 .* pass --array"):
        submission_environment({"SBATCH_ARRAY_INX": "0-3"}, split_words(["a.py"])[0])


@pytest.mark.parametrize(
    ("printed", "asked", "said"),
    [
        ("12", ("scontrol", "show", "job", "12"), "squeue -j 12     end it, with a save:  scancel"),
        (
            "12;far",
            ("scontrol", "-M", "far", "show", "job", "12"),
            "squeue -M far -j 12     end it, with a save:  scancel -M far 12",
        ),
    ],
)
def test_a_job_on_another_cluster_is_asked_for_there(
    tmp_path, monkeypatch, capfd, printed, asked, said
):
    sbatch, seen = tmp_path / "sbatch", []
    sbatch.write_text(f"#!/bin/sh\necho '{printed}'\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def ask(words, bound_s):
        seen.append(tuple(words))
        return Answer(text="")

    script = BatchScript(name="x", options=split_words([])[0], command=("relaunch",), words=())
    assert submit(script, tmp_path / "run", dict(os.environ), ask) == 0
    assert seen == [asked]
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    ("stderr", "text"),
    [
        (
            "sbatch: error: invalid partition specified: x\nsbatch: error: invalid partition "
            "specified: x\nsbatch: error: Batch job submission failed: Invalid name\n",
            "sbatch refuses: invalid partition specified: x; Batch job submission failed: "
            "Invalid name.",
        ),
        ("a plugin says no.\n", "sbatch refuses: a plugin says no."),
        ("", "sbatch refuses: it left with 7."),
    ],
)
def test_what_sbatch_says_is_told_once(stderr, text):
    assert refusal_text(stderr, 7) == text


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("my job", '"my job"'),
        ("00:30:00", "00:30:00"),
        ("gpu:a100:4,shard", "gpu:a100:4,shard"),
        ("[a&b]|c*2", "[a&b]|c*2"),
        ("n[1-3,7]", "n[1-3,7]"),
        ("%x-%j.out", "%x-%j.out"),
        ("it's #1", '"it\'s #1"'),
        ('say "a\\b"', '"say \\"a\\\\b\\""'),
        ("", '""'),
        ("$HOME", '"$HOME"'),
        ("größe", '"größe"'),
    ],
)
def test_values_are_quoted_as_sbatch_reads_them(value, line):
    assert f"#SBATCH --comment={line}" in text(f"--comment={value}", "a.py").splitlines()


def test_a_script_whose_name_has_blanks_names_the_job():
    lines = text("my train.py").splitlines()
    assert lines[1] == '#SBATCH --job-name="my train"'
    assert lines[-1] == "exec relaunch 'my train.py'"


@pytest.mark.parametrize(
    "words",
    [
        ("--comment=a\necho injected", "a.py"),
        ("--job-name", "a\r", "a.py"),
        ("-o", "a\x1b[31m", "a.py"),
        ("--nice=1\t2", "a.py"),
        ("a\nb.py",),
    ],
)
def test_control_characters_are_refused(words):
    with pytest.raises(UsageError, match=r"has the control character .* Write a blank"):
        text(*words)
