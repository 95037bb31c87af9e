"""Shows which probe runs."""

from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from grpc_idempotency.check._results import Result

if TYPE_CHECKING:
    from rich.status import Status


class Progress:
    """The probe that runs: with a spinner on a terminal, elsewhere as a line of text. It is a context manager."""

    def __init__(self, out: TextIO, *, quiet: bool) -> None:
        self._out, self._quiet = out, quiet
        self._console = Console(file=out, highlight=False)
        self._status: Status | None = None
        self._begun = False
        """True if a line of text has no end yet."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        """Takes the spinner away, or ends the line."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        if self._begun:
            print(file=self._out, flush=True)
            self._begun = False

    def __call__(self, title: str, result: Result | None) -> None:
        """Shows what begins, or how it has ended."""
        if self._quiet:
            return
        if self._console.is_terminal:
            self._shown(title, result)
        else:
            self._written(title, result)

    def _shown(self, title: str, result: Result | None) -> None:
        self.__exit__()
        if result is None:
            self._status = self._console.status(title)
            self._status.start()
        else:
            self._console.print(f"{result.verdict.value:8} {title}", markup=False)

    def _written(self, title: str, result: Result | None) -> None:
        if result is None:
            self.__exit__()
            print(title, end="", file=self._out, flush=True)
            self._begun = True
        else:
            print(f": {result.verdict.value}, {result.seconds:.1f} s", file=self._out, flush=True)
            self._begun = False
