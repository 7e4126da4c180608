"""The code that Markdown pages show."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(path: Path, language: str) -> list[str]:
    """Those of a language, each after as many empty lines as stand before it, so that line numbers are the page's."""
    page = path.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    return ["\n" * page.count("\n", 0, match.start(1)) + match[1] for match in found]
