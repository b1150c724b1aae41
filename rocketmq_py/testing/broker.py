"""An embedded broker for tests: made for speed, with faults, and with what tests ask of a broker besides."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rocketmq_py.broker.embedded_broker import EmbeddedBroker
from rocketmq_py.errors import BrokerError
from rocketmq_py.model import names
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.remoting_client import RemotingClient, Request
from rocketmq_py.runtime import Runtime, ThreadRuntime
from rocketmq_py.testing.faults import Faults

DELAYS = " ".join(["1s"] * 18)
"""Every retry comes after a second: a test does not wait 10 s for the first one."""

TIMEOUT_MS = 10_000
POLL_MS = 100


class BrokerForTests:
    """A name server and a broker in this process, on free ports that stay the same over ``down``.

    Attributes:
        faults: what goes wrong on purpose.
    """

    def __init__(self, directory: Path, runtime: Runtime | None = None) -> None:
        self._directory = directory
        self._runtime = runtime or ThreadRuntime()
        self.faults = Faults()
        self._broker = self._start(0, 0)
        self.namesrv_addr, self.broker_addr = self._broker.namesrv_addr, self._broker.broker_addr

    def _start(self, namesrv_port: int, broker_port: int) -> EmbeddedBroker:
        return EmbeddedBroker(
            self._directory,
            namesrv_port=namesrv_port,
            broker_port=broker_port,
            message_delay_level=DELAYS,
            synchronous=False,  # nobody cuts the power
            wrap=self.faults.wrap,
        ).start()

    def shutdown(self) -> None:
        """End it."""
        self._broker.shutdown()

    @property
    def ports(self) -> frozenset[int]:
        """Of the name server and of the broker."""
        return frozenset(int(address.rpartition(":")[2]) for address in (self.namesrv_addr, self.broker_addr))

    @contextmanager
    def down(self) -> Iterator[None]:
        """Inside of this the broker is gone; then it is back with all that it had stored.

        A client that has found nobody meanwhile tries again only after a while, 200 ms after the first failure and at
        most 5 s; a send that blocks waits up to 200 ms and tries.
        """
        self._broker.shutdown()
        try:
            yield
        finally:
            self._broker = self._start(
                *(int(addr.rpartition(":")[2]) for addr in (self.namesrv_addr, self.broker_addr))
            )

    def create_topic(self, topic: str | None = None, queues: int = 4) -> str:
        """Create a topic, by default with a new name; returns the name."""
        topic = topic or f"topic-{uuid.uuid4().hex[:12]}"
        fields = {
            "topic": topic, "defaultTopic": "TBW102", "readQueueNums": f"{queues}", "writeQueueNums": f"{queues}",
            "perm": "6", "topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false",
        }  # fmt: skip
        self._ask(Request(RequestCode.UPDATE_AND_CREATE_TOPIC, fields))
        return topic

    def create_group(self, group: str | None = None) -> str:
        """Create a consumer group, by default with a new name, and its retry topic; returns the name."""
        group = group or f"group-{uuid.uuid4().hex[:12]}"
        body = json.dumps({"groupName": group}).encode()
        self._ask(Request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, body))
        self.create_topic(names.retry_topic(group), 1)
        return group

    def left(self, group: str, topic: str) -> int:
        """Messages of a topic that the group has not committed yet. Commits come every 5 s, and at shutdown."""
        left = 0
        with self._client() as client:
            route = {"topic": topic, "acceptStandardJsonOnly": "true"}
            answer = _ask(client, self.namesrv_addr, Request(RequestCode.GET_ROUTEINFO_BY_TOPIC, route))
            queues = sum(int(queue["readQueueNums"]) for queue in json.loads(answer.body)["queueDatas"])
            for queue_id in range(queues):
                where = {"topic": topic, "queueId": f"{queue_id}"}
                left += _ask(client, self.broker_addr, Request(RequestCode.GET_MAX_OFFSET, where)).offset("offset")
                asked = {**where, "consumerGroup": group, "setZeroIfNotFound": "false"}
                try:
                    committed = _ask(client, self.broker_addr, Request(RequestCode.QUERY_CONSUMER_OFFSET, asked))
                except BrokerError as error:
                    if error.code != ResponseCode.QUERY_NOT_FOUND:
                        raise
                else:
                    left -= committed.offset("offset")
        return left

    def wait_until_consumed(self, group: str, topic: str, timeout_ms: int = 30_000) -> None:
        """Wait until the group has committed every message of a topic.

        Raises:
            AssertionError: it has not within that time.
        """
        now_ms, pause = self._runtime.clock.monotonic_ms, self._runtime.event()
        ends_ms = now_ms() + timeout_ms
        while left := self.left(group, topic):
            if now_ms() > ends_ms:
                raise AssertionError(f"{left} messages of {topic} were not consumed by {group} within {timeout_ms} ms")
            pause.wait(POLL_MS)

    def _ask(self, request: Request) -> None:
        with self._client() as client:
            _ask(client, self.broker_addr, request)

    @contextmanager
    def _client(self) -> Iterator[RemotingClient]:
        """Connections for a few questions: those that stayed open would be taken for the test's."""
        client = RemotingClient(self._runtime, lambda address, request, answer: False)
        try:
            yield client
        finally:
            client.shutdown()


def _ask(client: RemotingClient, address: str, request: Request) -> RemotingCommand:
    answer = client.invoke_sync(address, request, TIMEOUT_MS)
    if answer.code != ResponseCode.SUCCESS:
        raise BrokerError(answer.code, answer.remark or "", address, request.code.name)
    return answer
