"""Which queues a broker gives to this member, and whether to pull or to pop them.

Used with ``client_rebalance=False``.
"""

from __future__ import annotations

import logging

from rocketmq_py.clock import Clock
from rocketmq_py.consumer.pop_queues import PopQueues
from rocketmq_py.consumer.ports import Group
from rocketmq_py.errors import BrokerError
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.config import MessageModel
from rocketmq_py.model.results import QueueAssignment
from rocketmq_py.rate_limited_log import RateLimitedLog

_log = logging.getLogger(__name__)


class BrokerAssignment:
    """Asks any broker of a topic. Used on the rebalance thread.

    Source: RebalanceImpl.getRebalanceResultFromBroker.

    Attributes:
        pops: the queues that are popped.
        unsupported: whether the broker asked last assigns no queues, and none ever did for this consumer: an embedded
            broker, a proxy, a RocketMQ before version 5. The members divide the queues among themselves then.
    """

    def __init__(self, group: str, strategy_name: str, client: Group, pops: PopQueues, clock: Clock) -> None:
        self._group = group
        self._strategy_name = strategy_name
        self._client = client
        self._warnings = RateLimitedLog(clock, _log)
        self._answered = False
        self.pops = pops
        self.unsupported = False

    def ask(self, topic: str) -> QueueAssignment | None:
        """The queues of this member; None: nothing is to change now, ask again soon, or ``unsupported``.

        Raises:
            RocketMQError: no broker could be asked, or it refused.

        Behaviour: PA-01, PA-02.
        """
        try:
            assigned = self._client.query_assignment(
                topic, self._group, self._strategy_name, MessageModel.CLUSTERING.value
            )
        except BrokerError as error:
            if error.code != ResponseCode.REQUEST_CODE_NOT_SUPPORTED or self._answered:
                raise
            self.unsupported = True
            self._warnings.warning(
                "unsupported",
                "group %s: %s does not assign queues (client_rebalance is False): the members divide them among "
                "themselves, and pull", self._group, error.address,
            )  # fmt: skip
            return None
        self.unsupported = False
        self._answered = self._answered or assigned is not None
        if assigned is None:
            self._warnings.warning(
                ("no assignment", topic),
                "group %s: the broker cannot tell (yet) which queues of %s are this member's, it is asked again; does "
                "it know the strategy %s?", self._group, topic, self._strategy_name,
            )  # fmt: skip
        return assigned
