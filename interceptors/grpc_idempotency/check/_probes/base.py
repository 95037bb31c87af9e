"""What a probe is."""

from abc import ABC, abstractmethod
from typing import ClassVar

from grpc_idempotency.check._outcomes import Outcome
from grpc_idempotency.check._session import Session
from grpc_idempotency.check._settings import Settings


class Probe(ABC):
    """One way in which a retry can take effect twice, and how to find out."""

    id: ClassVar[str]
    """Its name on the command line."""
    title: ClassVar[str]
    """What it does, in a few words."""
    passes: ClassVar[str]
    """What must hold, for the reference page."""
    needs: ClassVar[str] = ""
    """Which option or kind of method it needs, for the reference page."""

    def skips(self, session: Session) -> str:
        """Returns why the probe does not apply; empty if it does."""
        return ""

    def calls(self, settings: Settings) -> int:
        """Returns about how many calls it makes, for the announcement."""
        return 4

    @abstractmethod
    def run(self, session: Session) -> Outcome:
        """Probes, and concludes."""
