"""The probes, in the order in which they run: those that end the server come last."""

from collections.abc import Sequence

from grpc_idempotency.check._probes.base import Probe
from grpc_idempotency.check._probes.bodies import Error, LargeReply, MapOrder, RequestId
from grpc_idempotency.check._probes.keys import CaseOfKey, DoubleKey, EmptyKey, LongKey, MalformedKey, NoKey
from grpc_idempotency.check._probes.lives import Kill, Replica, Restart, Ttl
from grpc_idempotency.check._probes.losses import CutConnection, Deadline, LostReply, RetryPolicy
from grpc_idempotency.check._probes.repeats import AtOnce, Duplicate, OtherBody
from grpc_idempotency.check._probes.scopes import OtherCaller, OtherMethod
from grpc_idempotency.check._probes.streams import BothStreams, ReplyStream, RequestStream

PROBES: Sequence[Probe] = (
    Duplicate(),
    AtOnce(),
    OtherBody(),
    LostReply(),
    Deadline(),
    CutConnection(),
    RetryPolicy(),
    MalformedKey(),
    DoubleKey(),
    EmptyKey(),
    LongKey(),
    CaseOfKey(),
    NoKey(),
    OtherMethod(),
    OtherCaller(),
    Error(),
    MapOrder(),
    LargeReply(),
    RequestId(),
    ReplyStream(),
    RequestStream(),
    BothStreams(),
    Replica(),
    Ttl(),
    Restart(),
    Kill(),
)

__all__ = ["PROBES", "Probe"]
