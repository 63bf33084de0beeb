"""
How often the verdict is false, and how often it finds a real edge: ``make judge-campaign``.

Each line is one promise of docs/judging.md, with its bound; the exit code is 1 if one is not kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from procedures import PROCEDURES
from touchstone_judge.comparison import compare
from touchstone_judge.verdict import Outcome, judge_arrival, judge_closing
from worlds import make_adaptive_world, make_halves_world, make_index_world, make_world

OURS = "step-down (ours)"


@dataclass(frozen=True, kw_only=True)
class Line:
    """
    One promise.

    :param make: Draws a panel with a random generator.
    :param ask: Whether it is so, of a procedure, a panel and a seed.
    :param at_most: Bound of the share of worlds in which it is so.
    :param at_least: The same from below.
    :param others: Whether other procedures are asked beside ours.
    """

    name: str
    make: Callable
    ask: Callable
    at_most: float | None = None
    at_least: float | None = None
    others: bool = False


def finds_any(procedure, panel, seed):
    return bool(procedure(panel, seed))


def finds_first(procedure, panel, seed):
    return 0 in procedure(panel, seed)


def finds_last(procedure, panel, seed):
    return len(panel.submissions) - 1 in procedure(panel, seed)


def judge_arrivals(panel, seed):
    edges = compare(panel, resamples=10_000, seed=seed)
    return {edge.name: judge_arrival(edge, arrivals=100) for edge in edges}


def is_any_better(verdicts):
    return any(verdict.outcome is Outcome.BETTER for verdict in verdicts.values())


def is_any_arrival_better(procedure, panel, seed):
    return is_any_better(judge_arrivals(panel, seed))


def is_any_ever_better(procedure, panel, seed):
    """Whether any is better at its arrival or at closing, which share no seed."""
    closing = judge_closing(compare(panel, seed=seed + 1), judge_arrivals(panel, seed))
    return is_any_better(closing)


def make_folded_world(rows, skills, rng):
    """A world whose rows are of five folds, as a schedule of five has them."""
    panel = make_world(rows, skills, rng)
    sizes = [755, 756, 755, 504]
    return replace(panel, folds=(*sizes, rows - sum(sizes)))


def make_lines():
    for market in ("sp500", "garch"):
        for rows in (1257, 3500):
            yield Line(
                name=f"no edge, N=20, T={rows}, {market}: any better",
                make=partial(make_world, rows, [0.0] * 20, market=market),
                ask=finds_any,
                at_most=0.08,
                others=True,
            )
    for rows, n, skill, ratio, bound in (
        (3500, 20, 0.055, 0.85, 0.75),
        (3500, 20, 0.082, 1.27, 0.95),
        (1257, 5, 0.082, 1.27, 0.75),
    ):
        yield Line(
            name=f"one edge of IR {ratio}, N={n}, T={rows}: found",
            make=partial(make_world, rows, [skill] + [0.0] * (n - 1)),
            ask=finds_first,
            at_least=bound,
            others=True,
        )
    yield Line(
        name="no edge, N=20, T=3500 in five folds: any better",
        make=partial(make_folded_world, 3500, [0.0] * 20),
        ask=finds_any,
        at_most=0.08,
    )
    yield Line(
        name="one edge of IR 0.85, N=20, T=3500 in five folds: found",
        make=partial(make_folded_world, 3500, [0.055] + [0.0] * 19),
        ask=finds_first,
        at_least=0.75,
    )
    yield Line(
        name="fifty arrivals without an edge, T=1257: any better at its arrival",
        make=partial(make_world, 1257, [0.0] * 50),
        ask=is_any_arrival_better,
        at_most=0.05,
    )
    yield Line(
        name="the same, or at closing",
        make=partial(make_world, 1257, [0.0] * 50),
        ask=is_any_ever_better,
    )
    yield Line(
        name="twenty pairs of halves of one submission's seeds, T=3500: any ever better",
        make=partial(make_halves_world, 3500),
        ask=is_any_ever_better,
        at_most=0.08,
    )
    yield Line(
        name="the same, each judged at its arrival",
        make=partial(make_halves_world, 3500),
        ask=is_any_arrival_better,
        at_most=0.01,
    )
    yield Line(
        name="adaptive without skill, k=50, closed rows: better",
        make=partial(make_adaptive_world, 3500, 50, hidden=0.4),
        ask=finds_last,
        at_most=0.08,
    )
    yield Line(
        name="adaptive without skill, k=50, shown rows: better (why rows are closed)",
        make=partial(make_adaptive_world, 3500, 50, hidden=0),
        ask=finds_last,
    )
    yield Line(
        name="holding the index, N=1, T=1257: better",
        make=partial(make_index_world, 1257),
        ask=finds_any,
        at_most=0.10,
    )


def measure(line, worlds, seed, *, others):
    """The share of worlds in which it is so, by procedure."""
    names = PROCEDURES if others and line.others else (OURS,)
    hits = dict.fromkeys(names, 0)
    for number in range(worlds):
        panel = line.make(rng=np.random.default_rng([seed, number]))
        for name in names:
            hits[name] += line.ask(PROCEDURES[name], panel, number)
    return {name: count / worlds for name, count in hits.items()}


def keeps(line, share):
    return (line.at_most is None or share <= line.at_most) and (
        line.at_least is None or share >= line.at_least
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=400, help="simulated worlds a line")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="lines whose name contains this")
    parser.add_argument("--alone", action="store_true", help="without other procedures beside ours")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    rows, kept = [], True
    for line in make_lines():
        if options.only not in line.name:
            continue
        shares = measure(line, options.worlds, options.seed, others=not options.alone)
        ours = shares[OURS]
        good = keeps(line, ours)
        kept = kept and good
        bound = "" if line.at_most is None else f"<= {line.at_most:.0%}"
        bound = bound if line.at_least is None else f">= {line.at_least:.0%}"
        rows.append({"line": line.name, "bound": bound, "kept": good, **shares})
        if not options.as_json:
            others = "  ".join(f"{name} {share:.1%}" for name, share in shares.items())
            print(f"{'ok ' if good else 'NOT KEPT'} {line.name} {bound}: {others}", flush=True)
    if options.as_json:
        print(json.dumps({"worlds": options.worlds, "seed": options.seed, "lines": rows}, indent=1))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
