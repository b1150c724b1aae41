"""What becomes of the answers of brokers and proxies that lie, are damaged, or never come."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rocketmq_py.clock import SystemClock
from rocketmq_py.errors import BrokerError, ConnectError, ProtocolError, RequestTimeoutError, RocketMQError
from rocketmq_py.model.calls import PullCall
from rocketmq_py.model.codes import PullSysFlag
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import PullResult, PullStatus
from rocketmq_py.model.route import BrokerData, QueueData, TopicRouteData
from rocketmq_py.model.subscription import build_subscription_data
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.broker_api import BrokerApi
from rocketmq_py.remoting.message_sender import MessageSender
from rocketmq_py.remoting.proxy_lanes import LANES_MAX
from rocketmq_py.remoting.remoting_client import RemotingClient
from rocketmq_py.remoting.route_table import RouteTable
from tests.io.cluster import BAD_BODIES, NOT_FOUND, PULL, TOPIC, reply_pull
from tests.io.conftest import MakeClient, MakeServer
from tests.io.server import BOUND_S, Peer, Seen, Server, answer_nothing, eventually, stays, stored_message

MIB = 1024 * 1024


EVERYTHING = build_subscription_data(TOPIC, "*", 1)


def pull_call(mq: MessageQueue, **more: Any) -> PullCall:
    """A pull as the core asks for it."""
    return PullCall("group", mq, EVERYTHING, 0, 0, False, 32, 262_144, 15_000, 8_000)._replace(**more)


class Pulled:
    """What became of a pull."""

    def __init__(self) -> None:
        self.results: list[PullResult] = []
        self.errors: list[Exception] = []

    @property
    def count(self) -> int:
        return len(self.results) + len(self.errors)


class Api:
    """The wire's upper half with a route to one server."""

    def __init__(self, remoting: RemotingClient, *addresses: str, proxy: bool = False) -> None:
        self.routes = RouteTable()
        brokers = {f"broker-{letter}": address for letter, address in zip("abcdefgh", addresses, strict=False)}
        self.routes.update(
            TOPIC,
            TopicRouteData(
                tuple(QueueData(name, 4, 4, 6) for name in brokers),
                tuple(BrokerData("c", name, {0: address}) for name, address in brokers.items()),
            ),
        )
        if proxy:
            for address in addresses:
                self.routes.note_proxy(address)
        self.refreshed: list[str] = []
        self.on_refresh: Callable[[], object] = lambda: None
        sender = MessageSender(remoting, self.routes, SystemClock(), self.refresh)
        self.broker = BrokerApi(remoting, self.routes, sender, SystemClock(), self.refresh, 3_000)

    def refresh(self, topic: str) -> bool:
        self.refreshed.append(topic)
        self.on_refresh()
        return False

    def pull(self, call: PullCall) -> Pulled:
        pulled = Pulled()
        self.broker.pull_message(call, pulled.results.append, pulled.errors.append)
        return pulled

    def pulled(self, call: PullCall) -> Pulled:
        pulled = self.pull(call)
        assert eventually(lambda: pulled.count), "a pull that nobody was told about"
        return pulled


def queue(number: int = 0, broker: str = "broker-a") -> MessageQueue:
    return MessageQueue(TOPIC, broker, number)


@pytest.fixture
def api(make_client: MakeClient) -> Iterator[Callable[..., Api]]:
    def make(*servers: Server | str, proxy: bool = False) -> Api:
        return Api(make_client(), *[each if isinstance(each, str) else each.address for each in servers], proxy=proxy)

    return make  # type: ignore[return-value]


MakeApi = Callable[..., Api]


def answers(reply: Callable[[Peer, Seen], object]) -> Callable[[Peer, Seen], None]:
    """Queue 0 gets this answer, all others a good one."""

    def handle(peer: Peer, seen: Seen) -> None:
        if seen.code == PULL and seen.fields["queueId"] == "0":
            reply(peer, seen)
        else:
            reply_pull(peer, seen, 1, 1, stored_message(0, b"good", queue_id=1))

    return handle


