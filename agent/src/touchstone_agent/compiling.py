"""Gives a training what its submission has compiled before, and keeps what it adds."""

from __future__ import annotations

from touchstone_agent.attempt_handle import AttemptHandle
from touchstone_agent.context import AgentContext
from touchstone_agent.protocol.messages import SlotClass


def give_compiled(handle: AttemptHandle, context: AgentContext) -> None:
    """
    Put what there is beside the inputs of an attempt that is about to be launched.

    A validation gets nothing and leaves nothing: it judges code that nobody has accepted yet, and
    runs each part of it afresh on purpose. An attempt on private data neither: what it leaves would
    reach the submission's next training, whose files may be sent.
    """
    attempt = handle.attempt
    start, digest = attempt.start, attempt.details.get("image_digest")
    if attempt.is_private:
        return
    if start.slot_class is not SlotClass.TRAINING or start.network or not isinstance(digest, str):
        return
    inputs = [(item.path, item.sha256) for item in start.inputs]
    context.compiled.give(handle.folder, start.ref.submission_id, inputs, digest, attempt.gpu_ids)


def keep_compiled(handle: AttemptHandle, context: AgentContext) -> None:
    """Keep what an attempt has compiled, if it has succeeded."""
    verdict = handle.attempt.details.get("verdict")
    if handle.attempt.is_private:
        return
    if isinstance(verdict, dict) and verdict.get("outcome") == "succeeded":
        context.compiled.take(handle.folder)
