"""Every setting with its default, unit, range and Java name.

Names and units are Java's (``consume_timeout`` is in minutes); names of our own carry their unit last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from rocketmq_py.errors import ConfigError
from rocketmq_py.model import names
from rocketmq_py.model.codes import MessageSysFlag
from rocketmq_py.model.message_queue import MessageQueue

CONSUME_TIMESTAMP_FORMAT = "%Y%m%d%H%M%S"
"""Java's ``yyyyMMddHHmmss``, local time."""

INT_MAX = 2**31 - 1
MIN_POP_INVISIBLE_TIME = 5_000
MAX_POP_INVISIBLE_TIME = 300_000
DEFAULT_POP_INVISIBLE_TIME = 60_000

TLS_PATHS = ("tls_client_trust_cert_path", "tls_client_cert_path", "tls_client_key_path")

CONNECTION_SETTINGS = (
    "namespace_v2", "rpc_hook", "access_key", "secret_key", "security_token", "use_tls", *TLS_PATHS,
    "tls_client_key_password", "tls_check_hostname", "tls_insecure",
)  # fmt: skip
"""What connections are made with, beside the name servers: the same for all who share a client."""


class ConsumeFromWhere(Enum):
    """Where a group starts on a queue for which it has no committed offset. Source: ConsumeFromWhere."""

    CONSUME_FROM_LAST_OFFSET = "CONSUME_FROM_LAST_OFFSET"
    CONSUME_FROM_FIRST_OFFSET = "CONSUME_FROM_FIRST_OFFSET"
    CONSUME_FROM_TIMESTAMP = "CONSUME_FROM_TIMESTAMP"


class MessageModel(Enum):
    """Who of a group gets a message: one member, or each. Source: MessageModel."""

    CLUSTERING = "CLUSTERING"
    BROADCASTING = "BROADCASTING"


MessageQueueListener = Callable[[str, frozenset[MessageQueue], frozenset[MessageQueue]], object]
"""``listener(topic, all_queues, my_queues)``. Source: MessageQueueListener.messageQueueChanged."""


