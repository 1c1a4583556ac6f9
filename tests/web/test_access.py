"""Who may see the dashboard, and what a browser is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import PlainTextResponse

from rfs.monitoring.dashboard_api import SECURITY_HEADERS
from rfs.testing.fixtures import Telemetry
from rfs.testing.virtual_time import VirtualTime
from rfs.web.fastapi import DashboardAccess, install
from rfs.web.fastapi._keys import (
    MAX_SESSIONS,
    MAX_START_TOKENS,
    SESSION_IDLE_SECONDS,
    SESSION_SECONDS,
    START_SECONDS,
    FileKeys,
)
from tests.web.asgi import Answer, get, request, websocket

TOKEN = "configured-token-of-this-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(params=["memory", "files"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Path | None]:
    """Where keys are kept: in this process, or in a directory."""
    return lambda: tmp_path if request.param == "files" else None


def guarded(clock: VirtualTime | None = None, **options: Any) -> tuple[FastAPI, DashboardAccess]:
    """An app with a guarded one mounted at ``/monitoring``."""
    router = APIRouter()

    @router.get("/")
    @router.get("/data")
    async def data() -> dict[str, str]:
        return {"data": "for those who may see it"}

    @router.post("/write")
    async def write(body: dict[str, Any]) -> dict[str, Any]:
        return body

    @router.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret")

    inner = FastAPI(openapi_url=None)
    inner.include_router(router)
    options.setdefault("allowed_hosts", ["testserver"])
    if clock is not None:
        options["clock"] = clock
    guard = DashboardAccess(inner, **options)
    app = FastAPI()
    app.mount("/monitoring", guard)
    return app, guard


async def enter(app: FastAPI, guard: DashboardAccess, **arguments: Any) -> dict[str, str]:
    """Open the start address; the headers that a browser sends from then on."""
    answer = await get(app, f"/monitoring/?token={guard.new_start_token()}", **arguments)
    assert answer.status == 200
    return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}


def is_denied(answer: Answer) -> bool:
    """Whether nothing was shown."""
    return answer.status in {400, 401, 403, 415} and "for those who may" not in answer.text


class TestDefault:
    @pytest.mark.parametrize(
        "target", ["/monitoring/", "/monitoring/data", "/monitoring/nowhere", "/monitoring/broken"]
    )
    async def test_denied(self, target: str) -> None:
        """
        Without a key there is no data, not even whether a page exists, and being on the same machine is no key.
        """
        app, _ = guarded()

        answer = await get(app, target, client=("127.0.0.1", 1))

        assert answer.status == 401
        assert answer.json()["error_code"] == "NO_KEY"
        assert "start address" in answer.json()["what_to_do"]
        assert answer.headers["www-authenticate"].startswith("Bearer")

    async def test_a_person_is_told_in_two_languages(self) -> None:
        """
        A browser gets a page that says what to do, in Korean and English.
        """
        app, _ = guarded()

        answer = await get(app, "/monitoring/", headers={"Accept": "text/html"})

        assert answer.headers["content-type"].startswith("text/html")
        assert "접근이 제한되어" in answer.text
        assert "This dashboard is protected" in answer.text

    async def test_websockets_are_closed(self) -> None:
        """
        There is nothing behind a WebSocket, and nobody gets in by one.
        """
        app, _ = guarded(token=TOKEN)

        answer = await websocket(app, "/monitoring/", [], BEARER)

        assert answer.messages == [{"type": "websocket.close", "code": 1008}]


class TestOneTimeToken:
    async def test_opens_a_session(self, place: Callable[[], Path | None]) -> None:
        """
        The start address sets a cookie that is the dashboard's alone, and the cookie opens it.
        """
        app, guard = guarded(directory=place)

        opened = await get(app, f"/monitoring/?token={guard.new_start_token()}")
        cookie = opened.headers["set-cookie"]
        answer = await get(app, "/monitoring/data", headers={"Cookie": cookie.partition(";")[0]})

        assert opened.status == 200
        assert 'content="0;url=./"' in opened.text
        parts = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert parts == {"httponly", "path=/monitoring", "samesite=strict"}
        assert answer.json() == {"data": "for those who may see it"}

    async def test_secure_over_https(self, place: Callable[[], Path | None]) -> None:
        """
        Over HTTPS the cookie never travels without it.
        """
        app, guard = guarded(directory=place)

        opened = await get(app, f"/monitoring/?token={guard.new_start_token()}", scheme="https")

        assert "secure" in opened.headers["set-cookie"].lower()

    async def test_works_once(self, place: Callable[[], Path | None]) -> None:
        """
        A second use of the same address is denied, and says how to get a new one.
        """
        app, guard = guarded(directory=place)
        token = guard.new_start_token()

        first = await get(app, f"/monitoring/?token={token}")
        second = await get(app, f"/monitoring/?token={token}")

        assert first.status == 200
        assert (second.status, second.json()["error_code"]) == (401, "TOKEN_USED")
        assert "rotate_token" in second.json()["what_to_do"]
        assert "set-cookie" not in second.headers

    @pytest.mark.parametrize("token", ["", "x", "%00", "x" * 5000])
    async def test_wrong_token(self, place: Callable[[], Path | None], token: str) -> None:
        """
        A wrong token opens nothing and does not use up the right one.
        """
        app, guard = guarded(directory=place)
        right = guard.new_start_token()

        wrong = await get(app, f"/monitoring/?token={token}")

        assert wrong.status == 401
        assert (await get(app, f"/monitoring/?token={right}")).status == 200

    async def test_rotation(self, place: Callable[[], Path | None]) -> None:
        """
        A new token takes the old one's place.
        """
        app, guard = guarded(directory=place)
        old, new = guard.new_start_token(), guard.new_start_token()

        assert (await get(app, f"/monitoring/?token={old}")).status == 401
        assert (await get(app, f"/monitoring/?token={new}")).status == 200

    async def test_head_and_post_do_not_use_it_up(self, place: Callable[[], Path | None]) -> None:
        """
        Only opening the address uses the token.
        """
        app, guard = guarded(directory=place)
        token = guard.new_start_token()

        assert (await request(app, "HEAD", f"/monitoring/?token={token}")).status == 401
        assert (await request(app, "POST", f"/monitoring/?token={token}")).status == 403
        assert (await get(app, f"/monitoring/?token={token}")).status == 200


class TestSession:
    async def test_idle(self, place: Callable[[], Path | None]) -> None:
        """
        A session ends half an hour after its last use; use keeps it open.
        """
        clock = VirtualTime()
        app, guard = guarded(clock, directory=place)
        cookie = await enter(app, guard)

        for _ in range(3):
            clock.advance(SESSION_IDLE_SECONDS)
            assert (await get(app, "/monitoring/data", headers=cookie)).status == 200
        clock.advance(SESSION_IDLE_SECONDS + 1)

        assert (await get(app, "/monitoring/data", headers=cookie)).status == 401

    async def test_absolute(self, place: Callable[[], Path | None]) -> None:
        """
        However much it is used, a session ends after twelve hours.
        """
        clock = VirtualTime()
        app, guard = guarded(clock, directory=place)
        cookie = await enter(app, guard)

        statuses = []
        for _ in range(int(SESSION_SECONDS / SESSION_IDLE_SECONDS) + 1):
            clock.advance(SESSION_IDLE_SECONDS)
            statuses.append((await get(app, "/monitoring/data", headers=cookie)).status)

        assert statuses == [200] * (len(statuses) - 1) + [401]

    async def test_bounded(self, place: Callable[[], Path | None]) -> None:
        """
        The oldest session makes room for a new one.
        """
        app, guard = guarded(directory=place)
        cookies = [await enter(app, guard) for _ in range(MAX_SESSIONS + 1)]

        statuses = [(await get(app, "/monitoring/data", headers=cookie)).status for cookie in cookies]

        assert statuses == [401] + [200] * MAX_SESSIONS

    @pytest.mark.parametrize("cookie", ["rfs_session=", "rfs_session=x", "other=1"])
    async def test_forged(self, place: Callable[[], Path | None], cookie: str) -> None:
        """
        A cookie that was not handed out opens nothing.
        """
        app, _ = guarded(directory=place)

        assert is_denied(await get(app, "/monitoring/data", headers={"Cookie": cookie}))


class TestWorkers:
    """Several workers with one directory."""

    async def test_any_worker_takes_the_link_and_only_one(self, tmp_path: Path) -> None:
        """
        The link that one worker made opens at another, and is used up for all.
        """
        (first, maker), (second, _) = (guarded(directory=lambda: tmp_path) for _ in range(2))
        start = f"/monitoring/?token={maker.new_start_token()}"

        opened = await get(second, start)

        assert opened.status == 200
        assert [(await get(app, start)).status for app in (first, second)] == [401, 401]

    async def test_a_session_is_open_at_every_worker(self, tmp_path: Path) -> None:
        """
        A session that one worker opened is open at another; use there keeps it open here, and its end here is its end there.
        """
        clock = VirtualTime()
        (first, maker), (second, _) = (guarded(clock, directory=lambda: tmp_path) for _ in range(2))
        cookie = await enter(first, maker)

        for app in (second, first, second):
            clock.advance(SESSION_IDLE_SECONDS)
            assert (await get(app, "/monitoring/data", headers=cookie)).status == 200
        clock.advance(SESSION_IDLE_SECONDS + 1)

        assert [(await get(app, "/monitoring/data", headers=cookie)).status for app in (first, second)] == [401, 401]

    async def test_rotation_leaves_the_other_workers_links(self, tmp_path: Path) -> None:
        """
        A worker that makes a new link ends its own former one, and no other worker's.
        """
        (app, one), (_, other) = (guarded(directory=lambda: tmp_path) for _ in range(2))
        old, others = one.new_start_token(), other.new_start_token()

        one.new_start_token()

        assert [(await get(app, f"/monitoring/?token={token}")).status for token in (old, others)] == [401, 200]

    def test_of_many_processes_one_gets_in(self, tmp_path: Path) -> None:
        """
        Processes that use the same tokens at the same time get each of them once, all together.
        """
        tokens = [bytes([number]) * 32 for number in range(MAX_START_TOKENS)]
        keys = FileKeys(tmp_path, time.monotonic)
        for token in tokens:
            keys.issue(token)
        program = (
            "import sys, time; from pathlib import Path; from rfs.web.fastapi._keys import FileKeys;"
            "keys = FileKeys(Path(sys.argv[1]), time.monotonic); print('ready', flush=True); sys.stdin.readline();"
            f"print(*[n for n in range({len(tokens)}) if keys.redeem(bytes([n]) * 32)])"
        )
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(4)
        ]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"

        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        won = [number for worker in workers for number in worker.communicate(timeout=20)[0].split()]

        assert sorted(map(int, won)) == list(range(len(tokens)))

    def test_a_link_outlives_its_twelve_hours_with_its_maker(self, tmp_path: Path) -> None:
        """
        After twelve hours a link is good while the process that made it lives, and no longer once that was killed.
        """
        program = (
            "import sys, time; from pathlib import Path; from rfs.web.fastapi._keys import FileKeys;"
            "both = [FileKeys(Path(sys.argv[1]), time.monotonic) for _ in range(2)];"
            "[keys.issue(bytes([n]) * 32) for n, keys in enumerate(both)]; print('made', flush=True); sys.stdin.read()"
        )
        maker = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert maker.stdout is not None
            assert maker.stdout.readline() == "made\n"
            later = FileKeys(tmp_path, lambda: time.monotonic() + START_SECONDS + 1)

            while_it_lived = later.redeem(b"\0" * 32)
        finally:
            maker.kill()
            maker.communicate()

        assert while_it_lived
        assert not later.redeem(b"\1" * 32)

    def test_a_link_is_good_for_twelve_hours_without_its_maker(self, tmp_path: Path) -> None:
        """
        The worker that made the link may be gone when it is opened.
        """
        keys = FileKeys(tmp_path, time.monotonic)
        keys.issue(b"s" * 32)
        del keys

        assert FileKeys(tmp_path, lambda: time.monotonic() + START_SECONDS - 60).redeem(b"s" * 32)

    async def test_files_hold_no_secret_and_are_this_users_alone(self, tmp_path: Path) -> None:
        """
        Neither name nor content of a file opens anything, and nobody else may read them.
        """
        app, guard = guarded(directory=lambda: tmp_path)
        cookie = (await enter(app, guard))["Cookie"].partition("=")[2]
        token = guard.new_start_token()

        files = list((tmp_path / "access").iterdir())

        assert len(files) == 2
        assert (tmp_path / "access").stat().st_mode & 0o777 == 0o700
        for file in files:
            assert file.stat().st_mode & 0o777 == 0o600
            assert not [
                secret for secret in (cookie, token) if secret in file.name or secret.encode() in file.read_bytes()
            ]

    async def test_bounded(self, tmp_path: Path) -> None:
        """
        However many links and sessions are made, so many files are left; what a killed process half wrote goes too.
        """
        app, guard = guarded(directory=lambda: tmp_path)
        await enter(app, guard)
        torn = tmp_path / "access" / ".new-left"
        torn.write_bytes(b"half")
        os.utime(torn, (0, 0))

        for _ in range(MAX_START_TOKENS + 5):
            FileKeys(tmp_path / "access", time.monotonic).issue(os.urandom(32))
        for _ in range(MAX_SESSIONS + 5):
            await enter(app, guard)

        kinds = [file.name.partition("-")[0] for file in (tmp_path / "access").iterdir()]
        assert sorted(set(kinds)) == ["session", "start"]
        assert kinds.count("session") == MAX_SESSIONS
        assert kinds.count("start") <= MAX_START_TOKENS

    async def test_of_another_boot(self, tmp_path: Path) -> None:
        """
        After a restart of the machine, whose clock begins anew, no session is open.
        """
        app, guard = guarded(directory=lambda: tmp_path)
        cookie = await enter(app, guard)
        (file,) = (tmp_path / "access").iterdir()
        content = file.read_bytes()
        file.write_bytes(content[:16] + b"another boot".ljust(36))

        assert (await get(app, "/monitoring/data", headers=cookie)).status == 401

    @pytest.mark.parametrize("damage", ["link", "open to others", "a file"])
    async def test_a_directory_that_is_not_ours(self, tmp_path: Path, telemetry: Telemetry, damage: str) -> None:
        """
        A directory that others could put a session into is not used: the fault is counted, and this worker keeps its own keys.
        """
        access = tmp_path / "access"
        if damage == "link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            access.symlink_to(tmp_path / "elsewhere")
        elif damage == "a file":
            access.write_text("")
        else:
            access.mkdir()
            access.chmod(0o777)
        app, guard = guarded(directory=lambda: tmp_path)

        cookie = await enter(app, guard)

        assert (await get(app, "/monitoring/data", headers=cookie)).status == 200
        assert is_denied(await get(app, "/monitoring/data", headers={"Cookie": "rfs_session=x"}))
        telemetry.assert_metric("telemetry_internal_errors_total", where="web.access")
        assert not access.is_dir() or list(access.iterdir()) == []


class TestBearer:
    async def test_configured_token(self) -> None:
        """
        The configured token opens everything, for programs.
        """
        app, _ = guarded(token=TOKEN)

        assert (await get(app, "/monitoring/data", headers=BEARER)).status == 200

    @pytest.mark.parametrize(
        "header", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer é"]
    )
    async def test_anything_else(self, header: str) -> None:
        """
        Nothing but the token is the token.
        """
        app, _ = guarded(token=TOKEN)

        assert is_denied(await get(app, "/monitoring/data", headers={"Authorization": header}))

    async def test_none_configured(self) -> None:
        """
        Without a configured token no token is the right one, the empty one neither.
        """
        app, _ = guarded()

        for header in ("Bearer ", "Bearer x"):
            assert is_denied(await get(app, "/monitoring/data", headers={"Authorization": header}))


class TestHostsOwnAccess:
    async def test_decides(self) -> None:
        """
        The host's function sees the request and decides, sync or async.
        """

        def sync_access(request: Request) -> bool:
            return request.headers.get("x-role") == "operator"

        async def async_access(request: Request) -> bool:
            return request.headers.get("x-role") == "operator"

        for access in (sync_access, async_access):
            app, _ = guarded(access=access)

            assert (await get(app, "/monitoring/data", headers={"X-Role": "operator"})).status == 200
            assert (await get(app, "/monitoring/data", headers={"X-Role": "cook"})).status == 401

    async def test_that_breaks(self, telemetry: Telemetry) -> None:
        """
        A function that raises denies, and is counted.
        """

        def access(request: Request) -> bool:
            raise RuntimeError("no idea")

        app, _ = guarded(access=access)

        assert is_denied(await get(app, "/monitoring/data"))
        telemetry.assert_metric("telemetry_internal_errors_total", 1, where="web.access")


class TestHostHeader:
    @pytest.mark.parametrize("host", ["evil.example", "testserver.evil.example", "", "evil.example:80", "[::2]"])
    async def test_foreign(self, host: str) -> None:
        """
        Under a foreign name nothing opens, not even with a key.
        """
        app, guard = guarded(token=TOKEN)
        token = guard.new_start_token()

        with_key = await get(app, "/monitoring/data", headers={"Host": host, **BEARER})
        start = await get(app, f"/monitoring/?token={token}", headers={"Host": host})

        assert with_key.status == start.status == 400
        assert "allowed_hosts" in with_key.json()["what_to_do"]

    @pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"])
    async def test_loopback_by_default(self, host: str) -> None:
        """
        By default the names of this machine are allowed, on any port.
        """
        inner = DashboardAccess(PlainTextResponse("in"), token=TOKEN)

        assert (await get(inner, "/", headers={"Host": host, **BEARER})).text == "in"
        assert (await get(inner, "/", headers={"Host": "testserver", **BEARER})).status == 400

    async def test_any(self) -> None:
        """
        A star allows every name.
        """
        app, _ = guarded(token=TOKEN, allowed_hosts=["*"])

        assert (await get(app, "/monitoring/data", headers={"Host": "any.example", **BEARER})).status == 200


class TestWrites:
    SAME: ClassVar = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}

    async def test_same_origin_json(self) -> None:
        """
        The page itself may write.
        """
        app, guard = guarded()
        cookie = await enter(app, guard)

        answer = await request(
            app, "POST", "/monitoring/write", headers={**cookie, **self.SAME}, json_body={"name": "slow"}
        )

        assert (answer.status, answer.json()) == (200, {"name": "slow"})

    @pytest.mark.parametrize(
        "origin",
        [
            {},
            {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "none"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://testserver:81"},
            {"Origin": "http://testserver.evil.example", "Sec-Fetch-Site": "same-origin"},
        ],
        ids=str,
    )
    async def test_from_elsewhere(self, origin: dict[str, str]) -> None:
        """
        A write that another site may have sent is refused, although the browser sent the cookie along.
        """
        app, guard = guarded()
        cookie = await enter(app, guard)

        answer = await request(app, "POST", "/monitoring/write", headers={**cookie, **origin}, json_body={})

        assert (answer.status, answer.json()["error_code"]) == (403, "CROSS_SITE")

    async def test_a_program_with_its_own_key(self) -> None:
        """
        A program sends no origin; its key is enough, as long as no browser says otherwise.
        """
        app, _ = guarded(token=TOKEN)

        plain = await request(app, "POST", "/monitoring/write", headers=BEARER, json_body={})
        by_browser = await request(
            app, "POST", "/monitoring/write", headers={**BEARER, "Origin": "http://evil.example"}, json_body={}
        )

        assert (plain.status, by_browser.status) == (200, 403)

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
    async def test_json_only(self, kind: str) -> None:
        """
        A body of a kind that a form could send is refused.
        """
        app, _ = guarded(token=TOKEN)

        answer = await request(app, "POST", "/monitoring/write", headers={**BEARER, "Content-Type": kind}, body=b"{}")

        assert (answer.status, answer.json()["error_code"]) == (415, "JSON_ONLY")

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "BREW"])
    async def test_every_method_but_reading(self, method: str) -> None:
        """
        Whatever does not only read is a write.
        """
        app, _ = guarded(token=TOKEN)

        assert (await request(app, method, "/monitoring/write", headers=BEARER)).status == 415


class TestSecurityHeaders:
    @pytest.mark.parametrize(
        ("target", "headers", "status"),
        [
            ("/monitoring/data", BEARER, 200),
            ("/monitoring/data", {}, 401),
            ("/monitoring/data", {"Host": "evil.example"}, 400),
            ("/monitoring/nowhere", BEARER, 404),
            ("/monitoring/broken", BEARER, 500),
        ],
    )
    async def test_on_every_response(self, target: str, headers: dict[str, str], status: int) -> None:
        """
        Every response of the mount, denied and broken ones too, tells the browser what it must not do.
        """
        app, _ = guarded(token=TOKEN)

        answer = await get(app, target, headers=headers)

        assert answer.status == status
        for name, value in SECURITY_HEADERS.items():
            assert [v for n, v in answer.raw_headers if n == name.lower().encode()] == [value.encode()]

    def test_policy(self) -> None:
        """
        No script, style or connection but the dashboard's own, and no frame around it.
        """
        policy = SECURITY_HEADERS["Content-Security-Policy"]

        for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
            assert rule in policy
        assert "unsafe" not in policy


class TestInstalled:
    async def test_the_real_dashboard(self) -> None:
        """
        Installed, the dashboard's own routes are behind all of it.
        """
        app = FastAPI()
        installation = install(app, allowed_hosts=["testserver"], dashboard_path="/ops/")

        denied = await get(app, "/ops/api/overview")
        opened = await get(app, installation.dashboard_start_path)
        cookie = {"Cookie": opened.headers["set-cookie"].partition(";")[0]}
        shown = await get(app, "/ops/api/overview", headers=cookie)
        wrong = await get(app, "/ops/api/overview?time_range=9y", headers=cookie)

        assert installation.dashboard_start_path.startswith("/ops/?token=")
        assert (denied.status, opened.status, shown.status) == (401, 200, 200)
        assert "path=/ops" in opened.headers["set-cookie"].lower()
        assert wrong.status == 422
        assert "time_range" in wrong.text

    async def test_token_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        The configured token may come from the environment; an argument wins.
        """
        monkeypatch.setenv("RFS_DASHBOARD_TOKEN", TOKEN)
        by_environment, by_argument = FastAPI(), FastAPI()
        install(by_environment, allowed_hosts=["testserver"])
        install(by_argument, allowed_hosts=["testserver"], dashboard_token="another")

        assert (await get(by_environment, "/monitoring/health", headers=BEARER)).status == 200
        assert (await get(by_argument, "/monitoring/health", headers=BEARER)).status == 401

    async def test_rotation(self) -> None:
        """
        A new start address opens the dashboard, the old one no longer does.
        """
        app = FastAPI()
        installation = install(app, allowed_hosts=["testserver"])
        old = installation.dashboard_start_path

        new = installation.rotate_token()

        assert installation.dashboard_start_path == new != old
        assert (await get(app, old)).status == 401
        assert (await get(app, new)).status == 200
