"""
Settings: from the environment, then from ``.env``, then from the profile of ``APP_ENV``.

``from app.core.config import settings`` reads them on first use and keeps them.
An invalid one raises :class:`SettingsError` there, which is before the service
listens; its text names the key, the value (never a secret one) and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rfs.errors import RfsError

SAMPLE_SECRET_KEY = "your-secret-key-here-change-in-production"
SECRETS = frozenset({"SECRET_KEY", "DATABASE_URL", "DEMO_PASSWORD"})

PROFILES: Mapping[str, Mapping[str, object]] = {
    "development": {
        "DEBUG": True,
        "LOG_LEVEL": "DEBUG",
        "DB_POOL_SIZE": 5,
        "DB_MAX_OVERFLOW": 5,
        "SSE_MAX_CONNECTIONS_PER_STORE": 10,
    },
    "staging": {
        "DEBUG": False,
        "LOG_LEVEL": "INFO",
        "DB_POOL_SIZE": 10,
        "DB_MAX_OVERFLOW": 10,
        "SSE_MAX_CONNECTIONS_PER_STORE": 50,
    },
    "production": {
        "DEBUG": False,
        "LOG_LEVEL": "INFO",
        "DB_POOL_SIZE": 20,
        "DB_MAX_OVERFLOW": 20,
        "SSE_MAX_CONNECTIONS_PER_STORE": 100,
    },
}

_POSTGRES_SCHEMES = ("postgresql://", "postgresql+asyncpg://")
S = TypeVar("S", bound=BaseSettings)

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


class SettingsError(RfsError, ValueError):
    """
    One or more settings are invalid.

    Attributes:
        faults: For each, its key and a sentence with value and allowed range.
    """

    def __init__(self, faults: tuple[tuple[str, str], ...]) -> None:
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        return "; ".join(f"setting {key}{fault}" for key, fault in self.faults)


class Settings(BaseSettings):
    """Everything that can be set, with what is allowed."""

    model_config = SettingsConfigDict(
        env_file=".env", case_sensitive=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    # Application
    APP_ENV: Literal["development", "staging", "production"] | None = Field(
        None, description="Profile that gives the defaults of its environment; unset: the plain defaults below"
    )
    APP_NAME: str = Field("Table Order Service", min_length=1, max_length=100)
    APP_VERSION: str = "1.0.0"
    DEBUG: bool = Field(False, description="Whether every query is recorded, at level DEBUG")
    LOG_LEVEL: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    LOG_STDOUT: bool = Field(True, description="Whether records are also printed, as JSON lines")

    # Database
    DATABASE_URL: str = Field(repr=False)
    DB_POOL_SIZE: int = Field(5, ge=1, le=100)
    DB_MAX_OVERFLOW: int = Field(10, ge=0, le=100)
    DB_POOL_TIMEOUT: int = Field(30, ge=1, le=300, description="Seconds that the pool lets anybody wait")
    DB_REQUEST_WAIT_SECONDS: float = Field(
        1.5,
        ge=0.05,
        le=30,
        description="How long work waits for a connection, if the pool lets it, before it is told 503",
    )
    DB_STATEMENT_TIMEOUT_SECONDS: float = Field(2.0, ge=0.05, le=60)
    DB_SLOW_QUERY_SECONDS: float = Field(0.2, ge=0.001, le=60, description="Slower queries are logged at WARNING")

    # Security
    SECRET_KEY: str = Field(min_length=32, repr=False)
    ACCESS_TOKEN_EXPIRE_HOURS: int = Field(16, ge=1, le=24)
    DEMO_PASSWORD: SecretStr | None = Field(
        None,
        min_length=8,
        max_length=128,
        description="Fills an empty database with three stores and accounts that have this password",
    )

    # CORS
    CORS_ORIGINS: Annotated[list[str], NoDecode] = []

    # SSE
    SSE_HEARTBEAT_INTERVAL: float = Field(30, ge=0.05, le=300, description="Seconds")
    SSE_MAX_CONNECTIONS_PER_STORE: int = Field(100, ge=1, le=10_000, description="In each worker")
    SSE_POLL_SECONDS: float = Field(
        0.5, ge=0.05, le=5, description="How late an event may be, or a revoked stream end, if a notification is lost"
    )
    SSE_SEND_TIMEOUT_SECONDS: float = Field(5, ge=0.1, le=60, description="How long a client may refuse to read")

    @model_validator(mode="before")
    @classmethod
    def fill_from_profile(cls, values: dict[str, object]) -> dict[str, object]:
        """Give what is not set the default of its environment."""
        return {**PROFILES.get(str(values.get("APP_ENV")), {}), **values}

    @field_validator("DATABASE_URL")
    @classmethod
    def validate_database_url(cls, value: str) -> str:
        if not value.startswith(_POSTGRES_SCHEMES):
            raise ValueError("DATABASE_URL must be a PostgreSQL connection string")
        return value

    @field_validator("SECRET_KEY")
    @classmethod
    def refuse_sample_key(cls, value: str) -> str:
        if value == SAMPLE_SECRET_KEY:
            raise ValueError("must not be the sample key of .env.example")
        return value

    @field_validator("LOG_LEVEL", mode="before")
    @classmethod
    def upper_level(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("CORS_ORIGINS", mode="before")
    @classmethod
    def parse_cors_origins(cls, value: object) -> object:
        if isinstance(value, str):
            return [origin.strip() for origin in value.split(",") if origin.strip()]
        return value

    @field_validator("CORS_ORIGINS")
    @classmethod
    def check_cors_origins(cls, value: list[str]) -> list[str]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError("must be origins such as http://localhost:3000, parted by commas, or *")
        return value


def load_settings(**overrides: Any) -> Settings:
    """
    Read the service's settings; *overrides* win over the environment.

    Raises:
        SettingsError: at least one is missing or invalid; it names all of them.
    """
    return read_settings(Settings, **overrides)


def read_settings(kind: type[S], **overrides: Any) -> S:
    """Read settings of *kind*, as :func:`load_settings` does."""
    try:
        return kind(**overrides)
    except ValidationError as error:
        faults = tuple(_fault(kind, part) for part in error.errors())
    # Outside the handler, so that no traceback shows the input through a chained exception.
    raise SettingsError(faults)


def _fault(kind: type[BaseSettings], part: Mapping[str, Any]) -> tuple[str, str]:
    key, value = str(part["loc"][0]), part.get("input")
    if part["type"] == "missing":
        return key, f" is missing: {allowed(kind, key)}"
    shown = "***" if key in SECRETS else repr(value)
    reason = f" ({part['msg'].removeprefix('Value error, ')})" if part["type"] == "value_error" else ""
    return key, f"={shown} is not allowed: {allowed(kind, key)}{reason}"


def allowed(kind: type[BaseSettings], key: str) -> str:
    """Say in words which values *key* takes."""
    if key in _IN_WORDS:
        return _IN_WORDS[key]
    field = kind.model_fields[key]
    limits = {name: getattr(part, name) for part in field.metadata for name in _LIMITS if hasattr(part, name)}
    if "le" in limits:
        above = f"from {limits['ge']:g}" if "ge" in limits else f"above {limits['gt']:g}"
        return f"a number {above} to {limits['le']:g}"
    if "min_length" in limits:
        return f"{limits['min_length']} to {limits['max_length']} characters"
    return "true or false" if field.annotation is bool else "text"


_LIMITS = ("ge", "gt", "le", "min_length", "max_length")
_IN_WORDS = {
    "APP_ENV": "development, staging or production",
    "LOG_LEVEL": "DEBUG, INFO, WARNING, ERROR or CRITICAL",
    "DATABASE_URL": "a connection string that starts with postgresql:// or postgresql+asyncpg://",
    "SECRET_KEY": "at least 32 characters, not the sample",
    "CORS_ORIGINS": "origins parted by commas",
}

if TYPE_CHECKING:
    settings: Settings
else:

    def __getattr__(name: str) -> Settings:
        """Read ``settings`` when somebody first asks: importing this module needs no environment."""
        if name != "settings":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()["settings"] = loaded = load_settings()
        return loaded
