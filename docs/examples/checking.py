"""Checks from a program whether a method of a server is safe to retry."""

import sys

from grpc_idempotency.check import Counting, Settings, check

ORDER = """{
    "customer_id": "{{marker}}",
    "items": [{"sku": "SKU001", "quantity": 2}],
    "total_amount": {"currency_code": "USD", "units": 55}
}"""


def main(address: str = "127.0.0.1:50051") -> int:
    settings = Settings(
        address=address,
        method="shop.orders.v1.OrderService/CreateOrder",
        requests=[ORDER],
        count=Counting(method="ListOrders", path="orders"),
        only=["duplicate", "at-once", "other-body"],
    )
    report = check(settings)
    for result in report.results:
        print(result.verdict.value, result.probe, result.happened)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
