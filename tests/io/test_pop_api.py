"""What a broker is asked about popped messages, and what becomes of its answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rocketmq_py.errors import BrokerError, ConnectError, ProtocolError, RequestTimeoutError
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import PopResult, PopStatus
from rocketmq_py.model.route import BrokerData, QueueData, TopicRouteData
from rocketmq_py.model.subscription import build_subscription_data
from rocketmq_py.remoting.pop_api import PopApi
from rocketmq_py.remoting.remoting_client import RemotingClient
from rocketmq_py.remoting.route_table import RouteTable
from tests.io.cluster import BAD_BODIES, TOPIC
from tests.io.conftest import MakeClient, MakeServer
from tests.io.server import BOUND_S, answer_nothing, answer_ok, eventually, stored_message
from tests.wire.test_pop_answer import Call

POP, ACK, CHANGE = 200_050, 200_051, 200_053
FIELDS = {"popTime": "1700000000000", "invisibleTime": "60000", "reviveQid": "0", "restNum": "0"}
FOUND = {**FIELDS, "startOffsetInfo": "0 0 5", "msgOffsetInfo": "0 0 5"}


class Api:
    """The requests, with a route to brokers by their ids, that a refresh may make or change."""

    def __init__(self, remoting: RemotingClient, addresses: dict[int, str]) -> None:
        self.routes = RouteTable()
        self.refreshed: list[str] = []
        self.found_by_refresh: dict[int, str] = {}
        self.refresh_fails: Exception | None = None
        self.set_route(addresses)
        self.pop = PopApi(remoting, self.routes, self.refresh)
        self.results: list[PopResult] = []
        self.errors: list[Exception] = []

    def set_route(self, addresses: dict[int, str]) -> None:
        self.routes.update(
            TOPIC, TopicRouteData((QueueData("broker-a", 4, 4, 6),), (BrokerData("c", "broker-a", addresses),))
        )

    def refresh(self, topic: str) -> None:
        self.refreshed.append(topic)
        if self.refresh_fails is not None:
            raise self.refresh_fails
        if self.found_by_refresh:
            self.set_route(self.found_by_refresh)

    def popped(self, call: Call) -> None:
        self.pop.pop_message(call, self.results.append, self.errors.append)
        assert eventually(lambda: self.results or self.errors), "a pop that nobody was told about"

    def failed(self) -> Exception:
        assert eventually(lambda: self.errors)
        (error,) = self.errors
        return error


@pytest.fixture
def api(make_client: MakeClient) -> Callable[..., Api]:
    def make(address: str | None = None, *, slave: str | None = None) -> Api:
        addresses = {0: address, 1: slave}
        return Api(make_client(), {number: each for number, each in addresses.items() if each is not None})

    return make


MakeApi = Callable[..., Api]


def popped_message(retry: str = "0", receipt: str | None = None) -> MessageExt:
    receipt = receipt or f"5 1700000000000 60000 3 {retry} broker-a 2 7"
    return MessageExt(topic=TOPIC, queue_id=1, queue_offset=9, properties={"POP_CK": receipt})


# Pop.


@pytest.mark.behaviour("PO-28")
def test_a_pop_tells_the_broker_all_it_needs_but_leaves_the_time_to_it(make_server: MakeServer, api: MakeApi) -> None:
    server = make_server(lambda peer, seen: peer.reply(seen, 0, FOUND, stored_message(5)) and None)
    mine = api(server.address)
    mine.popped(
        Call(
            mq=MessageQueue(TOPIC, "broker-a", 3), subscription=build_subscription_data(TOPIC, "a || b", 1), max_nums=7
        )
    )
    (seen,) = server.seen
    assert seen.code == POP
    assert seen.fields == {
        "consumerGroup": "group", "topic": TOPIC, "queueId": "3", "maxMsgNums": "7", "invisibleTime": "60000",
        "pollTime": "15000", "bornTime": "0", "initMode": "1", "expType": "TAG", "exp": "a || b", "order": "false",
        "bname": "broker-a",
    }  # fmt: skip
    (result,) = mine.results
    assert result.status is PopStatus.FOUND
    assert [msg.get_property("POP_CK") for msg in result.messages] == ["5 1700000000000 60000 0 0 broker-a 0 5"]


@pytest.mark.behaviour("PO-28")
@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_damaged_message_is_an_error_of_its_pop(name: str, make_server: MakeServer, api: MakeApi) -> None:
    mine = api(make_server(lambda peer, seen: peer.reply(seen, 0, FOUND, BAD_BODIES[name]) and None).address)
    mine.popped(Call())
    assert isinstance(mine.failed(), ProtocolError)
    assert mine.results == []


@pytest.mark.behaviour("PO-28")
def test_a_pop_without_an_answer_fails_when_its_time_is_over(make_server: MakeServer, api: MakeApi) -> None:
    mine = api(make_server(answer_nothing).address)
    mine.popped(Call(timeout_ms=200))
    assert isinstance(mine.failed(), RequestTimeoutError)


# Acknowledge and put off.


@pytest.mark.behaviour("PO-29")
@pytest.mark.parametrize(
    ("retry", "topic"), [("0", TOPIC), ("1", f"%RETRY%group_{TOPIC}"), ("2", f"%RETRY%group+{TOPIC}")]
)
def test_a_message_is_settled_by_its_receipt_in_the_topic_where_it_lies(
    retry: str, topic: str, make_server: MakeServer, api: MakeApi
) -> None:
    server = make_server(answer_ok)
    mine = api(server.address)
    mine.pop.ack_message("group", TOPIC, popped_message(retry), 3_000, mine.errors.append)
    mine.pop.change_invisible_time("group", TOPIC, popped_message(retry), 30_000, 3_000, mine.errors.append)
    assert eventually(lambda: len(server.seen) == 2)
    fields = {
        "consumerGroup": "group", "topic": topic, "queueId": "2", "offset": "7", "bname": "broker-a",
        "extraInfo": f"5 1700000000000 60000 3 {retry} broker-a 2 7",
    }  # fmt: skip
    assert [(seen.code, seen.fields) for seen in server.seen] == [
        (ACK, fields),
        (CHANGE, {**fields, "invisibleTime": "30000"}),
    ]
    assert mine.errors == []


@pytest.mark.behaviour("PO-29")
@pytest.mark.parametrize("code", [208, 1])
def test_a_refused_settlement_is_told(code: int, make_server: MakeServer, api: MakeApi) -> None:
    mine = api(make_server(lambda peer, seen: peer.reply(seen, code) and None).address)
    mine.pop.ack_message("group", TOPIC, popped_message(), 3_000, mine.errors.append)
    error = mine.failed()
    assert isinstance(error, BrokerError)
    assert error.code == code
    assert "settle offset 7 of topic queue 2" in str(error)


@pytest.mark.behaviour("PO-29")
def test_without_a_usable_receipt_nothing_is_asked(make_server: MakeServer, api: MakeApi) -> None:
    server = make_server(answer_ok)
    mine = api(server.address)
    for message in (popped_message(receipt="0 1 2"), MessageExt(topic=TOPIC)):
        with pytest.raises(ProtocolError, match="POP_CK"):
            mine.pop.ack_message("group", TOPIC, message, 3_000, mine.errors.append)
        with pytest.raises(ProtocolError, match="POP_CK"):
            mine.pop.change_invisible_time("group", TOPIC, message, 5_000, 3_000, mine.errors.append)
    assert server.seen == []


# Who is asked.


@pytest.mark.behaviour("PO-30")
def test_a_broker_not_known_is_looked_for_once(make_server: MakeServer, api: MakeApi) -> None:
    server = make_server(lambda peer, seen: peer.reply(seen, 210) and None)
    mine = api(slave=server.address)
    mine.found_by_refresh = {0: server.address}
    mine.popped(Call())
    assert mine.results == [PopResult(PopStatus.POLLING_NOT_FOUND, [])]
    assert mine.refreshed == [TOPIC]


@pytest.mark.behaviour("PO-30")
@pytest.mark.parametrize("refresh_fails", [None, ConnectError("no name server"), ZeroDivisionError()])
def test_a_slave_is_neither_popped_nor_told(
    refresh_fails: Exception | None, make_server: MakeServer, api: MakeApi
) -> None:
    slave = make_server(answer_ok)
    mine = api(slave=slave.address)
    mine.refresh_fails = refresh_fails
    mine.popped(Call())
    assert mine.failed() is refresh_fails or "no master" in str(mine.failed())
    mine.errors.clear()
    mine.pop.ack_message("group", TOPIC, popped_message(), 3_000, mine.errors.append)
    assert mine.failed() is refresh_fails or "no master" in str(mine.failed())
    assert slave.seen == []


@pytest.mark.behaviour("PO-30")
def test_settling_does_not_wait_for_anybody(make_server: MakeServer, api: MakeApi) -> None:
    mine = api(make_server(answer_nothing).address)
    for _ in range(100):
        mine.pop.ack_message("group", TOPIC, popped_message(), 200, mine.errors.append)
    assert mine.errors == []
    assert eventually(lambda: len(mine.errors) == 100, BOUND_S)
