"""Administrators' requests, by address. Source: MQClientAPIImpl, as DefaultMQAdminExtImpl calls it."""

from __future__ import annotations

from collections.abc import Mapping

from rocketmq_py.errors import BrokerError
from rocketmq_py.model.admin import (
    ClusterInfo,
    ConsumerConnection,
    ConsumeStats,
    SubscriptionGroupConfig,
    TopicConfig,
    TopicOffset,
)
from rocketmq_py.model.codes import PullSysFlag, RequestCode, ResponseCode
from rocketmq_py.model.message import MessageExt, PullBounds
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.message_status import MessageStatus
from rocketmq_py.model.names import AUTO_CREATE_TOPIC_KEY_TOPIC, TOOLS_CONSUMER_GROUP
from rocketmq_py.model.route import TopicRouteData
from rocketmq_py.model.running_info import ConsumerRunningInfo
from rocketmq_py.remoting import admin_bodies, bodies, message_status_bodies
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_messages
from rocketmq_py.remoting.message_status_bodies import Cursor, Listing, MessageHistory
from rocketmq_py.remoting.remoting_client import RemotingClient, Request

CLIENT_TIMEOUT_MS = 10_000
"""What a broker relays to a client takes so long at most. Source: CallConsumer in AdminBrokerProcessor."""

_NOTHING_THERE = frozenset(
    {ResponseCode.PULL_NOT_FOUND, ResponseCode.PULL_RETRY_IMMEDIATELY, ResponseCode.PULL_OFFSET_MOVED}
)


