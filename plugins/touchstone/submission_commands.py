"""The commands about submissions: bring, train, look at and end them."""

from __future__ import annotations

import secrets
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from touchstone import event_commands
from touchstone.client.options import Needs, Waived, takes_schedule
from touchstone.client.requests import (
    build_schedule,
    build_source,
    check_conf,
    check_id,
    drop_none,
    pack_if_here,
)
from touchstone.terminal import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    AsJson,
    connect,
    open_console,
    print_json,
    say,
)
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from touchstone.client.answers import Answer
    from touchstone.client.api import Client
    from touchstone.client.watch import Ending
    from touchstone.core.answers.acts import Ended
    from touchstone.core.answers.fleet import DispatcherState
# `touchstone list` is typed all day: whatever takes long to import is imported by the command
# that needs it, and Airflow by none of the client's.

submission_app = typer.Typer()

_PASSTHROUGH = "touchstone.passthrough"


class CommandWithPassthrough(TyperCommand):
    """A command that passes on everything after ``--`` unchanged."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Read the arguments in front of ``--``."""
        if "--" in args:
            cut = args.index("--")
            ctx.meta[_PASSTHROUGH] = tuple(args[cut + 1 :])
            args = args[:cut]
        return super().parse_args(ctx, args)


Login = Annotated[
    str | None,
    typer.Option("--as", "--user", help="Log in as this user. [default: engineer]"),
]

Wait = Annotated[bool, typer.Option("--wait", help="Show how far it is, until it has ended.")]

Given = dict[str, object]
"""The help of each field of a schedule."""

SubmissionId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
SubmissionIds = Annotated[
    list[str],
    typer.Argument(
        metavar="ID...", show_default=False, help="Submissions; one that is refused stops no other."
    ),
]


@submission_app.command(
    cls=CommandWithPassthrough, epilog="Arguments after -- go to el-nigma as they are."
)
@takes_schedule
def submit(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(show_default=False, help="Git URL, or a folder or .tar.gz on this machine."),
    ],
    system: Annotated[str | None, typer.Option(help="feature_set or model_structure.")] = None,
    ref: Annotated[str | None, typer.Option(help="Branch, tag or commit of the source.")] = None,
    path: Annotated[str | None, typer.Option(help="Folder of the module in the source.")] = None,
    waive_column: Waived = None,
    *,
    given: Given,
    needs: Needs = None,
    notes: Annotated[str | None, typer.Option(help="For readers of the result.")] = None,
    submission_id: Annotated[
        str | None, typer.Option("--id", help="The submission's id. [default: a new one]")
    ] = None,
    wait: Wait = False,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Submit a feature set or a model structure; with --intervals, train it as well."""
    from touchstone.core.conf import WAIVED
    from touchstone.core.names import build_id

    chosen = submission_id or build_id(datetime.now(UTC), secrets.token_hex(3))
    check_id(chosen)
    conf = {
        **build_source(source, system=system, ref=ref, path=path),
        **drop_none({WAIVED: waive_column or None, "notes": notes}),
        **build_schedule(ctx.meta.get(_PASSTHROUGH, ()), needs=needs, given=given),
    }
    archive = pack_if_here(conf)
    with connect(login) as client:
        if submission_id is None:
            # What a job repeats was entered by then: the server knows it again by its id.
            event_commands.check_objection(client, conf)
        if archive is not None:
            conf["source"] = client.upload(archive)
        sent = client.submit_as(chosen, conf).value
        if submission_id is not None and not sent.is_new:
            say(f"{chosen} was submitted before, with the same values: it goes on")
        _finish(client, chosen, chosen, conf, wait=wait, as_json=as_json)


@submission_app.command(
    cls=CommandWithPassthrough, epilog="Arguments after -- go to el-nigma as they are."
)
@takes_schedule
def schedule(
    ctx: typer.Context,
    submission_id: SubmissionId,
    *,
    given: Given,
    needs: Needs = None,
    wait: Wait = False,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Train an accepted submission."""
    from touchstone.client.watch import get_submission

    check_id(submission_id)
    fields = build_schedule(ctx.meta.get(_PASSTHROUGH, ()), needs=needs, given=given)
    conf = {"submission_id": submission_id, **fields}
    check_conf(conf)
    with connect(login) as client:
        # One that is not registered yet is told apart from one that is not there.
        get_submission(client, submission_id)
        sent = client.schedule(submission_id, fields, secrets.token_hex(16)).value
        _finish(client, submission_id, sent.run_id, conf, wait=wait, as_json=as_json)


