"""A TCP proxy that makes a broker far away: each direction takes half of the round trip longer, at any rate.

far.py PORT HOST:PORT MILLISECONDS
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque

#: What is on its way in one direction at most.
UNDER_WAY = 256 << 20


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Passes on what comes, each piece so much later."""
    clock = asyncio.get_running_loop().time
    pieces: deque[tuple[float, bytes]] = deque()
    size = 0
    news, room = asyncio.Event(), asyncio.Event()
    has_ended = False

    async def send() -> None:
        nonlocal size
        while pieces or not has_ended:
            if not pieces:
                news.clear()
                await news.wait()
                continue
            due, piece = pieces[0]
            if (early := due - clock()) > 0:
                await asyncio.sleep(early)
            pieces.popleft()
            size -= len(piece)
            room.set()
            writer.write(piece)
            await writer.drain()
        writer.close()

    sending = asyncio.create_task(send())
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(1 << 20):
            size += len(piece)
            pieces.append((clock() + delay, piece))
            news.set()
            while size >= UNDER_WAY:
                room.clear()
                await room.wait()
    has_ended = True
    news.set()
    with contextlib.suppress(ConnectionError):
        await sending


async def serve(port: int, host: str, target: int, delay: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host, target, limit=4 << 20)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, back, delay), pump(there, writer, delay))

    server = await asyncio.start_server(connected, "127.0.0.1", port, limit=4 << 20)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    host, _, target = sys.argv[2].rpartition(":")
    asyncio.run(serve(int(sys.argv[1]), host, int(target), float(sys.argv[3]) / 2_000))
