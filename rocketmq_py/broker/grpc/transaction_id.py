"""The id of a transaction: it carries where its half message lies, so that nothing needs to be remembered.

Deviation: upstream's proxy remembers that for 30 s, and fails every decision that comes later or at another proxy.
"""

from __future__ import annotations

from typing import NamedTuple

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model.message import MessageConst
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_message_id

_FIELDS = 3
_DIGITS = 18


class TransactionId(NamedTuple):
    """Where a half message lies.

    Attributes:
        queue_offset: in the queue of half messages.
        physical_offset: of the half message.
        message_id: as its producer gave it.
    """

    queue_offset: int
    physical_offset: int
    message_id: str

    @classmethod
    def parse(cls, text: str) -> TransactionId:
        """Undo ``str``.

        Raises:
            ProtocolError: it is none of ours.
        """
        fields = text.split(" ", _FIELDS - 1)
        if len(fields) != _FIELDS or not all(_is_number(field) for field in fields[:2]):
            raise ProtocolError(f"{text!r:.200} is no transaction id of this server")
        return cls(int(fields[0]), int(fields[1]), fields[2])

    @classmethod
    def of_answer(cls, answer: RemotingCommand, message_id: str) -> TransactionId:
        """By the broker's answer to a half message.

        Raises:
            ProtocolError: it does not tell.
        """
        _, _, physical_offset = decode_message_id(answer.ext_fields.get("msgId", ""))
        return cls(answer.offset("queueOffset"), physical_offset, message_id)

    @classmethod
    def of_check(cls, check: RemotingCommand) -> TransactionId:
        """By the broker's question what has become of it.

        Raises:
            ProtocolError: it does not tell.
        """
        fields = check.ext_fields
        message_id = fields.get("transactionId") or fields.get("msgId") or fields.get(MessageConst.UNIQ_KEY, "")
        return cls(check.offset("tranStateTableOffset"), check.offset("commitLogOffset"), message_id)

    def __str__(self) -> str:
        """As clients carry it."""
        return f"{self.queue_offset} {self.physical_offset} {self.message_id}"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS
