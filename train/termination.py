"""SIGTERM as a wish that the loop grants when it is ready."""

import signal
import threading
from types import TracebackType


class Termination:
    """Within its `with`, SIGTERM sets `requested` instead of ending the process.

    One within another sets the other's too. Outside the main thread, where Python cannot handle
    signals, nothing changes.
    """

    def __init__(self):
        self.requested = False
        self._active = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Termination":
        if self._active:
            self._previous = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._active:
            signal.signal(signal.SIGTERM, self._previous)

    def _request(self, number, frame) -> None:
        self.requested = True
        around = getattr(self._previous, "__self__", None)
        if isinstance(around, Termination):
            around.requested = True
