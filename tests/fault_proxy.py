"""A small HTTP proxy that stands before an S3 server and breaks chosen exchanges, as networks and S3 do.

HTTP/1.1 without TLS, standard library only, bodies in memory. Tests use the fixture in `tests.s3_server`, benchmarks
`python -m tests.fault_proxy --upstream http://127.0.0.1:5000 --port 5001 --seed 1 --rate 0.1 --log faults.json`, which
prints its address when it listens and writes its counts to `--log` on SIGTERM.
"""

import argparse
import asyncio
import json
import random
import signal
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self, get_args
from urllib.parse import unquote, urlsplit

Kind = Literal["slow_down", "reset", "truncated", "lost_reply", "slow_body"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_NEED_A_BODY = ("truncated", "slow_body")
_ONE_HOP = ("connection", "keep-alive", "expect")  # the proxy itself answers Expect
_PIECES = 4
_BUFFER_BYTES = 2**20
_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code><Message>Please reduce your request rate.'
    b"</Message><RequestId>FAULTPROXY</RequestId><HostId>fault-proxy</HostId></Error>"
)


@dataclass(frozen=True, slots=True)
class Message:
    """A request or reply: its first line and header lines, and its body in the framing it came in."""

    lines: tuple[str, ...]
    body: bytes = b""

    @property
    def method(self) -> str:
        return self.lines[0].split(" ")[0]

    def header(self, name: str) -> str:
        """Value of a header in lower case, "" where there is none."""
        fields = (line.partition(":") for line in self.lines[1:])
        return next((value.strip().lower() for key, _, value in fields if key.lower() == name), "")

    def head(self) -> bytes:
        """First line and headers as they are sent on, without those that are about one connection only."""
        kept = [line for line in self.lines[1:] if line.partition(":")[0].lower() not in _ONE_HOP]
        return "\r\n".join([self.lines[0], *kept, "", ""]).encode("latin-1")


@dataclass(slots=True)
class Rule:
    """A fault for the next `times` requests of `method` (None: any) with `key_contains` in their unquoted target."""

    kind: Kind
    method: str | None
    key_contains: str
    times: int

    def matches(self, method: str, target: str) -> bool:
        wanted = self.method in (None, method) and self.key_contains in unquote(target)
        return wanted and self.times > 0 and _can_meet(self.kind, method)


class RandomFaults:
    """Faults at random, but the same for the same requests, in whichever order these come.

    A request fails at most `most_in_a_row` times before it passes, counted over all who ask the same.
    """

    def __init__(self, seed: int, rate: float, kinds: Sequence[Kind] = KINDS, most_in_a_row: int = 2) -> None:
        for kind in kinds:
            _check(kind)
        self._seed, self._rate, self._kinds, self._most_in_a_row = seed, rate, kinds, most_in_a_row
        self._asked: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()

    def choose(self, method: str, target: str) -> Kind | None:
        """What happens to the next request of this kind."""
        key = f"{method} {target}"
        self._asked[key] += 1
        dice = random.Random(f"{self._seed} {key} {self._asked[key]}")
        kinds = [kind for kind in self._kinds if _can_meet(kind, method)]
        if not kinds or self._in_a_row[key] >= self._most_in_a_row or dice.random() >= self._rate:
            self._in_a_row[key] = 0
            return None
        self._in_a_row[key] += 1
        return dice.choice(kinds)


