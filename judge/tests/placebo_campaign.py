"""
How often a verdict is false where nothing can be known: ``make placebo-campaign``.

In each world the canned market's days have other bars, drawn at random. The real trainer trains the
reference and four honest examples on it, and the real judge judges them against the reference, at
their arrivals and at closing. The exit code is 1 if any is better in more than a tenth of worlds.

A world is fifteen trainings of three seeds. A trainer computes and checks its features for itself,
so they are computed once for each set and interval, which no argument of its command changes;
what it compiles is kept from world to world. All of it takes 92 CPU seconds.

Each world is a line of ``outcomes.jsonl`` in the folder, and its judged returns are a file in
``series``. Started again with the same folder, the campaign goes on with what is missing; Ctrl-C
throws away the worlds that are not done. ``--judge-again`` trains nothing: it judges what is there
by the judge of now, and prints that table.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import queue
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from placebo import (
    ROOT,
    SUBMISSIONS,
    Broken,
    Programs,
    Setup,
    Stopped,
    World,
    judge_world,
    load_columns,
)

OUTCOMES = "outcomes.jsonl"
SERIES = "series"
WORK = "work-"
AT_MOST = 0.10
BETTER = "better"
TRAINER = ROOT / "include" / "elnigma" / ".venv" / "bin" / "python"
INTERRUPTED = 130


class CampaignError(Exception):
    """The folder or the arguments make no sense; the message says what to do."""


# --- outcomes -----------------------------------------------------------------------------------


class Outcomes:
    """
    The lines of a campaign, a world each.

    :param path: Where they are kept.
    :param setup: How their worlds are trained; lines of another one are no part of it.
    """

    def __init__(self, path: Path, setup: Setup) -> None:
        self._path = path
        self._setup = setup.dump()
        self.lines: dict[int, dict] = {}

    def read(self) -> None:
        """
        Read what is there; the torn line of a campaign that was killed is dropped.

        :raises CampaignError: If they are of another setup.
        """
        text = self._path.read_text() if self._path.is_file() else ""
        whole, _, torn = text.rpartition("\n")
        for row in whole.splitlines():
            line = json.loads(row)
            if line["setup"] != self._setup:
                raise CampaignError(
                    f"{self._path} has worlds of another setup ({json.dumps(line['setup'])}); "
                    "name another folder, or give the same arguments"
                )
            self.lines[line["world"]] = line
        if torn:
            self._path.write_text(f"{whole}\n" if whole else "")

    def add(self, line: dict) -> None:
        """Keep a world that is done."""
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines[line["world"]] = line


@contextmanager
def hold_folder(folder: Path) -> Iterator[Path]:
    """
    Hold a campaign's folder, and return a folder in it that is removed at the end.

    :raises CampaignError: If another campaign is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CampaignError(f"another campaign is at work in {folder}") from error
        for left in folder.glob(f"{WORK}*"):
            # Of one that was killed.
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            dir=folder, prefix=WORK, ignore_cleanup_errors=True
        ) as work:
            yield Path(work)
    finally:
        os.close(handle)


# --- the run ------------------------------------------------------------------------------------


