"""What each reason of a refusal means, and what to do about it: for ``explain`` and docs/reference/refusals.md."""

from typing import NamedTuple

from grpc_idempotency._protocol.refusals import Reason


class Explanation(NamedTuple):
    """What a reason means."""

    meaning: str
    client: str
    """What the client does."""
    operator: str
    """What the operator of the server does."""


EXPLANATIONS = {
    Reason.KEY_INVALID: Explanation(
        "The key of the call is malformed, empty or too long, or several came that differ. Nothing was executed.",
        "corrects the key: 1 to 255 printable ASCII characters, sent once",
        "nothing; tells the client's developers",
    ),
    Reason.KEY_REQUIRED: Explanation(
        "The method's policy asks for a key, and the call carried none. Nothing was executed.",
        "sends a key: a new one for each operation, the same one with each retry of it",
        "nothing; tells the client's developers, or makes the key optional in the policy",
    ),
    Reason.PRINCIPAL_REQUIRED: Explanation(
        "The server could not tell who called, and a key belongs to its caller. Nothing was executed.",
        "authenticates, and sends the same key",
        "looks into the log: if the principal function failed, it says so there",
    ),
    Reason.STREAMING_UNSUPPORTED: Explanation(
        "A bidirectional stream can't be replayed, and the policy does not pass it through. Nothing was executed.",
        "calls without a key",
        "sets pass_bidirectional in the policy if keyed calls are to be let through unprotected",
    ),
    Reason.STREAM_LENGTH_REQUIRED: Explanation(
        "A keyed client-stream came without the number of its messages, or with several. Nothing was executed.",
        "announces how many messages it sends, in idempotency-message-count",
        "nothing; tells the client's developers",
    ),
    Reason.STREAM_TRUNCATED: Explanation(
        "Fewer messages came than the client had announced: the stream was cut off. Nothing was executed.",
        "retries with the same key and the whole stream",
        "nothing; if it happens often, looks at proxies and timeouts between client and server",
    ),
    Reason.STORE_UNAVAILABLE: Explanation(
        "The store of operations could not be used. Either nothing was executed, or the handler's outcome could not "
        "be stored: the variable 'effect' says which.",
        "retries with the same key",
        "looks after the store: the server's log says what is wrong with it",
    ),
    Reason.KEY_REUSED: Explanation(
        "The key belongs to another request to the same method by the same caller. Nothing was executed.",
        "has a bug: a new request needs a new key, and a retry repeats its first request unchanged",
        "nothing; if retries differ in a field, as a client's timestamp, names it in fingerprint_exclude",
    ),
    Reason.OUTCOME_UNKNOWN: Explanation(
        "The operation is held: nobody can know whether it took effect. Its run was cut short, its handler could not "
        "find out, or its steps could not be undone: the variable 'cause' says which.",
        "tells an operator, and retries with the same key later; does not repeat it under a new key",
        "finds out what it did, and resolves it: grpc-idempotency show STORE OPERATION, then resolve",
    ),
    Reason.RESPONSE_NOT_RETAINED: Explanation(
        "The operation has ended, and its response can't be replayed: it was larger than may be kept, an operator "
        "resolved it without giving one, or it is a stream that failed.",
        "reads the result another way; does not repeat it under a new key",
        "raises max_response_bytes in the policy if responses of this size are usual",
    ),
    Reason.IN_FLIGHT: Explanation(
        "The operation is still running, and this call has waited for as long as it may.",
        "retries with the same key after the delay",
        "nothing; if it happens often, compares wait and lease in the policy with how long the handler runs",
    ),
}
"""An explanation for each reason."""
