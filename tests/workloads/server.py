#!/usr/bin/python3
"""A workload that says its name: TCP and UDP, any number of held connections. Standard library only.

On a connection each byte ``?`` is answered with the name and a newline, ``.`` with ``.``; ``GET`` with an HTTP answer
whose body is the name. A datagram is answered with the name. The connection stays open until the client closes it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import socket


async def serve_connection(name: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one client until it closes."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(4096):
            if data.startswith(b"GET "):
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: "
                writer.write(head + str(len(name) + 1).encode() + b"\r\n\r\n" + name + b"\n")
                await writer.drain()
                break
            for byte in data:
                if byte in b"?.":
                    writer.write(name + b"\n" if byte == ord("?") else b".")
            await writer.drain()
    writer.close()


class Datagrams(asyncio.DatagramProtocol):
    """Answers each datagram with the name."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(self.name, addr)


async def main() -> None:
    """Listen on the addresses of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default=socket.gethostname())
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("--address", action="append", help="may be given several times; default 127.0.0.1")
    parser.add_argument("--udp", action="store_true")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    name, addresses = args.name.encode(), args.address or ["127.0.0.1"]
    if args.udp:
        loop = asyncio.get_running_loop()
        for address in addresses:
            await loop.create_datagram_endpoint(lambda: Datagrams(name), local_addr=(address, args.port))
        await asyncio.Event().wait()
    server = await asyncio.start_server(
        lambda reader, writer: serve_connection(name, reader, writer), addresses, args.port, backlog=4096
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
