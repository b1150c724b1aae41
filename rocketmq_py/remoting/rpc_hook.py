"""Places where others may look at, and add to, the requests of a client; and the one that signs them.

Source: RPCHook, NamespaceRpcHook, AclClientRPCHook, AclUtils, AclSigner.
"""

from __future__ import annotations

import base64
import hmac
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from rocketmq_py.errors import ClientError, RocketMQError
from rocketmq_py.model.config import ClientConfig
from rocketmq_py.remoting.frame import RemotingCommand, encode

ACCESS_KEY = "AccessKey"
SIGNATURE = "Signature"
SECURITY_TOKEN = "SecurityToken"  # noqa: S105 - a field's name
NAMESPACED = "nsd"
NAMESPACE = "ns"

_log = logging.getLogger(__name__)


class RPCHook(Protocol):
    """Called around every request of a client, on the thread that makes it or brings its answer: it must not block.

    That may be the I/O thread. The address is ``host:port`` as configured or as the route tells it.
    """

    def do_before_request(self, address: str, request: RemotingCommand) -> None:
        """Before a request is sent. ``ext_fields`` and ``body`` may be changed; an error means that it is not sent."""
        ...

    def do_after_response(self, address: str, request: RemotingCommand, response: RemotingCommand) -> None:
        """When the answer came, whatever its code; not for one-way requests. Errors are logged and change nothing."""
        ...


class RpcHooks:
    """Hooks in the order in which they are called, the one that signs last: what it signs must not change any more."""

    def __init__(self, hooks: Sequence[RPCHook]) -> None:
        self._hooks = hooks

    def before(self, address: str, request: RemotingCommand) -> bytes:
        """The frame of a request after every hook has seen it.

        Raises:
            ClientError: a hook failed; a ``RocketMQError`` of a hook is raised as it is. ConfigError: it became too
                large.

        Behaviour: RH-01, RH-02.
        """
        try:
            for hook in self._hooks:
                hook.do_before_request(address, request)
            return encode(request)
        except (RocketMQError, KeyboardInterrupt):
            raise
        except BaseException as error:  # border: a hook is the user's code; sys.exit() too fails one request, no thread
            raise ClientError(
                f"a request with code {request.code} to {address} was not sent, an RPC hook failed: {error!r}"
            ) from error

    def after(self, address: str, request: RemotingCommand, response: RemotingCommand) -> None:
        """Tell every hook of an answer. Behaviour: RH-03."""
        for hook in self._hooks:
            try:
                hook.do_after_response(address, request, response)
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: BLE001 - border: the request was carried out, its answer must arrive
                _log.warning("the RPC hook %s failed after a response", type(hook).__name__, exc_info=True)


def hooks_of(config: ClientConfig) -> list[RPCHook]:
    """The hooks of a client in the order in which they are called. Source: MQClientAPIImpl."""
    hooks: list[RPCHook] = []
    if config.namespace_v2:
        hooks.append(NamespaceRpcHook(config.namespace_v2))
    if config.rpc_hook is not None:
        hooks.append(config.rpc_hook)
    if config.access_key is not None and config.secret_key is not None:
        hooks.append(AclClientRPCHook(config.access_key, config.secret_key, config.security_token))
    return hooks


class NamespaceRpcHook:
    """Names a namespace in a field of its own, names stay as they are. Behaviour: NS-06."""

    def __init__(self, namespace_v2: str) -> None:
        self._namespace_v2 = namespace_v2

    def do_before_request(self, address: str, request: RemotingCommand) -> None:
        """Add the namespace."""
        request.ext_fields[NAMESPACED] = "true"
        request.ext_fields[NAMESPACE] = self._namespace_v2

    def do_after_response(self, address: str, request: RemotingCommand, response: RemotingCommand) -> None:
        """Nothing."""


class AclClientRPCHook:
    """Signs requests with an access key. Behaviour: SE-01.

    Args:
        access_key: name of the user.
        secret_key: the user's password; it is never sent.
        security_token: of temporary credentials; sent and signed.
    """

    def __init__(self, access_key: str, secret_key: str, security_token: str | None = None) -> None:
        self._access_key = access_key
        self._secret_key = secret_key.encode()
        self._security_token = security_token

    def do_before_request(self, address: str, request: RemotingCommand) -> None:
        """Add access key, security token and signature."""
        fields = request.ext_fields
        fields[ACCESS_KEY] = self._access_key
        if self._security_token is not None:
            fields[SECURITY_TOKEN] = self._security_token
        fields[SIGNATURE] = signature(self._secret_key, fields, request.body)

    def do_after_response(self, address: str, request: RemotingCommand, response: RemotingCommand) -> None:
        """Nothing."""

    def __repr__(self) -> str:
        return f"<AclClientRPCHook of {self._access_key}>"


def signature(secret_key: bytes, fields: Mapping[str, str], body: bytes) -> str:
    """Base64 of the HMAC-SHA1 over all fields' values but the signature, in the order of their names, and the body.

    Source: AclUtils.combineRequestContent, AclSigner.calSignature.
    """
    # Java sorts texts by their UTF-16 units. A half of a surrogate pair becomes "?" on both ways.
    names = sorted((name for name in fields if name != SIGNATURE), key=lambda name: name.encode("utf-16-be", "replace"))
    content = "".join([fields[name] for name in names]).encode("utf-8", "replace") + body
    return base64.b64encode(hmac.digest(secret_key, content, "sha1")).decode("ascii")
