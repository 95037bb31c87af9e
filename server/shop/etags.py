"""Etags (AIP-154): a digest of a resource's id and version."""

import hashlib

from shop.errors import Reason, Refused


def etag(resource_id: str, version: int) -> str:
    """Returns the etag of a version of a resource."""
    return hashlib.blake2b(f"{resource_id}\n{version}".encode(), digest_size=9).hexdigest()


def require_match(sent: str, present: str, resource_id: str) -> None:
    """Refuses a change if the caller sent the etag of another version. Without an etag there is no check."""
    if sent and sent != present:
        raise Refused(Reason.ETAG_MISMATCH, id=resource_id)