@submission_app.command(
    cls=CommandWithPassthrough, epilog="Arguments after -- go to el-nigma as they are."
)
@takes_schedule
def plan(
    ctx: typer.Context,
    submission_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", show_default=False, help="Submissions.")
    ],
    *,
    given: Given,
    needs: Needs = None,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Show what `schedule` would do now: where, when, for how much. Nothing is changed."""
    fields = build_schedule(ctx.meta.get(_PASSTHROUGH, ()), needs=needs, given=given)
    for submission_id in submission_ids:
        check_conf({"submission_id": check_id(submission_id), **fields})
    with connect(login) as client:
        found = client.plan(submission_ids, fields)
    if as_json:
        print_json(found.document)
        return
    from touchstone.client.plan_tables import build_plan

    open_console().print(build_plan(found.value))


@submission_app.command()
def replay(
    submission_id: SubmissionId,
    task: Annotated[
        str, typer.Argument(metavar="TASK", show_default=False, help="Which training: i5.")
    ],
    host: Annotated[
        list[str] | None,
        typer.Option(help="Server it may run on; may be repeated. [default: as the training]"),
    ] = None,
    data_version: Annotated[
        str | None,
        typer.Option(
            help="Newer version of its data set: its models are scored on the rows that came "
            "after them, and nothing is trained."
        ),
    ] = None,
    notes: Annotated[str | None, typer.Option(help="For readers of the result.")] = None,
    replay_id: Annotated[
        str | None, typer.Option("--id", help="The replay's own id. [default: a new one]")
    ] = None,
    wait: Wait = False,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Run a training again from its record: identical, equivalent or different."""
    from touchstone.core.names import build_id

    chosen = replay_id or build_id(datetime.now(UTC), secrets.token_hex(3))
    check_id(chosen)
    conf = drop_none(
        {
            "replay": f"{check_id(submission_id)}/{task}",
            "allowed_hosts": host or None,
            "data_version": data_version,
            "notes": notes,
        }
    )
    check_conf(conf)
    with connect(login) as client:
        client.submit_as(chosen, conf)
        _finish(client, chosen, chosen, conf, wait=wait, as_json=as_json)


@submission_app.command("list")
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
    _warn_of_dispatcher(found.value.dispatcher)
    if as_json:
        print_json(found.document)
        return
    if not found.value.submissions:
        say("no submissions")
        return
    from touchstone.client.tables import build_list

    console = open_console()
    console.print(build_list(found.value.submissions))
    if found.value.next:
        console.print("... and older ones: --limit 500, or --all")


@submission_app.command()
def show(submission_id: SubmissionId, login: Login = None, as_json: AsJson = False) -> None:
    """Show a submission and its tasks."""
    from touchstone.client.watch import get_submission

    with connect(login) as client:
        found = get_submission(client, check_id(submission_id))
    _warn_of_dispatcher(found.value.dispatcher)
    if as_json:
        print_json(found.document)
        return
    from touchstone.client.tables import build_facts, build_tasks

    console = open_console()
    console.print(build_facts(found.value.submission))
    if found.value.tasks:
        console.print()
        console.print(build_tasks(found.value.tasks))


@submission_app.command("open")
def open_page(submission_id: SubmissionId, login: Login = None, as_json: AsJson = False) -> None:
    """Print the address of a submission's page; on a terminal, open it in the browser as well."""
    from touchstone.client.watch import get_submission

    with connect(login) as client:
        # Only of one that is there: a page would say so later.
        get_submission(client, check_id(submission_id))
        address = client.build_page_address(submission_id)
    if as_json:
        print_json({"submission_id": submission_id, "url": address})
        return
    typer.echo(address)
    if sys.stdout.isatty():
        import webbrowser

        webbrowser.open(address)