class Campaign:
    """
    Runs the worlds that are missing, some at once.

    :param outcomes: What is there, and gets what is done.
    :param setup: How worlds are trained.
    :param trainer: The trainer's command, without arguments.
    :param jobs: How many worlds at once.
    :param work: A folder for all of it.
    :param series: A folder that gets the judged returns of each world.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        setup: Setup,
        *,
        trainer: Sequence[str],
        jobs: int,
        work: Path,
        series: Path,
    ) -> None:
        self._outcomes = outcomes
        self._setup = setup
        self._trainer = trainer
        self._jobs = jobs
        self._work = work
        self._series = series
        self._programs = Programs()
        self._kept: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for job in range(jobs):
            self._kept.put(work / f"kept-{job}")

    def run(self, worlds: int) -> None:
        """
        Run all worlds up to a number that are not there yet.

        :raises Broken: If a program fails for no reason of a world's; what is done is kept.
        :raises KeyboardInterrupt: If somebody ends it; likewise.
        """
        missing = [world for world in range(1, worlds + 1) if world not in self._outcomes.lines]
        begun, done = time.monotonic(), 0
        with ThreadPoolExecutor(self._jobs) as pool:
            waiting: set[Future[dict]] = {pool.submit(self._run_one, each) for each in missing}
            try:
                while waiting:
                    ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in ended:
                        line = future.result()
                        self._keep(line)
                        done += 1
                        left = (time.monotonic() - begun) / done * (len(missing) - done)
                        told = tell_left(len(missing) - done, left)
                        print(f"{describe(line)}; {told}", flush=True)
            except BaseException:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                for future in waiting:
                    future.cancel()
                self._programs.stop()
                raise

    def _keep(self, line: dict) -> None:
        made = self._find_series(line["world"])
        if made.is_file():
            self._series.mkdir(exist_ok=True)
            made.replace(self._series / f"{line['world']}.npz")
        self._outcomes.add(line)

    def _find_series(self, number: int) -> Path:
        return self._work / f"series-{number}.npz"

    def _run_one(self, number: int) -> dict:
        kept = self._kept.get()
        folder = self._work / f"world-{number}"
        try:
            folder.mkdir()
            kept.mkdir(exist_ok=True)
            world = World(
                number,
                self._setup,
                folder,
                kept=kept,
                series=self._find_series(number),
                trainer=self._trainer,
                programs=self._programs,
            )
            return world.run()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._kept.put(kept)


def judge_again(line: dict, series: Path) -> dict:
    """Return a world's line by the judge of now."""
    path = series / f"{line['world']}.npz"
    if "refused" in line or not path.is_file():
        return line
    return line | judge_world(load_columns(path), line["setup"]["intervals"], line["world"])


def describe(line: dict) -> str:
    """Return a world's outcome in one line."""
    told = f"world {line['world']}: "
    if "refused" in line:
        return f"{told}refused: {line['refused']}; {line['cpu_seconds']:.0f} CPU s"
    for phase in ("arrival", "closing"):
        names = list_better(line, phase)
        told += f"better at {phase}: {', '.join(names) or 'none'}; "
    return f"{told}{line['cpu_seconds']:.0f} CPU s"


def tell_left(count: int, seconds: float) -> str:
    """Return how much is left, and about how long it takes."""
    if not count:
        return "none left"
    minutes = math.ceil(seconds / 60)
    long = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return f"{count} left, about {long}"


# --- the table ----------------------------------------------------------------------------------


def list_better(line: dict, phase: str) -> list[str]:
    """Return which submissions are better in a world, by the verdicts of a phase."""
    return [name for name, said in line[phase].items() if said["outcome"] == BETTER]


def build_table(lines: Sequence[dict]) -> list[str]:
    """
    Return what came of all worlds, as a table in Markdown and lines below it.

    :param lines: Of one setup.
    """
    told = [line for line in lines if "refused" not in line]
    refused = [line for line in lines if "refused" in line]
    columns = ("better", "at arrival", "at closing, 95 %", "own p < 5 %", "mean difference")
    rows = [
        f"{len(told)} worlds, {np.mean([line['cpu_seconds'] for line in lines]):.0f} CPU s each",
        "",
        f"| {' | '.join(columns)} | spread over SE |",
        "|---|---|---|---|---|---|",
    ]
    if told:
        names = list(told[0]["closing"])
        rows.append(_build_row("any", told, names))
        rows += [_build_row(name, told, [name]) for name in names]
        rows.append("")
    rows += [describe(line) for line in told if list_better(line, "closing")]
    rows += [describe(line) for line in refused]
    return rows


def _build_row(title: str, lines: Sequence[dict], names: Sequence[str]) -> str:
    count = len(lines)
    arrived, closed, own = (
        sum(any(is_so(line, name) for name in names) for line in lines)
        for is_so in (
            lambda line, name: line["arrival"][name]["outcome"] == BETTER,
            lambda line, name: line["closing"][name]["outcome"] == BETTER,
            lambda line, name: line["arrival"][name]["p_own"] < 0.05,
        )
    )
    low, high = find_interval(closed, count)
    mean, mean_error = find_mean(lines, names)
    spread, spread_error = find_spread(lines, names)
    return (
        f"| {title} | {arrived / count:.1%} | {closed / count:.1%}, {low:.1%} to {high:.1%} | "
        f"{own / count:.1%} | {mean:+.3f} ± {mean_error:.3f} | {spread:.2f} ± {spread_error:.2f} |"
    )


