"""The settings as keywords, for type checkers and editors: names and types of the fields of ``model.config``.

Python cannot take the keywords of one class for another one's ``__init__``. A test fails when a field differs from its
line here, and shows the lines that belong here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypedDict

from rocketmq_py.model.config import CompressionType, ConsumeFromWhere, MessageModel, MessageQueueListener


class ClientSettings(TypedDict, total=False):
    """See ``ClientConfig``."""

    namesrv_addr: str | None
    endpoints: str | None
    instance_name: str
    unit_name: str | None
    client_ip: str | None
    poll_name_server_interval: int
    heartbeat_broker_interval: int
    persist_consumer_offset_interval: int
    mq_client_api_timeout: int
    namespace: str | None
    namespace_v2: str | None
    access_key: str | None
    secret_key: str | None
    security_token: str | None
    rpc_hook: Any
    use_tls: bool | None
    tls_client_trust_cert_path: str | None
    tls_client_cert_path: str | None
    tls_client_key_path: str | None
    tls_client_key_password: str | None
    tls_check_hostname: bool
    tls_insecure: bool


class ConsumerSettings(ClientSettings, total=False):
    """See ``ConsumerConfig``."""

    message_model: MessageModel
    offset_store: Any
    message_queue_listener: MessageQueueListener | None
    consume_from_where: ConsumeFromWhere
    consume_timestamp: str
    local_offset_store_dir: str | os.PathLike[str]
    allocate_message_queue_strategy: Any
    consume_thread_min: int
    consume_thread_max: int
    consume_concurrently_max_span: int
    pull_threshold_for_queue: int
    pull_threshold_for_topic: int
    pull_threshold_size_for_queue: int
    pull_threshold_size_for_topic: int
    pull_interval: int
    consume_message_batch_max_size: int
    pull_batch_size: int
    pull_batch_size_in_bytes: int
    pop_threshold_for_queue: int
    pop_invisible_time: int
    pop_batch_nums: int
    receive_loop_count: int
    client_rebalance: bool
    post_subscription_when_pull: bool
    unit_mode: bool
    max_reconsume_times: int
    suspend_current_queue_time_millis: int
    consume_timeout: int
    pull_time_delay_mills_when_exception: int
    enable_msg_trace: bool
    customized_trace_topic: str | None
    trace_msg_batch_num: int
    await_termination_millis_when_shutdown: int


class ProducerSettings(ClientSettings, total=False):
    """See ``ProducerConfig``."""

    send_msg_timeout: int
    send_msg_max_timeout_per_request: int
    retry_times_when_send_failed: int
    retry_times_when_send_async_failed: int
    retry_another_broker_when_not_store_ok: bool
    compress_msg_body_over_howmuch: int
    compress_level: int
    compress_type: CompressionType
    max_message_size: int
    default_topic_queue_nums: int
    unit_mode: bool
    topics: Sequence[str]
    enable_backpressure_for_async_mode: bool
    back_pressure_for_async_send_num: int
    back_pressure_for_async_send_size: int
    send_latency_fault_enable: bool
    latency_max: Sequence[int]
    not_available_duration: Sequence[int]
    start_detector_enable: bool
    detect_timeout: int
    detect_interval: int
    enable_msg_trace: bool
    customized_trace_topic: str | None
    trace_msg_batch_num: int
