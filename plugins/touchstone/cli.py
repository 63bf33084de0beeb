"""The command ``touchstone``."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from touchstone import dev_commands, fleet_commands
from touchstone.client.packing import is_remote
from touchstone.client.requests import (
    build_id,
    build_schedule,
    check_conf,
    check_id,
    drop_none,
    pack_source,
)
from touchstone.memory import collect_seldom
from touchstone.terminal import AsJson, connect, open_console, print_json, say
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError

if TYPE_CHECKING:
    from touchstone.client.api import Client
    from touchstone.client.watch import Ending

# `touchstone list` is typed all day: whatever takes long to import is imported by the command
# that needs it, and Airflow by none of the client's.

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130

ELSEWHERE = {
    "check": (
        "touchstone.stack.checking:check",
        "Validate a module on this machine; nothing is sent.",
    ),
    "init": (
        "touchstone.stack.commands:init",
        "Create tables, buckets, queues and the experiment.",
    ),
    "up": ("touchstone.stack.commands:up", "Start Touchstone on this machine."),
    "down": ("touchstone.stack.commands:down", "End Touchstone on this machine; the data stay."),
    "status": ("touchstone.stack.commands:status", "Tell how each part of the stack is."),
    "demo": (
        "touchstone.stack.demo:demo",
        "Start a stack, train on an example, show the results, stop.",
    ),
    "dispatcher": (
        "touchstone.dispatcher.main:run",
        "Turn agents' events into records and mend what died.",
    ),
}
"""Commands that other modules define: where, and what ``--help`` says of them here."""

_RUNS_OF_A_SUBMISSION = 1000
_PASSTHROUGH = "touchstone.passthrough"


class Group(TyperGroup):
    """Finds commands in other modules when they are called, and turns errors into exit codes."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of all commands."""
        return [*super().list_commands(ctx), *ELSEWHERE]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """Return a command; for one of another module, what ``--help`` lists."""
        if cmd_name in ELSEWHERE:
            return TyperCommand(name=cmd_name, help=ELSEWHERE[cmd_name][1])
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """Return the command that is called, importing it if it is another module's."""
        if args and args[0] in ELSEWHERE:
            return args[0], _load(args[0]), args[1:]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command; say on standard error what went wrong."""
        try:
            return super().invoke(ctx)
        except TouchstoneError as error:
            typer.echo(f"touchstone: {error}", err=True)
            raise typer.Exit(_find_exit_code(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # `touchstone logs ID | head`: nobody reads on. Python would complain at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_FAILURE) from None


class CommandWithPassthrough(TyperCommand):
    """A command that leaves everything behind ``--`` as it is."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Read the arguments in front of ``--``."""
        if "--" in args:
            cut = args.index("--")
            ctx.meta[_PASSTHROUGH] = tuple(args[cut + 1 :])
            args = args[:cut]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Submit prediction models, train them on whatever GPU is free, and see what they are "
    "worth.",
)

Login = Annotated[
    str | None,
    typer.Option("--as", "--user", help="Log in as this user. [default: engineer]"),
]
Wait = Annotated[bool, typer.Option("--wait", help="Show how far it is, until it has ended.")]
Intervals = Annotated[
    str | None, typer.Option(help="Prediction intervals in days, for example 1,5,20; train them.")
]
ConfigFile = Annotated[str | None, typer.Option("--config", help="el-nigma's configuration.")]
Branch = Annotated[str | None, typer.Option(help="Branch, tag or commit of el-nigma.")]
DataEnd = Annotated[
    str | None, typer.Option("--fetched-data-end-to", help="Last day of data: YYYY-MM-DD.")
]
Override = Annotated[
    list[str] | None, typer.Option("--override", help="key.path=value of the configuration.")
]
WhichPlatform = Annotated[
    str | None, typer.Option("--platform", help="any, on-prem or runpod. [default: any]")
]
Seed = Annotated[int | None, typer.Option(help="Seed of the training.")]
Baseline = Annotated[str | None, typer.Option(help="Submission to compare with.")]
Needs = Annotated[
    list[str] | None,
    typer.Option(
        "--needs",
        help="What it needs of a server, for example require_cuda=true, min_vram_gib=24, "
        "allowed_hosts=a,b or priority=10.",
    ),
]
Gpu = Annotated[
    list[str] | None,
    typer.Option("--gpu", help="GPU model for RunPod, best first; see `touchstone gpus`."),
]
Cloud = Annotated[
    str | None, typer.Option(help="Whose machines pods may be on: any, secure or community.")
]
MaxPrice = Annotated[float | None, typer.Option(help="Most that a pod may cost, $ per hour.")]
Budget = Annotated[
    float | None, typer.Option(help="Most that all pods of this submission may cost, $.")
]
MaxHours = Annotated[float | None, typer.Option(help="Longest training, hours.")]
SubmissionId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]