@submission_app.command()
def results(submission_id: SubmissionId, login: Login = None, as_json: AsJson = False) -> None:
    """Show what a submission's models are worth."""
    with connect(login) as client:
        found = client.get_results(check_id(submission_id))
    if as_json:
        print_json(found.document)
        return
    from touchstone.client.tables import build_results

    if not found.value.results:
        reason = f": {found.value.reason}" if found.value.reason else ""
        typer.echo(f"{submission_id} is {found.value.status}; no results{reason}")
        return
    open_console().print(build_results(found.value))


@submission_app.command()
def gpus(login: Login = None, as_json: AsJson = False) -> None:
    """List the GPU models that RunPod has now, with memory, price and stock."""
    with connect(login) as client:
        found = client.list_gpus()
    if as_json:
        print_json(found.document)
        return
    if not found.value.is_connected:
        say("this installation is not connected to RunPod: there is no connection of type runpod")
        raise typer.Exit(EXIT_FAILURE)
    from touchstone.client.tables import build_gpus

    open_console().print(build_gpus(found.value))


@submission_app.command()
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
            print_json({"task": chosen, **page.document, "offset": 0, "text": "".join(pieces)})
            return
        reader.read(_write, say, follow=follow)


@submission_app.command()
def download(
    submission_id: SubmissionId,
    task: Annotated[
        str, typer.Argument(metavar="TASK", show_default=False, help="Which training: i5.")
    ],
    to: Annotated[
        Path | None, typer.Option(help="Folder. [default: ID/TASK below the current one]")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of paths, such as 'models/*'; may be repeated. [default: all]"),
    ] = None,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the models and other files that a training has left, and check their digests."""
    from touchstone.client.downloading import download as fetch

    folder = to or Path(check_id(submission_id), task)
    with connect(login) as client:
        fetched = fetch(
            client,
            check_id(submission_id),
            task,
            folder,
            only=only or (),
            tell=lambda each: (
                None
                if as_json
                else say(
                    f"{each.place}: {each.size} bytes" + ("" if each.is_new else ", as it was")
                )
            ),
        )
    if as_json:
        print_json(
            {
                "submission_id": submission_id,
                "task_id": task,
                "files": [
                    {
                        "path": each.path,
                        "place": str(each.place),
                        "size": each.size,
                        "sha256": each.sha256,
                        "is_new": each.is_new,
                    }
                    for each in fetched
                ],
            }
        )
        return
    typer.echo(folder)


@submission_app.command()
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
    chosen = choose_running(found.value.tasks, task)
    command, where = build_enter_command(chosen)
    if as_json:
        print_json({"task": chosen.task_id, "command": command, "where": where})
        return
    say(f"{chosen.task_id}: {where}")
    typer.echo(command)


@submission_app.command()
def cancel(
    submission_ids: SubmissionIds,
    reason: Annotated[str | None, typer.Option(help="Why; others will read it.")] = None,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """End the tasks and runs of one or more submissions."""
    wanted = _check_ids(submission_ids)
    with connect(login) as client:
        _end(wanted, "cancelled", lambda each: client.cancel(each, reason), as_json)


@submission_app.command()
def retract(submission_ids: SubmissionIds, login: Login = None, as_json: AsJson = False) -> None:
    """Withdraw one or more submissions for good."""
    wanted = _check_ids(submission_ids)
    with connect(login) as client:
        _end(wanted, "retracted", client.retract, as_json)


def _finish(
    client: Client,
    submission_id: str,
    run_id: str,
    conf: Mapping[str, object],
    *,
    wait: bool,
    as_json: bool,
) -> None:
    """Say what was started, or wait for its end."""
    if not wait:
        if as_json:
            print_json({"submission_id": submission_id, "run_id": run_id, "conf": conf})
        else:
            typer.echo(submission_id)
        if _is_paused(client, run_id):
            say(
                "touchstone: the DAG is paused in Airflow: the run waits until somebody unpauses "
                "it; ask an admin to"
            )
        elif not as_json:
            say(f"started; follow it with `touchstone show {submission_id}`")
        return
    say(f"submission {submission_id}" if not as_json else "")
    try:
        is_scheduled = "intervals" in conf or "replay" in conf
        ending = _wait(client, submission_id, run_id, is_scheduled, as_json)
    except KeyboardInterrupt:
        say(
            f"{submission_id} goes on without you: `touchstone show {submission_id}` and "
            f"`touchstone logs {submission_id} --follow` show it, "
            f"`touchstone cancel {submission_id}` ends it"
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
    _report(client, submission_id, run_id, ending, as_json)


def _is_paused(client: Client, run_id: str) -> bool:
    # The run is there, whatever becomes of this question.
    with suppress(TouchstoneError):
        return client.get_run(run_id).is_paused
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


def _report(client: Client, submission_id: str, run_id: str, ending: Ending, as_json: bool) -> None:
    from touchstone.client.tables import build_results
    from touchstone.client.watch import Outcome

    is_good = ending.outcome is Outcome.SUCCESS
    answer = client.get_results(submission_id) if ending.snapshot.submission else None
    found = answer.value if answer else None
    if as_json:
        print_json(
            {
                **(answer.document if answer else {}),
                "submission_id": submission_id,
                "run_id": run_id,
                "outcome": ending.outcome,
                "status": ending.status,
                "reason": ending.reason,
            }
        )
    else:
        status = ending.status if is_good else (ending.status or "failed")
        typer.echo(f"{submission_id}: {status}" + (f": {ending.reason}" if ending.reason else ""))
        if found and found.results:
            open_console().print(build_results(found))
    is_other = bool(found and found.replay_of and found.verdict == "different")
    if not is_good or is_other:
        raise typer.Exit(EXIT_FAILURE)


def _check_ids(submission_ids: Sequence[str]) -> list[str]:
    """Return the ids, each once; nothing is sent while one of them cannot be one."""
    return [check_id(each) for each in dict.fromkeys(submission_ids)]


def _end(
    submission_ids: Sequence[str],
    word: str,
    end: Callable[[str], Answer[Ended]],
    as_json: bool,
) -> None:
    """End each of some submissions, and tell of each what has become of it."""
    from touchstone.client.errors import Refused, Unreachable

    if len(submission_ids) == 1:
        submission_id = submission_ids[0]
        ended = end(submission_id)
        if as_json:
            print_json({"submission_id": submission_id, **ended.document})
        else:
            typer.echo(_tell_ended(submission_id, word, ended.value))
        return
    rows: list[Mapping[str, object]] = []
    for submission_id in submission_ids:
        try:
            ended = end(submission_id)
        except (Refused, Unreachable) as error:
            rows.append({"submission_id": submission_id, "problem": str(error)})
            if not as_json:
                say(f"{submission_id} not {word}: {error}")
        else:
            rows.append({"submission_id": submission_id, **ended.document, "problem": None})
            if not as_json:
                typer.echo(_tell_ended(submission_id, word, ended.value))
    if as_json:
        print_json({"submissions": rows})
    if any(row["problem"] for row in rows):
        raise typer.Exit(EXIT_FAILURE)


def _tell_ended(submission_id: str, word: str, ended: Ended) -> str:
    tasks = ", ".join(ended.cancelled_tasks) or "nothing was under way"
    return f"{submission_id} {word}: {tasks}"


def _warn_of_dispatcher(dispatcher: DispatcherState | None) -> None:
    """Say loudly, also beside JSON, when nothing will be placed."""
    if dispatcher and dispatcher.warning:
        typer.echo(f"touchstone: {dispatcher.warning}", err=True)


def _write(text: str) -> None:
    from touchstone.client.tables import clean

    # Code under test wrote this: on a terminal it must not move the cursor or rename the window.
    typer.echo(clean(text) if sys.stdout.isatty() else text, nl=False)
