from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.core import config
from app.core.config import PROFILES, SAMPLE_SECRET_KEY, Settings, SettingsError, allowed, load_settings, read_settings
from app.run import RunSettings

HOME = Path(config.__file__).parents[2]
GOOD = {"DATABASE_URL": "postgresql://u:hunter2-secret@db/x", "SECRET_KEY": "k" * 32}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[None]:
    """No setting comes from the machine that runs the tests."""
    for key in (*Settings.model_fields, *RunSettings.model_fields):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    vars(config).pop("settings", None)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that has what must be set."""
    for key, value in GOOD.items():
        monkeypatch.setenv(key, value)
    return monkeypatch


class TestDefaults:
    def test_are_the_documented_ones(self, environment: pytest.MonkeyPatch) -> None:
        """
        With nothing but the two that must be set, each setting is what the design document says.
        """
        settings = load_settings()

        assert (settings.APP_NAME, settings.APP_VERSION) == ("Table Order Service", "1.0.0")
        assert (settings.DEBUG, settings.LOG_LEVEL, settings.CORS_ORIGINS) == (False, "INFO", [])
        assert (settings.DB_POOL_SIZE, settings.DB_MAX_OVERFLOW, settings.DB_POOL_TIMEOUT) == (5, 10, 30)
        assert settings.ACCESS_TOKEN_EXPIRE_HOURS == 16
        assert (settings.SSE_HEARTBEAT_INTERVAL, settings.SSE_MAX_CONNECTIONS_PER_STORE) == (30, 100)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("development", (True, "DEBUG", 5, 5, 10)),
            ("staging", (False, "INFO", 10, 10, 50)),
            ("production", (False, "INFO", 20, 20, 100)),
        ],
    )
    def test_of_the_three_environments(
        self, environment: pytest.MonkeyPatch, name: str, expected: tuple[object, ...]
    ) -> None:
        """
        ``APP_ENV`` gives the defaults of the document's table.
        """
        environment.setenv("APP_ENV", name)

        got = load_settings()

        assert expected == (
            got.DEBUG,
            got.LOG_LEVEL,
            got.DB_POOL_SIZE,
            got.DB_MAX_OVERFLOW,
            got.SSE_MAX_CONNECTIONS_PER_STORE,
        )

    @pytest.mark.parametrize("name", sorted(PROFILES))
    def test_what_is_set_wins_over_the_environments(self, environment: pytest.MonkeyPatch, name: str) -> None:
        """
        A profile fills gaps and overrides nothing.
        """
        environment.setenv("APP_ENV", name)
        environment.setenv("DB_POOL_SIZE", "7")
        environment.setenv("LOG_LEVEL", "warning")

        got = load_settings()

        assert (got.DB_POOL_SIZE, got.LOG_LEVEL) == (7, "WARNING")


class TestReading:
    def test_origins_are_parted_by_commas(self, environment: pytest.MonkeyPatch) -> None:
        """
        One line of the environment is a list of origins.
        """
        environment.setenv("CORS_ORIGINS", "http://localhost:3000, https://order.example")

        assert load_settings().CORS_ORIGINS == ["http://localhost:3000", "https://order.example"]

    def test_the_module_has_settings(self, environment: pytest.MonkeyPatch) -> None:
        """
        ``from app.core.config import settings`` gives those of the environment, and the same ones each time.
        """
        from app.core.config import settings

        assert GOOD["DATABASE_URL"] == settings.DATABASE_URL
        assert config.settings is settings

    def test_importing_needs_no_environment(self) -> None:
        """
        The module can be imported where nothing is set, and has no other name that is not there.
        """
        assert not hasattr(config, "no_such_name")

    def test_a_file_beside_the_program_is_read(self, tmp_path: Path) -> None:
        """
        The example becomes a working ``.env`` once its key is replaced, comments and all.
        """
        example = (HOME / ".env.example").read_text()
        (tmp_path / ".env").write_text(example.replace(SAMPLE_SECRET_KEY, "x" * 48))

        got = load_settings()

        assert got.DATABASE_URL == "postgresql+asyncpg://user:password@localhost:5432/tableorder"
        assert got.CORS_ORIGINS == ["http://localhost:3000"]
        assert got.APP_ENV == "development"

    def test_the_example_names_only_what_exists(self) -> None:
        """
        Every key of the example is a setting, and the documented ones are all in it.
        """
        lines = (HOME / ".env.example").read_text().splitlines()
        keys = {line.lstrip("# ").partition("=")[0] for line in lines if "=" in line and line.lstrip("# ")[0].isupper()}

        assert keys <= set(Settings.model_fields)
        assert {"APP_NAME", "DEBUG", "LOG_LEVEL", "DATABASE_URL", "SECRET_KEY", "CORS_ORIGINS"} <= keys


class TestRefusing:
    @pytest.mark.parametrize(
        ("key", "value", "told"),
        [
            ("DB_POOL_SIZE", "0", "setting DB_POOL_SIZE='0' is not allowed: a number from 1 to 100"),
            ("DB_POOL_SIZE", "many", "setting DB_POOL_SIZE='many' is not allowed: a number from 1 to 100"),
            ("DB_MAX_OVERFLOW", "-1", "setting DB_MAX_OVERFLOW='-1' is not allowed: a number from 0 to 100"),
            ("DB_POOL_TIMEOUT", "301", "setting DB_POOL_TIMEOUT='301' is not allowed: a number from 1 to 300"),
            ("ACCESS_TOKEN_EXPIRE_HOURS", "25", "ACCESS_TOKEN_EXPIRE_HOURS='25' is not allowed: a number from 1 to 24"),
            ("SSE_HEARTBEAT_INTERVAL", "nan", "SSE_HEARTBEAT_INTERVAL='nan' is not allowed: a number from 0.05 to 300"),
            ("LOG_LEVEL", "loud", "LOG_LEVEL='LOUD' is not allowed: DEBUG, INFO, WARNING, ERROR or CRITICAL"),
            ("APP_ENV", "moon", "APP_ENV='moon' is not allowed: development, staging or production"),
            ("DEBUG", "maybe", "DEBUG='maybe' is not allowed: true or false"),
            ("CORS_ORIGINS", "localhost", "CORS_ORIGINS='localhost' is not allowed: origins parted by commas"),
            ("APP_NAME", "", "APP_NAME='' is not allowed: 1 to 100 characters"),
            ("DATABASE_URL", "mysql://root:hunter2@db/x", "DATABASE_URL=*** is not allowed: a connection string that"),
            ("SECRET_KEY", "short-key", "SECRET_KEY=*** is not allowed: at least 32 characters, not the sample"),
            ("SECRET_KEY", SAMPLE_SECRET_KEY, "SECRET_KEY=*** is not allowed: at least 32 characters, not the sample"),
            ("DEMO_PASSWORD", "short", "DEMO_PASSWORD=*** is not allowed: 8 to 128 characters"),
        ],
    )
    def test_names_key_value_and_range(self, environment: pytest.MonkeyPatch, key: str, value: str, told: str) -> None:
        """
        The error says which setting, what it was (unless secret) and what it may be.
        """
        environment.setenv(key, value)

        with pytest.raises(SettingsError) as caught:
            load_settings()

        assert told in str(caught.value)
        if "***" in told:
            assert value not in str(caught.value)

    def test_names_all_at_once(self) -> None:
        """
        Two that are missing are two faults in one error, which survives pickling.
        """
        with pytest.raises(SettingsError) as caught:
            load_settings()

        error = pickle.loads(pickle.dumps(caught.value))
        assert [key for key, _ in error.faults] == ["DATABASE_URL", "SECRET_KEY"]
        assert str(error) == str(caught.value)
        assert str(error).startswith(
            "setting DATABASE_URL is missing: a connection string that starts with postgresql://"
        )

    def test_pydantics_own_error_shows_no_secret(self, environment: pytest.MonkeyPatch) -> None:
        """
        Who builds Settings by hand gets pydantic's error, in which no value stands.
        """
        environment.setenv("DATABASE_URL", "mysql://root:hunter2@db/x")

        with pytest.raises(ValidationError) as caught:
            Settings()  # pyright: ignore[reportCallIssue]

        assert "must be a PostgreSQL connection string" in str(caught.value)
        assert "hunter2" not in str(caught.value)

    def test_no_secret_is_in_the_repr(self, environment: pytest.MonkeyPatch) -> None:
        """
        Settings may be printed.
        """
        environment.setenv("DEMO_PASSWORD", "demo-demo")

        shown = repr(load_settings())

        assert "DB_POOL_SIZE=5" in shown
        assert not any(secret in shown for secret in (*GOOD.values(), "demo-demo"))

    @pytest.mark.parametrize("value", ["0", "17", "two", "1.5", ""])
    def test_how_many_workers_there_may_be(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        """
        A number of workers that cannot be is named with its range.
        """
        monkeypatch.setenv("WORKERS", value)

        with pytest.raises(SettingsError) as caught:
            read_settings(RunSettings)

        assert str(caught.value) == f"setting WORKERS={value!r} is not allowed: a number from 1 to 16"

    @given(st.sampled_from(sorted(Settings.model_fields)))
    def test_every_range_can_be_said(self, key: str) -> None:
        """
        There is a sentence for each setting.
        """
        assert allowed(Settings, key)


class TestStarting:
    @pytest.mark.parametrize(
        "changed", [{"SECRET_KEY": SAMPLE_SECRET_KEY}, {"PORT": "65536"}, {"RATE": "0"}, {"WORKERS": "0"}]
    )
    def test_an_invalid_setting_stops_it_before_it_listens(self, changed: dict[str, str], tmp_path: Path) -> None:
        """
        The launcher says what is wrong in one line, starts nothing, and ends with status 2.
        """
        environment = {**os.environ, **GOOD, **changed, "PYTHONPATH": str(HOME), "TMPDIR": str(tmp_path)}

        ended = subprocess.run(
            [sys.executable, "-m", "app.run"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert ended.returncode == 2
        assert ended.stdout == ""
        assert ended.stderr.splitlines()[0].startswith(f"setting {next(iter(changed))}=")
        assert len(ended.stderr.splitlines()) == 1
        assert SAMPLE_SECRET_KEY not in ended.stderr
        assert list(tmp_path.iterdir()) == []
