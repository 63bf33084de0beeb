"""Check that every link in Markdown files leads somewhere: a file, and a heading in it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def find_links(text: str) -> list[str]:
    """Return the targets of all links of a document, but for those in code."""
    return _LINK.findall(_CODE.sub("", _FENCE.sub("", text)))


def find_anchors(text: str) -> set[str]:
    """Return the anchors that a document's headings make, as code hosts derive them."""
    anchors = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
        anchors.add(plain.strip().replace(" ", "-"))
    return anchors


def find_broken(document: Path) -> Iterator[str]:
    """Yield one line per link of a document that leads nowhere on this disk."""
    for link in find_links(document.read_text()):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (document.parent / name) if name else document
        if not target.exists():
            yield f"{document}: {link}: no such file"
        elif anchor and target.suffix == ".md" and anchor not in find_anchors(target.read_text()):
            yield f"{document}: {link}: no such heading"


def main(arguments: list[str]) -> int:
    """Check files, and every ``.md`` in folders; return the exit code."""
    documents = [
        document
        for path in map(Path, arguments)
        for document in (sorted(path.rglob("*.md")) if path.is_dir() else [path])
    ]
    broken = [line for document in documents for line in find_broken(document)]
    for line in broken:
        print(line, file=sys.stderr)
    print(f"{len(documents)} documents, {len(broken)} broken links")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
