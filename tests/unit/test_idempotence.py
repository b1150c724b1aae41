from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from rocketmq_py import ConfigError, MessageListenerConcurrently, MessageListenerOrderly, TooManyRequestsError
from rocketmq_py.batch import fan_out
from rocketmq_py.idempotence import Claim, KeyState, MemoryStore, SqliteTransaction, idempotent
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.results import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    Messages,
)
from rocketmq_py.testing import ManualClock, ManualRuntime
from tests.unit.support import LATER, SUCCESS, Core, message, mq

DONE = ConsumeOrderlyStatus.SUCCESS
SUSPEND = ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT

Verdict = Callable[[Messages, Any], Any]


def keyed(*keys: str) -> list[MessageExt]:
    return [message(offset, keys=key) for offset, key in enumerate(keys)]


class Consumed:
    """A listener that notes the keys it got, and a store behind it."""

    def __init__(self, verdict: Verdict | None = None, *, orderly: bool = False, **store: Any) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock, **store)
        self.keys: list[str | None] = []
        self.verdict: Verdict = verdict or (lambda msgs, context: DONE if orderly else SUCCESS)
        self.contexts: list[ConsumeConcurrentlyContext] = []
        self._orderly = orderly
        if orderly:
            self._listener: Any = idempotent(MessageListenerOrderly(self._listen), "keys", self.store)
        else:
            self._listener = idempotent(MessageListenerConcurrently(self._listen), "keys", self.store)

    def _listen(self, msgs: Messages, context: Any) -> Any:
        self.keys += [msg.keys for msg in msgs]
        return self.verdict(msgs, context)

    def consume(self, *keys: str) -> Any:
        return self.consume_messages(keyed(*keys))

    def consume_messages(self, msgs: Sequence[MessageExt]) -> Any:
        """The status, and for a concurrent listener the indexes that come again of a success."""
        if self._orderly:
            return self._listener.consume_message(msgs, ConsumeOrderlyContext(mq()))
        context = ConsumeConcurrentlyContext(mq())
        self.contexts.append(context)
        status = self._listener.consume_message(msgs, context)
        return (status, sorted(context.failed_indexes or ()))


@pytest.mark.behaviour("ID-01")
def test_what_was_consumed_is_not_handed_over_again() -> None:
    consumed = Consumed()
    assert consumed.consume("a", "b") == (SUCCESS, [])
    assert consumed.consume("b", "c", "a") == (SUCCESS, [])
    assert consumed.keys == ["a", "b", "c"]
    assert consumed.consume("a") == (SUCCESS, [])
    assert consumed.keys == ["a", "b", "c"]


