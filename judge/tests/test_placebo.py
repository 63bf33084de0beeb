"""The placebo campaign: worlds that tell nothing, and a campaign that goes on where it stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import placebo_campaign
from placebo import (
    BASELINE,
    SUBMISSIONS,
    Programs,
    Setup,
    Stopped,
    build_command,
    draw_world,
    find_turnover,
    join_intervals,
    judge_world,
    read_market,
    save_columns,
    write_world,
)
from placebo_campaign import (
    TRAINER,
    CampaignError,
    Outcomes,
    build_table,
    describe,
    find_mean,
    find_spread,
    hold_folder,
    is_kept,
    judge_again,
    tell_left,
)
from touchstone_judge.data import load_market_data
from touchstone_judge.rules import read_rules

SETUP = Setup(seeds=1, intervals=(5,), epochs=1, submissions=("momentum",))


# --- worlds -------------------------------------------------------------------------------------


def test_a_world_has_the_markets_days_and_bars_that_tell_nothing_of_each_other():
    market = read_market()
    world = draw_world(np.random.default_rng(1))

    assert list(world.index) == list(market.index)
    assert (world > 0).all().all()
    for prefix in ("", "nasdaq_"):
        high, low = world[f"{prefix}high"], world[f"{prefix}low"]
        assert (high >= low * (1 - 1e-12)).all()
    returns = world["close"].pct_change().dropna()
    # As large as they were, and no row follows the one before it, in size as little as in sign.
    assert returns.std() == pytest.approx(market["close"].pct_change().std(), rel=0.1)
    for series in (returns, returns.abs()):
        assert abs(series.autocorr()) < 4 / np.sqrt(len(series))
    assert market["close"].pct_change().abs().autocorr() > 0.1
    # Both indices are of one day.
    assert returns.corr(world["nasdaq_close"].pct_change()) > 0.7


def test_a_world_is_a_data_set_that_the_judge_reads_with_the_same_digest(tmp_path):
    rules = write_world(tmp_path / "data", 7)
    again = write_world(tmp_path / "again", 7)
    other = write_world(tmp_path / "other", 8)

    data = load_market_data(tmp_path / "data")
    read_rules(rules).check(data)
    assert (len(data.times), data.bars_per_year) == (len(read_market()), 252)
    assert again == rules
    assert other["data_sha256"] != rules["data_sha256"]


def test_a_training_is_asked_for_as_the_control_plane_asks():
    setup = Setup(seeds=3)
    own, structure, base = (
        build_command(["t"], setup, name, 5, Path("w"), Path("o"))
        for name in ("momentum", "wide_mlp", BASELINE)
    )

    assert own[own.index("--feature-set") + 1].endswith("include/examples/momentum")
    assert structure[structure.index("--model-structure") + 1].endswith("examples/wide_mlp")
    for command in (structure, base):
        assert command[command.index("--feature-set") + 1] == "elnigma.features.reference"
        assert command[-2:] == ["--config_override", "training.seed_count=3"]
    assert not any(
        "seed_count" in word for word in build_command(["t"], SETUP, "x", 5, Path(), Path())
    )


def make_series(seed, skill=0.0, rows=600, intervals=(1, 5)):
    rng = np.random.default_rng(seed)
    market = np.random.default_rng(0).normal(0, 0.01, rows)
    times = [f"2014-01-01T{at:06}" for at in range(rows)]
    return {
        interval: {
            # A longer interval ends earlier.
            "time": times[: rows - interval],
            "net": (rng.normal(skill, 0.01, rows))[: rows - interval].tolist(),
            "market": market[: rows - interval].tolist(),
            "score": rng.normal(size=rows - interval).tolist(),
            "target": rng.normal(size=rows - interval).tolist(),
            "metrics": {"turnover": 2.0 * interval},
        }
        for interval in intervals
    }


def test_submissions_are_judged_at_arrival_and_at_closing_on_common_rows(tmp_path):
    series = {BASELINE: make_series(1), "a": make_series(2), "b": make_series(3, skill=0.01)}

    columns = {name: join_intervals(found, series) for name, found in series.items()}
    found = judge_world(columns, (1, 5), 1)

    assert [found["arrival"][name]["outcome"] for name in "ab"] == ["not distinguishable", "better"]
    assert [found["closing"][name]["outcome"] for name in "ab"] == ["not distinguishable", "better"]
    assert found["arrival"]["b"]["p_own"] < 0.05 / 100
    assert found["closing"]["b"]["difference"] == found["arrival"]["b"]["difference"]
    assert find_turnover(series) == {BASELINE: 6.0, "a": 6.0, "b": 6.0}
    assert len(columns["a"]["net"]) == 595, "the rows of the longest interval"
    # What is kept of it gives the same verdicts.
    save_columns(tmp_path / "1.npz", columns)
    line = {"world": 1, "setup": {"intervals": [1, 5]}, "arrival": {}, "closing": {}}
    assert judge_again(line, tmp_path) == line | found
    assert judge_again(line | {"world": 2}, tmp_path) == line | {"world": 2}, "nothing was kept"


# --- what is kept -------------------------------------------------------------------------------


def make_line(world, better=(), **changes):
    said = {"standard_error": 0.5, "p_own": 0.3, "p_adjusted": 0.5, "low": -1.0, "high": 1.0}
    verdicts = {
        name: {
            "outcome": "better" if name in better else "not distinguishable",
            "difference": 0.5 if (world + at) % 2 else -0.5,
            **said,
        }
        for at, name in enumerate(SUBMISSIONS)
    }
    line = {"world": world, "setup": Setup().dump(), "arrival": verdicts, "closing": verdicts}
    return line | {"cpu_seconds": 100.0} | changes


def test_lines_are_read_again_and_a_torn_one_is_dropped(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    first = Outcomes(path, Setup())
    first.read()
    first.add(make_line(1))
    first.add(make_line(3))
    whole = path.read_text()
    path.write_text(whole + json.dumps(make_line(4))[:40])

    again = Outcomes(path, Setup())
    again.read()

    assert sorted(again.lines) == [1, 3]
    assert path.read_text() == whole
    again.add(make_line(4))
    assert len(path.read_text().splitlines()) == 3


def test_worlds_of_another_setup_are_not_mixed_in(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    Outcomes(path, Setup()).add(make_line(1))

    with pytest.raises(CampaignError, match="worlds of another setup"):
        Outcomes(path, Setup(seeds=4)).read()


def test_two_campaigns_do_not_share_a_folder_and_what_a_killed_one_left_is_removed(tmp_path):
    (tmp_path / "work-old" / "world-3").mkdir(parents=True)
    with hold_folder(tmp_path) as work:
        assert list(tmp_path.iterdir()) == [work]
        with (
            pytest.raises(CampaignError, match="another campaign is at work"),
            hold_folder(tmp_path),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


# --- programs that are ended --------------------------------------------------------------------


def test_a_program_tells_how_it_ended_and_what_it_took():
    ended = Programs().run(
        [
            sys.executable,
            "-c",
            "import sys; print(sys.stdin.read()); sum(range(10**6)); sys.exit(3)",
        ],
        question=b"hello",
    )

    assert (ended.exit_code, ended.output) == (3, b"hello\n")
    assert ended.cpu_seconds > 0


def test_programs_and_what_they_have_started_end_together(tmp_path):
    programs, stopped = Programs(), []
    child = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"

    def run():
        try:
            programs.run([sys.executable, "-c", script])
        except Stopped:
            stopped.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    programs.stop()
    thread.join()

    assert stopped == [True]
    stat = Path("/proc") / (tmp_path / "pid").read_text() / "stat"
    # Gone, or waiting for its new parent to notice.
    while stat.exists() and ") Z" not in stat.read_text():
        time.sleep(0.01)
    with pytest.raises(Stopped):
        programs.run(["true"])


# --- the table ----------------------------------------------------------------------------------


def test_the_table_has_any_and_each_example_and_names_the_worlds():
    lines = [make_line(world) for world in range(1, 9)]
    lines += [make_line(9, better=("momentum", "volatility")), make_line(10, refused="x: why")]

    table = build_table(lines)

    rows = {row.split(" | ")[0].strip("| "): row.split(" | ") for row in table if row[:2] == "| "}
    assert set(rows) == {"better", "any", *SUBMISSIONS}
    assert rows["any"][1:3] == ["11.1%", "11.1%, 2.0% to 43.5%"]
    assert rows["mean_reversion"][2] == "0.0%, 0.0% to 29.9%"
    assert "world 9: better at arrival: momentum, volatility; better at closing: momentum, " in (
        "\n".join(table)
    )
    assert "world 10: refused: x: why; 100 CPU s" in table
    assert not is_kept(lines)
    assert is_kept(lines[:8] + lines[9:])


def test_the_spread_is_one_where_standard_errors_are_right():
    rng = np.random.default_rng(1)
    lines = [make_line(world) for world in range(400)]
    for line in lines:
        line["arrival"] = {
            name: said | {"difference": float(rng.normal(0.2, 0.5))}
            for name, said in line["arrival"].items()
        }

    spread, spread_error = find_spread(lines, SUBMISSIONS)
    mean, mean_error = find_mean(lines, SUBMISSIONS)

    assert abs(spread - 1) < 4 * spread_error < 0.2
    assert abs(mean - 0.2) < 4 * mean_error < 0.1
    assert np.isnan(find_mean(lines[:2], SUBMISSIONS)[1])


def test_what_is_left_is_told_in_words():
    assert tell_left(3, 59) == "3 left, about 1 min"
    assert tell_left(90, 3 * 3600 + 61) == "90 left, about 3 h 2 min"
    assert tell_left(0, 0) == "none left"
    assert describe(make_line(2)).startswith("world 2: better at arrival: none; ")


# --- all of it ----------------------------------------------------------------------------------


needs_trainer = pytest.mark.skipif(not TRAINER.is_file(), reason="make setup installs the trainer")
FEWEST = ("--seeds", "1", "--intervals", "5", "--epochs", "1", "--only", "momentum")


@needs_trainer
def test_a_world_is_trained_judged_and_not_run_twice(tmp_path, capsys):
    arguments = ["--folder", str(tmp_path), "--worlds", "1", *FEWEST]

    code = placebo_campaign.main(arguments)
    first = capsys.readouterr().out
    again = placebo_campaign.main(arguments)

    (line,) = map(json.loads, (tmp_path / "outcomes.jsonl").read_text().splitlines())
    assert line["setup"] == SETUP.dump()
    assert set(line["arrival"]) == set(line["closing"]) == {"momentum"}
    assert line["arrival"]["momentum"]["standard_error"] > 0
    assert line["cpu_seconds"] > 1
    assert first.startswith("world 1: ")
    assert "| any | " in first
    assert again == code
    assert capsys.readouterr().out == "\n".join(build_table([line])) + "\n", "nothing was missing"
    assert {path.name for path in tmp_path.iterdir()} == {"outcomes.jsonl", "series"}
    assert [path.name for path in (tmp_path / "series").iterdir()] == ["1.npz"]
    # By the same judge, the verdicts are the same; nothing is trained.
    assert placebo_campaign.main([*arguments, "--judge-again", "--trainer", sys.executable]) == code
    assert capsys.readouterr().out == "\n".join(build_table([line])) + "\n"


@needs_trainer
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_campaign_leaves_nothing_behind(tmp_path, number):
    script = Path(placebo_campaign.__file__)
    process = subprocess.Popen(
        [sys.executable, str(script), "--folder", str(tmp_path), "--worlds", "1", *FEWEST]
    )
    while not list(tmp_path.glob("work-*/world-1/data/data.toml")):
        assert process.poll() is None
        time.sleep(0.05)

    process.send_signal(number)

    assert process.wait() == placebo_campaign.INTERRUPTED
    assert list(tmp_path.iterdir()) == []
