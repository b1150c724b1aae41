from __future__ import annotations

from rocketmq_py.model.calls import PullCall
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.testing import FakeBroker
from tests.unit.support import GROUP, TOPIC, mq


def test_a_pull_commits_when_it_comes_as_with_brokers_so_being_held_it_puts_no_later_commit_back() -> None:
    broker = FakeBroker()
    broker.store(mq(), b"body")
    call = PullCall(GROUP, mq(), SubscriptionData(TOPIC), 0, 3, False, 32, 1_000, 15_000, 30_000)
    broker.pull_message(call, lambda result: None, lambda error: None)
    assert broker.offsets == {(GROUP, mq()): 3}
    broker.update_consumer_offset(GROUP, mq(), 9)
    assert broker.answer_pulls() == 1
    assert broker.offsets == {(GROUP, mq()): 9}
