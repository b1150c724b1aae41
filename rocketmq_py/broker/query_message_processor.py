"""Single messages, by place or by key. Source: QueryMessageProcessor, IndexService."""

from __future__ import annotations

from rocketmq_py.broker.channel import Channel, Handler, integer, required, success
from rocketmq_py.broker.commit_log import CommitLog
from rocketmq_py.errors import BrokerError
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.frame import RemotingCommand

DEFAULT_QUERY_MAX_NUM = 32
"""Messages that a query by unique key may find. Source: MessageStoreConfig.defaultQueryMaxNum."""
MAX_MSGS_NUM_BATCH = 64
"""Messages that a query may find. Source: MessageStoreConfig.maxMsgsNumBatch."""

UNIQUE_MSG_QUERY_FLAG = "_UNIQUE_KEY_QUERY"


class QueryMessageProcessor:
    """Finds messages. On the loop's thread only."""

    def __init__(self, commit_log: CommitLog) -> None:
        self._commit_log = commit_log

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.QUERY_MESSAGE: self.query_message,
            RequestCode.VIEW_MESSAGE_BY_ID: self.view_message_by_id,
        }

    def view_message_by_id(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Give one message by its physical offset."""
        offset = integer(request, "offset")
        data = self._commit_log.look_message_by_offset(offset)
        if data is None:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"can not find message by the offset, {offset}")
        return success(request, body=data)

    def query_message(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Give the newest messages with a key, or with a producer's id, stored within a span of time; the oldest first.

        Clients take the first one when they look for a message by its producer's id. Behaviour: AB-14.
        """
        topic, key = required(request, "topic"), required(request, "key")
        if request.ext_fields.get(UNIQUE_MSG_QUERY_FLAG) == "true":
            count = DEFAULT_QUERY_MAX_NUM
        else:
            count = min(integer(request, "maxNum", bits=32), MAX_MSGS_NUM_BATCH)
        begin_ms, end_ms = integer(request, "beginTimestamp"), integer(request, "endTimestamp")
        found = self._commit_log.query_message(topic, key, count, begin_ms, end_ms)
        if not found:
            raise BrokerError(ResponseCode.QUERY_NOT_FOUND, "can not find message, maybe time range not correct")
        _, newest_ms = self._commit_log.stored_between() or (0, 0)
        fields = {"indexLastUpdatePhyoffset": self._commit_log.last_id, "indexLastUpdateTimestamp": newest_ms}
        return success(request, fields, b"".join(reversed(found)))
