from __future__ import annotations

import pytest

from rocketmq_py.consumer.consume_result import ConsumeReturnType, failed_indexes, return_type
from rocketmq_py.model.results import MAX_ACK_INDEX, ConsumeConcurrentlyStatus
from tests.unit.support import LATER, SUCCESS


@pytest.mark.behaviour("CR-01")
@pytest.mark.parametrize(
    ("ack_index", "failed"),
    [
        (MAX_ACK_INDEX, []),
        (4, []),
        (3, []),
        (2, [3]),
        (0, [1, 2, 3]),
        (-1, [0, 1, 2, 3]),
        (-2, [0, 1, 2, 3]),
        (-MAX_ACK_INDEX, [0, 1, 2, 3]),
    ],
)
def test_with_success_the_ack_index_names_the_last_good_message(ack_index: int, failed: list[int]) -> None:
    assert list(failed_indexes(SUCCESS, ack_index, 4)) == failed


@pytest.mark.behaviour("CR-01")
@pytest.mark.parametrize("ack_index", [-1, 0, 3, MAX_ACK_INDEX])
def test_with_reconsume_later_the_ack_index_is_ignored_and_all_failed(ack_index: int) -> None:
    assert list(failed_indexes(LATER, ack_index, 4)) == [0, 1, 2, 3]


@pytest.mark.behaviour("CR-02")
@pytest.mark.parametrize(
    ("status", "raised", "took_ms", "expected"),
    [
        (SUCCESS, False, 999, ConsumeReturnType.SUCCESS),
        (LATER, False, 999, ConsumeReturnType.FAILED),
        (SUCCESS, False, 1_000, ConsumeReturnType.TIME_OUT),
        (LATER, False, 1_001, ConsumeReturnType.TIME_OUT),
        (None, True, 0, ConsumeReturnType.EXCEPTION),
        (None, False, 0, ConsumeReturnType.RETURNNULL),
        (None, True, 1_000, ConsumeReturnType.EXCEPTION),
        (None, False, 1_000, ConsumeReturnType.RETURNNULL),
    ],
)
def test_how_a_call_ended_is_told_by_the_first_that_matches_no_answer_too_late_failed_success(
    status: ConsumeConcurrentlyStatus | None, raised: bool, took_ms: int, expected: ConsumeReturnType
) -> None:
    assert return_type(status, raised, took_ms, timeout_ms=1_000) is expected
