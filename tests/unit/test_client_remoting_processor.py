from __future__ import annotations

from dataclasses import replace

import pytest

from rocketmq_py.client_remoting_processor import PENDING_MAX, PENDING_MAX_BYTES, ClientRemotingProcessor
from rocketmq_py.errors import ConnectError
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.testing import ManualRuntime

CODE = 307
ONEWAY = 2


def request(code: int = CODE, opaque: int = 7, flag: int = 0) -> RemotingCommand:
    return RemotingCommand(code, opaque, flag)


class Rig:
    def __init__(self) -> None:
        self.runtime = ManualRuntime()
        self.processor = ClientRemotingProcessor(self.runtime)
        self.asked: list[str] = []
        self.answers: list[RemotingCommand] = []

    def note(self, address: str, command: RemotingCommand) -> RemotingCommand | None:
        self.asked.append(address)
        return None

    def process(self, command: RemotingCommand) -> bool:
        return self.processor.process("broker:1", command, self.answers.append)

    @property
    def codes(self) -> list[int]:
        return [answer.code for answer in self.answers]


def test_a_request_nobody_registered_for_is_not_known() -> None:
    rig = Rig()
    assert rig.process(request()) is False
    assert rig.answers == []


def test_a_request_is_handled_and_a_handler_without_an_answer_means_success() -> None:
    rig = Rig()
    rig.processor.register(CODE, rig.note)
    assert rig.process(request(opaque=7)) is True
    assert rig.asked == ["broker:1"]
    assert [(answer.opaque, answer.code, answer.is_response) for answer in rig.answers] == [(7, 0, True)]


def test_a_one_way_request_is_handled_and_not_answered() -> None:
    rig = Rig()
    rig.processor.register(CODE, rig.note)
    assert rig.process(request(flag=ONEWAY)) is True
    assert rig.asked == ["broker:1"]
    assert rig.answers == []


@pytest.mark.parametrize("blocks", [True, False])
def test_an_error_of_a_handler_is_told_to_the_server_and_the_next_request_is_handled(blocks: bool) -> None:
    rig = Rig()

    def fail(address: str, command: RemotingCommand) -> RemotingCommand:
        raise ValueError("no such group")

    rig.processor.register(CODE, fail, blocks=blocks)
    rig.process(request())
    rig.process(request())
    assert [(answer.code, answer.remark) for answer in rig.answers] == [(1, "no such group")] * 2


def test_a_server_that_is_gone_before_its_answer_costs_nothing() -> None:
    rig = Rig()

    def gone(command: RemotingCommand) -> None:
        raise ConnectError("gone")

    rig.processor.register(CODE, rig.note)
    assert rig.processor.process("broker:1", request(), gone) is True


def test_a_server_that_floods_is_refused_above_a_bound_until_requests_have_been_answered() -> None:
    rig = Rig()
    rig.processor.register(CODE, rig.note)
    rig.process(request())
    (pool,) = rig.runtime.pools.values()
    pool.held = True
    rig.answers.clear()
    for _ in range(PENDING_MAX):
        rig.process(request())
    assert rig.answers == []
    assert rig.process(request()) is True
    assert rig.process(request(flag=ONEWAY)) is True
    assert rig.codes == [ResponseCode.SYSTEM_BUSY]
    assert pool.run_all() == PENDING_MAX
    rig.answers.clear()
    rig.process(request())
    pool.run_all()
    assert rig.codes == [ResponseCode.SUCCESS]


def test_a_server_that_floods_with_large_requests_is_refused_before_the_memory_is_full() -> None:
    rig = Rig()
    rig.processor.register(CODE, rig.note)
    rig.process(request())
    (pool,) = rig.runtime.pools.values()
    pool.held = True
    rig.answers.clear()
    large = replace(request(), body=bytes(PENDING_MAX_BYTES // 2))
    for _ in range(3):
        rig.process(large)
    assert rig.codes == [ResponseCode.SYSTEM_BUSY]
    assert pool.run_all() == 2
    rig.answers.clear()
    rig.process(large)
    pool.run_all()
    assert rig.codes == [ResponseCode.SUCCESS]


def test_what_does_not_block_is_handled_while_the_threads_are_busy() -> None:
    rig = Rig()
    rig.processor.register(CODE, rig.note)
    rig.processor.register(40, rig.note, blocks=False)
    rig.process(request())
    (pool,) = rig.runtime.pools.values()
    pool.held = True
    rig.process(request())
    rig.asked.clear()
    rig.process(request(code=40, flag=ONEWAY))
    assert rig.asked == ["broker:1"]


def test_after_shutdown_requests_are_taken_from_the_wire_and_dropped() -> None:
    rig = Rig()
    rig.processor.register(CODE, rig.note)
    rig.processor.shutdown()
    assert rig.process(request()) is True
    assert rig.asked == []
    assert rig.runtime.pools == {}
