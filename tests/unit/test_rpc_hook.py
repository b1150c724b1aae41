from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from typing import Any

import pytest

from rocketmq_py.errors import BrokerError, ClientError
from rocketmq_py.remoting.frame import FrameReader, RemotingCommand
from rocketmq_py.remoting.rpc_hook import AclClientRPCHook, RpcHooks, signature

SECRET = "12345678"


def request(body: bytes = b"", **fields: str) -> RemotingCommand:
    return RemotingCommand(11, ext_fields=dict(fields), body=body)


def mac(content: bytes) -> str:
    return base64.b64encode(hmac.new(SECRET.encode(), content, hashlib.sha1).digest()).decode()


@pytest.mark.behaviour("SE-01")
def test_the_signature_is_upstream_s() -> None:
    # The value is that of upstream's own test, AclSignerTest.
    assert signature(SECRET.encode(), {}, b"RocketMQ") == "IUc8rrO/0gDch8CjObLQsW2rsiA="


@pytest.mark.behaviour("SE-01")
def test_values_are_signed_in_the_order_of_their_names_capitals_first_and_then_the_body() -> None:
    command = request(b"body", topic="t", queueId="1", a="x", Zone="z")
    AclClientRPCHook("ak", SECRET).do_before_request("there:1", command)
    # AccessKey, Zone, a, queueId, topic
    assert command.ext_fields == {
        "topic": "t", "queueId": "1", "a": "x", "Zone": "z", "AccessKey": "ak", "Signature": mac(b"akzx1tbody"),
    }  # fmt: skip


@pytest.mark.behaviour("SE-01")
def test_a_security_token_is_sent_and_signed() -> None:
    command = request(topic="t")
    AclClientRPCHook("ak", SECRET, "token").do_before_request("there:1", command)
    assert command.ext_fields["SecurityToken"] == "token"
    assert command.ext_fields["Signature"] == mac(b"aktokent")


@pytest.mark.behaviour("SE-01")
def test_names_are_ordered_by_utf_16_as_java_does_and_values_signed_as_utf_8() -> None:
    # U+FF61 comes before U+1F600 by code point, behind it by UTF-16 units.
    fields = {"\uff61": "1", "\U0001f600": "2", "plain": "\u00e9"}
    assert signature(SECRET.encode(), fields, b"") == mac("\u00e921".encode())


@pytest.mark.behaviour("SE-01")
def test_signing_again_replaces_the_signature() -> None:
    command, hook = request(topic="t"), AclClientRPCHook("ak", SECRET)
    hook.do_before_request("there:1", command)
    first = command.ext_fields["Signature"]
    hook.do_before_request("there:1", command)
    assert command.ext_fields["Signature"] == first


@pytest.mark.behaviour("SE-03")
def test_neither_the_hook_nor_a_command_shows_what_is_secret() -> None:
    hook, command = AclClientRPCHook("ak", SECRET, "my-token"), request(topic="t")
    hook.do_before_request("there:1", command)
    for text in (repr(hook), repr(command)):
        assert not any(secret in text for secret in (SECRET, "my-token", command.ext_fields["Signature"]))
    assert "'topic': 't'" in repr(command)


class Notes:
    """A hook that writes down what it is called with."""

    def __init__(self, log: list[Any], before: BaseException | None = None, after: BaseException | None = None) -> None:
        self._log, self._before, self._after = log, before, after

    def do_before_request(self, address: str, request: RemotingCommand) -> None:
        self._log.append(("before", address, dict(request.ext_fields)))
        request.ext_fields["seen"] = "yes"
        if self._before is not None:
            raise self._before

    def do_after_response(self, address: str, request: RemotingCommand, response: RemotingCommand) -> None:
        self._log.append(("after", address, response.code))
        if self._after is not None:
            raise self._after


def decoded(frame: bytes) -> RemotingCommand:
    reader = FrameReader()
    reader.get_buffer()[: len(frame)] = frame
    reader.received(len(frame))
    command = reader.next_frame()
    assert command is not None
    return command


@pytest.mark.behaviour("RH-01")
def test_hooks_see_a_request_one_after_the_other_and_what_they_add_is_sent() -> None:
    log: list[Any] = []
    command = request(b"body", topic="t")
    sent = decoded(RpcHooks([Notes(log), AclClientRPCHook("ak", SECRET)]).before("there:1", command))
    assert log == [("before", "there:1", {"topic": "t"})]
    assert sent.ext_fields == {"topic": "t", "seen": "yes", "AccessKey": "ak", "Signature": mac(b"akyestbody")}
    assert sent.body == b"body"


@pytest.mark.behaviour("RH-02")
def test_a_hook_that_fails_before_a_request_is_an_error_that_says_so() -> None:
    with pytest.raises(ClientError, match=r"code 11 to there:1 was not sent, an RPC hook failed: ZeroDivisionError"):
        RpcHooks([Notes([], before=ZeroDivisionError("oops"))]).before("there:1", request())
    with pytest.raises(ClientError, match=r"an RPC hook failed: SystemExit"):  # on a thread of the client
        RpcHooks([Notes([], before=SystemExit(1))]).before("there:1", request())
    with pytest.raises(KeyboardInterrupt):
        RpcHooks([Notes([], before=KeyboardInterrupt())]).before("there:1", request())
    refusal = BrokerError(16, "no")
    with pytest.raises(BrokerError) as raised:
        RpcHooks([Notes([], before=refusal)]).before("there:1", request())
    assert raised.value is refusal


@pytest.mark.behaviour("RH-02")
def test_a_hook_that_adds_something_else_than_text_is_an_error_that_says_so() -> None:
    class Number:
        def do_before_request(self, address: str, request: RemotingCommand) -> None:
            request.ext_fields["n"] = 1  # type: ignore[assignment]

        def do_after_response(self, address: str, request: RemotingCommand, response: RemotingCommand) -> None: ...

    with pytest.raises(ClientError, match="an RPC hook failed"):
        RpcHooks([Number()]).before("there:1", request())


@pytest.mark.behaviour("RH-03")
@pytest.mark.parametrize("error", [ValueError("oops"), SystemExit(1)], ids=repr)
def test_a_hook_that_fails_after_a_response_is_logged_and_the_others_are_told(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    log: list[Any] = []
    with caplog.at_level(logging.WARNING):
        RpcHooks([Notes(log, after=error), Notes(log)]).after("there:1", request(), RemotingCommand.response(1, 16))
    assert log == [("after", "there:1", 16)] * 2
    assert "RPC hook Notes failed after a response" in caplog.text
