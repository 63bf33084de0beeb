"""What is printed of what stands beside a verdict; its printer cleans it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from touchstone.client.answers import ShownBeside, ShownFigure, ShownRow
from touchstone.client.waivers import list_waivers

_TITLES = {
    "similarity": "like base",
    "nearest": "most like",
    "contribution": "adds",
    "contributivity": "share",
}
_LEADS_ABOVE = 0.1
"""A p of the model confidence set above which an entry is in the leading group at 90 %."""
_ALIKE = 0.9
"""From here on, two seeds of one model are seldom so alike: below a board, such a pair is named."""


def list_columns(rows: Sequence[ShownRow]) -> tuple[str, ...]:
    """Return the columns of what stands beside verdicts: shares only where there are some."""
    has_shares = any(row.beside and _has_value(row.beside.contributivity) for row in rows)
    return ("Similar", "Adds", "Share") if has_shares else ("Similar", "Adds")


def build_cells(beside: ShownBeside | None, columns: Sequence[str]) -> tuple[str, ...]:
    """
    Return the cells of what stands beside a verdict; empty for who is no entry.

    ``Similar`` has two similarities: to the baseline, and to the most similar entry before.
    """
    if beside is None:
        return ("",) * len(columns)
    cells = {
        "Similar": f"{_figure(beside.similarity, '{:.2f}')} {_figure(beside.nearest, '{:.2f}')}",
        "Adds": _figure(beside.contribution, "{:+.3f}"),
        "Share": _figure(beside.contributivity, "{:.2f}"),
    }
    return tuple(cells[column] for column in columns)


def list_notes(rows: Sequence[ShownRow]) -> list[str]:
    """Return why figures beside verdicts are missing, and what to hold the others against."""
    told: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        # Of one that is not judged the reason is told anyway.
        for field, title in _TITLES.items() if not row.reason else ():
            figure = getattr(row.beside, field, None)
            if figure is not None and figure.value is None and figure.note:
                told.setdefault((title, figure.note), []).append(row.name)
    merged: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (title, note), names in told.items():
        merged.setdefault((note, tuple(names)), []).append(title)
    lines = [
        f" {', '.join(found)} n/a: {note} ({_name_some(names)})"
        for (note, names), found in merged.items()
    ]
    lines += _list_seeds(rows)
    lines += list_waivers(rows)
    lines += _list_folds(rows)
    for row in rows:
        beside = row.beside
        if beside and beside.nearest and beside.nearest_name:
            value = beside.nearest.value
            if value is not None and value >= _ALIKE:
                name = _name_submission(beside.nearest_name)
                lines.append(f" {row.name} is like {name}, which came before: {value:.2f}")
    shares = {row.beside.equal_share for row in rows if row.beside and row.beside.equal_share}
    lines += [f" share: each of as many equals would get {each:.2f}" for each in sorted(shares)]
    bases = {
        row.beside.baseline_correlation.value
        for row in rows
        if row.beside and row.beside.baseline_correlation
    }
    lines += [
        f" adds: the baseline's own correlation with the outcome is {each:+.3f}"
        for each in sorted(each for each in bases if each is not None)
    ]
    return lines + _list_chances(rows)


def _list_seeds(rows: Sequence[ShownRow]) -> list[str]:
    """Return of how many seeds predictions are the mean, where they are of several."""
    told: dict[str, list[str]] = {}
    for row in rows:
        counts = (row.seed_count or 1, row.baseline_seed_count or 1)
        if row.seed_count is not None and max(counts) > 1:
            base = f", and the baseline's of {counts[1]}" if row.baseline_seed_count else ""
            told.setdefault(f"mean of {counts[0]}{base}", []).append(row.name)
    return [f" seeds: {each} ({_name_some(names)})" for each, names in told.items()]


def _list_folds(rows: Sequence[ShownRow]) -> list[str]:
    """Return in how many folds rows are judged, where they are."""
    told: dict[str, list[str]] = {}
    for row in rows:
        if row.fold_count:
            told.setdefault(f"{row.fold_count:g}", []).append(row.name)
    return [f" folds: {each} ({_name_some(names)})" for each, names in told.items()]


def describe_beside(beside: ShownBeside | None) -> dict[str, str]:
    """Return what stands beside a verdict as facts by name; nothing where nothing is known."""
    if beside is None:
        return {}
    share = _tell(beside.contributivity, "{:.2f}")
    if beside.equal_share and beside.contributivity and beside.contributivity.value is not None:
        share += f"; each of as many equals would get {beside.equal_share:.2f}"
    adds = _tell(beside.contribution, "{:+.3f}")
    own = beside.baseline_correlation
    if own and own.value is not None:
        adds += f"; the baseline's own correlation is {own.value:+.3f}"
    nearest = _tell(beside.nearest, "{:.2f}")
    if beside.nearest_name:
        nearest += f" to {_name_submission(beside.nearest_name)}"
    similarity = _tell(beside.similarity, "{:.2f}")
    if beside.baseline and beside.similarity and beside.similarity.value is not None:
        similarity += f" to {beside.baseline}"
    return _merge_missing(
        {
            "similarity": similarity,
            "most like": nearest,
            "adds": adds,
            "share": share,
            "deflated Sharpe": _tell(beside.deflated_sharpe, "{:.2f}"),
            "overfitting": _tell(beside.overfitting, "{:.2f}"),
            "leading group": _tell_leading(beside.leading),
        }
    )


def _merge_missing(facts: Mapping[str, str]) -> dict[str, str]:
    """Return facts by name; those that are missing for one and the same reason are one fact."""
    names: dict[str, list[str]] = {}
    for name, told in facts.items():
        names.setdefault(told if told.startswith("n/a") else name, []).append(name)
    return {", ".join(alike): facts[alike[0]] for alike in names.values()}


def _list_chances(rows: Sequence[ShownRow]) -> list[str]:
    """Return what is said of all entries together: who leads, and what choosing among them does."""
    lines = []
    if any(row.beside and _has_value(row.beside.leading) for row in rows):
        leaders = [row.name for row in rows if row.beside and _is_leading(row.beside.leading)]
        lines.append(
            f" leading group, 90 %: {_name_some(leaders, most=10) or 'the baseline alone'}"
        )
    chances = {
        row.beside.overfitting.value
        for row in rows
        if row.beside and row.beside.overfitting and row.beside.overfitting.value is not None
    }
    if chances:
        # Entries keep what was computed when they were judged; the last ones knew the most.
        low, high = min(chances), max(chances)
        told = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
        lines.append(
            f" overfitting: the best on half of the rows is below the median of the others: {told}"
        )
    return lines


def _is_leading(figure: ShownFigure | None) -> bool:
    return figure is not None and figure.value is not None and figure.value > _LEADS_ABOVE


def _tell_leading(figure: ShownFigure | None) -> str:
    told = _tell(figure, "p {:.2f}")
    if not _has_value(figure):
        return told
    return f"{'in it' if _is_leading(figure) else 'not in it'}, {told}"


def _tell(figure: ShownFigure | None, form: str) -> str:
    if figure is None or figure.value is None:
        note = figure.note if figure else ""
        return f"n/a: {note}" if note else "n/a"
    return form.format(figure.value)


def _has_value(figure: ShownFigure | None) -> bool:
    return figure is not None and figure.value is not None


def _figure(figure: ShownFigure | None, form: str) -> str:
    return "n/a" if figure is None or figure.value is None else form.format(figure.value)


def _name_submission(label: str) -> str:
    """Return which submission a label is of; its try matters to nobody who reads a table."""
    return label.partition(":")[0]


def _name_some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