# Damaged and hostile messages.


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_damaged_message_is_an_error_of_its_own_queue_with_bounded_memory(
    name: str, make_server: MakeServer, api: MakeApi
) -> None:
    server = make_server(answers(lambda peer, seen: reply_pull(peer, seen, 6, 6, BAD_BODIES[name])))
    mine = api(server)
    assert mine.pulled(pull_call(queue(1))).results
    tracemalloc.start()
    try:
        bad = mine.pulled(pull_call(queue(0), offset=5))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [type(error) for error in bad.errors] == [ProtocolError], bad.results
    assert bad.count == 1
    assert peak < 200 * MIB
    assert mine.pulled(pull_call(queue(1))).results[0].messages[0].body == b"good"
    assert len(server.peers) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nextBeginOffset", None),
        ("nextBeginOffset", ""),
        ("nextBeginOffset", "later"),
        ("nextBeginOffset", "-1"),
        ("nextBeginOffset", str(-(2**63))),
        ("nextBeginOffset", str(2**63)),
        pytest.param("nextBeginOffset", "9" * 4_000, id="4,000 digits"),
        pytest.param("nextBeginOffset", "9" * 5_000, id="5,000 digits"),
        ("nextBeginOffset", "1e3"),
        ("minOffset", None),
        ("maxOffset", str(2**63)),
        pytest.param("suggestWhichBrokerId", "9" * 5_000, id="suggestion of 5,000 digits"),
    ],
)
@pytest.mark.parametrize("code", [0, 19, 20, 21])
def test_an_offset_that_is_none_is_an_error_and_is_never_asked_for_or_committed(
    code: int, field: str, value: str | None, make_server: MakeServer, api: MakeApi
) -> None:
    # Java's readers of these fields refuse everything that is no 64-bit integer. A negative offset to go on from would
    # be noted as consumed, and committed: the broker stores whatever it is told.
    def lie(peer: Peer, seen: Seen) -> None:
        fields = {"nextBeginOffset": "1", "minOffset": "0", "maxOffset": "1", "suggestWhichBrokerId": "0"}
        if value is None:
            del fields[field]
        else:
            fields[field] = value
        peer.reply(seen, code, fields, stored_message(0) if code == 0 else b"")

    pulled = api(make_server(lie)).pulled(pull_call(queue(0)))
    assert [type(error) for error in pulled.errors] == [ProtocolError], pulled.results


def test_a_message_from_behind_the_place_where_the_next_pull_begins_is_refused(
    make_server: MakeServer, api: MakeApi
) -> None:
    # One past the offset put last is what will be committed. Here that is 2^62 + 1, and it never goes back by itself.
    body = stored_message(0) + stored_message(2**62)
    server = make_server(answers(lambda peer, seen: reply_pull(peer, seen, 2, 2, body)))
    pulled = api(server).pulled(pull_call(queue(0)))
    assert [type(error) for error in pulled.errors] == [ProtocolError], pulled.results


def test_answers_without_any_fields(make_server: MakeServer, api: MakeApi) -> None:
    mine = api(make_server(lambda peer, seen: peer.reply(seen) and None))
    assert isinstance(mine.pulled(pull_call(queue(0))).errors[0], ProtocolError)
    with pytest.raises(ProtocolError):
        mine.broker.query_consumer_offset("group", queue(), 1_000)
    with pytest.raises(ProtocolError):
        mine.broker.max_offset(queue())
    with pytest.raises(ProtocolError):
        mine.broker.consumer_id_list(mine.routes.broker_addresses(masters_only=True)[0], "group")


