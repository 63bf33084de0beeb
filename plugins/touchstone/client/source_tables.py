"""What the command ``look`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchstone.client.tables import clean, format_line, format_time
from touchstone.core.answers.sources import EventQuota, ListedArchive, SourceReport

MOST = 20
"""So many refs and files are listed; ``--json`` has all that the API tells."""


def list_report(report: SourceReport) -> list[str]:
    """Return what is known of a source, line by line."""
    if report.archive is not None:
        lines = [*_list_archive(report.archive)]
    else:
        lines = [*_list_repository(report)]
    return [clean(line) for line in (*lines, *_list_equal(report), *_list_quotas(report))]


def _list_repository(report: SourceReport) -> Iterator[str]:
    commit = f"commit {report.commit}" if report.commit else "the commit is not known yet"
    yield commit + (f": {format_line(report.ref_note)}" if report.ref_note else "")
    names = [f"{each.kind} {each.name} at {each.commit[:12]}" for each in report.refs]
    yield from _list_some(
        "branch or tag", "branches and tags", names, left_out=report.refs_left_out
    )


def _list_archive(archive: ListedArchive) -> Iterator[str]:
    yield f"archive {archive.sha256}, {archive.size} bytes unpacked"
    yield f"content {archive.content_sha256}"
    names = [f"{each.name}, {each.size} bytes" for each in archive.files]
    yield from _list_some("file", "files", names, left_out=archive.count - len(names))


def _list_some(one: str, many: str, names: Sequence[str], *, left_out: int) -> Iterator[str]:
    count, shown = len(names) + left_out, names[:MOST]
    yield f"{count} {one if count == 1 else many}" + (":" if shown else "")
    yield from (f"  {format_line(name)}" for name in shown)
    if count > len(shown):
        yield f"  and {count - len(shown)} more"


def _list_equal(report: SourceReport) -> Iterator[str]:
    if report.equal:
        yield "the same was sent before:"
    elif report.compared:
        yield f"none of the newest {report.compared} submissions is the same"
    for each in report.equal:
        yield (
            f"  {format_line(each.submission_id)} {each.status}, {format_time(each.created_at)} UTC"
            f" by {format_line(each.submitted_by)}, same {each.by}"
        )


def _list_quotas(report: SourceReport) -> Iterator[str]:
    if report.quotas:
        yield "schedules that you have left:"
    yield from (f"  {format_line(each.event)}: {_tell_quota(each)}" for each in report.quotas)


def _tell_quota(quota: EventQuota) -> str:
    if quota.objection is not None:
        return format_line(quota.objection)
    if quota.limit is None or quota.hours is None:
        return "no limit"
    return f"{quota.left} of {quota.limit} in {quota.hours:g} hours"
