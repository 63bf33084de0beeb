"""
Write docs/refusals.md: what the trainer refuses, with an example of each.

The examples are the folders of tests/inputs, which the trainer's tests compare word for word with
what it says. ``--check`` writes nothing, and fails if the page is not what would be written.
"""

from __future__ import annotations

import sys
import tomllib
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
INPUTS = REPOSITORY / "tests" / "inputs"
PAGE = REPOSITORY / "docs" / "refusals.md"
HEAD = """\
# What is refused, and why

For authors of modules. Each example is one that the trainer's tests send
([`tests/inputs/`](../tests/inputs/)), with the line that they get, word for word. `touchstone check
FOLDER` says the same on your own machine before anything is sent. What a module must be is in the
[contract](../include/elnigma/CONTRACT.md#modules).

Written by `make refusals`.
"""
KINDS = {
    "feature_set": "Feature sets",
    "model_structure": "Model structures",
}
MOST_LINES = 30


def main() -> int:
    """Write the page, or compare it."""
    page = build_page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text() == page:
            return 0
        print("docs/refusals.md is not what tests/inputs says: run make refusals", file=sys.stderr)
        return 1
    PAGE.write_text(page)
    return 0


def build_page() -> str:
    """Return the page."""
    sections = defaultdict(list)
    for path in sorted(INPUTS.glob("*/expected.toml")):
        expected = tomllib.loads(path.read_text())
        if expected["outcome"] == "rejected":
            is_model = (path.parent / "model.py").exists() and "system" not in expected
            kind = "model_structure" if is_model else "feature_set"
            sections[kind].append(build_example(path.parent, expected["reason"]))
    parts = [HEAD]
    for kind, title in KINDS.items():
        parts += [f"\n## {title}\n", *sections[kind]]
    return "".join(parts)


def build_example(folder: Path, reason: str) -> str:
    """Return what stands there of one folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if path.name != "expected.toml"]
    source = next((path for path in files if path.suffix == ".py"), files[0])
    title, code = split_source(read_text(source))
    others = [path.relative_to(folder).as_posix() for path in files]
    lines = [f"\n### {title or folder.name}\n\n"]
    if others not in (["features.py"], ["model.py"]):
        lines.append(f"Files: {', '.join(f'`{name}`' for name in others)}\n\n")
    if code:
        lines.append(f"```python\n{code}\n```\n\n")
    lines.append(f"> {escape(reason)}\n")
    return "".join(lines)


def read_text(path: Path) -> str:
    """Return a file's text, or nothing where it is none."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        return ""
    return text if "\0" not in text else ""


def split_source(text: str) -> tuple[str, str]:
    """Return the first line of a module's docstring, and the code behind it."""
    if not text.startswith('"""'):
        return "", ""
    doc, _, code = text[3:].partition('"""')
    lines = code.strip().splitlines()
    return doc.strip().splitlines()[0].rstrip("."), "\n".join(lines[:MOST_LINES])


def escape(text: str) -> str:
    """Return text that Markdown leaves as it is."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|" else c for c in text)


if __name__ == "__main__":
    sys.exit(main())
