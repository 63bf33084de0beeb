"""What the API answers about sources and uploads before a submission is sent."""

from __future__ import annotations

from touchstone.core.answers.common import Answer


class Uploaded(Answer):
    """
    An archive that was taken.

    :param sha256: Its digest.
    :param size: Its size in bytes.
    :param source: What stands for it as a submission's source.
    """

    sha256: str
    size: int
    source: str


class ListedRef(Answer):
    """
    A branch or a tag of a repository.

    :param name: As it is given as a submission's ``ref``.
    :param kind: ``branch`` or ``tag``.
    :param commit: The commit that it stands at.
    """

    name: str
    kind: str
    commit: str


class ListedFile(Answer):
    """
    A file of an archive.

    :param name: Its path; of a long one the end.
    :param size: Its bytes.
    """

    name: str
    size: int


class ListedArchive(Answer):
    """
    What is in an archive.

    :param sha256: Its digest.
    :param content_sha256: Digest of the submission's content: of the folder alone, packed anew.
    :param files: The first files.
    :param count: How many files there are.
    :param size: Bytes of all of them, unpacked.
    """

    sha256: str
    content_sha256: str
    files: tuple[ListedFile, ...]
    count: int
    size: int


class EqualSubmission(Answer):
    """
    A submission of the same source.

    :param submission_id: Its id.
    :param submitted_by: Whose it is.
    :param status: Where it is.
    :param created_at: When it was sent, ISO 8601.
    :param by: What is the same: ``commit`` or ``content``.
    """

    submission_id: str
    submitted_by: str
    status: str
    created_at: str
    by: str


class EventQuota(Answer):
    """
    What an event still takes of the caller.

    :param event: The event.
    :param limit: How many schedules it takes; ``None`` for as many as one likes.
    :param hours: In so many hours; ``None`` without a limit.
    :param left: How many more it takes now; ``None`` without a limit.
    :param objection: Why it takes none now, and from when on it does; ``None`` if it takes one.
    """

    event: str
    limit: int | None = None
    hours: float | None = None
    left: int | None = None
    objection: str | None = None


class SourceReport(Answer):
    """
    What is known of a source before it is sent; nothing was changed.

    :param source: The source that was looked at.
    :param refs: Branches and tags of a repository, its default branch first.
    :param refs_left_out: How many more there are.
    :param commit: The commit that the ref stands at, or the default branch without one; ``None``
        for an archive, and for what may be the beginning of a commit's id.
    :param ref_note: What else is to be said of the ref; ``None`` for nothing.
    :param archive: What is in an uploaded archive; ``None`` for a repository.
    :param equal: Submissions of the same source that the caller may see, the newest first.
    :param compared: With so many of the newest submissions it was compared.
    :param quotas: What each event still takes of the caller.
    """

    source: str
    refs: tuple[ListedRef, ...] = ()
    refs_left_out: int = 0
    commit: str | None = None
    ref_note: str | None = None
    archive: ListedArchive | None = None
    equal: tuple[EqualSubmission, ...] = ()
    compared: int = 0
    quotas: tuple[EventQuota, ...] = ()
