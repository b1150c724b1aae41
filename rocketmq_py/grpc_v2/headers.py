"""What travels with every call beside its request: who is calling, and the signature. Pure but for the clock."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from datetime import UTC, datetime

from rocketmq_py.clock import Clock
from rocketmq_py.model.config import ClientConfig

PROTOCOL_VERSION = "v2"
CLIENT_VERSION = "5.2.1"
"""The official client whose behaviour this one follows: servers compare it, as a text, with versions of their own."""

Metadata = tuple[tuple[str, str], ...]


class Headers:
    """Makes the metadata of calls of one client. Any thread may call it.

    Source: Signature.sign of the Java gRPC client.
    """

    def __init__(self, client_id: str, config: ClientConfig, clock: Clock) -> None:
        self._clock = clock
        self._access_key = config.access_key
        self._secret_key = config.secret_key
        fixed = [
            ("x-mq-language", "PYTHON"),  # the proxy ends the stream of whoever writes it otherwise
            ("x-mq-protocol", PROTOCOL_VERSION),
            ("x-mq-client-version", CLIENT_VERSION),
            ("x-mq-client-id", client_id),
        ]
        if config.namespace:
            fixed.append(("x-mq-namespace", config.namespace))
        if config.security_token is not None:
            fixed.append(("x-mq-session-token", config.security_token))
        self._fixed: Metadata = tuple(fixed)

    def metadata(self) -> Metadata:
        """For one call."""
        moment = datetime.fromtimestamp(self._clock.wall_ms() / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
        own: Metadata = (("x-mq-date-time", moment), ("x-mq-request-id", uuid.uuid4().hex))
        if self._access_key is None or self._secret_key is None:
            return self._fixed + own
        signature = sign(self._secret_key, moment)
        credential = f"Credential={self._access_key}, SignedHeaders=x-mq-date-time, Signature={signature}"
        return (*self._fixed, *own, ("authorization", f"MQv2-HMAC-SHA1 {credential}"))


def sign(secret_key: str, moment: str) -> str:
    """The signature of a moment: upper-case hexadecimal HMAC-SHA1."""
    return hmac.new(secret_key.encode(), moment.encode(), hashlib.sha1).hexdigest().upper()
