"""README and the pages of the documentation, and the blocks of code in them."""

import re
import types
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / ".docs" / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
_FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_EXAMPLE = re.compile(r'\{% include "\.\./\.\./(tests/examples/\w+\.py)" %\}\n')


@dataclass(frozen=True)
class Block:
    """A block of a page; a file has its name for a title."""

    page: str
    language: str
    title: str
    text: str

    @property
    def example(self) -> str | None:
        """The file of tests/examples that the block is, by its include; None of others."""
        found = _EXAMPLE.fullmatch(self.text)
        return None if found is None else found[1]


BLOCKS = [
    Block(page.relative_to(ROOT).as_posix(), *found)
    for page in PAGES
    for found in _FENCE.findall(page.read_text())
]
SNIPPETS = [block for block in BLOCKS if block.language == "python"]
FILES = {block.title: block.text for block in SNIPPETS if block.example is None}
"""What the pages tell to write, by the names of the files."""


def block(language: str) -> str:
    """The pages' only block in this language."""
    (found,) = [block.text for block in BLOCKS if block.language == language]
    return found


def execute(text: str, name: str) -> types.ModuleType:
    """A block as a module."""
    module = types.ModuleType(name)
    exec(compile(text, f"{name} (of the documentation)", "exec"), module.__dict__)
    return module
