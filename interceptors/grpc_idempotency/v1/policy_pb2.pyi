import datetime

from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Effects(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EFFECTS_UNSPECIFIED: _ClassVar[Effects]
    EFFECTS_OPAQUE: _ClassVar[Effects]
    EFFECTS_TRANSACTIONAL: _ClassVar[Effects]
    EFFECTS_REPEATABLE: _ClassVar[Effects]

class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODE_UNSPECIFIED: _ClassVar[Code]
    CODE_CANCELLED: _ClassVar[Code]
    CODE_UNKNOWN: _ClassVar[Code]
    CODE_INVALID_ARGUMENT: _ClassVar[Code]
    CODE_DEADLINE_EXCEEDED: _ClassVar[Code]
    CODE_NOT_FOUND: _ClassVar[Code]
    CODE_ALREADY_EXISTS: _ClassVar[Code]
    CODE_PERMISSION_DENIED: _ClassVar[Code]
    CODE_RESOURCE_EXHAUSTED: _ClassVar[Code]
    CODE_FAILED_PRECONDITION: _ClassVar[Code]
    CODE_ABORTED: _ClassVar[Code]
    CODE_OUT_OF_RANGE: _ClassVar[Code]
    CODE_UNIMPLEMENTED: _ClassVar[Code]
    CODE_INTERNAL: _ClassVar[Code]
    CODE_UNAVAILABLE: _ClassVar[Code]
    CODE_DATA_LOSS: _ClassVar[Code]
    CODE_UNAUTHENTICATED: _ClassVar[Code]
EFFECTS_UNSPECIFIED: Effects
EFFECTS_OPAQUE: Effects
EFFECTS_TRANSACTIONAL: Effects
EFFECTS_REPEATABLE: Effects
CODE_UNSPECIFIED: Code
CODE_CANCELLED: Code
CODE_UNKNOWN: Code
CODE_INVALID_ARGUMENT: Code
CODE_DEADLINE_EXCEEDED: Code
CODE_NOT_FOUND: Code
CODE_ALREADY_EXISTS: Code
CODE_PERMISSION_DENIED: Code
CODE_RESOURCE_EXHAUSTED: Code
CODE_FAILED_PRECONDITION: Code
CODE_ABORTED: Code
CODE_OUT_OF_RANGE: Code
CODE_UNIMPLEMENTED: Code
CODE_INTERNAL: Code
CODE_UNAVAILABLE: Code
CODE_DATA_LOSS: Code
CODE_UNAUTHENTICATED: Code
POLICY_FIELD_NUMBER: _ClassVar[int]
policy: _descriptor.FieldDescriptor

class Policy(_message.Message):
    __slots__ = ("effects", "required", "headers", "ttl", "lease", "renew_every", "wait", "wait_margin", "execution_limit", "max_request_bytes", "max_response_bytes", "max_trailer_bytes", "stored", "released", "left_out", "pass_bidirectional", "keep_reads", "unprotected", "max_tries", "retry_delay", "recover", "kept_metadata")
    EFFECTS_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    RENEW_EVERY_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    WAIT_MARGIN_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_LIMIT_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_TRAILER_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    PASS_BIDIRECTIONAL_FIELD_NUMBER: _ClassVar[int]
    KEEP_READS_FIELD_NUMBER: _ClassVar[int]
    UNPROTECTED_FIELD_NUMBER: _ClassVar[int]
    MAX_TRIES_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_FIELD_NUMBER: _ClassVar[int]
    RECOVER_FIELD_NUMBER: _ClassVar[int]
    KEPT_METADATA_FIELD_NUMBER: _ClassVar[int]
    effects: Effects
    required: bool
    headers: _containers.RepeatedScalarFieldContainer[str]
    ttl: _duration_pb2.Duration
    lease: _duration_pb2.Duration
    renew_every: _duration_pb2.Duration
    wait: _duration_pb2.Duration
    wait_margin: _duration_pb2.Duration
    execution_limit: _duration_pb2.Duration
    max_request_bytes: int
    max_response_bytes: int
    max_trailer_bytes: int
    stored: _containers.RepeatedScalarFieldContainer[Code]
    released: _containers.RepeatedScalarFieldContainer[Code]
    left_out: _containers.RepeatedScalarFieldContainer[str]
    pass_bidirectional: bool
    keep_reads: bool
    unprotected: bool
    max_tries: int
    retry_delay: _duration_pb2.Duration
    recover: bool
    kept_metadata: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, effects: _Optional[_Union[Effects, str]] = ..., required: _Optional[bool] = ..., headers: _Optional[_Iterable[str]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., renew_every: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., wait_margin: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., execution_limit: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_request_bytes: _Optional[int] = ..., max_response_bytes: _Optional[int] = ..., max_trailer_bytes: _Optional[int] = ..., stored: _Optional[_Iterable[_Union[Code, str]]] = ..., released: _Optional[_Iterable[_Union[Code, str]]] = ..., left_out: _Optional[_Iterable[str]] = ..., pass_bidirectional: _Optional[bool] = ..., keep_reads: _Optional[bool] = ..., unprotected: _Optional[bool] = ..., max_tries: _Optional[int] = ..., retry_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., recover: _Optional[bool] = ..., kept_metadata: _Optional[_Iterable[str]] = ...) -> None: ...
