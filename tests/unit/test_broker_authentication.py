"""Access keys of the embedded broker: whose requests are answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rocketmq_py.broker.authentication import Authentication
from rocketmq_py.errors import ConfigError
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.rpc_hook import AclClientRPCHook
from tests.unit.broker_rig import Rig

FIELDS = {"topic": "topic", "queueId": "0"}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, authentication=Authentication({"alice": "secret a", "bob": "secret b"}))
    yield rig
    rig.close()


def signed(access_key: str, secret_key: str, **more: str) -> RemotingCommand:
    request = RemotingCommand(30, 7, ext_fields={**FIELDS, **more}, body=b"body")
    AclClientRPCHook(access_key, secret_key).do_before_request("there:1", request)
    return request


def answer(rig: Rig, request: RemotingCommand) -> tuple[int, str | None]:
    client = rig.client()
    rig.controller.on_request(client, request)
    rig.loop.run()
    (told,) = client.written
    return told.code, told.remark


@pytest.mark.behaviour("LI-01")
@pytest.mark.parametrize(("name", "secret"), [("alice", "secret a"), ("bob", "secret b")])
def test_a_request_signed_with_a_known_key_is_answered(rig: Rig, name: str, secret: str) -> None:
    assert answer(rig, signed(name, secret)) == (0, None)
    assert answer(rig, signed(name, secret, ns="grün", Zeta="Ω"))[0] == 0


def _without_key(request: RemotingCommand) -> None:
    del request.ext_fields["AccessKey"]


def _without_signature(request: RemotingCommand) -> None:
    del request.ext_fields["Signature"]


def _other_field(request: RemotingCommand) -> None:
    request.ext_fields["queueId"] = "1"


def _one_more_field(request: RemotingCommand) -> None:
    request.ext_fields["more"] = "1"


def _other_body(request: RemotingCommand) -> None:
    request.body = b"Body"


def _other_user(request: RemotingCommand) -> None:
    request.ext_fields["AccessKey"] = "bob"


def _unknown_user(request: RemotingCommand) -> None:
    request.ext_fields["AccessKey"] = "carol"


def _odd_signature(request: RemotingCommand) -> None:
    request.ext_fields["Signature"] = "\ud800grün"


@pytest.mark.behaviour("LI-01")
@pytest.mark.parametrize(
    "change",
    [
        _without_key, _without_signature, _other_field, _one_more_field, _other_body, _other_user, _unknown_user,
        _odd_signature,
    ],
)  # fmt: skip
def test_a_request_that_is_not_what_was_signed_is_refused(rig: Rig, change: Callable[[RemotingCommand], None]) -> None:
    request = signed("alice", "secret a")
    change(request)
    code, remark = answer(rig, request)
    assert code == 16
    assert remark is not None
    assert "secret a" not in remark
    assert ("wants signed requests" if change is _without_key else "check signature failed") in remark


@pytest.mark.behaviour("LI-01")
def test_the_broker_wants_signatures_before_it_says_what_it_can_and_the_name_server_none(rig: Rig) -> None:
    client = rig.client()
    for code in (10, 34, 99_999):
        assert client.ask(code).code == 16
    client.begin(310, flag=2)
    assert len(client.written) == 3  # a one-way request is dropped in silence
    assert client.ask(106, to=rig.controller.name_server).code == 0


@pytest.mark.behaviour("LI-01")
@pytest.mark.parametrize(("version", "code"), [(399, 0), (400, 16)])
def test_old_clients_mark_a_query_by_unique_key_after_signing(rig: Rig, version: int, code: int) -> None:
    request = signed("alice", "secret a")
    request.version = version
    request.ext_fields["_UNIQUE_KEY_QUERY"] = "true"
    assert answer(rig, request)[0] == code


@pytest.mark.behaviour("LI-01")
@pytest.mark.parametrize("keys", [{}, {"": "secret"}, {"alice": ""}])
def test_empty_access_keys_are_refused(keys: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="give at least one"):
        Authentication(keys)
