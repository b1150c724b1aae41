from __future__ import annotations

import pytest

from rocketmq_py.consumer.pull_message_service import PullMessageService
from rocketmq_py.testing import ManualRuntime


@pytest.mark.behaviour("PS-01")
def test_jobs_run_after_their_delay_in_order() -> None:
    runtime, ran = ManualRuntime(), list[int]()
    pulls = PullMessageService(runtime)
    for delay_ms in (50, 0, 20):
        pulls.execute_later(delay_ms, lambda delay_ms=delay_ms: ran.append(delay_ms))  # type: ignore[misc]
    assert ran == []
    runtime.advance(0)
    assert ran == [0]
    runtime.advance(20)
    assert ran == [0, 20]
    runtime.advance(30)
    assert ran == [0, 20, 50]


@pytest.mark.behaviour("PS-01")
def test_once_shut_down_no_job_runs_any_more() -> None:
    runtime, ran = ManualRuntime(), list[int]()
    pulls = PullMessageService(runtime)
    pulls.execute_later(10, lambda: ran.append(1))
    pulls.shutdown()
    pulls.execute_later(10, lambda: ran.append(2))
    runtime.advance(100)
    assert ran == []
