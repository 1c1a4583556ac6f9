"""
``python -m app.traffic``: an evening's traffic against a service on this machine.

SIGTERM and SIGINT close the doors; a second one, or the end of ``--patience``,
leaves at once. The last line of stdout is what was counted, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys

import httpx

from app.core.logging import setup_logging
from app.traffic.client import Client
from app.traffic.evening import Evening

logger = logging.getLogger("app.traffic")


def main() -> int:
    """Run until told to stop; 0 if everything drained."""
    parser = argparse.ArgumentParser(prog="python -m app.traffic", description=__doc__)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000")
    parser.add_argument("--rate", type=float, default=float(os.environ.get("RATE", "2")), help="orders per second")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED", "1")))
    parser.add_argument("--pace", type=float, default=1.0, help="factor on thinking and cooking times")
    parser.add_argument("--parties", type=int, default=None, help="close the doors after so many groups of guests")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that draining may take")
    options = parser.parse_args()
    setup_logging("INFO")
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    async with Client(options.base_url) as client:
        evening = Evening(
            client,
            password=os.environ.get("DEMO_PASSWORD", ""),
            rate=options.rate,
            seed=options.seed,
            pace=options.pace,
            parties=options.parties,
        )
        running = asyncio.create_task(evening.run())
        loop = asyncio.get_running_loop()
        stops = 0

        def stop() -> None:
            nonlocal stops
            stops += 1
            evening.close_doors()
            loop.call_later(0 if stops > 1 else options.patience, running.cancel)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        drained = True
        try:
            await running
        except asyncio.CancelledError:
            drained = False
        except (RuntimeError, httpx.HTTPError) as fault:
            logger.error("Traffic ended: %s", fault)  # noqa: TRY400 - its text says all, the stack nothing
            drained = False
        sys.stdout.write(json.dumps({"drained": drained, **evening.tally.to_dict()}) + "\n")
        return 0 if drained else 1


if __name__ == "__main__":
    sys.exit(main())
