"""Administration against servers that are away, refuse, are proxies, or of an older kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rocketmq_py.cli.app import app
from rocketmq_py.errors import BrokerError, ConfigError, ConnectError, IllegalStateError
from rocketmq_py.model.admin import SubscriptionGroupConfig, TopicConfig
from rocketmq_py.mq_admin_ext import DefaultMQAdminExt
from tests.io.conftest import MakeServer
from tests.io.server import Peer, Seen, Server, free_port

MQ = '{"brokerName":"a","queueId":%d,"topic":"t"}'


class Site:
    """A name server and brokers at the same port; ``answers`` by code are texts, or (code, remark)."""

    def __init__(self, make_server: MakeServer) -> None:
        self.server: Server = make_server(self.handle)
        self.brokers: dict[str, dict[int, str]] = {"a": {0: self.server.address}}
        self.clusters = {"C": ["a"]}
        self.answers: dict[int, Any] = {}
        self.committed: dict[str, str] = {}

    def handle(self, peer: Peer, seen: Seen) -> None:
        answer = self.answers.get(seen.code)
        if isinstance(answer, tuple):
            peer.reply(seen, answer[0], remark=answer[1])
        elif answer is not None:
            peer.reply(seen, body=answer.encode())
        elif seen.code == 106:
            datas = {name: self.data(name) for name in self.brokers}
            peer.reply(seen, body=json.dumps({"brokerAddrTable": datas, "clusterAddrTable": self.clusters}).encode())
        elif seen.code == 105:
            queues = [
                {"brokerName": name, "readQueueNums": 2, "writeQueueNums": 2, "perm": 6, "topicSysFlag": 0}
                for name in self.brokers
            ]
            route = {"queueDatas": queues, "brokerDatas": [self.data(name) for name in self.brokers]}
            peer.reply(seen, body=json.dumps(route).encode())
        elif seen.code == 14:
            offset = self.committed.get(seen.fields["queueId"])
            peer.reply(seen, 22 if offset is None else 0, {} if offset is None else {"offset": offset})
        elif seen.code == 15:
            self.committed[seen.fields["queueId"]] = seen.fields["commitOffset"]
            peer.reply(seen)
        elif seen.code == 202:
            ends = ",".join(f'{MQ % queue}:{{"minOffset":0,"maxOffset":9,"lastUpdateTimestamp":0}}' for queue in (0, 1))
            peer.reply(seen, body=f'{{"offsetTable":{{{ends}}}}}'.encode())
        else:
            peer.reply(seen, 3, remark=f" request type {seen.code} not supported")

    def data(self, name: str) -> dict[str, Any]:
        addresses = {str(number): address for number, address in self.brokers[name].items()}
        return {"cluster": "C", "brokerName": name, "brokerAddrs": addresses}

    def asked(self, code: int) -> list[dict[str, str]]:
        return [seen.fields for seen in self.server.seen if seen.code == code]


@pytest.fixture
def site(make_server: MakeServer) -> Site:
    return Site(make_server)


@pytest.fixture
def admin(site: Site) -> Iterator[DefaultMQAdminExt]:
    with DefaultMQAdminExt(namesrv_addr=site.server.address) as admin:
        yield admin


MEMBERS = (
    '{"connectionSet":[{"clientAddr":"h:1","clientId":"c","language":"JAVA","version":513}],"messageModel":"%s",'
    '"consumeType":"CONSUME_PASSIVELY","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","subscriptionTable":{}}'
)


@pytest.mark.behaviour("AC-10")
def test_the_next_name_server_is_asked_when_one_is_away(site: Site) -> None:
    gone = f"127.0.0.1:{free_port()}"
    with DefaultMQAdminExt(namesrv_addr=f"{gone};{site.server.address}") as admin:
        assert list(admin.examine_broker_cluster_info().broker_addr_table) == ["a"]
    with (
        DefaultMQAdminExt(namesrv_addr=gone) as admin,
        pytest.raises(ConnectError, match=rf"no name server can be reached, check namesrv_addr: .*{gone}"),
    ):
        admin.fetch_all_topic_list()


@pytest.mark.behaviour("AC-10")
def test_a_proxy_is_said_to_take_no_administration(site: Site, admin: DefaultMQAdminExt) -> None:
    site.answers[106] = (3, " request type 106 not supported")
    with pytest.raises(BrokerError, match="a proxy does none"):
        admin.master_addresses()


@pytest.mark.behaviour("AC-10")
def test_a_change_is_refused_where_a_broker_has_no_master(site: Site, admin: DefaultMQAdminExt) -> None:
    site.brokers["b"] = {1: site.server.address}
    with pytest.raises(ConnectError, match="broker b of topic t has no master now"):
        admin.masters_of_topic("t")
    with pytest.raises(ConnectError, match="broker b of topic t has no master now"):
        admin.delete_topic("t")
    assert not site.server.count(215)
    assert admin.master_addresses("C") == {"a": site.server.address}
    site.clusters["C"] = ["b"]
    with pytest.raises(ConfigError, match="no broker of the cluster C has a master now"):
        admin.master_addresses("C")


def test_which_cluster_is_meant_must_be_clear(site: Site, admin: DefaultMQAdminExt) -> None:
    assert admin.master_addresses() == {"a": site.server.address}
    site.clusters["D"] = ["a"]
    with pytest.raises(ConfigError, match="which cluster\\? The name server knows C, D"):
        admin.master_addresses()
    with pytest.raises(ConfigError, match="there is no cluster E: the name server knows C, D"):
        admin.master_addresses("E")


@pytest.mark.behaviour("AC-01", "AC-02")
def test_what_some_masters_have_is_created_on_the_others(site: Site, make_server: MakeServer) -> None:
    other = Site(make_server)
    site.brokers["b"] = {0: other.server.address}
    site.clusters["C"] = ["a", "b"]
    config = json.dumps(
        {"topicName": "t", "readQueueNums": 1, "writeQueueNums": 1, "perm": 6, "topicFilterType": "SINGLE_TAG"}
        | {"topicSysFlag": 0}
    )
    site.answers |= {351: config, 201: '{"subscriptionGroupTable":{"g":{"groupName":"g"}}}'}
    other.answers |= {351: (17, "not there"), 201: "{}", 17: "", 200: ""}
    for family, name in (("topic", "t"), ("group", "g")):
        done = CliRunner().invoke(app, [family, "create", name, "--namesrv", site.server.address])
        assert done.exit_code == 0, done.output
    assert (other.server.count(17), other.server.count(200)) == (1, 1)
    assert (site.server.count(17), site.server.count(200)) == (0, 0)


def test_reading_is_content_with_a_slave(site: Site, admin: DefaultMQAdminExt) -> None:
    site.brokers["a"] = {1: site.server.address}
    assert [mq.queue_id for mq in admin.examine_topic_stats("t")] == [0, 1]


@pytest.mark.behaviour("AC-07")
def test_members_are_those_of_the_first_broker_that_knows_any(
    site: Site, admin: DefaultMQAdminExt, make_server: MakeServer
) -> None:
    site.answers[203] = (206, "not online")
    other = Site(make_server)
    other.answers[203] = MEMBERS % "CLUSTERING"
    other.answers[307] = "{}"
    site.brokers["b"] = {0: other.server.address}
    members = admin.examine_consumer_connection_info("g")
    assert members is not None
    assert [member.client_id for member in members.connections] == ["c"]
    assert admin.get_consumer_running_info("g", "c").mq_table == {}
    assert other.asked(307)[0]["clientId"] == "c"
    other.answers[203] = '{"connectionSet":[]}'  # known from pulls alone
    assert admin.examine_consumer_connection_info("g") is None


def test_progress_in_a_topic_is_asked_of_the_brokers_of_the_topic(site: Site, admin: DefaultMQAdminExt) -> None:
    site.answers[208] = (
        f'{{"consumeTps":1.0,"offsetTable":{{{MQ % 0}:{{"brokerOffset":9,"consumerOffset":4,"lastTimestamp":0}}}}}}'
    )
    assert sum(offsets.lag for offsets in admin.examine_consume_stats("g", "t").offset_table.values()) == 5
    admin.examine_consume_stats("g")
    assert [asked["topic"] for asked in site.asked(105)] == ["t", "%RETRY%g"]
    assert [asked.get("topic") for asked in site.asked(208)] == ["t", None]


def test_names_that_no_broker_takes_are_refused_before_they_are_sent(site: Site, admin: DefaultMQAdminExt) -> None:
    with pytest.raises(ConfigError, match="illegal characters"):
        admin.create_and_update_topic_config([site.server.address], TopicConfig("a b"))
    with pytest.raises(ConfigError, match="illegal characters"):
        admin.create_and_update_subscription_group_config([site.server.address], SubscriptionGroupConfig("a b"))
    assert site.server.seen == []


def test_it_works_between_start_and_shutdown_alone(site: Site) -> None:
    admin = DefaultMQAdminExt(namesrv_addr=site.server.address)
    with pytest.raises(IllegalStateError, match="call start"):
        admin.fetch_all_topic_list()
    with admin:
        with pytest.raises(IllegalStateError, match="started once"):
            admin.start()
        admin.examine_broker_cluster_info()
    admin.shutdown()
    with pytest.raises(IllegalStateError, match="call start"):
        admin.examine_broker_cluster_info()
    with pytest.raises(ConfigError, match="no setting 'namesrv'"):
        DefaultMQAdminExt(namesrv="h:1")  # type: ignore[call-arg]


Reset = Callable[..., Result]


@pytest.fixture
def reset(site: Site) -> Reset:
    def run(to: str, *args: str, code: int = 0) -> Result:
        command = ["offset", "reset", "--group", "g", "--topic", "t", "--json", "--to", to, *args]
        done = CliRunner().invoke(app, [*command, "--namesrv", site.server.address])
        assert done.exit_code == code, (done.output, done.exception)
        return done

    return run


def ways(done: Result) -> list[str | None]:
    return [each["way"] for each in json.loads(done.stdout)["queues"]]


@pytest.mark.behaviour("AC-04")
def test_a_broker_that_resets_through_members_is_asked_for_a_moment(site: Site, reset: Reset) -> None:
    site.answers[203] = MEMBERS % "CLUSTERING"
    site.answers[26] = "useServerSideResetOffset=false\nbrokerName=a\n"
    site.answers[222] = f'{{"offsetTable":{{{MQ % 0}:0,{MQ % 1}:1}}}}'
    done = reset("first")
    assert ways(done) == ["members", "members"]
    assert [each["after"] for each in json.loads(done.stdout)["queues"]] == [0, 1]
    (asked,) = site.asked(222)
    assert (asked["timestamp"], asked["queueId"], asked["offset"], asked["isForce"]) == ("0", "-1", "-1", "true")
    reset("last")
    assert site.asked(222)[1]["timestamp"] == "-1"


@pytest.mark.behaviour("AC-04")
@pytest.mark.parametrize("settings", ["useServerSideResetOffset=false", "", None])
def test_a_number_or_one_queue_is_refused_where_members_are_told_of_moments(
    site: Site, reset: Reset, settings: str | None
) -> None:
    site.answers[203] = MEMBERS % "CLUSTERING"
    if settings is not None:
        site.answers[26] = settings
    assert "stop them first" in reset("5", code=1).stderr
    done = reset("first", "--queue", "1", code=1)
    assert ways(done) == [None]
    assert site.server.count(222) == 0


@pytest.mark.behaviour("AC-04")
def test_members_that_leave_meanwhile_get_their_offsets_written(site: Site, reset: Reset) -> None:
    site.answers[203] = MEMBERS % "CLUSTERING"
    site.answers[222] = (206, "Consumer not online")
    assert ways(reset("last")) == ["stored", "stored"]
    assert site.committed == {"0": "9", "1": "9"}


@pytest.mark.behaviour("AC-04")
def test_a_broker_that_swallows_an_offset_is_asked_to_reset_it(site: Site, reset: Reset) -> None:
    site.answers[203] = (206, "not online")
    site.answers[15] = ""  # an earlier reset waits there for its members
    site.answers[222] = '{"offsetTable":{%s:9}}' % (MQ % 1)
    assert ways(reset("9", "--queue", "1")) == ["broker"]
    (asked,) = site.asked(222)
    assert (asked["queueId"], asked["offset"]) == ("1", "9")


@pytest.mark.behaviour("AC-04")
def test_what_was_done_is_told_when_it_fails_half_way(site: Site, reset: Reset) -> None:
    site.answers[203] = MEMBERS % "CLUSTERING"
    site.answers[26] = "useServerSideResetOffset=true"
    site.answers[222] = (1, "Target offset 9 not in consume queue range [0-4]")
    done = reset("9", code=1)
    assert ways(done) == [None, None]
    assert done.stderr.startswith("error: reset the offsets of group g in topic t: CODE: 1 Target offset 9 not in")


@pytest.mark.behaviour("AC-04")
def test_a_broadcasting_group_is_refused(site: Site, reset: Reset) -> None:
    site.answers[203] = MEMBERS % "BROADCASTING"
    assert "each member keeps its offsets on its own machine" in reset("first", code=1).stderr
    assert site.server.count(222) + site.server.count(15) == 0
