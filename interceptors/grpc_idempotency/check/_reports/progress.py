"""Shows on a terminal which probe runs."""

from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from grpc_idempotency.check._results import Result

if TYPE_CHECKING:
    from rich.status import Status


class Progress:
    """The probe that runs, with a spinner; and nothing where the output is no terminal."""

    def __init__(self, out: TextIO, *, quiet: bool) -> None:
        self._console = Console(file=out, highlight=False)
        self._quiet = quiet or not self._console.is_terminal
        self._status: Status | None = None

    def __call__(self, title: str, result: Result | None) -> None:
        """Shows what begins, or takes it away when it has ended."""
        if self._quiet:
            return
        if self._status is not None:
            self._status.stop()
            self._status = None
        if result is None:
            self._status = self._console.status(title)
            self._status.start()
        else:
            self._console.print(f"{result.verdict.value:8} {title}", markup=False)
