"""The names of the store's keys: all keys of an operation are in one hash slot (6.2).

An operation belongs to one of 64 hash tags by its name, and each tag has indexes of its own. So a script can change a
record together with its indexes, and 64 indexes make up the list of all operations, without a scan. The tags are spread
evenly over the slots, so that every node of a cluster has its share.
"""

import binascii
import itertools
from collections.abc import Iterator

TAGS = 64
_SLOTS = 16_384


def slot_of(tag: bytes) -> int:
    """Returns the hash slot of the keys with this tag: CRC16 of the tag, as the specification of clusters says."""
    return binascii.crc_hqx(tag, 0) % _SLOTS


def _spread() -> Iterator[bytes]:
    """Yields one tag for each range of slots: the first number whose slot is in the range."""
    share = _SLOTS // TAGS
    for place in range(TAGS):
        yield next(tag for number in itertools.count() if slot_of(tag := b"%d" % number) // share == place)


_TAGS = tuple(_spread())
SLOTS = tuple(slot_of(tag) for tag in _TAGS)
"""The slots of the tags, by the tags' numbers."""


def tag_of(name: bytes) -> int:
    """Returns the number of an operation's tag. Names are digests, so that all tags get equal shares."""
    return name[0] % TAGS


class Keys:
    """The names of the keys with one prefix; those in lists are indexed by the number of a tag."""

    def __init__(self, prefix: str) -> None:
        tagged = [prefix.encode() + b":{%s}:" % tag for tag in _TAGS]
        self.value, self.request, self.steps, self.waiters, self.notes = (
            [one + kind for one in tagged] for kind in (b"o:", b"r:", b"s:", b"w:", b"n:")
        )
        """The beginnings of the names of an operation's own keys; the operation's name follows."""
        self.open, self.done = ([one + kind for one in tagged] for kind in (b"open", b"done"))
        """Indexes by state, method and age: of operations that are not completed, and of completed ones."""
        self.due, self.expiry = ([one + kind for one in tagged] for kind in (b"due", b"expiry"))
        """Indexes by time: when leases and delays end, and when completed operations expire."""
        self.methods = [one + b"methods" for one in tagged]
        """The methods' names by their CRCs, which stand for them in the indexes."""
        self.mark = [one + b"mark" for one in tagged]
        """Written when a group has to be confirmed by replicas: see the lane."""
        self.channels = prefix.encode() + b":wake:"
        """The beginning of the names of the channels on which processes are told of the ends of runs."""
        self.meta = tagged[0] + b"meta"
        """The version of the format, and the store's identity."""