def find_interval(hits: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    found = binomtest(hits, count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def find_mean(lines: Sequence[dict], names: Sequence[str]) -> tuple[float, float]:
    """Return the mean difference over worlds, which costs make other than 0, and its own error."""
    means = _read(lines, names, "difference").mean(axis=1)
    return float(means.mean()), _find_error(len(means), lambda kept: float(means[kept].mean()))


def find_spread(lines: Sequence[dict], names: Sequence[str]) -> tuple[float, float]:
    """
    Return how far differences spread over worlds, in the standard errors that the judge gives them.

    :return: 1 where these are right, and its own standard error.
    """
    differences = _read(lines, names, "difference")
    errors = _read(lines, names, "standard_error")

    def find(kept) -> float:
        apart = differences[kept] - differences[kept].mean(axis=0)
        free = max(1, len(apart) - 1)
        return math.sqrt((apart**2).sum() / free / apart.shape[1] / (errors[kept] ** 2).mean())

    count = len(differences)
    return find(np.arange(count)), _find_error(count, find)


def _read(lines: Sequence[dict], names: Sequence[str], figure: str) -> np.ndarray:
    return np.array([[line["arrival"][name][figure] for name in names] for line in lines])


def _find_error(count: int, find) -> float:
    """Return a standard error by leaving out one world at a time; NaN of fewer than three."""
    if count < 3:
        return math.nan
    left_out = np.array([find(np.delete(np.arange(count), at)) for at in range(count)])
    return float(np.sqrt((count - 1) * left_out.var()))


def is_kept(lines: Sequence[dict]) -> bool:
    """Return whether any submission is better at closing in a tenth of worlds at most."""
    told = [line for line in lines if "refused" not in line]
    return sum(bool(list_better(line, "closing")) for line in told) <= AT_MOST * len(told)


def read_intervals(text: str) -> tuple[int, ...]:
    """Return prediction intervals, ascending."""
    return tuple(sorted({int(part) for part in text.split(",")}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="gets a line for each world")
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each training")
    parser.add_argument("--intervals", type=read_intervals, default=(1, 5, 20), metavar="1,5,20")
    parser.add_argument("--jobs", type=int, default=1, help="worlds at once, a core each")
    parser.add_argument("--config", default="fast.toml", help="the trainer's configuration")
    parser.add_argument("--epochs", type=int, default=None, help="instead of the configuration's")
    parser.add_argument("--only", nargs="+", default=SUBMISSIONS, choices=SUBMISSIONS)
    parser.add_argument("--judge-again", action="store_true", help="what is there; trains nothing")
    parser.add_argument("--trainer", default=str(TRAINER), help="interpreter with the trainer")
    options = parser.parse_args(arguments)
    setup = Setup(
        seeds=options.seeds,
        intervals=options.intervals,
        config=options.config,
        epochs=options.epochs,
        submissions=tuple(options.only),
    )
    trainer = [options.trainer, "-P", "-m", "elnigma"]
    # Nothing that was started here stays, also where it runs in the background of a shell.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with hold_folder(options.folder) as work:
            outcomes = Outcomes(options.folder / OUTCOMES, setup)
            outcomes.read()
            if not Path(options.trainer).is_file():
                raise CampaignError(f"there is no {options.trainer}; run make setup")
            if not options.judge_again:
                campaign = Campaign(
                    outcomes,
                    setup,
                    trainer=trainer,
                    jobs=options.jobs,
                    work=work,
                    series=options.folder / SERIES,
                )
                campaign.run(options.worlds)
    except KeyboardInterrupt:
        print("interrupted; started again, it goes on with what is missing", file=sys.stderr)
        return INTERRUPTED
    except (Broken, CampaignError, Stopped) as error:
        print(f"placebo campaign: {error}", file=sys.stderr)
        return 2
    lines = [line for world, line in sorted(outcomes.lines.items()) if world <= options.worlds]
    if options.judge_again:
        lines = [judge_again(line, options.folder / SERIES) for line in lines]
    if not lines:
        print(f"placebo campaign: {options.folder} has no worlds yet", file=sys.stderr)
        return 2
    print("\n".join(build_table(lines)))
    return 0 if is_kept(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
