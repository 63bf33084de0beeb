"""What of a page a browser would run, follow, load or send."""

from __future__ import annotations

from html.parser import HTMLParser


class Outline(HTMLParser):
    """
    Collects tags, attributes and forms of a page.

    :param text: The page.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.forms: dict[str, list[tuple[str, str]]] = {}
        self._form: list[tuple[str, str]] = []
        self._area: str | None = None
        self._select: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._form = self.forms.setdefault(given.get("action", ""), [])
        elif tag == "input" and given.get("name") and given.get("type") != "file":
            is_off = given.get("type") == "checkbox" and "checked" not in given
            if not is_off:
                self._form.append((given["name"], given.get("value", "")))
        elif tag == "textarea":
            self._area = ""
            self._select = given["name"]
        elif tag == "select":
            self._select = given["name"]
        elif tag == "option" and "selected" in given and self._select:
            self._form.append((self._select, given["value"]))

    def handle_data(self, data):
        if self._area is not None:
            self._area += data

    def handle_endtag(self, tag):
        if tag == "textarea" and self._area is not None and self._select is not None:
            self._form.append((self._select, self._area.removeprefix("\n")))
            self._area = None

    def links(self):
        return [value for tag, name, value in self.attributes if (tag, name) == ("a", "href")]


def look(answer):
    """Return the outline of an answer."""
    return Outline(answer.text)


def assert_harmless(answer, *, status=200):
    """Nothing that somebody wrote has become markup of the page."""
    outline = look(answer)
    assert answer.status_code == status
    assert outline.tags.count("script") == 1, "ours"
    assert "img" not in outline.tags
    assert [name for _, name, _ in outline.attributes if name.startswith("on")] == []
    assert [name for _, name, _ in outline.attributes if name == "style"] == []
    assert [link for link in outline.links() if link.lower().startswith("javascript")] == []