class AdminApi:
    """One method per request. Any thread may call it; all of them wait for the answer.

    Every method raises ``BrokerError`` when the server refuses, ``TransportError`` when it does not answer, and
    ``ProtocolError`` when it answers nonsense.

    Args:
        timeout_ms: of a request.
    """

    def __init__(self, remoting: RemotingClient, timeout_ms: int) -> None:
        self._remoting = remoting
        self._timeout_ms = timeout_ms

    # Name servers.

    def topic_route(self, name_server: str, topic: str) -> TopicRouteData:
        """Where a topic lives. ``BrokerError`` TOPIC_NOT_EXIST: nowhere."""
        fields = {"topic": topic, "acceptStandardJsonOnly": "true"}
        code = RequestCode.GET_ROUTEINFO_BY_TOPIC
        return bodies.parse_topic_route(
            self._ask(name_server, code, fields, f"ask for the route of topic {topic}").body
        )

    def cluster_info(self, name_server: str) -> ClusterInfo:
        """Which brokers there are."""
        reply = self._ask(name_server, RequestCode.GET_BROKER_CLUSTER_INFO, {}, "ask for the brokers")
        return admin_bodies.parse_cluster_info(reply.body)

    def topic_list(self, name_server: str) -> list[str]:
        """Names of all topics, sorted; with those of the system, of clusters and of brokers."""
        code = RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER
        return admin_bodies.parse_names(self._ask(name_server, code, {}, "ask for all topics").body, "topicList")

    def delete_topic_in_name_server(self, name_server: str, topic: str) -> None:
        """Forget a topic's route."""
        self._ask(name_server, RequestCode.DELETE_TOPIC_IN_NAMESRV, {"topic": topic}, f"delete topic {topic}")

    # Topics.

    def create_topic(self, address: str, config: TopicConfig) -> None:
        """Create or change a topic on one broker.

        Attributes that are not named stay as they are, one with an empty value is removed.
        """
        fields = {
            "topic": config.topic_name,
            "defaultTopic": AUTO_CREATE_TOPIC_KEY_TOPIC,
            "readQueueNums": str(config.read_queue_nums),
            "writeQueueNums": str(config.write_queue_nums),
            "perm": str(config.perm),
            "topicFilterType": config.topic_filter_type,
            "topicSysFlag": str(config.topic_sys_flag),
            "order": "true" if config.order else "false",
        }
        if config.attributes:
            changes = [f"+{name}={value}" if value else f"-{name}" for name, value in config.attributes.items()]
            fields["attributes"] = ",".join(changes)
        self._ask(address, RequestCode.UPDATE_AND_CREATE_TOPIC, fields, f"create or change topic {config.topic_name}")

    def topic_config(self, address: str, topic: str) -> TopicConfig:
        """A topic on one broker. ``BrokerError`` TOPIC_NOT_EXIST: it is not there."""
        doing = f"ask for the configuration of topic {topic}"
        return admin_bodies.parse_topic_config(
            self._ask(address, RequestCode.GET_TOPIC_CONFIG, {"topic": topic}, doing).body
        )

    def topic_stats(self, address: str, topic: str) -> dict[MessageQueue, TopicOffset]:
        """Ends of a topic's queues on one broker."""
        doing = f"ask for the queues of topic {topic}"
        return admin_bodies.parse_topic_stats(
            self._ask(address, RequestCode.GET_TOPIC_STATS_INFO, {"topic": topic}, doing).body
        )

    def delete_topic_in_broker(self, address: str, topic: str) -> None:
        """Delete a topic on one broker, with its messages and offsets."""
        self._ask(address, RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": topic}, f"delete topic {topic}")

    def topic_consumed_by(self, address: str, topic: str) -> list[str]:
        """Groups that consume a topic or have offsets in it."""
        doing = f"ask for the groups of topic {topic}"
        reply = self._ask(address, RequestCode.QUERY_TOPIC_CONSUME_BY_WHO, {"topic": topic}, doing)
        return admin_bodies.parse_names(reply.body, "groupList")

    # Groups.

    def create_subscription_group(self, address: str, config: SubscriptionGroupConfig) -> None:
        """Create or change a group on one broker."""
        code, doing = RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, f"create or change group {config.group_name}"
        self._ask(address, code, {}, doing, admin_bodies.encode_subscription_group(config))

    def subscription_groups(self, address: str) -> dict[str, SubscriptionGroupConfig]:
        """All groups of one broker. To ask for a single one (352) would create it where brokers may."""
        code = RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG
        return admin_bodies.parse_subscription_groups(self._ask(address, code, {}, "ask for all groups").body)

    def delete_subscription_group(self, address: str, group: str, clean_offset: bool) -> None:
        """Delete a group on one broker."""
        fields = {"groupName": group, "cleanOffset": "true" if clean_offset else "false"}
        self._ask(address, RequestCode.DELETE_SUBSCRIPTIONGROUP, fields, f"delete group {group}")

    def set_message_request_mode(self, address: str, asked: bodies.SetMessageRequestMode) -> None:
        """Have a group pull or pop a topic of one broker."""
        code, doing = RequestCode.SET_MESSAGE_REQUEST_MODE, f"have group {asked.group} {asked.mode} topic {asked.topic}"
        self._ask(address, code, {}, doing, bodies.encode_message_request_mode(asked))

    def consumer_connections(self, address: str, group: str) -> ConsumerConnection | None:
        """A group's members as one broker knows them; None when it knows none."""
        fields, doing = {"consumerGroup": group}, f"ask for the members of group {group}"
        code = RequestCode.GET_CONSUMER_CONNECTION_LIST
        reply = self._remoting.invoke_sync(address, Request(code, fields), self._timeout_ms, doing)
        if reply.code == ResponseCode.CONSUMER_NOT_ONLINE:
            return None
        connection = admin_bodies.parse_consumer_connection(_ok(reply, address, doing).body)
        return connection if connection.connections else None

    def consumer_running_info(self, address: str, group: str, client_id: str, jstack: bool) -> ConsumerRunningInfo:
        """What a member tells of itself, through its broker."""
        fields = {
            "consumerGroup": group,
            "clientId": client_id,
            "jstackEnable": "true" if jstack else "false",
        }
        doing = f"ask member {client_id} of group {group} about itself"
        reply = self._ask(
            address,
            RequestCode.GET_CONSUMER_RUNNING_INFO,
            fields,
            doing,
            timeout_ms=CLIENT_TIMEOUT_MS + self._timeout_ms,
        )
        return admin_bodies.parse_running_info(reply.body)

    # Offsets.

    def consume_stats(self, address: str, group: str, topic: str | None) -> ConsumeStats:
        """How far a group is on one broker, in one topic or in all."""
        fields = {"consumerGroup": group, **({} if topic is None else {"topic": topic})}
        doing = f"ask for the progress of group {group}"
        # As in Java: three times as long, because brokers look at many queues.
        reply = self._ask(address, RequestCode.GET_CONSUME_STATS, fields, doing, timeout_ms=3 * self._timeout_ms)
        return admin_bodies.parse_consume_stats(reply.body)

    def committed_offset(self, address: str, group: str, mq: MessageQueue) -> int | None:
        """What a group has committed in a queue; None: nothing."""
        fields = {"consumerGroup": group, "setZeroIfNotFound": "false", **_queue_fields(mq)}
        doing = f"ask for the offset of {mq} for group {group}"
        reply = self._remoting.invoke_sync(
            address, Request(RequestCode.QUERY_CONSUMER_OFFSET, fields), self._timeout_ms, doing
        )
        return None if reply.code == ResponseCode.QUERY_NOT_FOUND else _ok(reply, address, doing).offset("offset")

    def update_consumer_offset(self, address: str, group: str, mq: MessageQueue, offset: int) -> None:
        """Write what a group has committed. Members that run do not notice, and write their own over it."""
        fields = {"consumerGroup": group, "commitOffset": str(offset), **_queue_fields(mq)}
        doing = f"set the offset of {mq} for group {group} to {offset}"
        self._ask(address, RequestCode.UPDATE_CONSUMER_OFFSET, fields, doing)

    def search_offset(self, address: str, mq: MessageQueue, timestamp_ms: int) -> int:
        """First offset stored at or after a moment; the queue's end when there is none."""
        fields = {"timestamp": str(timestamp_ms), **_queue_fields(mq)}
        doing = f"ask for the offset of a moment of {mq}"
        return self._ask(address, RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, fields, doing).offset("offset")

    def reset_offset(
        self, address: str, group: str, topic: str, timestamp_ms: int, queue_id: int = -1, offset: int = -1
    ) -> dict[MessageQueue, int]:
        """Have one broker reset a group and tell its members, if it does so through them; tells the new offsets.

        Args:
            address: of the broker.
            group: whose offsets.
            topic: of the queues.
            timestamp_ms: go on at this moment; -1: at the ends.
            queue_id: only this queue; -1: all. Brokers that reset through the members ignore it, and ``offset``.
            offset: go on here in this queue; -1: by the moment.
        """
        fields = {
            "topic": topic, "group": group, "timestamp": str(timestamp_ms), "isForce": "true",
            "queueId": str(queue_id), "offset": str(offset),
        }  # fmt: skip
        doing = f"reset the offsets of group {group} in topic {topic}"
        return bodies.parse_reset_offset(
            self._ask(address, RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, fields, doing).body
        )

    # Statuses of messages, which only brokers of this package keep.

    def message_histories(self, address: str, msg_id: str, topic: str | None) -> list[MessageHistory]:
        """What became of the messages of an id. ``BrokerError`` QUERY_NOT_FOUND: there is none.

        Args:
            address: of the broker.
            msg_id: the producer's or the broker's.
            topic: None: all topics whose statuses are kept.
        """
        fields = {"msgId": msg_id, **({"topic": topic} if topic is not None else {})}
        doing = f"ask what became of message {msg_id}"
        return message_status_bodies.parse_histories(
            self._ask(address, RequestCode.QUERY_MESSAGE_STATUS, fields, doing).body
        )

    def messages_with_status(
        self, address: str, group: str, status: MessageStatus, count: int, behind: Cursor
    ) -> Listing:
        """Some messages of a group that stand so, behind a place."""
        at = {name: str(value) for name, value in message_status_bodies.cursor_fields(behind).items()}
        fields = {"consumerGroup": group, "status": status.value, "count": str(count), **at}
        doing = f"list messages of group {group} with status {status.value}"
        return message_status_bodies.parse_listing(
            self._ask(address, RequestCode.QUERY_MESSAGE_STATUS, fields, doing).body
        )

    # Others.

    def broker_config(self, address: str) -> dict[str, str]:
        """A broker's settings."""
        reply = self._ask(address, RequestCode.GET_BROKER_CONFIG, {}, "ask for the broker's settings")
        lines = reply.body.decode(errors="replace").splitlines()
        return {name.strip(): value.strip() for line in lines for name, sign, value in [line.partition("=")] if sign}

    def pull(self, address: str, mq: MessageQueue, offset: int, count: int) -> tuple[list[MessageExt], int]:
        """Messages of a queue from an offset on, and where to go on; waits for none that is not there yet."""
        fields = {
            "consumerGroup": TOOLS_CONSUMER_GROUP, "queueOffset": str(offset), "maxMsgNums": str(count),
            "sysFlag": str(int(PullSysFlag.SUBSCRIPTION)), "commitOffset": "0", "suspendTimeoutMillis": "0",
            "subscription": "*", "subVersion": "0", "expressionType": "TAG", **_queue_fields(mq),
        }  # fmt: skip
        doing = f"pull {mq} from {offset} on"
        reply = self._remoting.invoke_sync(address, Request(RequestCode.PULL_MESSAGE, fields), self._timeout_ms, doing)
        if reply.code in _NOTHING_THERE:
            return [], reply.offset("nextBeginOffset")
        _ok(reply, address, doing)
        return decode_messages(reply.body, PullBounds(-1, -1, mq.broker_name)), reply.offset("nextBeginOffset")

    def _ask(
        self,
        address: str,
        code: RequestCode,
        fields: Mapping[str, str],
        doing: str,
        body: bytes = b"",
        timeout_ms: int | None = None,
    ) -> RemotingCommand:
        request = Request(code, fields, body)
        return _ok(self._remoting.invoke_sync(address, request, timeout_ms or self._timeout_ms, doing), address, doing)


def _ok(reply: RemotingCommand, address: str, doing: str) -> RemotingCommand:
    if reply.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED:
        remark = (reply.remark or "").strip()
        hint = (
            "administration goes to name servers and brokers, a proxy does none; and old brokers do not have all of it"
        )
        raise BrokerError(reply.code, f"{remark}: {hint}", address, doing)
    if reply.code != ResponseCode.SUCCESS:
        raise BrokerError(reply.code, reply.remark or "", address, doing)
    return reply


def _queue_fields(mq: MessageQueue) -> dict[str, str]:
    return {"topic": mq.topic, "queueId": str(mq.queue_id), "bname": mq.broker_name}
