"""A RocketMQ push consumer whose core follows the Java client's, class by class.

Importing starts nothing, opens nothing and configures no logging; loggers are named after the modules. A public name is
imported when it is first asked for: a broker needs no consumer, and most programs need no producer or no simple one.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rocketmq_py.consumer.allocate import (
        AllocateMachineRoomNearby,
        AllocateMessageQueueAveragely,
        AllocateMessageQueueAveragelyByCircle,
        AllocateMessageQueueByConfig,
        AllocateMessageQueueByMachineRoom,
        AllocateMessageQueueConsistentHash,
        AllocateMessageQueueStrategy,
        MachineRoomResolver,
    )
    from rocketmq_py.consumer.hooks import ConsumeMessageHook, FilterMessageContext, FilterMessageHook
    from rocketmq_py.errors import (
        BrokerError,
        ClientError,
        ConfigError,
        ConnectError,
        IllegalStateError,
        MissingExtraError,
        ProtocolError,
        RequestTimeoutError,
        RocketMQError,
        StoreError,
        TooManyRequestsError,
        TransportError,
    )
    from rocketmq_py.model.config import CompressionType, ConsumeFromWhere, MessageModel
    from rocketmq_py.model.listener import MessageListenerConcurrently, MessageListenerOrderly
    from rocketmq_py.model.message import Message, MessageExt
    from rocketmq_py.model.message_queue import MessageQueue
    from rocketmq_py.model.producer_hooks import CheckForbiddenHook, EndTransactionHook, SendMessageHook
    from rocketmq_py.model.results import (
        ConsumeConcurrentlyContext,
        ConsumeConcurrentlyStatus,
        ConsumeOrderlyContext,
        ConsumeOrderlyStatus,
        LocalTransactionState,
        SendResult,
        SendStatus,
        TransactionSendResult,
    )
    from rocketmq_py.model.send_callback import RequestCallback, SendCallback
    from rocketmq_py.model.subscription import MessageSelector
    from rocketmq_py.producer import DefaultMQProducer
    from rocketmq_py.push_consumer import DefaultMQPushConsumer, ServiceState
    from rocketmq_py.remoting.frame import RemotingCommand
    from rocketmq_py.remoting.rpc_hook import RPCHook
    from rocketmq_py.request_reply import create_reply_message
    from rocketmq_py.simple_consumer import SimpleConsumer
    from rocketmq_py.transaction_producer import TransactionListener, TransactionMQProducer

__all__ = [
    "AllocateMachineRoomNearby",
    "AllocateMessageQueueAveragely",
    "AllocateMessageQueueAveragelyByCircle",
    "AllocateMessageQueueByConfig",
    "AllocateMessageQueueByMachineRoom",
    "AllocateMessageQueueConsistentHash",
    "AllocateMessageQueueStrategy",
    "BrokerError",
    "CheckForbiddenHook",
    "ClientError",
    "CompressionType",
    "ConfigError",
    "ConnectError",
    "ConsumeConcurrentlyContext",
    "ConsumeConcurrentlyStatus",
    "ConsumeFromWhere",
    "ConsumeMessageHook",
    "ConsumeOrderlyContext",
    "ConsumeOrderlyStatus",
    "DefaultMQProducer",
    "DefaultMQPushConsumer",
    "EndTransactionHook",
    "FilterMessageContext",
    "FilterMessageHook",
    "IllegalStateError",
    "LocalTransactionState",
    "MachineRoomResolver",
    "Message",
    "MessageExt",
    "MessageListenerConcurrently",
    "MessageListenerOrderly",
    "MessageModel",
    "MessageQueue",
    "MessageSelector",
    "MissingExtraError",
    "ProtocolError",
    "RPCHook",
    "RemotingCommand",
    "RequestCallback",
    "RequestTimeoutError",
    "RocketMQError",
    "SendCallback",
    "SendMessageHook",
    "SendResult",
    "SendStatus",
    "ServiceState",
    "SimpleConsumer",
    "StoreError",
    "TooManyRequestsError",
    "TransactionListener",
    "TransactionMQProducer",
    "TransactionSendResult",
    "TransportError",
    "create_reply_message",
]

_HOMES = {
    "rocketmq_py.consumer.allocate": (
        "AllocateMachineRoomNearby",
        "AllocateMessageQueueAveragely",
        "AllocateMessageQueueAveragelyByCircle",
        "AllocateMessageQueueByConfig",
        "AllocateMessageQueueByMachineRoom",
        "AllocateMessageQueueConsistentHash",
        "AllocateMessageQueueStrategy",
        "MachineRoomResolver",
    ),
    "rocketmq_py.consumer.hooks": ("ConsumeMessageHook", "FilterMessageContext", "FilterMessageHook"),
    "rocketmq_py.errors": (
        "BrokerError",
        "ClientError",
        "ConfigError",
        "ConnectError",
        "IllegalStateError",
        "MissingExtraError",
        "ProtocolError",
        "RequestTimeoutError",
        "RocketMQError",
        "StoreError",
        "TooManyRequestsError",
        "TransportError",
    ),
    "rocketmq_py.model.config": ("CompressionType", "ConsumeFromWhere", "MessageModel"),
    "rocketmq_py.model.listener": ("MessageListenerConcurrently", "MessageListenerOrderly"),
    "rocketmq_py.model.message": ("Message", "MessageExt"),
    "rocketmq_py.model.message_queue": ("MessageQueue",),
    "rocketmq_py.model.producer_hooks": ("CheckForbiddenHook", "EndTransactionHook", "SendMessageHook"),
    "rocketmq_py.model.results": (
        "ConsumeConcurrentlyContext",
        "ConsumeConcurrentlyStatus",
        "ConsumeOrderlyContext",
        "ConsumeOrderlyStatus",
        "LocalTransactionState",
        "SendResult",
        "SendStatus",
        "TransactionSendResult",
    ),
    "rocketmq_py.model.send_callback": ("RequestCallback", "SendCallback"),
    "rocketmq_py.model.subscription": ("MessageSelector",),
    "rocketmq_py.producer": ("DefaultMQProducer",),
    "rocketmq_py.push_consumer": ("DefaultMQPushConsumer", "ServiceState"),
    "rocketmq_py.remoting.frame": ("RemotingCommand",),
    "rocketmq_py.remoting.rpc_hook": ("RPCHook",),
    "rocketmq_py.request_reply": ("create_reply_message",),
    "rocketmq_py.simple_consumer": ("SimpleConsumer",),
    "rocketmq_py.transaction_producer": ("TransactionListener", "TransactionMQProducer"),
}
"""Where public names come from, by module: as above, for whoever runs."""

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())

_MODULES = {name: module for module, names in _HOMES.items() for name in names}
_SUBMODULES = {module.split(".")[1] for module in _HOMES}

if not TYPE_CHECKING:  # type checkers would take every name for one that is there

    def __getattr__(name: str) -> object:
        """A public name, which is a plain attribute from then on (PEP 562); or a module that type checkers see."""
        if name in _SUBMODULES:
            path = f"{__name__}.{name}"
            for module in _HOMES:
                if module == path or module.startswith(f"{path}."):
                    import_module(module)
            return import_module(path)
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_SUBMODULES})
