"""
``serve``: a process that leads a service's directory, evaluates its alert rules and serves its dashboard.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import typer

from rfs.cli.output import Output, visible
from rfs.cli.places import find_directory, import_from_here, name_of
from rfs.errors import RfsError
from rfs.monitoring import monitor as monitors
from rfs.monitoring._capture.live import MEMORY, default_directory
from rfs.monitoring.monitor import Monitor, default_monitor

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where one who listens everywhere is reached from here


def serve(
    directory: Path | None,
    service: str,
    output: Output,
    *,
    host: str,
    port: int,
    imports: Sequence[str],
    allowed_hosts: Sequence[str],
    everywhere: bool,
) -> None:
    """
    Serve until a signal ends it: a directory or, *everywhere*, what all machines have forwarded.

    Raises:
        RfsError: The directory, the address or what is to be imported cannot be used, or a package is missing.
    """
    try:
        import uvicorn

        from rfs.web.fastapi.access import LOOPBACK_HOSTS
        from rfs.web.fastapi.install import SCRAPE_TOKEN_VARIABLE, TOKEN_VARIABLE
        from rfs.web.fastapi.serving import create_app
    except ImportError as error:
        raise RfsError(f"serving needs the extra `web`: pip install 'rfs[web]' ({error})") from error
    place, name = (Path(MEMORY), _named(service)) if everywhere else _place(directory, service)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:  # before anything is led: a second one, by mistake, ends here
        raise RfsError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    with listener:
        # The modules of the service act on the default Monitor, which is made with these.
        os.environ.update({"RFS_DIR": str(place)} | ({"RFS_SERVICE_NAME": name} if name else {}))
        monitor = _declared(imports)
        try:
            _prepare(monitor, place, everywhere=everywhere)
            app, guard = create_app(
                monitor,
                dashboard_token=os.environ.get(TOKEN_VARIABLE, ""),
                scrape_token=os.environ.get(SCRAPE_TOKEN_VARIABLE, ""),
                allowed_hosts=(*LOOPBACK_HOSTS, host, *allowed_hosts),
            )
            reached = _LOOPBACK.get(host, host)
            address = f"http://{f'[{reached}]' if ':' in reached else reached}:{listener.getsockname()[1]}"
            told = {
                "service": monitor.service_name,
                "directory": str(monitor.directory or ""),
                "dashboard": f"{address}/?token={guard.new_start_token()}",
                "metrics": f"{address}/metrics/prometheus",
                "alert_rules": monitor.alerts.rule_count,
            }
            if output.is_json:
                output.objects([told])
            else:
                for what, value in told.items():
                    typer.echo(f"{what.replace('_', ' '):<12} {visible(str(value))}")  # never folded: it is clicked on
            # uvicorn ends well and then raises the signal anew, of which a process would die before the Monitor is stopped.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning", lifespan="on"))
            with suppress(KeyboardInterrupt):
                server.run(sockets=[listener])
            if not server.started:
                raise RfsError("the server did not start; it has said why")
        finally:
            monitor.stop()  # also one that its own module has started


def _prepare(monitor: Monitor, place: Path, *, everywhere: bool) -> None:
    """Let *monitor* answer for all machines, or lead in the directory *place*."""
    if everywhere:
        try:
            monitor.answer_for_all_machines()
        except ValueError as error:
            raise RfsError(f"--everywhere: {error}") from error
        return
    if monitor.directory is None:
        monitor.use_directory(place)
    elif monitor.directory.absolute() != place.absolute():
        raise RfsError(f"the imported Monitor records into {monitor.directory}, not into {place}; name its --directory")
    if monitor.capture_state.degraded:
        raise RfsError(f"nothing can be led in {monitor.directory}: {monitor.capture_state.degraded}")
    monitor.take_precedence()


def _named(service: str) -> str:
    if not service:
        raise RfsError("--everywhere needs the service's name: --service or RFS_SERVICE_NAME")
    return service


def _place(directory: Path | None, service: str) -> tuple[Path, str]:
    """The directory, which need not be there if its service is named, and the service's name; empty if none is known."""
    if service and str(directory) != MEMORY:
        return directory or default_directory(service), service
    place = find_directory(directory, service)
    name = name_of(place)
    if not name and os.environ.get("RFS_STORE"):
        raise RfsError(f"{place} does not say whose it is, and RFS_STORE is sent what it holds; name it with --service")
    return place, name


def _declared(imports: Sequence[str]) -> Monitor:
    """Import each of ``MODULE`` and ``MODULE:NAME``, where NAME is the service's Monitor, or a function to call."""
    import_from_here()
    found_monitor: Monitor | None = None
    for each in imports:
        module, _, name = each.partition(":")
        try:
            found: object = import_module(module)
            for part in name.split(".") if name else ():
                found = getattr(found, part)
            if isinstance(found, Monitor):
                if found_monitor not in (None, found):
                    raise ValueError("another Monitor was imported before")
                found_monitor = found
            elif name:
                if not callable(found):
                    raise TypeError(f"{name!r} is neither a Monitor nor a function")
                found()
        except Exception as error:
            raise RfsError(f"--import {each}: {type(error).__name__}: {error}") from error
    if found_monitor is None:
        return default_monitor()
    unserved = monitors.default
    if unserved not in (None, found_monitor) and unserved.alerts.rule_count:
        raise RfsError(
            f"{unserved.alerts.rule_count} alert rules are declared on the default Monitor, and another one was imported, which "
            "would not evaluate them; declare them on that, with `use_monitor`"
        )
    return found_monitor
