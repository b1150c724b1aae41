"""TLS without a socket: ciphertext in and out of memory, so that the I/O thread goes on as it does without TLS.

The handshake is the exception: it is made with a blocking socket, on the thread that connects.

Source: TlsHelper.buildSslContext; its server names are checked here (deviations).
"""

from __future__ import annotations

import socket
import ssl

from rocketmq_py.clock import Clock
from rocketmq_py.errors import ConfigError, ConnectError
from rocketmq_py.model.config import ClientConfig

_PIECE_BYTES = 64 * 1024
_WRONG_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def client_context(config: ClientConfig) -> ssl.SSLContext | None:
    """What all connections of a client are secured with; None without ``use_tls``.

    Raises:
        ConfigError: a file cannot be read, is no certificate or key, or the key's password is wrong.

    Behaviour: SE-04.
    """
    if not config.use_tls:
        return None
    trusted = config.tls_client_trust_cert_path
    try:
        context = ssl.create_default_context(cafile=trusted)
    except OSError as error:  # SSLError is one
        raise ConfigError(f"tls_client_trust_cert_path: cannot read certificates from {trusted}: {error}") from None
    context.options |= ssl.OP_NO_RENEGOTIATION  # a write would have to wait for a read
    if config.tls_insecure or not config.tls_check_hostname:
        context.check_hostname = False
    if config.tls_insecure:
        context.verify_mode = ssl.CERT_NONE
    certificate, key = config.tls_client_cert_path, config.tls_client_key_path
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, password=lambda: config.tls_client_key_password or "")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"tls_client_cert_path, tls_client_key_path, tls_client_key_password: cannot use {certificate} with "
                f"{key or 'the key in it'}: {error}"
            ) from None
    return context


def handshake_error(address: str, error: Exception) -> ConnectError:
    """What to tell about a handshake that failed. Behaviour: SE-05."""
    what, hint = str(error), "does the server speak TLS there?"
    if isinstance(error, ssl.SSLCertVerificationError):
        what = error.verify_message
        hint = "give its CA as tls_client_trust_cert_path"
        if error.verify_code in _WRONG_NAME:
            hint = "the certificate must name it, or set tls_check_hostname=False"
    return ConnectError(f"cannot connect to {address}: the TLS handshake failed: {what}; {hint}")


class TlsSession:
    """The TLS of one connection. The caller lets one thread in at a time.

    Args:
        server: host name or IP address that the server's certificate must be for.
    """

    def __init__(self, context: ssl.SSLContext, server: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server)

    def handshake(self, sock: socket.socket, clock: Clock, deadline_ms: int) -> None:
        """Shake hands over a blocking socket, until the clock's monotonic time is ``deadline_ms``.

        Raises:
            OSError: it failed (``ssl.SSLError``), the time is over (``TimeoutError``), or the peer hung up.

        Behaviour: SE-06.
        """
        while True:
            try:
                self._object.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                self._say_goodbye(sock)
                raise
            left_ms = deadline_ms - clock.monotonic_ms()
            if left_ms <= 0:
                raise TimeoutError("timed out")
            sock.settimeout(left_ms / 1000)
            if self._outgoing.pending:
                sock.sendall(self._outgoing.read())
            if done:
                return
            self.feed(sock.recv(_PIECE_BYTES))

    def _say_goodbye(self, sock: socket.socket) -> None:
        """Let the server know why: its log says "unknown ca" then, and not only that somebody hung up."""
        sock.setblocking(False)
        try:
            sock.send(self._outgoing.read())
        except OSError:
            return  # the reason of the failed handshake counts

    def encrypt(self, data: bytes) -> bytes:
        """What to send for these bytes, and for whatever else TLS has to say."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._object.write(rest) :]  # as a rule all of it at once
        return self.outgoing()

    def outgoing(self) -> bytes:
        """What TLS itself has to say: answers to changes of keys, alerts."""
        return self._outgoing.read()

    def feed(self, data: bytes) -> None:
        """Take what arrived; nothing: the peer has closed the connection."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def read_into(self, buffer: memoryview) -> int:
        """Decrypt into the buffer; 0 when more must arrive first.

        Raises:
            EOFError: the peer closed the connection. OSError: it says what is wrong, or sends nonsense.
        """
        try:
            count: int = self._object.read(len(buffer), buffer)  # type: ignore[assignment] # a number with a buffer
        except ssl.SSLWantReadError:
            return 0
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            count = 0
        if count == 0:
            raise EOFError("closed by the peer")
        return count
