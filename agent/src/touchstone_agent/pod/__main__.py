"""
The ``touchstone-pod`` command.

Every command but ``serve`` and ``run`` reads one JSON document and writes one, and nothing else, to
its standard output. What is wrong is one line on standard error, and the exit code: 2 for what
will never work, 75 for what may work later.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TypeVar

from touchstone_agent.pod.home import PodHome, Record, read_json
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError

if TYPE_CHECKING:
    from touchstone_agent.protocol.facts import Wire

USAGE = "usage: touchstone-pod serve|start|poll|upload"
EXIT_WRONG = 2
EXIT_TEMPORARY = 75
MAX_INPUT_BYTES = 16 * 1024**2

_Message = TypeVar("_Message", bound="Wire")

# Each command imports what it needs itself: a poll must not wait for what only a start uses.


def main() -> int:
    """Run one command and return its exit code."""
    os.umask(0o022)
    try:
        return _dispatch(sys.argv[1:])
    except PermanentError as error:
        return _complain(str(error), EXIT_WRONG)
    except Exception as error:
        # Whatever it was, the caller gets it in one line and may call again.
        return _complain(str(error) or type(error).__name__, EXIT_TEMPORARY)


def _dispatch(arguments: list[str]) -> int:
    home = PodHome.find()
    if arguments == ["poll"]:
        from touchstone_agent.pod.poll import poll

        return _answer(poll(home, _read_input()))
    if arguments == ["start"]:
        from touchstone_agent.pod.start import start
        from touchstone_agent.protocol.pods import PodStart

        return _answer(start(home, _parse(PodStart)))
    if arguments == ["upload"]:
        from touchstone_agent.adapters.transfer import Transfer
        from touchstone_agent.pod.upload import upload
        from touchstone_agent.protocol.pods import PodUpload

        wanted = _parse(PodUpload)
        os.environ.update((read_json(home.environment_file) or {}).get("own", {}))
        return _answer(upload(home, wanted, Transfer()).model_dump(mode="json"))
    if arguments == ["run"]:
        from touchstone_agent.pod.runner import run

        return run(home)
    if arguments == ["serve"]:
        from touchstone_agent.pod.serve import serve

        return serve(os.environ)
    raise ConfigurationError(USAGE)


def _read_input() -> bytes:
    text = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(text) > MAX_INPUT_BYTES:
        raise ConfigurationError(f"the standard input has more than {MAX_INPUT_BYTES} bytes")
    return text


def _parse(message: type[_Message]) -> _Message:
    from pydantic import ValidationError

    from touchstone_agent.protocol.documents import DocumentRefused, parse_json
    from touchstone_agent.protocol.words import describe_refusal

    try:
        return message.model_validate(parse_json(_read_input(), max_bytes=MAX_INPUT_BYTES))
    except ValidationError as error:
        # Without the input itself: there are grants in it.
        raise ConfigurationError(describe_refusal(error)) from None
    except DocumentRefused as error:
        raise ConfigurationError(f"the standard input is no usable JSON: {error}") from None


def _answer(answer: Record) -> int:
    from touchstone_agent.pod.state import encode

    sys.stdout.buffer.write(encode(answer))
    sys.stdout.buffer.flush()
    return 0


def _complain(problem: str, code: int) -> int:
    from touchstone_agent.logs import redact

    print(f"touchstone-pod: {redact(' '.join(problem.split()))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
