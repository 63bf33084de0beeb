"""Images that tasks in the queue will need: pulled before a slot is free, one after the other."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial

from touchstone_agent.context import AgentContext
from touchstone_agent.grants import AskingEnded
from touchstone_agent.logs import Log
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import MAX_STAGED
from touchstone_agent.protocol.references import find_pinned

log = Log("staging")


class ImageStager:
    """
    Pulls images ahead, in a thread that lives as long as there is an image to pull.

    What fails is left to the attempt that needs it, or to the next time it is asked for.

    :param context: What it works with.
    :param allows: Tells whether an image may run here.
    """

    def __init__(self, context: AgentContext, *, allows: Callable[[str], bool]) -> None:
        self._context = context
        self._allows = allows
        self._lock = threading.Lock()
        self._wanted: OrderedDict[str, None] = OrderedDict()
        self._is_at_work = False

    def stage(self, images: Iterable[str]) -> None:
        """Pull what is not here and may run here; what is not named by content is left."""
        with self._lock:
            for image in images:
                if find_pinned(image) and self._allows(image) and len(self._wanted) < MAX_STAGED:
                    self._wanted[image] = None
            if not self._wanted or self._is_at_work:
                return
            self._is_at_work = True
        threading.Thread(target=self._run, name="staging", daemon=True).start()

    def _run(self) -> None:
        is_leaving = self._context.stopping.is_set
        while True:
            with self._lock:
                image = next(iter(self._wanted), None)
                if image is None or is_leaving():
                    self._is_at_work = False
                    return
            try:
                self._context.runtime.resolve_image(
                    image,
                    is_cancelled=is_leaving,
                    find_login=partial(self._context.logins.ask, None, image, is_ended=is_leaving),
                )
                log.info("image.staged", image=image)
            except (TransientError, PermanentError, AskingEnded) as error:
                log.warning("image.not_staged", image=image, problem=str(error))
            except Exception:
                # This thread ends with its work, and not before: otherwise nothing is staged again.
                log.exception("image.defect", image=image)
            finally:
                with self._lock:
                    self._wanted.pop(image, None)
