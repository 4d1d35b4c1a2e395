"""The pages for people, and the code in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]
BY_NAME = {page.name: page for page in PAGES}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[str]:
    """Lines of code that begin with the command, comments and columns of explanation cut off."""
    prose_free = re.sub(r"```python\n.*?```", "", text, flags=re.DOTALL)
    start = r"(?:    |)(?:\$ )?((?:exec )?(?:[A-Z_]+=\S+ )?relaunch .*)"
    lines = re.findall(f"^{start}$", prose_free, re.MULTILINE)
    lines += re.findall(r"`(relaunch [^`]*\.py[^`]*)`", prose_free)
    # "RUN [STEP ...]": what stands in brackets may be left out.
    told = [re.sub(r" \[[^]]*\]", "", re.split(r"\s{2,}|\s#", line)[0]) for line in lines]
    return [line.removeprefix("exec ") for line in told if "..." not in line]
