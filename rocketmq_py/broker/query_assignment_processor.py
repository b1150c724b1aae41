"""Which queues a member is to consume, when its broker divides them. Source: QueryAssignmentProcessor."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rocketmq_py.broker.broker_config import BrokerConfig
from rocketmq_py.broker.channel import Channel, Handler, answer_when_stored, success
from rocketmq_py.broker.consumer_manager import BROADCASTING, ConsumerManager
from rocketmq_py.broker.message_request_mode_manager import MessageRequestMode, MessageRequestModeManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.consumer.allocate import (
    AllocateMessageQueueAveragely,
    AllocateMessageQueueAveragelyByCircle,
    AllocateMessageQueueStrategy,
)
from rocketmq_py.errors import BrokerError
from rocketmq_py.model import fastjson, names
from rocketmq_py.model.codes import PermName, RequestCode, ResponseCode
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import RemotingCommand

_STRATEGIES: dict[str, AllocateMessageQueueStrategy] = {
    strategy.get_name(): strategy
    for strategy in (AllocateMessageQueueAveragely(), AllocateMessageQueueAveragelyByCircle())
}

_log = logging.getLogger(__name__)


class QueryAssignmentProcessor:
    """Divides queues for members that ask. On the loop's thread only."""

    def __init__(
        self,
        *,
        config: BrokerConfig,
        topics: TopicConfigManager,
        consumers: ConsumerManager,
        modes: MessageRequestModeManager,
    ) -> None:
        self._config = config
        self._topics = topics
        self._consumers = consumers
        self._modes = modes

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.QUERY_ASSIGNMENT: self.query_assignment,
            RequestCode.SET_MESSAGE_REQUEST_MODE: self.set_message_request_mode,
            RequestCode.GET_ALL_MESSAGE_REQUEST_MODE: self.get_all_message_request_mode,
        }

    def query_assignment(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell a member's queues and how it is to get their messages; ``{}`` when that cannot be told.

        Behaviour: AB-16.
        """
        asked = bodies.parse_query_assignment(request.body)
        mode = self._modes.mode(asked.topic, asked.group)
        queues = self._do_load_balance(asked, mode)
        if queues is None:
            return success(request, body=b"{}")
        assignments = [{"messageQueue": mq, "mode": mode.mode} for mq in sorted(set(queues))]
        return success(request, body=fastjson.dumps({"messageQueueAssignments": assignments}))

    def _do_load_balance(
        self, asked: bodies.QueryAssignment, mode: MessageRequestMode
    ) -> Sequence[MessageQueue] | None:
        config = self._topics.topic(asked.topic)
        if config is None:
            return None
        readable = range(config.readQueueNums if config.perm & PermName.READ else 0)
        mq_all = [MessageQueue(asked.topic, self._config.broker_name, queue_id) for queue_id in readable]
        if asked.message_model == BROADCASTING:
            return mq_all
        cid_all = sorted(self._consumers.client_ids(asked.group), key=_utf_16)
        strategy = _STRATEGIES.get(asked.strategy_name)
        if not cid_all or strategy is None or not mq_all:
            _log.info(
                "no assignment for group %s, topic %s, strategy %s", asked.group, asked.topic, asked.strategy_name
            )
            return None
        if mode.mode == "POP":
            return _allocate_for_pop(strategy, asked, mq_all, cid_all, mode.pop_share_queue_num)
        return strategy.allocate(asked.group, asked.client_id, mq_all, cid_all)

    def set_message_request_mode(self, channel: Channel, request: RemotingCommand) -> None:
        """Have a group pull or pop a topic; answered once it is stored. Behaviour: AB-17."""
        told = bodies.parse_message_request_mode(request.body)
        if told.topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX):
            raise BrokerError(ResponseCode.NO_PERMISSION, "retry topic is not allowed to set mode")
        if self._topics.topic(told.topic) is None:
            raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{told.topic}] not exist")
        if self._topics.ensure_group(told.group) is None:
            raise BrokerError(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, "subscription group does not exist")
        mode = MessageRequestMode(told.mode, told.pop_share_queue_num)
        self._modes.put(told.topic, told.group, mode, answer_when_stored(channel, request, success(request)))

    def get_all_message_request_mode(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell all that was set. Behaviour: AB-17."""
        return success(request, body=fastjson.dumps({"messageRequestModeMap": self._modes.table()}))


def _allocate_for_pop(
    strategy: AllocateMessageQueueStrategy,
    asked: bodies.QueryAssignment,
    mq_all: Sequence[MessageQueue],
    cid_all: Sequence[str],
    share: int,
) -> list[MessageQueue]:
    """Everybody pops everything, or what is its own and what its ``share`` followers have. Source: allocate4Pop."""
    if share <= 0 or share >= len(cid_all) - 1:
        return [MessageQueue(mq.topic, mq.broker_name, -1) for mq in mq_all]
    if asked.client_id not in cid_all:
        return []
    index = cid_all.index(asked.client_id)
    if len(cid_all) > len(mq_all):  # so that everybody has one
        return [mq_all[index % len(mq_all)]]
    sharing = [cid_all[(index + step) % len(cid_all)] for step in range(share + 1)]
    return [mq for each in sharing for mq in strategy.allocate(asked.group, each, mq_all, cid_all)]


def _utf_16(text: str) -> bytes:
    """Java's order of strings."""
    return text.encode("utf-16-be", "surrogatepass")
