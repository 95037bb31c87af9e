"""Etags (AIP-154): a resource's version, made opaque and bound to its id."""

import hashlib

from shop.errors import Reason, Refused


def etag(resource_id: str, version: int) -> str:
    """The etag of a resource at a version."""
    return hashlib.blake2b(f"{resource_id}\n{version}".encode(), digest_size=9).hexdigest()


def require_match(sent: str, present: str, resource_id: str) -> None:
    """Refuses a change by somebody who has seen another version; who sent no etag has not asked."""
    if sent and sent != present:
        raise Refused(Reason.ETAG_MISMATCH, id=resource_id)
