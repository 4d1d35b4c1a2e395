"""What README.md and docs/ say can be done: commands parse, snippets compile, names exist."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from launcher.command_line.parser import parse_command_line
from launcher.command_line.subcommands import SUBCOMMANDS
from tests.doc_pages import BY_NAME, PAGES, ROOT, blocks, commands

OURS = ("launcher", "strategies", "checkpointing")


@pytest.mark.parametrize("name", BY_NAME)
def test_snippets_compile_and_what_they_import_exists(name: str) -> None:
    for source in blocks(BY_NAME[name].read_text(), "python"):
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("name", BY_NAME)
def test_commands_are_understood(name: str) -> None:
    for line in commands(BY_NAME[name].read_text()):
        words = shlex.split(line)
        words = words[words.index("relaunch") + 1 :]
        if words[0] in SUBCOMMANDS:
            parse_subcommand(words)
        elif words != ["--help"]:
            parse_command_line(words, {})


def parse_subcommand(words: list[str]) -> None:
    package = importlib.import_module(f"launcher{SUBCOMMANDS[words[0]]}")
    try:
        command = importlib.import_module(f"{package.__name__}.command")
    except ModuleNotFoundError:
        return  # a command without a parser of its own, which its own tests look at
    parser = getattr(command, "build_parser", None)
    rest = words[1 : words.index("--")] if "--" in words else words[1:]
    # STEP and the like stand for what a person fills in.
    rest = ["100" if word in ("STEP", "N") else word for word in rest]
    if parser is not None and rest == ["--help"]:
        with pytest.raises(SystemExit, match="0"):
            parser().parse_args(rest)
    elif parser is not None:
        parser().parse_args(rest)
    if "--" in words:
        parse_command_line(words[words.index("--") + 1 :], {})


def test_commands_are_found() -> None:
    assert len(commands(BY_NAME["README.md"].read_text())) > 3
    assert len(commands(BY_NAME["run_folder.md"].read_text())) > 8


def anchors(text: str) -> set[str]:
    """What a link may name behind its #: the headings, as GitHub writes them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", BY_NAME)
def test_links_lead_somewhere(name: str) -> None:
    page = BY_NAME[name]
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text())
    for target, anchor in links:
        found = page.parent / target if target else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text()), f"{target}#{anchor}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    assert not sorted(path for path in paths_in(page) if not (ROOT / path).exists())


def paths_in(page: Path) -> set[str]:
    """Return the files and folders of the tree that a page names."""
    tops = "|".join((*OURS, "tests", "scripts", "findings"))
    found = re.findall(rf"(?<![\w/.-])(?:{tops})/[\w./*-]+", page.read_text(encoding="utf-8"))
    return {path.rstrip(".,") for path in found if "*" not in path}


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_paths_are_found(name: str) -> None:
    assert len(paths_in(ROOT / name)) > 20


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
@pytest.mark.parametrize("package", OURS)
def test_what_the_file_map_names_is_there(name: str, package: str) -> None:
    (row,) = re.findall(rf"^\| `{package}/` \| (.*) \|$", BY_NAME[name].read_text(), re.MULTILINE)
    there = {str(path.relative_to(ROOT / package)) for path in (ROOT / package).rglob("*")}
    named = [each.rstrip("/") for each in re.findall(r"`([\w/]+(?:/|\.py))`", row)]
    assert len(named) > 5
    assert not [
        each for each in named if not any(f"/{path}".endswith(f"/{each}") for path in there)
    ]
