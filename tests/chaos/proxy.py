#!/usr/bin/env python3
"""A proxy before an S3 server that makes the faults that S3 has.

    proxy.py LISTEN_HOST LISTEN_PORT SERVER_HOST SERVER_PORT SEED

Commands come as lines of JSON on stdin, each answered by a line on stdout: {"client": "10.77.0.12" or "*", "mode": …,
"share": 0..1, "delay_s": …}. The mode is for that client's requests from now on; "*" is all clients and forgets what was
said of single ones. `share` is the probability that a request is hit. {"stats": true} is answered with counts.

    pass   nothing happens
    busy   503 SlowDown, nothing is done
    hang   no answer for delay_s, nothing is done; then the connection is closed
    lose   PUTs and DELETEs are done, the connection is closed instead of an answer
    late   PUTs are done after delay_s, even if the client has given up
    slow   everything is done delay_s later

Standard library only.
"""

import asyncio
import collections
import json
import random
import sys

BUSY = (b"<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate."
        b"</Message></Error>")
LIMIT = 1 << 20


class Proxy:
    def __init__(self, server, seed):
        self.server = server
        self.random = random.Random(seed)
        self.modes = {}
        self.every = {"mode": "pass"}
        self.changed = asyncio.Event()
        self.counts = collections.Counter()

    def command(self, words):
        if words.get("stats"):
            return json.dumps(dict(self.counts))
        if words["client"] == "*":
            self.modes.clear()
            self.every = words
        else:
            self.modes[words["client"]] = words
        # Those who hang are let go.
        self.changed.set()
        self.changed = asyncio.Event()
        return "ok"

    def fault(self, client):
        words = self.modes.get(client, self.every)
        hit = words["mode"] != "pass" and self.random.random() < words.get("share", 1.0)
        return (words["mode"], words.get("delay_s", 0.0)) if hit else ("pass", 0.0)

    async def wait(self, seconds):
        """For so long, or until a command comes."""
        try:
            await asyncio.wait_for(self.changed.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    async def serve(self, reader, writer):
        client = writer.get_extra_info("peername")[0]
        upstream = None
        try:
            while True:
                head = await head_of(reader)
                if head is None:
                    return
                method = head.split(b" ", 1)[0]
                body = await body_of(reader, head, False)
                mode, delay_s = self.fault(client)
                self.counts[mode] += 1
                if mode == "busy":
                    writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % len(BUSY))
                    writer.write(b"" if method == b"HEAD" else BUSY)
                    await writer.drain()
                    continue
                if mode == "hang":
                    await self.wait(delay_s)
                    return
                if mode == "slow" or mode == "late" and method == b"PUT":
                    await asyncio.sleep(delay_s)
                if upstream is None:
                    upstream = await asyncio.open_connection(*self.server, limit=LIMIT)
                upstream[1].write(head)
                upstream[1].write(body)
                await upstream[1].drain()
                answer = await head_of(upstream[0])
                while answer is not None and answer.startswith((b"HTTP/1.1 100", b"HTTP/1.0 100")):
                    answer = await head_of(upstream[0])
                if answer is None:
                    return
                status = answer.split(b" ", 2)[1]
                bodiless = method == b"HEAD" or status in (b"204", b"304")
                content = b"" if bodiless else await body_of(upstream[0], answer, True)
                if mode == "lose" and method in (b"PUT", b"DELETE", b"POST"):
                    return
                writer.write(answer)
                writer.write(content)
                await writer.drain()
                if b"\r\nconnection: close" in answer.lower():
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            for side in (writer, upstream[1] if upstream else None):
                if side is not None:
                    side.transport.abort()


async def head_of(reader):
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None


async def body_of(reader, head, to_end):
    """As it lies on the wire. Without a length it is empty, or goes on `to_end`."""
    fields = dict(line.split(b":", 1) for line in head.lower().split(b"\r\n")[1:] if b":" in line)
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        whole = []
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            whole += [line, await reader.readexactly(size + 2) if size else await reader.readuntil(b"\r\n")]
            if size == 0:
                return b"".join(whole)
    if b"content-length" in fields:
        return await reader.readexactly(int(fields[b"content-length"]))
    return await reader.read() if to_end else b""


async def main():
    host, port, server_host, server_port, seed = sys.argv[1:]
    proxy = Proxy((server_host, int(server_port)), int(seed))
    server = await asyncio.start_server(proxy.serve, host, int(port), limit=LIMIT)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print("listening", flush=True)
    async with server:
        while line := await commands.readline():
            print(proxy.command(json.loads(line)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
