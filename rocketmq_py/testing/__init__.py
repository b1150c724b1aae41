"""What tests of RocketMQ applications, and of this package, are made with."""

from rocketmq_py.testing.fake_broker import FakeBroker
from rocketmq_py.testing.manual_runtime import InlineExecutor, ManualClock, ManualRuntime

__all__ = ["FakeBroker", "InlineExecutor", "ManualClock", "ManualRuntime"]
