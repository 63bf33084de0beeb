"""Stores what an attempt has left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydantic import ValidationError

from touchstone_agent.adapters.files import hash_file, open_below
from touchstone_agent.attempt_handle import AttemptHandle
from touchstone_agent.context import AgentContext
from touchstone_agent.logs import Log
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.facts import UploadedFile
from touchstone_agent.protocol.messages import Grant, GrantPurpose, Want
from touchstone_agent.protocol.words import build_line, describe_refusal

log = Log("outputs")


class OutputUploader:
    """
    Uploads the files that the verdict of one attempt lists.

    :param handle: The attempt.
    :param context: What it works with.
    :param is_ended: Whether they are needed no more, or the agent is to end.
    """

    def __init__(
        self, handle: AttemptHandle, context: AgentContext, *, is_ended: Callable[[], bool]
    ) -> None:
        self._handle = handle
        self._context = context
        self._is_ended = is_ended

    def upload(self) -> None:
        """
        Upload every file of the verdict that is not uploaded yet.

        A file that is refused, or is not what the verdict says, is noted as failed.

        :raises TransientError: If the store cannot be used now, or a grant has expired.
        :raises PermanentError: If it is an attempt on private data, of which no file is sent.
        """
        if self._handle.attempt.is_private:
            raise PermanentError("no file of an attempt on private data is sent")
        files = self._read_files()
        attempt = self._handle.attempt
        done = {*attempt.uploaded, *attempt.failed}
        left = [file for file in files if file.path not in done]
        if left:
            wants = [Want(path=f.path, sha256=f.sha256, size=f.size) for f in left]
            answer = self._context.grant_requester.ask(
                self._handle.ref, GrantPurpose.OUTPUT, wants, is_ended=self._is_ended
            )
            for file in left:
                if file.path in answer.refused:
                    self._fail_file(file.path, f"refused: {answer.refused[file.path]}")
                else:
                    self._put(file, answer.grants[file.path])

    def _read_files(self) -> list[UploadedFile]:
        """Return what is to be uploaded; an older agent may have listed what no store takes."""
        files = []
        for item in self._handle.attempt.details.get("files", ()):
            try:
                files.append(UploadedFile.model_validate(item))
            except ValidationError as error:
                self._fail_file(build_line(str(item.get("path")), 200), describe_refusal(error))
        return files

    def _put(self, file: UploadedFile, grant: Grant) -> None:
        try:
            with open_below(self._handle.folder / "out", file.path) as source:
                found = hash_file(source)
                if found != (file.sha256, file.size):
                    raise PermanentError("is not the file that the verdict lists")
                self._context.transfer.put(
                    grant, source, offset=0, size=file.size, is_cancelled=self._is_ended
                )
        except (FileNotFoundError, PermanentError) as error:
            self._fail_file(file.path, str(error))
        else:
            self._handle.update(lambda a: replace(a, uploaded=(*a.uploaded, file.path)))

    def _fail_file(self, path: str, reason: str) -> None:
        log.warning("output.failed", attempt=self._handle.name, path=path, reason=reason)
        self._handle.update(lambda a: replace(a, failed={**a.failed, path: reason}))
