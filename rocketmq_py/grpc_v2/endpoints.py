"""Addresses of servers: as users write them, as the protocol carries them, as gRPC wants them. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Self

from rocketmq_py.errors import ConfigError, ProtocolError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.config import split_address


def _scheme_of(host: str) -> pb.AddressScheme:
    try:
        return pb.IPv6 if ipaddress.ip_address(host).version == 6 else pb.IPv4
    except ValueError:
        return pb.DOMAIN_NAME


@dataclass(frozen=True, slots=True)
class Endpoints:
    """One or several addresses at which the same server can be reached.

    Attributes:
        scheme: what kind of addresses they are, all of the same.
        addresses: host and port, at least one.
    """

    scheme: pb.AddressScheme
    addresses: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read ``host:port``, several separated by ``;``; IPv6 as ``[::1]:8081``.

        Raises:
            ConfigError: it is malformed, mixes kinds of addresses, or gives several names.
        """
        if not isinstance(text, str):
            raise ConfigError(f"endpoints are one text, addresses separated by ';', not {type(text).__name__}")
        parts = [part.strip() for part in text.split(";") if part.strip()]
        if not parts:
            raise ConfigError("endpoints are empty: give endpoints='host:port', the gRPC port of a proxy")
        if "," in text:
            raise ConfigError(f"the addresses {text!r} are separated by ',': separate them by ';'")
        addresses = tuple(split_address(part.removeprefix("http://").removeprefix("https://")) for part in parts)
        schemes = {_scheme_of(host) for host, _ in addresses}
        if len(schemes) > 1 or (pb.DOMAIN_NAME in schemes and len(addresses) > 1):
            raise ConfigError(
                f"endpoints={text!r}: several addresses must be IP addresses, all IPv4 or all IPv6; one name may "
                "stand for several"
            )
        return cls(schemes.pop(), addresses)

    @classmethod
    def of(cls, message: pb.Endpoints) -> Self:
        """What a server sent.

        Raises:
            ProtocolError: there is no address in it.
        """
        if not message.addresses:
            raise ProtocolError("a server names a broker without an address")
        return cls(message.scheme, tuple((address.host, address.port) for address in message.addresses))

    def message(self) -> pb.Endpoints:
        """As the protocol carries them."""
        return pb.Endpoints(
            scheme=self.scheme, addresses=[pb.Address(host=host, port=port) for host, port in self.addresses]
        )

    @property
    def target(self) -> str:
        """What gRPC is to connect to."""
        if self.scheme == pb.DOMAIN_NAME:
            host, port = self.addresses[0]
            return f"dns:///{host}:{port}"
        kind = "ipv6" if self.scheme == pb.IPv6 else "ipv4"
        return f"{kind}:{','.join(_joined(host, port) for host, port in self.addresses)}"

    @property
    def is_loopback(self) -> bool:
        """Whether all of them lie on this machine."""
        return all(
            host == "localhost" if self.scheme == pb.DOMAIN_NAME else ipaddress.ip_address(host).is_loopback
            for host, _ in self.addresses
        )

    def __str__(self) -> str:
        """As users write them."""
        return ";".join(_joined(host, port) for host, port in self.addresses)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
