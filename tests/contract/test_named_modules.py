"""Imports of our own that stand in texts, such as scripts that tests write, name what exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORT = re.compile(
    r"^\s*from ((?:launcher|strategies|checkpointing)(?:\.\w+)*) import \(?([\w, ]+)", re.MULTILINE
)


def source_of(module: str) -> Path | None:
    """The file of a module or package; None: there is none."""
    path = ROOT.joinpath(*module.split("."))
    found = (path.with_suffix(".py"), path / "__init__.py")
    return next((one for one in found if one.is_file()), None)


def missing(text: str) -> list[str]:
    """What a text imports of ours that does not exist."""
    found = []
    for module, names in IMPORT.findall(text):
        source = source_of(module)
        known = "" if source is None else source.read_text()
        for name in (word.split()[0] for word in names.split(",") if word.strip()):
            is_defined = re.search(rf"\b{name}\b", known) is not None
            if not is_defined and source_of(f"{module}.{name}") is None:
                found.append(f"{module}: {name}")
    return found


def test_what_is_imported_exists() -> None:
    texts = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("scripts/**/*.py"), *ROOT.glob("docs/*.md")]
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in [*texts, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
        if (found := missing(path.read_text()))
    }
    assert wrong == {}


def test_a_stale_import_is_found() -> None:
    text = "from strategies.parallel.zero import nothing_of_that_name\n"
    assert missing(f'SCRIPT = """\n{text}"""') == ["strategies.parallel.zero: nothing_of_that_name"]
    assert missing("from strategies.parallel import zero\nfrom launcher import Run") == []
    assert missing("from launcher.no_such_place import Run") == ["launcher.no_such_place: Run"]
