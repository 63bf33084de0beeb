"""
Every figure of a training, recomputed with Python's standard library alone.

Imports nothing of ours on purpose: it is what our figures are compared with. Loops in place of
arrays, ``math.fsum`` in place of sums, each definition written down anew from docs/judging.md.

    python by_hand.py ARCH_DATA_FOLDER PREDICTIONS_CSV INTERVAL
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import random
import sys
from datetime import datetime
from pathlib import Path

VALIDATION_FROM, TEST_FROM = "2011-01-01", "2014-01-01"
COST = 0.0001
YEAR = 252


def read_closes(folder):
    """Return the days of both indexes, as ISO texts, and the S&P 500's close of each."""
    both = []
    for name in ("sp500", "nasdaq"):
        with gzip.open(Path(folder) / name / f"{name}.csv.gz", "rt") as file:
            rows = list(csv.reader(file))
        close = rows[0].index("Close")
        both.append({iso(row[0]): float(row[close]) for row in rows[1:]})
    days = [day for day in sorted(both[0]) if day in both[1]]
    return days, [both[0][day] for day in days]


def iso(american):
    return datetime.strptime(american, "%m/%d/%Y").strftime("%Y-%m-%d")


def find_rows(days, interval):
    """Return the numbers of the training, validation and test rows."""
    validation_from = next(n for n, day in enumerate(days) if day >= VALIDATION_FROM)
    test_from = next(n for n, day in enumerate(days) if day >= TEST_FROM)
    return (
        range(validation_from - interval),
        range(validation_from, test_from - interval),
        range(test_from, len(days) - interval),
    )


def mean(values):
    return math.fsum(values) / len(values)


def deviation(values):
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def rank(values):
    """Return mid-ranks, from 1."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    begin = 0
    while begin < len(order):
        end = begin
        while end + 1 < len(order) and values[order[end + 1]] == values[order[begin]]:
            end += 1
        for place in range(begin, end + 1):
            ranks[order[place]] = (begin + end) / 2 + 1
        begin = end + 1
    return ranks


def correlate(ones, others):
    a, b = mean(ones), mean(others)
    top = math.fsum((x - a) * (y - b) for x, y in zip(ones, others, strict=True))
    left = math.fsum((x - a) ** 2 for x in ones)
    right = math.fsum((y - b) ** 2 for y in others)
    return top / math.sqrt(left * right)


def sharpe(returns):
    return math.sqrt(YEAR) * mean(returns) / deviation(returns)


def roc_area(scores, outcomes):
    """Count pairs, through the ranks; None where all outcomes are the same."""
    hits = sum(outcomes)
    if hits in (0, len(outcomes)) or len(set(scores)) == 1:
        return None
    ranks = rank(scores)
    above = math.fsum(r for r, hit in zip(ranks, outcomes, strict=True) if hit)
    return (above - hits * (hits + 1) / 2) / (hits * (len(outcomes) - hits))


def resample(net, interval, resamples=1000, seed=1):
    """Return the 2.5th and 97.5th percentile of the Sharpe ratio; nothing for too few rows."""
    rows = len(net)
    block = min(max(interval, math.ceil(rows ** (1 / 3) - 1e-12)), max(rows // 10, 1))
    if rows < 250 or rows // block < 20:
        return None, None
    draw = random.Random(seed)
    ratios = []
    for _ in range(resamples):
        drawn = []
        while len(drawn) < rows:
            start = draw.randrange(rows - block + 1)
            drawn += net[start : start + block]
        drawn = drawn[:rows]
        middle = sum(drawn) / rows
        spread = math.sqrt(sum((value - middle) ** 2 for value in drawn) / (rows - 1))
        ratios.append(math.sqrt(YEAR) * middle / spread)
    ratios.sort()
    return percentile(ratios, 0.025), percentile(ratios, 0.975)


def percentile(ordered, share):
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def recompute(folder, predictions, interval):
    """Return scale, metrics, beta and series of a training from its predictions."""
    days, close = read_closes(folder)
    _, validation, test = find_rows(days, interval)
    scores = {"validation": [], "test": []}
    with Path(predictions).open(newline="") as file:
        for row in csv.DictReader(file):
            scores[row["part"]].append((float(row["score_long"]), float(row["score_short"])))
    assert len(scores["validation"]) == len(validation)
    assert len(scores["test"]) == len(test)
    early = [long - short for long, short in scores["validation"]]
    middle, spread = mean(early), deviation(early)
    spread = spread if spread > 1e-9 else 0.0
    late = [long - short for long, short in scores["test"]]
    market = [close[row + 1] / close[row] - 1 for row in test]
    target = [close[row + interval] / close[row] - 1 for row in test]
    positions = []
    for place in range(len(late)):
        held = []
        for score in late[max(0, place - interval + 1) : place + 1]:
            if spread:
                held.append(max(-2.0, min(2.0, (score - middle) / spread)) / 2)
            else:
                held.append(math.copysign(1.0, score) if score else 0.0)
        positions.append(math.fsum(held) / interval)
    changes = [abs(now - was) for was, now in zip([0.0, *positions], positions, strict=False)]
    net = [
        position * move - COST * change
        for position, move, change in zip(positions, market, changes, strict=True)
    ]
    wealth = highest = 1.0
    fall = 0.0
    for each in net:
        wealth *= 1 + each
        highest = max(highest, wealth)
        fall = min(fall, wealth / highest - 1)
    moved = [(score, move) for score, move in zip(late, target, strict=True) if move != 0]
    foreseen = sum(score * move > 0 for score, move in moved) / len(moved)
    up = sum(move > 0 for _, move in moved) / len(moved)
    rises, falls = [move > COST for move in target], [move < -COST for move in target]
    longs, shorts = [long for long, _ in scores["test"]], [short for _, short in scores["test"]]
    low, high = resample(net, interval)
    constant = len(set(late)) == 1
    average = mean(market)
    beta = math.fsum((m - average) * n for m, n in zip(market, net, strict=True)) / math.fsum(
        (m - average) ** 2 for m in market
    )
    return {
        "scale": {"mean": middle, "std": spread},
        "metrics": {
            "net_sharpe": sharpe(net),
            "net_sharpe_low": low,
            "net_sharpe_high": high,
            "max_drawdown": fall,
            "total_return": wealth - 1,
            "turnover": mean(changes) * YEAR,
            "hit_rate": foreseen,
            "hit_rate_base": max(up, 1 - up),
            "hit_rate_minus_base": foreseen - max(up, 1 - up),
            "rank_corr": None if constant else correlate(rank(late), rank(target)),
            "n_test_rows": float(len(net)),
            "auc_long": roc_area(longs, rises),
            "auc_short": roc_area(shorts, falls),
            "brier_long": mean([(p - hit) ** 2 for p, hit in zip(longs, rises, strict=True)]),
            "brier_short": mean([(p - hit) ** 2 for p, hit in zip(shorts, falls, strict=True)]),
        },
        "beta": beta,
        "active_sharpe": sharpe([n - beta * m for m, n in zip(market, net, strict=True)]),
        "time": [f"{days[row]}T00:00:00+00:00" for row in test],
        "net": net,
        "market": market,
        "score": late,
    }


if __name__ == "__main__":
    print(json.dumps(recompute(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
