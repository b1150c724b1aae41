"""What goes wrong on the gRPC wire, as our errors: the one place that knows the codes.

A status inside a reply becomes a ``BrokerError``. Where the remoting protocol has a code of the same meaning, that is
the error's code, so that whoever tells errors apart need not know the wire; else it is the gRPC protocol's own.
gRPC's own failures become ``TransportError``s.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from rocketmq_py.errors import BrokerError, ConnectError, ProtocolError, RequestTimeoutError, RocketMQError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.codes import ResponseCode

_SAME_MEANING: Mapping[int, ResponseCode] = {
    pb.TOPIC_NOT_FOUND: ResponseCode.TOPIC_NOT_EXIST,
    pb.CONSUMER_GROUP_NOT_FOUND: ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST,
    pb.ILLEGAL_FILTER_EXPRESSION: ResponseCode.SUBSCRIPTION_PARSE_FAILED,
    pb.UNAUTHORIZED: ResponseCode.NO_PERMISSION,
    pb.FORBIDDEN: ResponseCode.NO_PERMISSION,
    pb.TOO_MANY_REQUESTS: ResponseCode.FLOW_CONTROL,
    pb.MASTER_PERSISTENCE_TIMEOUT: ResponseCode.FLUSH_DISK_TIMEOUT,
    pb.SLAVE_PERSISTENCE_TIMEOUT: ResponseCode.FLUSH_SLAVE_TIMEOUT,
    pb.HA_NOT_AVAILABLE: ResponseCode.SLAVE_NOT_AVAILABLE,
    pb.MESSAGE_BODY_TOO_LARGE: ResponseCode.MESSAGE_ILLEGAL,
    pb.MESSAGE_PROPERTIES_TOO_LARGE: ResponseCode.MESSAGE_ILLEGAL,
}

_HINTS: Mapping[int, str] = {
    pb.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE: (
        "does the topic exist, and does it take this type of message (rocketmq-py topic update TOPIC "
        "--type TYPE, or mqadmin updateTopic -a +message.type=TYPE)?"
    ),
    pb.UNAUTHORIZED: "check access_key and secret_key",
    pb.UNRECOGNIZED_CLIENT_TYPE: "the server has no settings of this client (any more)",
}

_RETRIABLE = frozenset({
    pb.TOO_MANY_REQUESTS, pb.INTERNAL_ERROR, pb.INTERNAL_SERVER_ERROR, pb.HA_NOT_AVAILABLE, pb.PROXY_TIMEOUT,
    pb.MASTER_PERSISTENCE_TIMEOUT, pb.SLAVE_PERSISTENCE_TIMEOUT, pb.UNRECOGNIZED_CLIENT_TYPE,
})  # fmt: skip
"""The same request may succeed later."""


class GrpcStatusError(BrokerError):
    """A server answered with a status that is not OK.

    Attributes:
        status: the protocol's own code, a value of ``Code``.
    """

    def __init__(self, status: pb.Status, address: str, doing: str) -> None:
        code = int(status.code)
        self.status = code
        try:
            name = pb.Code.Name(status.code)
        except ValueError:
            name = f"status {code}"
        remark = f"{name} {status.message}".rstrip()
        if hint := _HINTS.get(code):
            remark = f"{remark}; {hint}"
        super().__init__(int(_SAME_MEANING.get(code, code)), remark, address, doing)

    @property
    def retriable(self) -> bool:  # type: ignore[override]
        """Whether the same request may succeed later."""
        return self.status in _RETRIABLE

    @property
    def refresh_route(self) -> bool:  # type: ignore[override]
        """Whether the route that led here is stale."""
        return self.status == pb.TOPIC_NOT_FOUND


class HandshakeError(ConnectError):
    """The certificate is not trusted, or one end speaks TLS and the other does not: nothing to try again soon."""


_HANDSHAKES: Mapping[str, str] = {
    "Hostname Verification": "its certificate names another server; tls_check_hostname=False checks the CA alone",
    "CERTIFICATE_VERIFY_FAILED": "give its CA as tls_client_trust_cert_path",
    "SSL_ERROR": "does the server speak TLS there (use_tls)?",
}
"""By gRPC's own words, the first one that fits."""


def check(status: pb.Status, address: str, doing: str) -> None:
    """Raise what a status that is not OK means."""
    if status.code != pb.OK:
        raise GrpcStatusError(status, address, doing)


def of_rpc(error: grpc.RpcError, address: str, doing: str) -> RocketMQError:
    """What a failed call means."""
    code: grpc.StatusCode | None = error.code() if hasattr(error, "code") else None
    details: str = (error.details() if hasattr(error, "details") else None) or str(error)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RequestTimeoutError(f"{doing}: no answer from {address} in time")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ProtocolError(f"{doing}: {address} does not offer this: is it the gRPC port of a RocketMQ 5 proxy?")
    if code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}:
        return ProtocolError(f"{doing}: {address} ended the call with {code.name if code else code}: {details}")
    for words, hint in _HANDSHAKES.items():
        if words in details:
            return HandshakeError(f"{doing}: {address} cannot be reached: {details}; {hint}")
    hint = ""
    if code is grpc.StatusCode.UNAVAILABLE:
        hint = (
            "; is a RocketMQ 5 proxy running there, is this its gRPC port (endpoints), and does it want TLS (use_tls)?"
        )
    return ConnectError(f"{doing}: {address} cannot be reached: {details}{hint}")
