"""Who may ask anything: access keys and the signatures made with their secrets.

Source: DefaultAuthenticationContextBuilder, DefaultAuthenticationHandler, AuthenticationPipeline. The name server
checks nothing, as upstream's: a Java client whose questions for routes are refused does not say why.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from rocketmq_py.errors import BrokerError, ConfigError
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.rpc_hook import ACCESS_KEY, SIGNATURE, signature

UNIQUE_MSG_QUERY_FLAG = "_UNIQUE_KEY_QUERY"
"""Clients up to V4_9_3 add it after signing. Source: MixAll.UNIQUE_MSG_QUERY_FLAG."""

_V4_9_3 = 399  # MQVersion ordinal


class Authentication:
    """Checks every request of a port.

    Args:
        access_keys: secret keys by access key.

    Raises:
        ConfigError: there is none, or an empty one.
    """

    def __init__(self, access_keys: Mapping[str, str]) -> None:
        if not access_keys or not all([name and secret for name, secret in access_keys.items()]):
            raise ConfigError("access keys: give at least one, and to each a name and a secret that are not empty")
        self._secrets = {name: secret.encode() for name, secret in access_keys.items()}

    def check(self, request: RemotingCommand) -> None:
        """Let a request pass that is signed with the secret of a known access key.

        Raises:
            BrokerError: NO_PERMISSION. The text is the same for a name that is unknown and a secret that is wrong.
        """
        fields = request.ext_fields
        name = fields.get(ACCESS_KEY)
        if not name:
            raise BrokerError(
                ResponseCode.NO_PERMISSION, "this broker wants signed requests: give the client access and secret key"
            )
        signed = fields
        if request.version <= _V4_9_3 and UNIQUE_MSG_QUERY_FLAG in fields:
            signed = {field: value for field, value in fields.items() if field != UNIQUE_MSG_QUERY_FLAG}
        secret = self._secrets.get(name)
        # Computed for an unknown name, too: how long it takes tells nothing.
        expected = signature(secret or b"?", signed, request.body).encode()
        told = fields.get(SIGNATURE, "").encode(errors="replace")
        if not hmac.compare_digest(expected, told) or secret is None:
            raise BrokerError(ResponseCode.NO_PERMISSION, "check signature failed: access key or secret key is wrong")

    def check_header(self, authorization: str, date_time: str) -> None:
        """Let a call of the gRPC protocol pass; its signature is of the time that it tells, and of nothing else.

        Raises:
            BrokerError: NO_PERMISSION, as above.
        """
        _, _, pairs = authorization.partition(" ")
        told = dict(pair.strip().partition("=")[::2] for pair in pairs.split(","))
        name = told.get("Credential", "").partition("/")[0]
        if not name or not date_time:
            raise BrokerError(
                ResponseCode.NO_PERMISSION, "this broker wants signed calls: give the client access and secret key"
            )
        secret = self._secrets.get(name)
        expected = hmac.digest(secret or b"?", date_time.encode(), "sha1").hex().encode()
        signed = told.get("Signature", "").lower().encode(errors="replace")
        if not hmac.compare_digest(expected, signed) or secret is None:
            raise BrokerError(ResponseCode.NO_PERMISSION, "check signature failed: access key or secret key is wrong")
