"""The options that say how a server is reached: its address, TLS, types and replicas."""

from pathlib import Path

import pytest
import trustme

from .conftest import COUNT, PAY, Serve, only, probed, run_check
from .payments.protos import descriptors

pytestmark = pytest.mark.slow


def test_a_descriptor_set_stands_in_for_reflection(serve: Serve, tmp_path: Path) -> None:
    """A server without reflection is checked with the types of a file; without one, the message says so."""
    address = serve("guard", "--without-reflection")
    ended = probed(address)
    assert (ended.code, "--descriptor-set FILE" in ended.err) == (2, True)
    file = tmp_path / "types.binpb"
    file.write_bytes(descriptors())
    assert probed(address, "--descriptor-set", str(file)).code == 0
    file.write_bytes(b"no descriptors")
    assert probed(address, "--descriptor-set", str(file)).code == 2


def test_tls(serve: Serve, tmp_path: Path) -> None:
    """A server that wants TLS and a client's certificate is called with them, over the relay too."""
    authority = trustme.CA()
    server, client = authority.issue_cert("localhost"), authority.issue_cert("client.example")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, issued in (("server", server), ("client", client)):
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    port = serve("guard", "--tls", str(tmp_path)).rpartition(":")[2]
    files = {"--ca": "ca.pem", "--cert": "client.pem", "--cert-key": "client.key"}
    options = [part for option, file in files.items() for part in (option, str(tmp_path / file))]
    arguments = (*PAY, *COUNT, *only("duplicate", "retry-policy", "cut", "at-once"), "--json")
    ended = run_check(f"localhost:{port}", *arguments, *options)
    assert set(ended.verdicts.values()) == {"passed"}, ended.out + ended.err
    assert run_check(f"localhost:{port}", *arguments, "--wait", "1").code == 4


def test_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    """A server on a Unix socket is on this host, and is called over the relay too."""
    path = tmp_path / "s"
    serve("guard", "--also", f"unix:{path}")
    ended = run_check(f"unix:{path}", *PAY, *COUNT, *only("duplicate", "retry-policy", "cut"), "--json")
    assert set(ended.verdicts.values()) == {"passed"}, ended.out + ended.err


def test_a_replica_must_be_reached(guarded: str) -> None:
    """A replica that does not answer is found before any call, and not by the probe that needs it."""
    ended = probed(guarded, "--replica", "127.0.0.1:1", "--wait", "0.2")
    assert (ended.code, "127.0.0.1:1" in ended.err) == (4, True)
