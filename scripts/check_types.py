"""Check the types of tests and scripts, file by file, so that no file without types is added.

tests/not_typed_yet.txt lists the files that mypy's strict mode still refuses. A file that is not in
the list must pass; one that passes leaves the list.
usage: check_types.py [--write]     --write: record the list anew
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "not_typed_yet.txt"


def errors_by_file() -> dict[str, list[str]]:
    """Return mypy's errors of tests and scripts.

    Raises:
        SystemExit: mypy itself failed.
    """
    command = [sys.executable, "-m", "mypy", "--explicit-package-bases", "--no-error-summary"]
    # Scripts import their own parts from beside them.
    environ = {**os.environ, "MYPYPATH": "scripts"}
    done = subprocess.run(
        [*command, "--hide-error-context", "tests", "scripts"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        sys.exit(f"check_types: mypy ended with {done.returncode}: {done.stdout}{done.stderr}")
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, words = line.partition(":")
        if " error: " in words:
            found.setdefault(name, []).append(line)
    return found


def main() -> None:
    """Compare what fails with the list; exit with 1 where a file fails that is not in it."""
    found = errors_by_file()
    if sys.argv[1:] == ["--write"]:
        LIST.write_text("".join(f"{name}\n" for name in sorted(found)), encoding="utf-8")
        return
    listed = set(LIST.read_text(encoding="utf-8").split())
    new = sorted(found.keys() - listed)
    for name in new:
        print("\n".join(found[name]))
        print(f"{name} has type errors (above); give it types")
    # No failure: which files pass depends on the libraries that are installed.
    for name in sorted(listed - found.keys()):
        print(f"{name} passes, or is gone: remove it from {LIST.relative_to(ROOT)}")
    print(f"types of tests and scripts: {len(listed)} files are not typed yet, {len(new)} are new")
    sys.exit(bool(new))


if __name__ == "__main__":
    main()