@dataclass(kw_only=True, slots=True, eq=False)
class ClientConfig:
    """What consumers and producers share. Source: ClientConfig.

    Attributes:
        namesrv_addr: ``host:port`` of name servers or of a proxy's remoting port, several separated by ``;``; IPv6 as
            ``[::1]:9876``. Default: the environment variable NAMESRV_ADDR.
        instance_name: part of the client id; ``DEFAULT`` becomes ``pid#milliseconds`` and a count.
        unit_name: further part of the client id, or None.
        client_ip: first part of the client id; default: this machine's address.
        poll_name_server_interval: ms between route refreshes (30,000).
        heartbeat_broker_interval: ms between heartbeats (30,000).
        persist_consumer_offset_interval: ms between commits of consumers' offsets to the brokers (5,000).
        mq_client_api_timeout: ms that an administrative request may take (3,000).
        namespace: prefix of the names of all topics and groups at the brokers, or None. Set it before ``subscribe``.
        namespace_v2: namespace that every request names in a field of its own; names are left as they are. None: none.
            For servers that read it; Apache's do not.
        access_key: user name by which requests are signed, with ``secret_key``; None: they are not signed.
        secret_key: the user's password.
        security_token: of temporary credentials, or None.
        rpc_hook: an ``RPCHook`` called around every request, or None.
        endpoints: ``host:port`` of the gRPC port of a proxy, instead of ``namesrv_addr``; several as there.
        use_tls: secure all connections. None: on the remoting wire no; with ``endpoints`` yes, unless they are on this
            machine.
        tls_client_trust_cert_path: file with the certificates (PEM) of CAs to trust; default: the system's.
        tls_client_cert_path: file with the client's own certificate (PEM) for servers that want one, or None.
        tls_client_key_path: file with its key (PEM); default: it is in the same file.
        tls_client_key_password: of that key, or None.
        tls_check_hostname: refuse certificates that do not name the server's host or address.
        tls_insecure: accept any certificate: anybody in between can read and change everything.
    """

    namesrv_addr: str | None = None
    endpoints: str | None = None
    instance_name: str = "DEFAULT"
    unit_name: str | None = None
    client_ip: str | None = None
    poll_name_server_interval: int = 30_000
    heartbeat_broker_interval: int = 30_000
    persist_consumer_offset_interval: int = 5_000
    mq_client_api_timeout: int = 3_000
    namespace: str | None = None
    namespace_v2: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    security_token: str | None = field(default=None, repr=False)
    rpc_hook: Any = None
    use_tls: bool | None = None
    tls_client_trust_cert_path: str | None = None
    tls_client_cert_path: str | None = None
    tls_client_key_path: str | None = None
    tls_client_key_password: str | None = field(default=None, repr=False)
    tls_check_hostname: bool = True
    tls_insecure: bool = False

    def with_namespace(self, resource: str) -> str:
        """The name by which brokers know a topic or group. Source: ClientConfig.withNamespace.

        Raises:
            ConfigError: the namespace is not legal.
        """
        if not self.namespace or not isinstance(resource, str):
            return resource  # what is no text is refused by whoever checks names
        names.check_namespace(self.namespace)
        return names.wrap_namespace(self.namespace, resource)

    def name_servers(self) -> list[str]:
        """Addresses of the name servers.

        Raises:
            ConfigError: none are known, or one is not ``host:port``.
        """
        if self.namesrv_addr is not None and not isinstance(self.namesrv_addr, str):
            raise ConfigError(
                f"namesrv_addr is one text, addresses separated by ';', not {type(self.namesrv_addr).__name__}"
            )
        text = self.namesrv_addr or os.environ.get("NAMESRV_ADDR") or ""
        addresses = [address for part in text.split(";") if (address := part.strip().removeprefix("http://"))]
        if not addresses:
            raise ConfigError(
                "no name server: give namesrv_addr='host:port' (on the command line --namesrv host:port) or set "
                "NAMESRV_ADDR"
            )
        for address in addresses:
            if "," in address:
                raise ConfigError(f"the addresses {address!r} are separated by ',': separate them by ';'")
            split_address(address)
        return addresses

    def check_client(self) -> None:
        """Refuse values out of range with ``ConfigError``."""
        for name in (
            "poll_name_server_interval",
            "heartbeat_broker_interval",
            "persist_consumer_offset_interval",
            "mq_client_api_timeout",
        ):
            check_range(name, getattr(self, name), 1, INT_MAX)
        if not isinstance(self.instance_name, str) or not self.instance_name:
            raise ConfigError(f"instance_name is a text that is not empty, not {self.instance_name!r}")
        for name in ("unit_name", "client_ip", "namespace_v2"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{name} is a text or None, not {value!r}")
        self.with_namespace("")
        if self.endpoints is not None and self.namesrv_addr is not None:
            raise ConfigError("endpoints and namesrv_addr are two ways to reach the same messages: give one of them")
        for method in ("do_before_request", "do_after_response"):
            if self.rpc_hook is not None and not callable(getattr(self.rpc_hook, method, None)):
                raise ConfigError(f"rpc_hook needs a method {method}, {self.rpc_hook!r} has none")
        self._check_credentials()
        self._check_tls()

    def _check_credentials(self) -> None:
        for name in ("access_key", "secret_key", "security_token"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigError(f"{name} is a text that is not empty, or None; it is {_kind(value)}")  # never shown
        if (self.access_key is None) != (self.secret_key is None):
            raise ConfigError("access_key and secret_key belong together: give both or none")
        if self.security_token is not None and self.access_key is None:
            raise ConfigError("a security_token needs an access_key and a secret_key")

    def _check_tls(self) -> None:
        if self.use_tls is not None:
            check_bool("use_tls", self.use_tls)
        for name in ("tls_check_hostname", "tls_insecure"):
            check_bool(name, getattr(self, name))
        implied = self.use_tls is None and self.endpoints is not None
        for name in TLS_PATHS:
            path = getattr(self, name)
            if path is not None and not self.use_tls and not implied:
                raise ConfigError(f"{name} is set, but use_tls is not: connections would be in plain text")
            if path is not None and not isinstance(path, str | os.PathLike):
                raise ConfigError(f"{name} is the path of a file, not {path!r}")
        if self.tls_client_key_path is not None and self.tls_client_cert_path is None:
            raise ConfigError("tls_client_key_path needs the certificate, too: tls_client_cert_path")
        password = self.tls_client_key_password
        if password is not None and not isinstance(password, str):
            raise ConfigError(f"tls_client_key_password is a text, not {_kind(password)}")


@dataclass(kw_only=True, slots=True, eq=False)
class ConsumerConfig(ClientConfig):
    """Settings of a push consumer. Source: DefaultMQPushConsumer; ranges: DefaultMQPushConsumerImpl.checkConfig.

    Attributes:
        message_model: CLUSTERING: the members of the group share the queues. BROADCASTING: each gets every message, and
            keeps its offsets in a file of its own; failed messages are not retried.
        offset_store: an ``OffsetStore`` of the user's own, or None: brokers keep the offsets of a clustering group, a
            file those of a broadcasting consumer.
        message_queue_listener: called on the rebalance thread when this member's queues of a topic change, or None.
        consume_from_where: where a new group starts.
        consume_timestamp: for CONSUME_FROM_TIMESTAMP, ``yyyyMMddHHmmss`` in local time; default: half an hour ago.
        local_offset_store_dir: folder in which broadcasting consumers keep their offsets, ``~`` for the home directory
            (``~/.rocketmq_offsets``; Java: the property rocketmq.client.localOffsetStoreDir).
        allocate_message_queue_strategy: how queues are divided among members, for all the same (averagely).
        consume_thread_min: threads that call the listener, 1..1000 (20).
        consume_thread_max: at least ``consume_thread_min``; the most that ``update_core_pool_size`` takes (20).
        consume_concurrently_max_span: pulling pauses while the cached offsets of a queue span more, 1..65535 (2,000).
        pull_threshold_for_queue: pulling pauses while a queue has more messages cached, 1..65535 (1,000).
        pull_threshold_for_topic: the same over all queues owned, divided evenly; -1: off, or 1..6553500.
        pull_threshold_size_for_queue: pulling pauses above so many MiB of bodies of a queue, 1..1024 (100).
        pull_threshold_size_for_topic: the same over all queues owned; -1: off, or 1..102400.
        pull_interval: ms between the pulls of a queue, 0..65535 (0).
        consume_message_batch_max_size: messages per listener call, 1..1024 (1); a broker gives 32 per pull.
        pull_batch_size: messages asked for per pull, 1..1024 (32).
        pull_batch_size_in_bytes: bytes asked for per pull (262,144); today's brokers do not read it.
        pop_threshold_for_queue: popping pauses while a queue has more messages not settled (96).
        pop_invisible_time: ms for which a popped message is this member's alone: so long its listener may take, the
            waiting for a thread included, 5,000..300,000 (60,000).
        pop_batch_nums: messages asked for per pop, 1..32 (32).
        receive_loop_count: with ``endpoints``: receives under way at once per topic and broker, each with a thread of
            its own, 1..64 (8). Below the limits ``pull_threshold_for_queue`` and ``pull_threshold_size_for_queue``.
        client_rebalance: members divide the queues among themselves and pull. False: the broker says which queues are
            whose, and whether they are pulled or popped (``mqadmin setConsumeMode``).
        post_subscription_when_pull: send the subscription with each pull instead of relying on the heartbeat.
        unit_mode: marks a multi-site deployment for the broker.
        max_reconsume_times: retries before the dead-letter topic; -1: 16, for orderly listeners without end.
        suspend_current_queue_time_millis: ms until an orderly queue is consumed again after SUSPEND or ROLLBACK, 10 to
            30,000 (1,000); others are taken as the nearest of these.
        consume_timeout: **minutes** after which a message in a listener is sent back to be retried (15).
        pull_time_delay_mills_when_exception: ms before a failed pull is tried again (1,000).
        enable_msg_trace: write a trace record before and after every listener call.
        customized_trace_topic: topic of these records; default: RMQ_SYS_TRACE_TOPIC.
        trace_msg_batch_num: listener calls, before and after counted apart, that are sent together, 1..20 (10).
        await_termination_millis_when_shutdown: ms that ``shutdown`` waits for cached messages to be consumed (5,000;
            Java's is 0, see deviations).
    """

    message_model: MessageModel = MessageModel.CLUSTERING
    offset_store: Any = None
    message_queue_listener: MessageQueueListener | None = None
    consume_from_where: ConsumeFromWhere = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
    consume_timestamp: str = field(
        default_factory=lambda: (datetime.now() - timedelta(minutes=30)).strftime(CONSUME_TIMESTAMP_FORMAT)
    )
    local_offset_store_dir: str | os.PathLike[str] = "~/.rocketmq_offsets"
    allocate_message_queue_strategy: Any = None
    consume_thread_min: int = 20
    consume_thread_max: int = 20
    consume_concurrently_max_span: int = 2_000
    pull_threshold_for_queue: int = 1_000
    pull_threshold_for_topic: int = -1
    pull_threshold_size_for_queue: int = 100
    pull_threshold_size_for_topic: int = -1
    pull_interval: int = 0
    consume_message_batch_max_size: int = 1
    pull_batch_size: int = 32
    pull_batch_size_in_bytes: int = 262_144
    pop_threshold_for_queue: int = 96
    pop_invisible_time: int = DEFAULT_POP_INVISIBLE_TIME
    pop_batch_nums: int = 32
    receive_loop_count: int = 8
    client_rebalance: bool = True
    post_subscription_when_pull: bool = False
    unit_mode: bool = False
    max_reconsume_times: int = -1
    suspend_current_queue_time_millis: int = 1_000
    consume_timeout: int = 15
    pull_time_delay_mills_when_exception: int = 1_000
    enable_msg_trace: bool = False
    customized_trace_topic: str | None = None
    trace_msg_batch_num: int = 10
    await_termination_millis_when_shutdown: int = 5_000

    def check_consumer(self, group: str) -> None:
        """Refuse what Java's ``checkConfig`` refuses, in its order, with ``ConfigError``."""
        names.check_group(group)
        if group == names.DEFAULT_CONSUMER_GROUP:
            raise ConfigError(f"consumerGroup can not equal {group}, please specify another one")
        self.check_client()
        if not isinstance(self.message_model, MessageModel):
            raise ConfigError(f"message_model is a MessageModel, not {self.message_model!r}")
        if self.offset_store is not None and not callable(getattr(self.offset_store, "persist_at_shutdown", None)):
            raise ConfigError(f"offset_store is an object with the methods of OffsetStore, not {self.offset_store!r}")
        if self.message_queue_listener is not None and not callable(self.message_queue_listener):
            raise ConfigError(
                f"message_queue_listener is called with (topic, all, mine): {self.message_queue_listener!r}"
            )
        if not isinstance(self.consume_from_where, ConsumeFromWhere):
            raise ConfigError(f"consume_from_where is a ConsumeFromWhere, not {self.consume_from_where!r}")
        self.consume_timestamp_ms()
        folder = self.local_offset_store_dir
        if not isinstance(folder, str | os.PathLike) or not os.fspath(folder) or isinstance(os.fspath(folder), bytes):
            raise ConfigError(f"local_offset_store_dir is the path of a folder, not {folder!r}")
        strategy = self.allocate_message_queue_strategy
        if strategy is not None and not callable(getattr(strategy, "allocate", None)):
            raise ConfigError(f"allocate_message_queue_strategy needs a method allocate, {strategy!r} has none")
        if isinstance(strategy, type):
            raise ConfigError(
                f"allocate_message_queue_strategy is an object, not a class: write {strategy.__name__}(...)"
            )
        check_range("consume_thread_min", self.consume_thread_min, 1, 1000)
        check_range("consume_thread_max", self.consume_thread_max, 1, 1000)
        if self.consume_thread_min > self.consume_thread_max:
            raise ConfigError(
                f"consume_thread_min ({self.consume_thread_min}) is larger than "
                f"consume_thread_max ({self.consume_thread_max})"
            )
        check_range("consume_concurrently_max_span", self.consume_concurrently_max_span, 1, 65535)
        check_range("pull_threshold_for_queue", self.pull_threshold_for_queue, 1, 65535)
        if self.pull_threshold_for_topic != -1:
            check_range("pull_threshold_for_topic", self.pull_threshold_for_topic, 1, 6_553_500)
        check_range("pull_threshold_size_for_queue", self.pull_threshold_size_for_queue, 1, 1024)
        if self.pull_threshold_size_for_topic != -1:
            check_range("pull_threshold_size_for_topic", self.pull_threshold_size_for_topic, 1, 102_400)
        check_range("pull_interval", self.pull_interval, 0, 65535)
        check_range("consume_message_batch_max_size", self.consume_message_batch_max_size, 1, 1024)
        check_range("pull_batch_size", self.pull_batch_size, 1, 1024)
        check_range("pop_invisible_time", self.pop_invisible_time, MIN_POP_INVISIBLE_TIME, MAX_POP_INVISIBLE_TIME)
        check_range("pop_batch_nums", self.pop_batch_nums, 1, 32)
        check_range("receive_loop_count", self.receive_loop_count, 1, 64)
        check_range("pop_threshold_for_queue", self.pop_threshold_for_queue, 0, INT_MAX)
        for name in ("client_rebalance", "post_subscription_when_pull", "unit_mode", "enable_msg_trace"):
            check_bool(name, getattr(self, name))
        if not self.client_rebalance and strategy is not None and not callable(getattr(strategy, "get_name", None)):
            raise ConfigError(
                f"with client_rebalance=False the broker is told the strategy's name: {strategy!r} has no get_name"
            )
        check_range("pull_batch_size_in_bytes", self.pull_batch_size_in_bytes, 1, INT_MAX)
        check_range("max_reconsume_times", self.max_reconsume_times, -1, INT_MAX)
        check_range("suspend_current_queue_time_millis", self.suspend_current_queue_time_millis, 0, INT_MAX)
        check_range("consume_timeout", self.consume_timeout, 1, INT_MAX // 60_000)
        check_range("pull_time_delay_mills_when_exception", self.pull_time_delay_mills_when_exception, 0, INT_MAX)
        _check_trace(self.customized_trace_topic, self.trace_msg_batch_num)
        check_range("await_termination_millis_when_shutdown", self.await_termination_millis_when_shutdown, 0, INT_MAX)

    def consume_timestamp_ms(self) -> int:
        """``consume_timestamp`` as ms since 1970.

        Raises:
            ConfigError: it is not ``yyyyMMddHHmmss``.
        """
        try:
            moment = datetime.strptime(self.consume_timestamp, CONSUME_TIMESTAMP_FORMAT)
        except (TypeError, ValueError):
            raise ConfigError(
                f"consume_timestamp is invalid, the valid format is yyyyMMddHHmmss, "
                f"but received {self.consume_timestamp!r}"
            ) from None
        return int(moment.timestamp() * 1000)

    def effective_max_reconsume_times(self, orderly: bool = False) -> int:
        """-1 stands for 16, for an orderly listener for no limit.

        Source: getMaxReconsumeTimes of DefaultMQPushConsumerImpl and ConsumeMessageOrderlyService.
        """
        if self.max_reconsume_times == -1:
            return INT_MAX if orderly else 16
        return self.max_reconsume_times


class CompressionType(Enum):
    """How bodies are compressed; the value is the bits of ``MessageSysFlag``. Source: CompressionType."""

    LZ4 = MessageSysFlag.COMPRESSION_LZ4
    ZSTD = MessageSysFlag.COMPRESSION_ZSTD
    ZLIB = MessageSysFlag.COMPRESSION_ZLIB


@dataclass(kw_only=True, slots=True, eq=False)
class ProducerConfig(ClientConfig):
    """Settings of a producer. Source: DefaultMQProducer, MQFaultStrategy; detection: ClientConfig.

    Attributes:
        send_msg_timeout: ms for a send with all its retries (3,000).
        send_msg_max_timeout_per_request: ms for one attempt that is not the last; -1: all that is left.
        retry_times_when_send_failed: further attempts of a send, each on another broker if there is one (2).
        retry_times_when_send_async_failed: the same for ``send_async``, when there was no answer (2).
        retry_another_broker_when_not_store_ok: try again also when a broker stored the message but could not flush or
            replicate it in time; it may be stored twice then.
        compress_msg_body_over_howmuch: bytes from which a body is compressed (4,096).
        compress_level: 0..9 for zlib, 1..22 for zstd, without effect on lz4 (5).
        compress_type: ZLIB; the others need the extra ``compression`` here and at every consumer.
        max_message_size: bytes that a body may have (4,194,304, the broker's default too).
        default_topic_queue_nums: queues of a topic that the first send creates (4).
        unit_mode: marks a multi-site deployment for the broker.
        topics: topics whose routes are fetched at ``start``, so that their brokers know of this producer before it
            sends; of use for a member that only answers questions about transactions.
        enable_backpressure_for_async_mode: ``send_async`` waits while too much is under way; else it raises then.
        back_pressure_for_async_send_num: asynchronous sends under way at once, with back pressure, from 10 (1,024).
        back_pressure_for_async_send_size: bytes of their bodies, from 1 MiB (100 MiB).
        send_latency_fault_enable: avoid brokers that were slow or failed for a while.
        latency_max: ms from which the duration at the same place of ``not_available_duration`` holds.
        not_available_duration: ms for which such a broker is avoided.
        start_detector_enable: ask brokers that failed, every 3 s, whether they are back.
        detect_timeout: ms that such a question may take (200).
        detect_interval: ms between two to one broker (2,000).
        enable_msg_trace: write a trace record of every message stored and of every end of a transaction.
        customized_trace_topic: topic of these records; default: RMQ_SYS_TRACE_TOPIC.
        trace_msg_batch_num: records that are sent together, 1..20 (10).
    """

    send_msg_timeout: int = 3_000
    send_msg_max_timeout_per_request: int = -1
    retry_times_when_send_failed: int = 2
    retry_times_when_send_async_failed: int = 2
    retry_another_broker_when_not_store_ok: bool = False
    compress_msg_body_over_howmuch: int = 4_096
    compress_level: int = 5
    compress_type: CompressionType = CompressionType.ZLIB
    max_message_size: int = 4 * 1024 * 1024
    default_topic_queue_nums: int = 4
    unit_mode: bool = False
    topics: Sequence[str] = ()
    enable_backpressure_for_async_mode: bool = False
    back_pressure_for_async_send_num: int = 1_024
    back_pressure_for_async_send_size: int = 100 * 1024 * 1024
    send_latency_fault_enable: bool = False
    latency_max: Sequence[int] = (50, 100, 550, 1_800, 3_000, 5_000, 15_000)
    not_available_duration: Sequence[int] = (0, 0, 2_000, 5_000, 6_000, 10_000, 30_000)
    start_detector_enable: bool = False
    detect_timeout: int = 200
    detect_interval: int = 2_000
    enable_msg_trace: bool = False
    customized_trace_topic: str | None = None
    trace_msg_batch_num: int = 10

    def check_producer(self, group: str) -> None:
        """Refuse what cannot work with ``ConfigError``."""
        names.check_group(group)
        self.check_client()
        check_range("send_msg_timeout", self.send_msg_timeout, 1, INT_MAX)
        if self.send_msg_max_timeout_per_request != -1:
            check_range("send_msg_max_timeout_per_request", self.send_msg_max_timeout_per_request, 1, INT_MAX)
        check_range("retry_times_when_send_failed", self.retry_times_when_send_failed, 0, 100)
        check_range("retry_times_when_send_async_failed", self.retry_times_when_send_async_failed, 0, 100)
        check_range("compress_msg_body_over_howmuch", self.compress_msg_body_over_howmuch, 0, INT_MAX)
        if not isinstance(self.compress_type, CompressionType):
            raise ConfigError(f"compress_type is a CompressionType, not {self.compress_type!r}")
        level_max = 22 if self.compress_type is CompressionType.ZSTD else 9
        check_range("compress_level", self.compress_level, 0, level_max)
        check_range("max_message_size", self.max_message_size, 1, INT_MAX)
        check_range("default_topic_queue_nums", self.default_topic_queue_nums, 1, 65535)
        if isinstance(self.topics, str):
            raise ConfigError(f"topics are several names, not the one text {self.topics!r}")
        for name in ("topics", "latency_max", "not_available_duration"):
            if not isinstance(getattr(self, name), Collection):
                raise ConfigError(f"{name} is a list or tuple, not {getattr(self, name)!r}")
        for name in (
            "retry_another_broker_when_not_store_ok", "enable_backpressure_for_async_mode",
            "send_latency_fault_enable", "start_detector_enable", "enable_msg_trace", "unit_mode",
        ):  # fmt: skip
            check_bool(name, getattr(self, name))
        for topic in self.topics:
            names.check_topic(topic)
        check_range("back_pressure_for_async_send_num", self.back_pressure_for_async_send_num, 10, INT_MAX)
        check_range("back_pressure_for_async_send_size", self.back_pressure_for_async_send_size, 1 << 20, INT_MAX)
        if len(self.latency_max) != len(self.not_available_duration):
            raise ConfigError(
                f"latency_max has {len(self.latency_max)} steps, not_available_duration "
                f"{len(self.not_available_duration)}: each step needs its duration"
            )
        for name in ("latency_max", "not_available_duration"):
            for value in getattr(self, name):
                check_range(name, value, 0, INT_MAX)
        check_range("detect_timeout", self.detect_timeout, 1, INT_MAX)
        check_range("detect_interval", self.detect_interval, 1, INT_MAX)
        _check_trace(self.customized_trace_topic, self.trace_msg_batch_num)


def _check_trace(topic: str | None, batch_num: int) -> None:
    if topic is not None:
        names.check_topic(topic)
    check_range("trace_msg_batch_num", batch_num, 1, 20)


def _kind(value: object) -> str:
    return "empty" if value == "" else type(value).__name__


def check_range(name: str, value: object, low: int, high: int) -> None:
    """Refuse a value that is no integer in ``low..high`` with ``ConfigError``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} Out of range [{low}, {high}]: {value!r}")


def check_bool(name: str, value: object) -> None:
    """Refuse what is neither True nor False with ``ConfigError``: a text, even "false", would count as true."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is True or False, not {value!r}")


def check_names(config: type, options: Mapping[str, object], further: Sequence[str] = ()) -> None:
    """Refuse settings that do not exist with ``ConfigError`` that names similar ones, or keywords of ``further``."""
    import difflib

    known = {*config.__dataclass_fields__, *further}  # type: ignore[attr-defined]
    for name in options:
        if name not in known:
            similar = difflib.get_close_matches(name, known) or [more for more in further if name in more]
            hint = f": did you mean {' or '.join(similar)}?" if similar else ""
            raise ConfigError(f"there is no setting {name!r}{hint}")


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[IPv6]:port``.

    Raises:
        ConfigError: it is neither.
    """
    host, separator, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        separator = ""
    if (
        not separator
        or not host
        or not port.isascii()
        or not port.isdigit()
        or len(port) > 5
        or not 0 < int(port) < 65536
    ):
        raise ConfigError(f"the address {address!r} is not of the form host:port or [IPv6]:port")
    return host, int(port)
