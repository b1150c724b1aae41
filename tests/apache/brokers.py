"""Several brokers: two masters, one of them with a slave. Source of the settings: upstream's conf/2m-2s-async."""

from __future__ import annotations

from typing import Any

from tests.administration import BROKER_NAME, free_ports
from tests.apache.cluster import ApacheCluster, write_properties

SECOND_BROKER = "broker-b"

#: a master with these sends every pull that is not at the end of its queue to its slave
SUGGESTS_SLAVE = {"slaveReadEnable": True, "accessMessageInMemoryMaxRatio": 0}


class Brokers(ApacheCluster):
    """Name server, masters ``broker-a`` and ``broker-b``, and a slave of ``broker-a``; the latter two when started."""

    def __init__(self, **options: Any) -> None:
        super().__init__(broker_config={"brokerRole": "ASYNC_MASTER", **SUGGESTS_SLAVE}, **options)

    @property
    def slave_addr(self) -> str:
        return self._addr("slave")

    def start_second_master(self) -> None:
        """Start ``broker-b``; back when the name server knows it."""
        self._start_another("second", SECOND_BROKER, 0, "ASYNC_MASTER")
        self._wait(lambda: SECOND_BROKER in self._broker_names(), "the second master to register", 60)

    def start_slave(self, topic: str) -> None:
        """Start a slave of ``broker-a``; back when it serves this topic."""
        self._start_another("slave", BROKER_NAME, 1, "SLAVE")
        self._wait(lambda: self._slave_has(topic), "the slave to have copied the topic", 90)

    def _slave_has(self, topic: str) -> bool:
        # Messages come at once; that the topic exists is copied every 10 s, once the slave knows its master.
        if self.call(self.slave_addr, 351, {"topic": topic}).code != 0:
            return False
        master, slave = (
            self.call(address, 30, {"topic": topic, "queueId": 0}).checked("max offset").ext["offset"]
            for address in (self.broker_addr, self.slave_addr)
        )
        return master == slave

    def kill_second_master(self) -> None:
        """Kill ``broker-b`` as a crash would, and wait until the name server has noticed."""
        self._kill_server(self._servers["second"])
        self._wait(lambda: SECOND_BROKER not in self._broker_names(), "the name server to drop it", 30)

    def kill_master(self) -> None:
        """Kill the master of ``broker-a``; its slave stays."""
        self._kill_server(self._servers["broker"])
        self._wait(lambda: "0" not in self._addresses(BROKER_NAME), "the name server to drop the master", 30)

    def create_topic_on_second(self, topic: str, queues: int) -> None:
        """Create a topic on ``broker-b`` alone."""
        ext = {
            "topic": topic, "defaultTopic": "TBW102", "readQueueNums": queues, "writeQueueNums": queues, "perm": 6,
            "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": False,
        }  # fmt: skip
        self.call(self._addr("second"), 17, ext).checked(f"create topic {topic}")
        self._wait(lambda: SECOND_BROKER in self._broker_names(topic), "the route of the second master", 30)

    def _start_another(self, name: str, broker_name: str, broker_id: int, role: str) -> None:
        port = free_ports(-2, 0, 1)[1]
        config = self._dir / f"{name}.conf"
        settings = self._broker_settings() | {
            "brokerName": broker_name,
            "brokerId": broker_id,
            "brokerRole": role,
            "registerNameServerPeriod": 10_000,
            "listenPort": port,
            "storePathRootDir": self._dir / f"store-{name}",
        }
        write_properties(config, settings)
        self._add(name, "broker.BrokerStartup", "-c", config, self._profile.broker, (port,))
        self._launch(self._servers[name])

    def _broker_names(self, topic: str = "TBW102") -> set[str]:
        route = self.route(topic)
        return {data["brokerName"] for data in route["brokerDatas"]} if route else set()

    def _addresses(self, broker_name: str) -> set[str]:
        route = self.route("TBW102")
        found = [data for data in route["brokerDatas"] if data["brokerName"] == broker_name] if route else []
        return {str(number) for data in found for number in data["brokerAddrs"]}
