"""The verdict on a submission, exactly one of five, and the sentence that tells it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from touchstone_judge.bootstrap import choose_block
from touchstone_judge.comparison import ALPHA, Edge

RULES_VERSION = 1
"""Of the formulas below; a verdict keeps the version that it was reached by."""

MIN_ROWS = 250
MIN_BLOCKS = 20


class Outcome(StrEnum):
    """What is said of a submission."""

    BETTER = "better"
    NOT_DISTINGUISHABLE = "not distinguishable"
    WORSE = "worse"
    DUPLICATE = "duplicate"
    NOT_JUDGED = "not judged"


_RANK = {Outcome.WORSE: 0, Outcome.NOT_DISTINGUISHABLE: 1, Outcome.BETTER: 2}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """
    What is said, and by which rules.

    :param outcome: Exactly one.
    :param reason: Why it is not judged, or of which submission it is a duplicate; empty otherwise.
    :param edge: The figures behind it; ``None`` where there are none.
    :param rules_version: Version of the formulas.
    """

    outcome: Outcome
    reason: str = ""
    edge: Edge | None = None
    rules_version: int = RULES_VERSION


def find_too_few(rows: int, longest_interval: int, folds: Sequence[int] = ()) -> str | None:
    """
    Return why so few rows are not judged, or ``None`` if they are enough.

    :param folds: Rows of each fold; empty for none.
    """
    if rows < MIN_ROWS:
        return f"too few rows: {rows}, at least {MIN_ROWS} are needed"
    block = choose_block(rows, longest_interval)
    if folds and min(folds) < block:
        return (
            f"too few rows: a fold has {min(folds)}, and a block for an interval of "
            f"{longest_interval} rows has {block}"
        )
    blocks = rows // block
    if blocks < MIN_BLOCKS:
        return (
            f"too few rows: {rows} are {blocks} blocks for an interval of {longest_interval} rows, "
            f"at least {MIN_BLOCKS} are needed"
        )
    return None


def find_duplicates(contents: Iterable[tuple[str, str]]) -> dict[str, str]:
    """
    Return, for each submission whose content came before, the first one's name.

    Seeds are no content: a second draw of one idea is not a second idea.

    :param contents: Name and digest of content and configuration, oldest first.
    """
    first: dict[str, str] = {}
    duplicates = {}
    for name, content in contents:
        earlier = first.setdefault(content, name)
        if earlier != name:
            duplicates[name] = earlier
    return duplicates


def judge_arrival(edge: Edge, *, arrivals: int) -> Verdict:
    """
    Judge a submission when it comes, before others have.

    It is better at once where its own p is below 5 % divided by the arrivals that are expected:
    by Bonferroni's bound all of them together are falsely better in at most 5 %.

    :param edge: From 10,000 resamples, or no p is small enough.
    :param arrivals: Declared before the first one.
    """
    if edge.p_own < ALPHA / arrivals:
        return Verdict(outcome=Outcome.BETTER, edge=edge)
    return Verdict(outcome=_of_interval(edge), edge=edge)


def judge_closing(edges: Iterable[Edge], earlier: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """
    Judge all submissions when no more can come, each counting all.

    A verdict of the arrival is never taken back: closing may only raise it.

    :param edges: One for each submission.
    :param earlier: Verdicts of the arrivals, by name.
    """
    verdicts = {}
    for edge in edges:
        better = edge.p_adjusted < ALPHA
        now = Verdict(outcome=Outcome.BETTER if better else _of_interval(edge), edge=edge)
        before = earlier.get(edge.name)
        verdicts[edge.name] = now if before is None else _higher(before, now)
    return verdicts


def _of_interval(edge: Edge) -> Outcome:
    return Outcome.WORSE if edge.high < 0 else Outcome.NOT_DISTINGUISHABLE


def _higher(before: Verdict, now: Verdict) -> Verdict:
    if before.outcome not in _RANK:
        return before
    return before if _RANK[before.outcome] > _RANK[now.outcome] else now


def tell(verdict: Verdict, baseline: str) -> str:
    """
    Return one sentence that an engineer can repeat.

    :param baseline: The baseline's name.
    """
    edge = verdict.edge
    if verdict.outcome is Outcome.DUPLICATE:
        return f"A duplicate of `{verdict.reason}`: the same content and configuration."
    if edge is None:
        return f"Not judged: {verdict.reason}."
    relation = {
        Outcome.BETTER: "Better than",
        Outcome.NOT_DISTINGUISHABLE: "Not distinguishable from",
        Outcome.WORSE: "Worse than",
    }[verdict.outcome]
    sentence = (
        f"{relation} `{baseline}`: {edge.difference:+.2f} Sharpe, 95 % {edge.low:+.2f} to "
        f"{edge.high:+.2f}, p {_tell_p(edge.p_adjusted)} counting {_tell_number(edge.compared)}"
    )
    if verdict.outcome is Outcome.NOT_DISTINGUISHABLE:
        sentence += f"; a difference of {edge.detectable:.1f} would be seen in 8 of 10 cases"
    return sentence + "."


def _tell_p(p: float) -> str:
    if p >= 0.1:
        return f"{p:.2f}"
    return f"{p:.1g}" if p < 0.001 else f"{p:.3f}"


def _tell_number(compared: int) -> str:
    return "1 submission" if compared == 1 else f"{compared} submissions"
