"""The payments that were made: lines of a file, which several processes can share and which survives them."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

from .protos import ListResponse, Payment


class Ledger:
    def __init__(self, file: Path, lag: float) -> None:
        self._file, self._lag = file, lag
        file.touch()

    def pay(self, request: Any) -> Any:
        """Makes a payment. This is the effect."""
        payment = Payment(id=uuid.uuid4().hex, payer=request.payer, notes=request.notes)
        with self._file.open("a") as file:  # one short write, which appends as a whole
            file.write(f"{json.dumps([payment.id, payment.payer, time.time()])}\n")
        return payment

    def listed(self, request: Any) -> Any:
        """Lists the payments, in pages of 100 at most. Those of the last seconds may not be among them yet."""
        lines = [json.loads(line) for line in self._file.read_text().splitlines()]
        until = time.time() - self._lag
        payments = [(one, payer) for one, payer, at in lines if request.payer in ("", payer) and at <= until]
        begin = int(request.page_token or 0)
        end = begin + min(request.page_size or 100, 100)
        return ListResponse(
            payments=[Payment(id=one, payer=payer) for one, payer in payments[begin:end]],
            next_page_token=str(end) if end < len(payments) else "",
            total=len(payments),
        )
