"""HTTP requests with one deadline, which follow no redirect and stay on local hosts without encryption.

`urllib` bounds each read alone: a server that sends a byte now and then would hold a request for ever.
"""

from __future__ import annotations

import functools
import http.client
import io
import ipaddress
import socket
import time
import urllib.error
import urllib.request
from email.message import Message
from typing import Any


class NotLocal(Exception):
    """The host of an unencrypted request is at an address elsewhere; nothing was sent."""


def post(request: urllib.request.Request, timeout: float, most: int) -> tuple[int, Message, bytes]:
    """Status, headers and up to `most` bytes of the reply to a request.

    timeout  Seconds from connecting to the reply's last byte. Looking up the host's name is not counted.

    Raises OSError (TimeoutError past the deadline), http.client.HTTPException, and `NotLocal`.
    """
    try:
        response = _OPENER.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:  # a reply too
        response = error
    with response:
        return response.status, response.headers, response.read(most)


def is_local(host: str) -> bool:
    """Whether a host's name or address says that it is this machine or on a private network.

    A name without a dot may be one of a private network; `post` looks where it leads.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # 127.1, 0x7f000001, 2130706433
        except OSError:
            name = host.lower().removesuffix(".")
            return "." not in name or name.endswith((".local", ".localhost"))
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_private


class _TimedReader(io.RawIOBase):
    """Bytes of a socket, each read within the time left until `deadline`."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, deadline: float) -> None:
        self._socket, self._raw, self._deadline = sock, raw, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(_left(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach(), deadline))


class _Connection(http.client.HTTPConnection):
    only_local = True

    def __init__(self, host: str, **kwargs: Any) -> None:
        super().__init__(host, **kwargs)
        assert self.timeout is not None
        self.deadline = time.monotonic() + self.timeout
        self.response_class = functools.partial(  # type: ignore[assignment]
            _Response, deadline=self.deadline
        )
        self._create_connection = self._connected

    def _connected(self, address: tuple[str, int], *_: Any) -> socket.socket:
        """A connection to the first address of a host that takes one."""
        failure: OSError = OSError(f"{address[0]} has no address")
        for entry in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            place = entry[-1]
            if self.only_local and not is_local(str(place[0]).partition("%")[0]):
                raise NotLocal(f"{address[0]} is at {place[0]}")
            try:
                return socket.create_connection((str(place[0]), int(place[1])), _left(self.deadline))
            except OSError as error:
                failure = error
        raise failure


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    only_local = False


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_SecureConnection, req)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Lets a redirect fail as an HTTPError: urllib would send the key to the new host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _left(deadline: float) -> float:
    """Seconds until a deadline. Raises TimeoutError where it is over."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the request took longer than its timeout")
    return left


_OPENER = urllib.request.build_opener(_Http, _Https, _NoRedirects)
