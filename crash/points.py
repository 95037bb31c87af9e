"""Named points at which a server of the lab kills itself."""

import os
import signal

ANYWHERE = ("after-claim", "after-look", "in-transaction", "after-commit", "before-completion", "after-completion")
UNDOING = ("in-undo", "after-undo")
IN_STEPS = ("in-step", "between-steps", *UNDOING)
POINTS = {"users": ANYWHERE, "orders": ANYWHERE + IN_STEPS}
"""The points that a service can reach."""


class Point:
    """A point at which this process kills itself, as kill -9 does, the ``nth`` time that it is reached."""

    def __init__(self, name: str = "", nth: int = 1) -> None:
        self._name = name
        self._left = nth

    def reach(self, name: str) -> None:
        if name == self._name:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