def test_an_error_code_is_a_broker_error_with_who_and_why(make_server: MakeServer, api: MakeApi) -> None:
    server = make_server(lambda peer, seen: peer.reply(seen, 16, remark="not for you\nnor for anybody") and None)
    mine = api(server)
    for error in mine.pulled(pull_call(queue(0))).errors:
        assert isinstance(error, BrokerError)
        assert (error.code, error.address) == (16, server.address)
    with pytest.raises(BrokerError, match="not for you"):
        mine.broker.max_offset(queue())


# Brokers that are not there.


@pytest.mark.parametrize("address", ["broker..example:10911", "b" * 70 + ":10911", "127.0.0.1", "127.0.0.1:0", ""])
@pytest.mark.parametrize("proxy", [False, True])
def test_a_pull_from_an_address_that_is_none_fails_every_time_it_is_tried(
    address: str, proxy: bool, api: MakeApi
) -> None:
    mine = api(address, proxy=proxy)
    for _ in range(3):
        pulled = mine.pull(pull_call(queue(0)))
        assert eventually(lambda pulled=pulled: pulled.count, 1.5), "a pull that nobody was told about"  # type: ignore[misc]
        assert isinstance(pulled.errors[0], RocketMQError)


def test_a_pull_of_a_broker_that_no_route_knows_asks_for_the_route_and_fails(api: MakeApi) -> None:
    mine = api("127.0.0.1:1")
    assert isinstance(mine.pulled(pull_call(queue(0, "unknown"))).errors[0], ConnectError)
    assert mine.refreshed == [TOPIC]


