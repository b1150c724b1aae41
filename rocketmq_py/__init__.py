"""A RocketMQ push consumer whose core follows the Java client's, class by class.

Importing starts nothing, opens nothing and configures no logging; loggers are named after the modules.
"""

import logging

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

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
