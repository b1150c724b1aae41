"""An orderly member of a group, a process of its own, that tells what its listener does: a line per beginning and end.

Arguments: NAMESRV TOPIC GROUP WORK_MS. Lines: ``begin|end TAB queue TAB offset TAB body TAB monotonic-ns``. Ends in
good order when its standard input does.
"""

from __future__ import annotations

import sys
import threading
import time

from rocketmq_py import (
    ConsumeFromWhere,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    DefaultMQPushConsumer,
    MessageListenerOrderly,
)
from rocketmq_py.model.results import Messages


def main(namesrv_addr: str, topic: str, group: str, work_ms: str) -> None:
    lock = threading.Lock()

    def say(line: str) -> None:
        with lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def consume(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        (msg,) = msgs
        what = f"{context.message_queue.queue_id}\t{msg.queue_offset}\t{msg.body.decode()}"
        say(f"begin\t{what}\t{time.monotonic_ns()}")
        time.sleep(int(work_ms) / 1000)
        say(f"end\t{what}\t{time.monotonic_ns()}")
        return ConsumeOrderlyStatus.SUCCESS

    consumer = DefaultMQPushConsumer(group, namesrv_addr=namesrv_addr)
    consumer.consume_from_where = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    consumer.subscribe(topic)
    consumer.register_message_listener(MessageListenerOrderly(consume))
    with consumer:
        say("started")
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