@pytest.mark.behaviour("ID-01")
@pytest.mark.parametrize("answer", [LATER, None, "nonsense", ValueError("no")])
def test_what_failed_is_handed_over_again(answer: Any) -> None:
    def fail(msgs: Messages, context: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    consumed = Consumed(fail)
    if isinstance(answer, Exception):
        with pytest.raises(ValueError, match="no"):
            consumed.consume("a")
    elif answer is LATER:
        assert consumed.consume("a") == (LATER, [])
    else:
        assert consumed.consume("a")[0] == answer, "it is reported as what it is"
    consumed.verdict = lambda msgs, context: SUCCESS
    assert consumed.consume("a") == (SUCCESS, [])
    assert consumed.keys == ["a", "a"]


@pytest.mark.behaviour("ID-01")
@pytest.mark.parametrize(("attribute", "value"), [("ack_index", 0), ("failed_indexes", {1, 2})])
def test_of_a_batch_that_succeeded_in_part_the_rest_comes_again(attribute: str, value: object) -> None:
    def in_part(msgs: Messages, context: object) -> object:
        setattr(context, attribute, value)
        return SUCCESS

    consumed = Consumed(in_part)
    consumed.store.claim(["old"]).settle(["old"])
    assert consumed.consume("a", "old", "b", "c") == (SUCCESS, [2, 3])
    consumed.verdict = lambda msgs, context: SUCCESS
    assert consumed.consume("a", "b", "c") == (SUCCESS, [])
    assert consumed.keys == ["a", "b", "c", "b", "c"]


@pytest.mark.behaviour("ID-02")
def test_a_key_that_another_call_is_consuming_comes_again_later_and_never_runs_twice_at_once() -> None:
    consumed = Consumed()
    inner: list[object] = []

    def meanwhile(msgs: Messages, context: object) -> object:
        consumed.verdict = lambda msgs, context: SUCCESS
        inner.append(consumed.consume("a", "b"))
        inner.append(consumed.consume("a"))
        return SUCCESS

    consumed.verdict = meanwhile
    assert consumed.consume("a") == (SUCCESS, [])
    assert inner == [(SUCCESS, [0]), (LATER, [])]
    assert consumed.keys == ["a", "b"]


@pytest.mark.behaviour("ID-02")
def test_the_same_key_twice_in_a_batch_is_handed_over_once_and_both_share_its_fate() -> None:
    consumed = Consumed()
    assert consumed.consume("a", "b", "a") == (SUCCESS, [])
    assert consumed.keys == ["a", "b"]

    def second_fails(msgs: Messages, context: ConsumeConcurrentlyContext) -> object:
        context.failed_indexes = {1}
        return SUCCESS

    consumed.verdict = second_fails
    assert consumed.consume("c", "d", "d") == (SUCCESS, [1, 2])


@pytest.mark.behaviour("ID-03")
def test_a_claim_that_nobody_settled_is_given_up_when_it_expires() -> None:
    consumed = Consumed(consuming_ms=1_000)
    consumed.store.claim(["a"])  # its owner died
    assert consumed.consume("a") == (LATER, [])
    consumed.clock.advance(999)
    assert consumed.consume("a") == (LATER, [])
    consumed.clock.advance(1)
    assert consumed.consume("a") == (SUCCESS, [])


@pytest.mark.behaviour("ID-03")
def test_a_consumed_key_is_remembered_for_its_time() -> None:
    consumed = Consumed(consumed_ms=1_000)
    consumed.consume("a")
    consumed.clock.advance(999)
    consumed.consume("a")
    assert consumed.keys == ["a"]
    consumed.clock.advance(1)
    consumed.consume("a")
    assert consumed.keys == ["a", "a"]


@pytest.mark.behaviour("ID-03")
def test_a_claim_that_expired_while_the_listener_was_at_work_is_told_and_settles_nothing_of_its_successor(
    caplog: pytest.LogCaptureFixture,
) -> None:
    consumed = Consumed(consuming_ms=10)

    def slow(msgs: Messages, context: object) -> object:
        consumed.clock.advance(10)
        consumed.store.claim(["a"])
        return SUCCESS

    consumed.verdict = slow
    assert consumed.consume("a") == (SUCCESS, []), "it is done"
    assert "took longer than their claim lasts" in caplog.text


@pytest.mark.behaviour("ID-03")
def test_memory_remembers_so_many_keys_and_forgets_the_oldest() -> None:
    store = MemoryStore(max_keys=2)
    for key in "abc":
        store.claim([key]).settle([key])
    assert store.claim(["b", "c"]).states == {"b": KeyState.CONSUMED, "c": KeyState.CONSUMED}
    assert store.claim(["a"]).states == {"a": KeyState.CLAIMED}
    store.claim(["d"])
    with pytest.raises(TooManyRequestsError, match="max_keys is 2"):
        store.claim(["e"])


@pytest.mark.behaviour("ID-04")
def test_the_key_is_the_message_id_the_business_key_or_what_a_function_says() -> None:
    msg = message(0, keys="order-1", properties={"UNIQ_KEY": "ID"}, body=b"7")
    for key, expected in (("msg_id", "ID"), ("keys", "order-1"), (lambda msg: msg.body.decode(), "7")):
        asked: list[Sequence[str]] = []

        class Store(MemoryStore):
            def claim(self, keys: Sequence[str], asked: list[Sequence[str]] = asked) -> Claim:
                asked.append(keys)
                return super().claim(keys)

        idempotent(MessageListenerConcurrently(lambda msgs, context: SUCCESS), key, Store()).consume_message(
            [msg], ConsumeConcurrentlyContext(mq())
        )
        assert asked == [[expected]]


@pytest.mark.behaviour("ID-04")
def test_a_message_without_a_producers_id_keeps_its_key_in_the_retry_topic() -> None:
    got: list[int] = []

    def listen(msgs: Messages, context: object) -> ConsumeConcurrentlyStatus:
        got.extend(msg.queue_offset for msg in msgs)
        return SUCCESS

    listener = idempotent(MessageListenerConcurrently(listen))
    first = message(1, commit_log_offset=100, store_host=("127.0.0.1", 10911))
    again = message(7, commit_log_offset=900, properties={"ORIGIN_MESSAGE_ID": first.offset_msg_id})
    for msg in (first, again):
        assert listener.consume_message([msg], ConsumeConcurrentlyContext(mq())) is SUCCESS
    assert got == [1]


@pytest.mark.behaviour("ID-04")
def test_a_message_without_a_key_fails_with_what_to_do_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    consumed = Consumed()
    assert consumed.consume_messages([message(0, keys="a"), message(1), message(2, keys="b")]) == (SUCCESS, [1])
    assert consumed.consume_messages([message(1)]) == (LATER, [])
    assert consumed.keys == ["a", "b"]
    assert "its key is None" in caplog.text


@pytest.mark.behaviour("ID-04")
def test_a_store_that_cannot_be_asked_leaves_everything_for_later() -> None:
    class Down:
        def claim(self, keys: Sequence[str]) -> Claim:
            raise ConnectionError("no store")

    def listen(msgs: Messages, context: object) -> ConsumeConcurrentlyStatus:
        raise AssertionError("not handed over")

    listener = idempotent(MessageListenerConcurrently(listen), "keys", Down())
    core = Core(listener.consume_message, consume_message_batch_max_size=2)
    core.broker.store(mq(), b"x", b"x")
    core.begin()
    core.broker.answer_pulls()
    assert len(core.broker.sent_back) == 2


@pytest.mark.behaviour("ID-04")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"key": "body"}, "'msg_id', 'keys' or a function"),
        ({"key": None}, "'msg_id', 'keys' or a function"),
        ({"store": {}}, r"method claim\(keys\)"),
        ({"listener": print}, "a message listener is"),
        ({"store": SqliteTransaction(lambda: None), "listener": fan_out(lambda msg: None)}, "on others"),  # type: ignore[arg-type, return-value]
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], text: str) -> None:
    listener = MessageListenerConcurrently(lambda msgs, context: SUCCESS)
    with pytest.raises(ConfigError, match=text):
        idempotent(**({"listener": listener} | arguments))


