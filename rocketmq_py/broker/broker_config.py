"""The broker's settings under Java's names, and which of them can be changed while it runs. Source: BrokerConfig."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rocketmq_py.errors import BrokerError
from rocketmq_py.model.codes import ResponseCode

_FLAGS = {"true": True, "false": False}


@dataclass(slots=True)
class BrokerConfig:
    """What administrators read, and change.

    Attributes:
        use_server_side_reset_offset: a reset of offsets is committed here; else the members of the group are told.
            Until the broker ends: every start begins with True, as upstream's.
        others: further settings by their names in Java, to be read only.
    """

    cluster_name: str
    broker_name: str
    broker_addr: str
    use_server_side_reset_offset: bool = True
    others: Mapping[str, object] = field(default_factory=dict)

    def text(self) -> str:
        """All settings as a properties file has them."""
        host, _, port = self.broker_addr.rpartition(":")
        settings = {
            "brokerClusterName": self.cluster_name,
            "brokerIP1": host,
            "brokerId": 0,
            "brokerName": self.broker_name,
            "brokerPermission": 6,
            "listenPort": port,
            "useServerSideResetOffset": self.use_server_side_reset_offset,
            **self.others,
        }
        return "".join(
            f"{name}={str(value).lower() if isinstance(value, bool) else value}\n"
            for name, value in sorted(settings.items())
        )

    def update(self, text: str) -> None:
        """Change settings, all or none of them.

        Raises:
            BrokerError: one cannot be changed, or has an impossible value.
        """
        told = [line.partition("=") for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
        for name, _, value in told:
            if name.strip() != "useServerSideResetOffset":
                raise BrokerError(
                    ResponseCode.INVALID_PARAMETER,
                    f"{name.strip():.100} cannot be changed while this broker runs; useServerSideResetOffset can",
                )
            if value.strip().lower() not in _FLAGS:
                raise BrokerError(ResponseCode.INVALID_PARAMETER, f"{name.strip()} is true or false, not {value:.100}")
        for _, _, value in told:
            self.use_server_side_reset_offset = _FLAGS[value.strip().lower()]
