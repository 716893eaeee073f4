"""A replica: one process with both servers, from its start to its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import uvicorn

from jobs.lake.lake import Lake
from jobs.lake.ledger import new_run_id
from jobs.serve.access import address, tls_of, tokens_of
from jobs.serve.accounts import Accounts
from jobs.serve.grpc_server import GrpcServer
from jobs.serve.http import bounded_http
from jobs.serve.left import account, begin, end
from jobs.serve.live import Live
from jobs.serve.rest import direct_paths, rest_app
from jobs.serve.sample import ServedSample
from jobs.serve.service import Service
from jobs.serve.waiting import WaitingRows
from jobs.settings.settings import Settings

log = logging.getLogger("millstream.serve")

_BEAT_S = 1.0
# For requests that were cancelled to end.
_LAST_S = 1.0
# A thread that has scores waits so long for Python's lock at most, not 5 ms, while requests come.
_SWITCH_S = 0.0005


class Replica:
    """One process's servers.

    Args:
        number: among the replicas.
        folder: on this host, shared by its replicas.
        beat: called each second while the event loop goes on, with the last moment when scores are
            known not to hang.
    """

    def __init__(
        self, settings: Settings, number: int, folder: Path, beat: Callable[[float], None]
    ) -> None:
        self._settings, self._serve = settings, settings.serve
        self._beat, self._number = beat, number
        self._ending = asyncio.Event()
        dataset = settings.dataset()
        lake = Lake(settings.lake_url, dataset.name)
        run = new_run_id("serve")
        self._lake, self._folder = lake, folder
        begin(folder, run, number)
        self._accounts = Accounts(lake, run, number, self._serve.replicas > 1)
        self._sample = ServedSample(
            lake, run, self._accounts, self._serve.log_fraction, self._serve.log_queue_rows
        )
        self._live = Live(settings, folder)
        self._waiting = WaitingRows(
            self._accounts,
            self._serve.batch_rows,
            self._serve.batch_delay_us / 1e6,
            self._serve.queue_rows,
        )
        self._service = Service(
            self._serve, dataset, self._live, self._waiting, self._accounts, self._sample
        )

    async def run(self, listening: socket.socket) -> None:
        """Answers until SIGTERM or SIGINT, then drains.

        Args:
            listening: HTTP's socket.

        Raises:
            Exception: a server of it ended by itself.
        """
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._ending.set)
        # First, as gRPC says of a certificate gone bad that a port is taken.
        server = _Server(self._config())
        # The first look is before the ports are open, so that a good replica is ready at once.
        await asyncio.to_thread(self._live.look)
        # What is loaded by now stays: without this, each full collection walks through all of
        # torch's and Arrow's objects while requests wait.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(_SWITCH_S)
        self._waiting.start()
        work = [
            loop.create_task(self._live.watch()),
            loop.create_task(self._beats()),
            loop.create_task(self._accounted()),
        ]
        rpc = (
            GrpcServer(self._settings, self._service) if self._serve.grpc_port is not None else None
        )
        if rpc is not None:
            await rpc.server.start()
            await rpc.say(self._service.ready)
        web = loop.create_task(server.serve(sockets=[listening]))
        ports = [f"http {address(self._serve.host, listening.getsockname()[1])}"]
        ports += [f"grpc {address(self._serve.host, rpc.port)}"] if rpc is not None else []
        log.info("replica %d: %s", self._number, ", ".join(ports))
        work.append(loop.create_task(self._health(rpc)))
        ending = loop.create_task(self._ending.wait())
        await asyncio.wait([ending, web], return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            web.result()
            raise RuntimeError("the HTTP server ended by itself")
        await self._drained(server, web, rpc)
        for task in work:
            task.cancel()
        self._waiting.close()
        await asyncio.to_thread(self._closed)

    async def _drained(
        self, server: _Server, web: asyncio.Task[None], rpc: GrpcServer | None
    ) -> None:
        """Not ready any more; what is under way ends, for at most `serve.drain_s`."""
        self._service.draining = True
        server.should_exit = True
        ends: list[Any] = [web]
        if rpc is not None:
            await rpc.say(False)
            ends.append(asyncio.ensure_future(rpc.server.stop(self._serve.drain_s)))
        await asyncio.wait(ends, timeout=self._serve.drain_s)
        # What is still under way is shed before the last counts are written.
        tasks = set(server.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait([*ends, *tasks], timeout=_LAST_S)

    def _closed(self) -> None:
        self._sample.close()
        if self._account():
            end(self._folder)

    def _account(self) -> bool:
        """Writes this replica's counts, and those of replicas that were killed."""
        written = self._accounts.write()
        account(self._lake, self._folder)
        return written

    def _config(self) -> uvicorn.Config:
        serve = self._serve
        tls = tls_of(self._settings)
        tokens = tokens_of(self._settings)
        return uvicorn.Config(
            rest_app(self._service, tokens),
            http=bounded_http(
                serve.body_timeout_s,
                direct_paths(self._service, tokens),
                serve.most_connections,
                rest_app(self._service, tokens, busy=True),
            ),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, int(serve.drain_s)),
            proxy_headers=False,
            ssl_context_factory=(lambda *_: tls) if tls is not None else None,
        )

    async def _beats(self) -> None:
        while True:
            self._beat(self._service.alive_at)
            self._accounts.tell()
            await asyncio.sleep(_BEAT_S)

    async def _accounted(self) -> None:
        while True:
            await asyncio.sleep(self._serve.account_s)
            await asyncio.to_thread(self._account)

    async def _health(self, rpc: GrpcServer | None) -> None:
        before = self._service.ready
        while rpc is not None:
            await asyncio.sleep(_BEAT_S)
            if self._service.ready != before:
                before = self._service.ready
                await rpc.say(before)


class _Server(uvicorn.Server):
    """Signals are the replica's."""

    def install_signal_handlers(self) -> None:
        pass

    def capture_signals(self) -> Any:
        return nullcontext()
