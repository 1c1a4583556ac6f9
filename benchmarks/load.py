"""
Load on one URL over kept-alive connections: ``python -m benchmarks.load PORT CONNECTIONS SECONDS`` prints requests per second.

Stands in where `wrk` is not installed. It has no event loop: a selector, raw sockets, and one prepared request.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time

REQUEST = b"GET /orders/7 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def main(port: int, connections: int, seconds: float) -> None:
    """Ask as fast as the answers come, for *seconds*."""
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        opened = socket.create_connection(("127.0.0.1", port))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(opened, selectors.EVENT_READ)
        opened.sendall(REQUEST)
    answers = 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        for key, _ in selector.select(timeout=1.0):
            client = key.fileobj
            assert isinstance(client, socket.socket)
            answer = client.recv(65536)  # small enough to come in one piece on the loopback interface
            assert answer.startswith(b"HTTP/1.1 200"), answer[:80]
            answers += 1
            client.sendall(REQUEST)
    print(answers / (time.perf_counter() - started))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