@app.command(cls=CommandWithPassthrough, epilog="Arguments after -- go to el-nigma as they are.")
def submit(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(show_default=False, help="Git URL, or a folder or .tar.gz on this machine."),
    ],
    system: Annotated[str | None, typer.Option(help="feature_set or model_structure.")] = None,
    ref: Annotated[str | None, typer.Option(help="Branch, tag or commit of the source.")] = None,
    path: Annotated[str | None, typer.Option(help="Folder of the module in the source.")] = None,
    intervals: Intervals = None,
    config: ConfigFile = None,
    branch: Branch = None,
    fetched_data_end_to: DataEnd = None,
    override: Override = None,
    platform: WhichPlatform = None,
    needs: Needs = None,
    gpu: Gpu = None,
    cloud: Cloud = None,
    max_price: MaxPrice = None,
    budget: Budget = None,
    max_hours: MaxHours = None,
    seed: Seed = None,
    baseline: Baseline = None,
    notes: Annotated[str | None, typer.Option(help="For whoever reads the result.")] = None,
    submission_id: Annotated[
        str | None, typer.Option("--id", help="The submission's id. [default: a new one]")
    ] = None,
    wait: Wait = False,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Submit a feature set or a model structure; with --intervals, train it as well."""
    chosen = submission_id or build_id(datetime.now(UTC), secrets.token_hex(3))
    check_id(chosen)
    if ref is not None and not is_remote(source):
        raise ConfigurationError(f"ref: {source} is not a git URL, so it has no branches")
    conf = drop_none(
        {
            "source": source,
            "system": system,
            "ref": ref,
            "path": path,
            "notes": notes,
            **build_schedule(
                ctx.meta.get(_PASSTHROUGH, ()),
                intervals=intervals,
                config=config,
                branch=branch,
                fetched_data_end_to=fetched_data_end_to,
                override=override,
                platform=platform,
                needs=needs,
                gpu_models=gpu or None,
                cloud=cloud,
                max_price=max_price,
                budget=budget,
                max_hours=max_hours,
                seed=seed,
                baseline=baseline,
            ),
        }
    )
    archive = None if is_remote(source) else pack_source(source)
    # Before anything is sent, so that nothing is uploaded for a wrong option.
    check_conf(conf | ({"source": "upload:" + "0" * 64} if archive is not None else {}))
    with connect(login) as client:
        if archive is not None:
            conf["source"] = client.upload(archive)
        client.start_run(chosen, conf)
        _finish(client, chosen, chosen, conf, wait=wait, as_json=as_json)


@app.command(cls=CommandWithPassthrough, epilog="Arguments after -- go to el-nigma as they are.")
def schedule(
    ctx: typer.Context,
    submission_id: SubmissionId,
    intervals: Intervals = None,
    config: ConfigFile = None,
    branch: Branch = None,
    fetched_data_end_to: DataEnd = None,
    override: Override = None,
    platform: WhichPlatform = None,
    needs: Needs = None,
    gpu: Gpu = None,
    cloud: Cloud = None,
    max_price: MaxPrice = None,
    budget: Budget = None,
    max_hours: MaxHours = None,
    seed: Seed = None,
    baseline: Baseline = None,
    wait: Wait = False,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Train an accepted submission."""
    from touchstone.client.errors import Refused, RunExists
    from touchstone.client.watch import get_submission
    from touchstone.core.names import build_run_id
    from touchstone.core.states import SCHEDULABLE

    check_id(submission_id)
    conf = drop_none(
        {
            "submission_id": submission_id,
            **build_schedule(
                ctx.meta.get(_PASSTHROUGH, ()),
                intervals=intervals,
                config=config,
                branch=branch,
                fetched_data_end_to=fetched_data_end_to,
                override=override,
                platform=platform,
                needs=needs,
                gpu_models=gpu or None,
                cloud=cloud,
                max_price=max_price,
                budget=budget,
                max_hours=max_hours,
                seed=seed,
                baseline=baseline,
            ),
        }
    )
    check_conf(conf)
    with connect(login) as client:
        submission = get_submission(client, submission_id)["submission"]
        if submission["status"] not in SCHEDULABLE:
            raise Refused(
                f"{submission_id} is {submission['status']}; it can be scheduled once it is "
                f"{', '.join(sorted(SCHEDULABLE))}",
                status=409,
            )
        first = len(submission.get("run_ids") or ()) + 1
        for number in range(max(first, 2), _RUNS_OF_A_SUBMISSION):
            run_id = build_run_id(submission_id, number)
            try:
                client.start_run(run_id, conf)
            except RunExists:
                # Somebody else has just scheduled it too, or a run was refused: the next number.
                continue
            _finish(client, submission_id, run_id, conf, wait=wait, as_json=as_json)
            return
    raise ConfigurationError(f"{submission_id} has {_RUNS_OF_A_SUBMISSION} runs: submit it anew")