def test_an_unexpected_error_while_a_broker_is_looked_for_reaches_the_one_who_pulls(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Api(make_client(), "127.0.0.1:1")

    def broken(topic: str) -> bool:
        raise UnicodeError("a name server with an odd name")

    monkeypatch.setattr(mine, "refresh", broken)
    mine.broker = BrokerApi(
        make_client(), mine.routes, MessageSender(make_client(), mine.routes, SystemClock(), broken), SystemClock(),
        broken, 3_000,
    )  # fmt: skip
    pulled = mine.pull(pull_call(queue(0, "unknown")))
    assert eventually(lambda: pulled.count, 2), "a pull that nobody was told about"


# Lanes to a proxy.


def test_a_lane_whose_answer_never_comes_is_asked_again_with_a_new_number_and_others_go_on(
    make_server: MakeServer, api: MakeApi
) -> None:
    lost: list[Seen] = []

    def loses_the_first(peer: Peer, seen: Seen) -> None:
        if seen.fields["queueId"] == "0" and not lost:
            lost.append(seen)
            return
        reply_pull(peer, seen, 1, 1, stored_message(0, queue_id=int(seen.fields["queueId"])))

    server = make_server(loses_the_first)
    mine = api(server, proxy=True)
    first = mine.pull(pull_call(queue(0), timeout_ms=600))
    for _ in range(30):
        assert mine.pulled(pull_call(queue(1))).results
    assert first.count == 0
    assert eventually(lambda: first.count)
    assert isinstance(first.errors[0], RequestTimeoutError)
    again = mine.pulled(pull_call(queue(0)))
    assert again.results
    of_queue_0 = [seen.opaque for seen in server.seen if seen.fields["queueId"] == "0"]
    assert len(set(of_queue_0)) == 2
    assert all(opaque < 0 for opaque in of_queue_0)


def test_a_lane_that_breaks_off_is_made_anew_and_there_is_never_more_than_one_pull_on_it(
    make_server: MakeServer, api: MakeApi
) -> None:
    in_flight: dict[int, int] = {}
    most = [0]

    def breaks_now_and_then(peer: Peer, seen: Seen) -> None:
        in_flight[peer.number] = in_flight.get(peer.number, 0) + 1
        most[0] = max(most[0], in_flight[peer.number])
        if len(peer.seen) % 7 == 6:
            peer.close()
            return
        in_flight[peer.number] -= 1
        reply_pull(peer, seen, 1, 1, stored_message(0, queue_id=int(seen.fields["queueId"])))

    server = make_server(breaks_now_and_then)
    mine = api(server, proxy=True)
    done = dict.fromkeys(range(6), 0)

    def pull(number: int) -> None:
        def next_one(result: object) -> None:
            done[number] += 1
            if done[number] < 40:
                pull(number)

        mine.broker.pull_message(pull_call(queue(number)), next_one, next_one)

    for number in done:
        pull(number)
    assert eventually(lambda: set(done.values()) == {40}), done
    assert most[0] == 1


def test_more_queues_than_lanes_share_them_and_each_gets_its_turn(make_server: MakeServer, api: MakeApi) -> None:
    holds: list[str] = []

    def answer(peer: Peer, seen: Seen) -> None:
        holds.append(seen.fields["suspendTimeoutMillis"])
        reply_pull(peer, seen, 1, 1, stored_message(0))

    server = make_server(answer)
    mine = api(server, proxy=True)
    for _ in range(3):
        pulls = [mine.pull(pull_call(queue(number))) for number in range(LANES_MAX * 3)]
        assert eventually(lambda pulls=pulls: all(pulled.count == 1 for pulled in pulls))  # type: ignore[misc]
        assert all(pulled.results for pulled in pulls)
    assert len(server.peers) == LANES_MAX
    assert "1000" in holds


def test_a_result_that_is_not_wanted_frees_its_lane_once(make_server: MakeServer, api: MakeApi) -> None:
    # The core raised in its callback. If its lane were freed twice, two pulls would be on it from then on, and a proxy
    # drops answers.
    held: list[tuple[Peer, Seen]] = []

    def hold(peer: Peer, seen: Seen) -> None:
        held.append((peer, seen))

    server = make_server(hold)
    mine = api(server, proxy=True)
    # Fill every lane, so that three queues share the first one.
    calls = [pull_call(queue(number)) for number in range(LANES_MAX)]
    for call in calls[1:]:
        mine.pull(call)
    raised: list[Exception] = []

    def refuse(result: PullResult) -> None:
        raise ProtocolError("not wanted")

    mine.broker.pull_message(calls[0], refuse, raised.append)
    assert eventually(lambda: len(held) == LANES_MAX)
    lane_of: dict[str, int] = {seen.fields["queueId"]: peer.number for peer, seen in held}
    followers = [mine.pull(pull_call(queue(LANES_MAX + number))) for number in range(LANES_MAX * 2)]
    assert len(held) == LANES_MAX
    peer, seen = next((peer, seen) for peer, seen in held if seen.fields["queueId"] == "0")
    reply_pull(peer, seen, 1, 1, stored_message(0))
    assert eventually(lambda: raised)
    assert eventually(lambda: len(held) > LANES_MAX)
    assert stays(lambda: len(held) == LANES_MAX + 1, 0.2), "two pulls on one lane"
    assert held[-1][0].number == lane_of["0"]
    assert sum(pulled.count for pulled in followers) == 0


# Masters and slaves.


def test_an_offset_is_asked_of_the_master_also_when_only_its_slave_was_known(
    make_server: MakeServer, api: MakeApi
) -> None:
    # A slave's offsets are some seconds old: from them finished messages would come again.
    def offset(value: int) -> Callable[[Peer, Seen], object]:
        return lambda peer, seen: peer.reply(seen, fields={"offset": str(value)})

    master, slave = make_server(offset(70)), make_server(offset(3))
    mine = api(slave)

    def route(addresses: dict[int, str]) -> TopicRouteData:
        return TopicRouteData((QueueData("broker-a", 4, 4, 6),), (BrokerData("c", "broker-a", addresses),))

    mine.routes.update(TOPIC, route({1: slave.address}))
    assert mine.broker.query_consumer_offset("group", queue(), 1_000) == 3
    assert mine.refreshed == [TOPIC]
    mine.on_refresh = lambda: mine.routes.update(TOPIC, route({0: master.address, 1: slave.address}))
    assert mine.broker.query_consumer_offset("group", queue(), 1_000) == 70


@pytest.mark.behaviour("PL-18")
def test_a_pull_goes_where_the_last_answer_said_commits_at_the_master_only_and_leaves_a_slave_that_fails(
    make_server: MakeServer, api: MakeApi
) -> None:
    suggested = {"master": "1", "slave": "1"}
    pulls: list[tuple[str, int, str]] = []

    def broker(name: str) -> Callable[[Peer, Seen], object]:
        def handle(peer: Peer, seen: Seen) -> None:
            pulls.append((name, int(seen.fields["sysFlag"]) & PullSysFlag.COMMIT_OFFSET, seen.fields["commitOffset"]))
            fields = {"nextBeginOffset": "0", "minOffset": "0", "maxOffset": "0"}
            code = 1 if suggested[name] == "fail" else NOT_FOUND
            peer.reply(seen, code, {**fields, "suggestWhichBrokerId": suggested[name]})

        return handle

    master, slave = make_server(broker("master")), make_server(broker("slave"))
    mine = api(master)
    addresses = {0: master.address, 1: slave.address}
    mine.routes.update(
        TOPIC, TopicRouteData((QueueData("broker-a", 4, 4, 6),), (BrokerData("c", "broker-a", addresses),))
    )
    call = pull_call(queue(), commit_offset=5)
    assert mine.pulled(call).results
    assert mine.pulled(call).results
    suggested["slave"] = "fail"
    assert mine.pulled(call).errors
    assert mine.pulled(call._replace(commit_offset=0)).results
    assert pulls == [("master", 1, "5"), ("slave", 0, "0"), ("slave", 0, "0"), ("master", 0, "0")]


# What is written.


@pytest.mark.behaviour("PL-12")
@pytest.mark.parametrize(("sends", "sys_flag"), [(False, "3"), (True, "7")])
def test_a_pull_tells_the_broker_all_fields_of_its_header(
    make_server: MakeServer, api: MakeApi, sends: bool, sys_flag: str
) -> None:
    told: list[dict[str, str]] = []

    def note(peer: Peer, seen: Seen) -> None:
        told.append(dict(seen.fields))
        reply_pull(peer, seen, 0, 0, code=NOT_FOUND)

    mine = api(make_server(note))
    subscription = build_subscription_data(TOPIC, "a || b", 77)
    assert mine.pulled(
        pull_call(queue(3), subscription=subscription, offset=9, commit_offset=5, send_subscription=sends)
    ).results
    assert told == [
        {
            "consumerGroup": "group",
            "topic": TOPIC,
            "queueId": "3",
            "queueOffset": "9",
            "maxMsgNums": "32",
            "maxMsgBytes": "262144",
            "sysFlag": sys_flag,
            "commitOffset": "5",
            "suspendTimeoutMillis": "15000",
            "subVersion": "77",
            "expressionType": "TAG",
            "bname": "broker-a",
            **({"subscription": "a || b"} if sends else {}),
        }
    ]


@pytest.mark.behaviour("SB-01")
def test_a_message_sent_back_is_named_by_its_place_with_level_and_maximum(
    make_server: MakeServer, api: MakeApi
) -> None:
    told: list[dict[str, str]] = []

    def note(peer: Peer, seen: Seen) -> None:
        told.append(dict(seen.fields))
        peer.reply(seen)

    mine = api(make_server(note))
    msg = MessageExt(
        topic=TOPIC, body=b"x", broker_name="broker-a", commit_log_offset=123, properties={"UNIQ_KEY": "id"}
    )
    mine.broker.send_message_back("group", msg, 4, 7, 1_000)
    assert told == [
        {
            "group": "group",
            "offset": "123",
            "delayLevel": "4",
            "originMsgId": "id",
            "originTopic": TOPIC,
            "maxReconsumeTimes": "7",
            "unitMode": "false",
            "bname": "broker-a",
        }
    ]


# Routes.


def route_body(queue_datas: list[dict[str, object]], **more: object) -> bytes:
    names = {str(data["brokerName"]) for data in queue_datas}
    brokers = [{"cluster": "c", "brokerName": name, "brokerAddrs": {"0": "127.0.0.1:1"}} for name in names]
    return json.dumps({"queueDatas": queue_datas, "brokerDatas": brokers, **more}).encode()


def queue_data(name: str, nums: object) -> dict[str, object]:
    return {"brokerName": name, "readQueueNums": nums, "writeQueueNums": nums, "perm": 6}


def test_a_route_of_a_few_kilobytes_does_not_become_gigabytes_of_queues() -> None:
    # 65,536 queues are believed of one broker. 60 brokers, or one that is named 60 times: 4 million objects, twice.
    for names in ([f"broker-{number}" for number in range(60)], ["broker-a"] * 60):
        with pytest.raises(ProtocolError, match="queues"):
            bodies.parse_topic_route(route_body([queue_data(name, 65_536) for name in names]))


@pytest.mark.parametrize(
    "count",
    ["99999999", pytest.param("1" * 5_000, id="5,000 digits"), pytest.param("65536" + ";b:65536" * 6, id="7 brokers")],
)
def test_an_order_configuration_does_not_become_gigabytes_of_queues(count: str) -> None:
    routes = RouteTable()
    body = route_body([queue_data("a", 4)], orderTopicConf=f"a:{count}")
    try:
        routes.update(TOPIC, bodies.parse_topic_route(body))
        queues = routes.publish_queues(TOPIC)
    except ProtocolError:
        return
    assert len(queues) <= 65_536


def test_odd_routes_are_read_or_refused_and_nothing_else() -> None:
    for body in (
        b"", b"null", b"[]", b"{}", b'{"queueDatas":null,"brokerDatas":null}', b'{"queueDatas":[],"brokerDatas":[]}',
        route_body([queue_data("a", -1)]), route_body([queue_data("a", 2**31)]), route_body([queue_data("a", "4")]),
        route_body([queue_data("a", True)]), route_body([queue_data("", 1)]), b'{"queueDatas":[[]],"brokerDatas":[{}]}',
        b'{"queueDatas":[],"brokerDatas":[{"cluster":"c","brokerName":"a","brokerAddrs":{"x":"h:1"}}]}',
        b'{"queueDatas":[],"brokerDatas":[{"cluster":"c","brokerName":"a","brokerAddrs":{"'
        + b"9" * 5_000 + b'":"h:1"}}]}',
    ):  # fmt: skip
        try:
            route = bodies.parse_topic_route(body)
        except ProtocolError:
            continue
        routes = RouteTable()
        routes.update(TOPIC, route)
        routes.publish_queues(TOPIC)
        routes.subscribe_queues(TOPIC)
        routes.random_broker_of(TOPIC)
        routes.broker_addresses(masters_only=False)


def test_a_pull_on_a_broker_that_never_answers_costs_its_own_time_only(make_server: MakeServer, api: MakeApi) -> None:
    silent, good = make_server(answer_nothing), make_server(answers(lambda peer, seen: reply_pull(peer, seen, 1, 1)))
    mine = api(silent, good)
    call = pull_call(queue(0, "broker-a"), timeout_ms=400)
    started = time.monotonic()
    lost = [mine.pull(call) for _ in range(10)]
    for _ in range(20):
        assert mine.pulled(pull_call(queue(1, "broker-b"))).results[0].status is PullStatus.FOUND
    assert time.monotonic() - started < 2
    assert eventually(lambda: all(pulled.count == 1 for pulled in lost), BOUND_S)
    assert all(isinstance(pulled.errors[0], RequestTimeoutError) for pulled in lost)