class FaultProxy:
    """The proxy, in a thread of its own while its `with` block lasts.

    Attributes:
        address: where clients find it, `http://127.0.0.1:port`.
        random_faults: what happens to requests that no rule is for; None is nothing.
        slow_body_s: how long the body of a `slow_body` reply takes.
        counts: `requests` by method and `faults` by kind; a fault counts before its client can notice it.
    """

    def __init__(
        self, upstream: str, port: int = 0, random_faults: RandomFaults | None = None, slow_body_s: float = 1.5
    ) -> None:
        server = urlsplit(upstream)
        self._upstream = (server.hostname, server.port or 80)
        self.random_faults, self.slow_body_s = random_faults, slow_body_s
        self.counts: dict[str, Counter[str]] = {"requests": Counter(), "faults": Counter()}
        self._rules: list[Rule] = []
        self._socket = socket.create_server(("127.0.0.1", port), backlog=128)
        # Connections inherit it; asyncio leaves it off here, and each body would wait 40 ms for the head's ACK.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def fail(self, kind: Kind, method: str | None = None, key_contains: str = "", times: int = 1) -> None:
        """Break the next requests that match; rules are asked in the order they were given.

        `truncated` and `slow_body` meet only GET and POST: other replies have no body that could suffer.
        """
        _check(kind)
        self._rules.append(Rule(kind, method, key_contains, times))

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._socket, limit=_BUFFER_BYTES)
        await asyncio.to_thread(self._ended.wait)
        server.close()  # without wait_closed: that would wait for clients that keep their connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # One of the two sides went away, or the proxy ends: Python 3.11 would log a handler that was cancelled.
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and what becomes of it; whether the connection lasts."""
        request = await _receive(reader, writer)
        self.counts["requests"][request.method] += 1
        kind = self._choose(request)
        reply = await self._answer(request, kind)
        if kind in _NEED_A_BODY and not (reply and reply.body):
            kind = None
        if kind:
            self.counts["faults"][kind] += 1
        if reply is None:
            return _reset(writer)
        await self._send(reply, kind, writer)
        return kind != "truncated" and _lasts(request, reply)

    def _choose(self, request: Message) -> Kind | None:
        method, target, _ = request.lines[0].split(" ")
        rule = next((rule for rule in self._rules if rule.matches(method, target)), None)
        if rule:
            rule.times -= 1
            return rule.kind
        return self.random_faults.choose(method, target) if self.random_faults else None

    async def _answer(self, request: Message, kind: Kind | None) -> Message | None:
        """The reply, None where the client gets none."""
        if kind == "slow_down":
            return _slow_down(request)
        reply = None if kind == "reset" else await self._ask(request)
        return None if kind == "lost_reply" else reply

    async def _ask(self, request: Message) -> Message:
        reader, writer = await asyncio.open_connection(*self._upstream, limit=_BUFFER_BYTES)
        try:
            writer.write(request.head() + request.body)
            await writer.drain()
            reply = Message(await _read_lines(reader))
            if _is_bodiless(request, reply):
                return reply
            # Only where nothing else tells the end: moto closes 10 ms after it has replied.
            return replace(reply, body=await (_read_body(reply, reader) if _is_framed(reply) else reader.read()))
        finally:
            writer.close()

    async def _send(self, reply: Message, kind: Kind | None, writer: asyncio.StreamWriter) -> None:
        writer.write(reply.head())
        body = reply.body[: len(reply.body) // 2] if kind == "truncated" else reply.body
        step = -(-len(body) // _PIECES) if kind == "slow_body" else len(body)
        for start in range(0, len(body), step or 1):
            await asyncio.sleep(self.slow_body_s / _PIECES if kind == "slow_body" else 0)
            writer.write(body[start : start + step])
            await writer.drain()


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no fault; there are {', '.join(KINDS)}.")


def _can_meet(kind: Kind, method: str) -> bool:
    return kind not in _NEED_A_BODY or method in ("GET", "POST")


async def _receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message:
    head = Message(await _read_lines(reader))
    if head.header("expect") == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return replace(head, body=await _read_body(head, reader))


async def _read_lines(reader: asyncio.StreamReader) -> tuple[str, ...]:
    head = await reader.readuntil(b"\r\n\r\n")
    return tuple(head[:-4].decode("latin-1").split("\r\n"))


async def _read_body(head: Message, reader: asyncio.StreamReader) -> bytes:
    if "chunked" in head.header("transfer-encoding"):
        return await _read_chunks(reader)
    return await reader.readexactly(int(head.header("content-length") or 0))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body with its sizes and trailers, as it came."""
    pieces, size = [b""], -1
    while size:
        pieces.append(await reader.readuntil(b"\r\n"))
        size = int(pieces[-1].partition(b";")[0], 16)
        if size:
            pieces.append(await reader.readexactly(size + 2))
    while pieces[-1] != b"\r\n":
        pieces.append(await reader.readuntil(b"\r\n"))
    return b"".join(pieces)


def _slow_down(request: Message) -> Message:
    lines = ("HTTP/1.1 503 Slow Down", "Content-Type: application/xml", f"Content-Length: {len(_SLOW_DOWN)}")
    return Message(lines, b"" if request.method == "HEAD" else _SLOW_DOWN)


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Drop the connection so that the client sees a reset, not an end; it does not last."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


def _is_framed(reply: Message) -> bool:
    return bool(reply.header("content-length") or reply.header("transfer-encoding"))


def _is_bodiless(request: Message, reply: Message) -> bool:
    return request.method == "HEAD" or reply.lines[0].split(" ")[1] in ("204", "304")


def _lasts(request: Message, reply: Message) -> bool:
    """Whether the client wants to go on, and can see where the reply ends."""
    wanted = request.lines[0].endswith("HTTP/1.1") and request.header("connection") != "close"
    return wanted and (_is_framed(reply) or _is_bodiless(request, reply))


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="HTTP proxy that breaks some exchanges with an S3 server.")
    parser.add_argument("--upstream", required=True, help="address of the server, http://host:port")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="faults to choose from")
    for name, default in (("port", 0), ("seed", 0), ("rate", 0.1), ("most-in-a-row", 2), ("slow-body-s", 1.5)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--log", type=Path, help="JSON file for the counts, written at the end")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    arguments = _arguments(given)
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before there are threads: they would take the signals
    faults = RandomFaults(arguments.seed, arguments.rate, arguments.kinds, arguments.most_in_a_row)
    with FaultProxy(arguments.upstream, arguments.port, faults, arguments.slow_body_s) as proxy:
        sys.stdout.write(f"{proxy.address}\n")
        sys.stdout.flush()
        signal.sigwait(ends)
    if arguments.log:
        arguments.log.write_text(json.dumps(proxy.counts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