@pytest.mark.behaviour("ID-04")
@pytest.mark.parametrize("settings", [{"consuming_ms": 0}, {"consumed_ms": -1}, {"max_keys": 0}, {"consumed_ms": 0.5}])
def test_times_and_sizes_have_ranges(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Out of range"):
        MemoryStore(**settings)


@pytest.mark.behaviour("ID-01")
def test_the_delay_level_of_the_listener_is_passed_on_and_its_life_too() -> None:
    calls: list[str] = []

    class Listener(MessageListenerConcurrently):
        def consume_message(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
            assert context.delay_level_when_next_consume == 0
            context.delay_level_when_next_consume = 5
            return LATER

        def consumer_started(self) -> None:
            calls.append("started")

        def consumer_stopped(self) -> None:
            calls.append("stopped")

    listener = idempotent(Listener())
    context = ConsumeConcurrentlyContext(mq())
    assert listener.consume_message(keyed("a"), context) is LATER
    assert context.delay_level_when_next_consume == 5
    listener.consumer_started()
    listener.consumer_stopped()
    assert calls == ["started", "stopped"]


@pytest.mark.behaviour("ID-02")
def test_what_another_call_is_consuming_does_not_go_to_the_dead_letters_with_what_this_one_gives_up() -> None:
    def give_up(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        context.delay_level_when_next_consume = -1
        return LATER

    consumed = Consumed(give_up)
    consumed.store.claim(["b"])
    consumed.consume("a", "b")
    consumed.consume("a")
    assert [context.delay_level_when_next_consume for context in consumed.contexts] == [0, -1]


@pytest.mark.behaviour("ID-01")
def test_around_a_fan_out_each_message_has_its_own_fate() -> None:
    handled: list[str | None] = []

    def handle(msg: MessageExt) -> bool:
        handled.append(msg.keys)
        return msg.keys != "b" or handled.count("b") == 2

    listener = idempotent(fan_out(handle, 2, "each", runtime=ManualRuntime()), "keys", MemoryStore())
    context = ConsumeConcurrentlyContext(mq())
    assert listener.consume_message(keyed("a", "b", "c"), context) is SUCCESS
    assert context.failed_indexes == frozenset({1})
    assert listener.consume_message(keyed("a", "b"), ConsumeConcurrentlyContext(mq())) is SUCCESS
    assert handled == ["a", "b", "c", "b"]


# In order.


@pytest.mark.behaviour("ID-05")
def test_an_orderly_listener_gets_only_what_is_new() -> None:
    consumed = Consumed(orderly=True)
    assert consumed.consume("a", "b", "a") is DONE
    assert consumed.consume("b", "c") is DONE
    assert consumed.consume("c") is DONE
    assert consumed.keys == ["a", "b", "c"]


@pytest.mark.behaviour("ID-05")
@pytest.mark.parametrize("answer", [SUSPEND, None, "nonsense"])
def test_what_an_orderly_listener_suspends_comes_again(answer: Any) -> None:
    consumed = Consumed(lambda msgs, context: answer, orderly=True)
    assert consumed.consume("a", "b") == answer
    consumed.verdict = lambda msgs, context: DONE
    assert consumed.consume("a", "b") is DONE
    assert consumed.keys == ["a", "b", "a", "b"]


@pytest.mark.behaviour("ID-05")
def test_a_key_that_another_call_is_consuming_holds_the_whole_queue() -> None:
    consumed = Consumed(orderly=True)
    claim = consumed.store.claim(["b"])
    assert consumed.consume("a", "b", "c") is SUSPEND
    assert consumed.keys == []
    claim.settle(["b"])
    assert consumed.consume("a", "b", "c") is DONE
    assert consumed.keys == ["a", "c"]


@pytest.mark.behaviour("ID-05")
def test_without_auto_commit_nothing_is_marked_because_it_could_be_rolled_back() -> None:
    def by_hand(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        context.auto_commit = False
        return DONE

    consumed = Consumed(by_hand, orderly=True)
    with pytest.raises(ConfigError, match="must leave auto_commit on"):
        consumed.consume("a")
    consumed.verdict = lambda msgs, context: DONE
    assert consumed.consume("a") is DONE
    assert consumed.keys == ["a", "a"]


@pytest.mark.behaviour("ID-05")
def test_a_message_without_a_key_holds_an_orderly_queue() -> None:
    consumed = Consumed(orderly=True)
    with pytest.raises(ConfigError, match="its key is None"):
        consumed.consume_messages([message(0)])


@pytest.mark.behaviour("ID-05")
def test_what_the_store_could_not_settle_comes_again_in_order() -> None:
    class Forgetful:
        def __init__(self) -> None:
            self.states = {"a": KeyState.CLAIMED}

        def claim(self, keys: Sequence[str]) -> Claim:
            return self

        def settle(self, done: Collection[str]) -> Collection[str]:
            return ()

    store: Any = Forgetful()
    listener = idempotent(MessageListenerOrderly(lambda msgs, context: DONE), "keys", store)
    assert listener.consume_message(keyed("a"), ConsumeOrderlyContext(mq())) is SUSPEND