@app.command("list")
def list_submissions(
    status: Annotated[str | None, typer.Option(help="Only those in this status.")] = None,
    user: Annotated[str | None, typer.Option(help="Only those of this user.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    everything: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
    login: Annotated[str | None, typer.Option("--as", help="Log in as this user.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the newest submissions."""
    with connect(login) as client:
        if everything:
            found = client.list_all_submissions(status=status, user=user)
        else:
            found = client.list_submissions(status=status, user=user, limit=limit)
    _warn_of_dispatcher(found)
    if as_json:
        print_json(found)
        return
    if not found["submissions"]:
        say("no submissions")
        return
    from touchstone.client.tables import build_list

    console = open_console()
    console.print(build_list(found["submissions"]))
    if found.get("next"):
        console.print("... and older ones: --limit 500, or --all")


@app.command()
def show(submission_id: SubmissionId, login: Login = None, as_json: AsJson = False) -> None:
    """Show a submission and its tasks."""
    from touchstone.client.watch import get_submission

    with connect(login) as client:
        found = get_submission(client, check_id(submission_id))
    _warn_of_dispatcher(found)
    if as_json:
        print_json(found)
        return
    from touchstone.client.tables import build_facts, build_tasks

    console = open_console()
    console.print(build_facts(found["submission"]))
    if found["tasks"]:
        console.print()
        console.print(build_tasks(found["tasks"]))


@app.command()
def results(submission_id: SubmissionId, login: Login = None, as_json: AsJson = False) -> None:
    """Show what a submission's models are worth."""
    with connect(login) as client:
        found = client.get_results(check_id(submission_id))
    if as_json:
        print_json(found)
        return
    from touchstone.client.tables import build_results

    if not found["results"]:
        reason = f": {found['reason']}" if found.get("reason") else ""
        typer.echo(f"{submission_id} is {found['status']}; no results{reason}")
        return
    open_console().print(build_results(found))


@app.command()
def gpus(login: Login = None, as_json: AsJson = False) -> None:
    """List the GPU models that RunPod has now, with memory, price and stock."""
    with connect(login) as client:
        found = client.list_gpus()
    if as_json:
        print_json(found)
        return
    if not found["is_connected"]:
        say("this installation is not connected to RunPod: there is no connection of type runpod")
        raise typer.Exit(EXIT_FAILURE)
    from touchstone.client.tables import build_gpus

    open_console().print(build_gpus(found))


@app.command()
def logs(
    submission_id: SubmissionId,
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="[TASK]",
            show_default=False,
            help="validation or i5, for example. [default: the first that failed, or validation]",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    attempt: Annotated[
        str | None, typer.Option(help="An earlier attempt, as `show --json` names it: 1-1.")
    ] = None,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Print the console of a submission's task."""
    from touchstone.client.console import Reader, find_task

    if follow and as_json:
        raise ConfigurationError("json: a document that is followed would never be whole")
    with connect(login) as client:
        check_id(submission_id)
        chosen = find_task(client, submission_id, task, say, time.sleep if follow else None)
        reader = Reader(client, submission_id, chosen, attempt=attempt, sleep=time.sleep)
        if as_json:
            pieces: list[str] = []
            page = reader.read(pieces.append, say)
            print_json({"task": chosen, **page, "offset": 0, "text": "".join(pieces)})
            return
        reader.read(_write, say, follow=follow)


@app.command()
def enter(
    submission_id: SubmissionId,
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="[TASK]",
            show_default=False,
            help="validation or i5, for example. [default: the first that runs]",
        ),
    ] = None,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Print the command that opens a shell where a task runs."""
    from touchstone.client.entering import build_enter_command, choose_running
    from touchstone.client.watch import get_submission

    with connect(login) as client:
        found = get_submission(client, check_id(submission_id))
    chosen = choose_running(found["tasks"], task)
    command, where = build_enter_command(chosen)
    if as_json:
        print_json({"task": chosen["task_id"], "command": command, "where": where})
        return
    say(f"{chosen['task_id']}: {where}")
    typer.echo(command)


@app.command()
def cancel(
    submission_id: SubmissionId,
    reason: Annotated[str | None, typer.Option(help="Why; others will read it.")] = None,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """End a submission's tasks and runs."""
    with connect(login) as client:
        ended = client.cancel(check_id(submission_id), reason)
    _print_ended(submission_id, "cancelled", ended, as_json)


@app.command()
def retract(submission_id: SubmissionId, login: Login = None, as_json: AsJson = False) -> None:
    """Withdraw a submission for good."""
    with connect(login) as client:
        ended = client.retract(check_id(submission_id))
    _print_ended(submission_id, "retracted", ended, as_json)


app.add_typer(fleet_commands.fleet_app, name="fleet")
app.add_typer(fleet_commands.manifest_app, name="manifest")
app.add_typer(dev_commands.dev_app, name="dev")
app.command()(fleet_commands.pause)
app.command()(fleet_commands.resume)


def main() -> None:
    """Run the command line."""
    app()


def _find_exit_code(error: TouchstoneError) -> int:
    from touchstone.client.errors import LoginRefused, NotInstalled, Refused, Unreachable

    if isinstance(error, (Unreachable, LoginRefused, NotInstalled)):
        return EXIT_UNREACHABLE
    if isinstance(error, ConfigurationError) or (isinstance(error, Refused) and error.field):
        return EXIT_USAGE
    return EXIT_FAILURE


def _finish(
    client: Client,
    submission_id: str,
    run_id: str,
    conf: dict[str, Any],
    *,
    wait: bool,
    as_json: bool,
) -> None:
    """Say what was started, or wait for its end."""
    started = {"submission_id": submission_id, "run_id": run_id}
    if not wait:
        if as_json:
            print_json({**started, "conf": conf})
        else:
            typer.echo(submission_id)
        if _is_paused(client):
            say(
                "touchstone: the DAG is paused in Airflow: the run waits until somebody unpauses "
                "it; ask an admin to"
            )
        elif not as_json:
            say(f"started; follow it with `touchstone show {submission_id}`")
        return
    say(f"submission {submission_id}" if not as_json else "")
    try:
        ending = _wait(client, submission_id, run_id, "intervals" in conf, as_json)
    except KeyboardInterrupt:
        say(
            f"{submission_id} goes on without you: `touchstone show {submission_id}` and "
            f"`touchstone logs {submission_id} --follow` show it, "
            f"`touchstone cancel {submission_id}` ends it"
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
    _report(client, started, ending, as_json)


def _is_paused(client: Client) -> bool:
    # The run is there, whatever becomes of this question.
    with suppress(TouchstoneError):
        return client.is_paused()
    return False


def _wait(
    client: Client, submission_id: str, run_id: str, is_scheduled: bool, as_json: bool
) -> Ending:
    from touchstone.client.tables import LineView, LiveView
    from touchstone.client.watch import Watcher

    console = open_console(stderr=as_json)
    with (LiveView if console.is_terminal else LineView)(console) as view:
        watcher = Watcher(client, view, sleep=time.sleep)
        return watcher.wait(submission_id, run_id, is_scheduled=is_scheduled)


def _report(client: Client, started: dict[str, Any], ending: Ending, as_json: bool) -> None:
    from touchstone.client.tables import build_results
    from touchstone.client.watch import Outcome

    is_good = ending.outcome is Outcome.SUCCESS
    submission_id = started["submission_id"]
    found = client.get_results(submission_id) if ending.snapshot.submission else {}
    if as_json:
        print_json(
            {
                **found,
                **started,
                "outcome": ending.outcome,
                "status": ending.status,
                "reason": ending.reason,
            }
        )
    else:
        status = ending.status if is_good else (ending.status or "failed")
        typer.echo(f"{submission_id}: {status}" + (f": {ending.reason}" if ending.reason else ""))
        if found.get("results"):
            open_console().print(build_results(found))
    if not is_good:
        raise typer.Exit(EXIT_FAILURE)


def _print_ended(submission_id: str, word: str, ended: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"submission_id": submission_id, **ended})
        return
    tasks = ", ".join(ended.get("cancelled_tasks") or ()) or "nothing was under way"
    typer.echo(f"{submission_id} {word}: {tasks}")


def _warn_of_dispatcher(answer: dict[str, Any]) -> None:
    """Say loudly, also beside JSON, when nothing will be placed."""
    if warning := (answer.get("dispatcher") or {}).get("warning"):
        typer.echo(f"touchstone: {warning}", err=True)


def _write(text: str) -> None:
    from touchstone.client.tables import clean

    # Code under test wrote this: on a terminal it must not move the cursor or rename the window.
    typer.echo(clean(text) if sys.stdout.isatty() else text, nl=False)


def _load(name: str) -> Any:
    collect_seldom()
    module, _, function = ELSEWHERE[name][0].partition(":")
    command: Callable[..., Any] = getattr(import_module(module), function)
    own = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    own.command(name)(command)
    return typer.main.get_command(own)
