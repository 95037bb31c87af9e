"""Reports of a check: a table, JSON and JUnit XML."""

from grpc_idempotency.check._reports.json import write_json
from grpc_idempotency.check._reports.junit import write_junit
from grpc_idempotency.check._reports.table import write_table

__all__ = ["write_json", "write_junit", "write_table"]
