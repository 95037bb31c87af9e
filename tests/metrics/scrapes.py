"""What Prometheus gets of a server, over HTTP."""

import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


@contextmanager
def exposed(registry: CollectorRegistry) -> Iterator[str]:
    """Serves a registry as an application does, and yields the URL."""
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def scraped(url: str) -> Sequence[Sample]:
    """Scrapes a server once."""
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  # our own server
        text = answer.read().decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def value_of(samples: Sequence[Sample], name: str, **labels: str) -> float:
    """Returns the sum of the samples of a name that have these labels."""
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())
