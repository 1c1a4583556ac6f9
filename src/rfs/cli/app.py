"""
The commands and their options. What they do is imported when one is called, so that ``--help`` is there at once.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rfs.errors import RfsError


class _Group(TyperGroup):
    """Says what went wrong on standard error, and exits with 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever reads us, `head` say, has enough
            raise
        except (RfsError, OSError) as error:
            typer.echo(f"rfs: {error}", err=True)
            raise typer.Exit(2) from error


class Level(StrEnum):
    """The levels of records, as they are spelled on the command line."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def number(self) -> int:
        """As the standard library numbers it."""
        return 10 * (list(Level).index(self) + 1)


app = typer.Typer(
    cls=_Group,
    help="What a service has recorded, whether it runs or not. Tables in a terminal, JSON in a pipe.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help needs no rich, and is there at once
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Directory = Annotated[
    Path | None,
    typer.Option(
        "--directory",
        "-d",
        envvar="RFS_DIR",
        show_default=False,
        help="The service's directory. Without it that of --service, or of the only service of this user.",
    ),
]
Service = Annotated[
    str,
    typer.Option(
        "--service",
        "-s",
        envvar="RFS_SERVICE_NAME",
        show_default=False,
        help="Name of the service, to find its directory by.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON, even in a terminal.")]
Range = Annotated[str, typer.Option("--range", "-r", metavar="RANGE", help="How far to look back: 30s, 15m, 1h, 7d.")]
Operation = Annotated[
    str | None, typer.Option("--operation", "-o", show_default=False, help="Of this operation alone.")
]


def _moment(text: str) -> datetime:
    """A moment as a person types it: ``15m`` ago, or an ISO date and time, in UTC unless it says otherwise."""
    from rfs.errors import TimeRangeError
    from rfs.monitoring._query import parse_time_range

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.fromtimestamp(datetime.now(UTC).timestamp() - parse_time_range(text).seconds, UTC)
        except TimeRangeError as error:
            fault = f"{text!r} is neither how long ago (30s, 15m, 1h, 7d) nor a time (2026-01-31T12:00)"
            raise typer.BadParameter(fault) from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


_MOMENT = "TIME"


@app.command()
def logs(
    directory: Directory = None,
    service: Service = "",
    level: Annotated[Level, typer.Option("--level", "-l", help="The lowest level to show.")] = Level.DEBUG,
    operation: Operation = None,
    correlation_id: Annotated[
        str | None, typer.Option("--id", "-i", show_default=False, help="Of this correlation id alone.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            parser=_moment,
            metavar=_MOMENT,
            show_default=False,
            help="From then on: 15m (ago), or 2026-01-31T12:00 (UTC).",
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(parser=_moment, metavar=_MOMENT, show_default=False, help="Before then; as --since."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="The newest so many.")] = 100,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="CURSOR", show_default=False, help="Go on with what is older than that record: the `cursor` of one."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show what is being recorded.")] = False,
    as_json: Json = False,
) -> None:
    """Records, the newest last."""
    from rfs.cli import reading
    from rfs.cli.output import Output

    if follow and (until is not None or before is not None):
        raise typer.BadParameter("--follow goes on into the future; it does not go with --until or --before")
    asked = reading.Asked(level.number, operation, correlation_id, since, until)
    with reading.opened(directory, service) as query:
        reading.logs(query, Output(as_json=as_json), asked, limit=limit, before=before, follow=follow)


@app.command()
def trace(
    correlation_id: Annotated[str, typer.Argument(metavar="ID", help="A correlation id, as records have it.")],
    directory: Directory = None,
    service: Service = "",
    as_json: Json = False,
) -> None:
    """What happened under one correlation id: spans, how long they took, which failed, and what was logged in them."""
    from rfs.cli import reading
    from rfs.cli.output import Output

    with reading.opened(directory, service) as query:
        reading.trace(query, Output(as_json=as_json), correlation_id)


@app.command()
def errors(
    directory: Directory = None,
    service: Service = "",
    time_range: Range = "1h",
    operation: Operation = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000, help="The most frequent so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Failures in groups: how often, since when, and an example of each."""
    from rfs.cli import reading
    from rfs.cli.output import Output

    with reading.opened(directory, service) as query:
        reading.errors(query, Output(as_json=as_json), time_range, operation=operation, limit=limit)


@app.command()
def ops(
    directory: Directory = None,
    service: Service = "",
    time_range: Range = "1h",
    operation: Operation = None,
    as_json: Json = False,
) -> None:
    """Operations: how many, how well, how fast."""
    from rfs.cli import reading
    from rfs.cli.output import Output

    with reading.opened(directory, service) as query:
        reading.operations(query, Output(as_json=as_json), time_range, operation=operation)


@app.command()
def replay(
    what: Annotated[
        str, typer.Argument(metavar="ID", help="A correlation id, or the `cursor` of a record: of a failure.")
    ],
    directory: Directory = None,
    service: Service = "",
    operation: Annotated[
        str | None,
        typer.Option(
            "--operation", "-o", show_default=False, help="Which of the operations that failed; else the outermost."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", show_default=False, help="The file to write, which must not be there; else one in this folder."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a pytest file that reproduces a failure. Run it where the service runs: its modules are imported."""
    from rfs.cli import testing
    from rfs.cli.output import Output
    from rfs.cli.reading import opened

    with opened(directory, service) as query:
        testing.replay(query, Output(as_json=as_json), what, operation=operation, path=output)


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files of checks, in TOML.")],
    directory: Directory = None,
    service: Service = "",
    time_range: Range = "1h",
    junit: Annotated[
        Path | None, typer.Option("--junit", show_default=False, help="Write what came of it there, as JUnit XML.")
    ] = None,
    annotations: Annotated[
        bool, typer.Option("--annotations", help="Tell GitHub, on standard error, the file and line of what failed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run tests of alert rules, contracts and baselines. Exits with 0 if all pass, 1 if one fails, 2 for bad input."""
    from rfs.cli import testing
    from rfs.cli.output import Output
    from rfs.cli.reading import opened

    passed = testing.check(
        files,
        Output(as_json=as_json),
        lambda: opened(directory, service),
        time_range=time_range,
        junit=junit,
        annotated=annotations,
    )
    raise typer.Exit(0 if passed else 1)


@app.command()
def serve(
    directory: Directory = None,
    service: Service = "",
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65_535, help="0 takes a free one.")] = 9750,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE[:NAME]",
            show_default=False,
            help="What declares the service's alert rules: a module, a function of one, or its Monitor; may be given again.",
        ),
    ] = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            metavar="NAME",
            show_default=False,
            help="A host name, beside localhost, under which the dashboard may be asked for; may be given again.",
        ),
    ] = None,
    everywhere: Annotated[
        bool,
        typer.Option(
            "--everywhere", help="Of all machines, from the ClickHouse that RFS_STORE names; leads no directory."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Do a service's work behind the scenes, and serve its dashboard, in a process of its own, until Ctrl-C."""
    from rfs.cli import serving
    from rfs.cli.output import Output

    serving.serve(
        directory,
        service,
        Output(as_json=as_json),
        host=host,
        port=port,
        imports=imports or (),
        allowed_hosts=allowed_hosts or (),
        everywhere=everywhere,
    )


@app.command()
def doctor(directory: Directory = None, service: Service = "", as_json: Json = False) -> None:
    """What is wrong with a directory, and what to do. Exits with 0 if nothing is, 1 for warnings, 2 for faults."""
    from rfs.cli import doctor as looking
    from rfs.cli.output import Output
    from rfs.cli.places import find_directory

    raise typer.Exit(looking.doctor(find_directory(directory, service), Output(as_json=as_json)))


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A directory that is not there yet, or is empty.")],
    directory: Directory = None,
    service: Service = "",
    verify: Annotated[bool, typer.Option("--verify", help="Make none; read all of the one that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Copy a directory, while its service runs, so that the copy is of one moment and can be verified."""
    from rfs.cli import keeping
    from rfs.cli.output import Output
    from rfs.cli.places import find_directory

    if verify:
        keeping.verify_backup(target, Output(as_json=as_json))
    else:
        keeping.backup(find_directory(directory, service), target, Output(as_json=as_json))


@app.command()
def bench_store(
    place: Annotated[
        Path | None,
        typer.Option(
            "--place",
            "-p",
            show_default=False,
            help="On which disk: a directory on it, by default that for temporary files.",
        ),
    ] = None,
    records: Annotated[
        int, typer.Option("--records", "-n", min=1_000, max=10_000_000, help="With so many records.")
    ] = 1_000_000,
    as_json: Json = False,
) -> None:
    """What the store does on this machine and disk, beside its goals. Works in a directory of its own and removes it."""
    from rfs.cli import bench
    from rfs.cli.output import Output

    bench.bench_store(place, records, Output(as_json=as_json))


@app.command()
def erase(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="Whose records: a user's id, or a correlation id.")],
    directory: Directory = None,
    service: Service = "",
    field: Annotated[
        list[str] | None,
        typer.Option("--field", show_default=False, help="A field whose value is a subject's id; may be given again."),
    ] = None,
    anywhere: Annotated[
        bool, typer.Option("--anywhere", help="Also records that have the id anywhere, in a message say.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Erase every record of a person, also from files that a running service has. It cannot be undone."""
    from rfs.cli import keeping
    from rfs.cli.output import Output
    from rfs.cli.places import find_directory

    place = find_directory(directory, service)
    if not yes:
        typer.confirm(f"Erase all records of {subject!r} in {place}?", abort=True, err=True)
    raise typer.Exit(keeping.erase(place, subject, Output(as_json=as_json), fields=field, anywhere=anywhere))


keys_app = typer.Typer(help="Keys that records are encrypted with.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(keys_app, name="keys")


@keys_app.command("rotate")
def rotate_keys(directory: Directory = None, service: Service = "", as_json: Json = False) -> None:
    """Encrypt all records with the first key of the file that RFS_STORE_KEYS names, those in clear included."""
    from rfs.cli import keeping
    from rfs.cli.output import Output
    from rfs.cli.places import find_directory

    raise typer.Exit(keeping.rotate_keys(find_directory(directory, service), Output(as_json=as_json)))


archive_app = typer.Typer(
    help="Put history aside, check it, and bring it back.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(archive_app, name="archive")
Archive = Annotated[
    str, typer.Argument(metavar="TARGET", help="A folder, or a URL that fsspec knows (extra `archive`).")
]


@archive_app.command("create")
def create_archive(
    target: Archive,
    before: Annotated[
        datetime, typer.Option(parser=_moment, metavar=_MOMENT, help="What is older: 7d (ago), or 2026-01-31 (UTC).")
    ],
    directory: Directory = None,
    service: Service = "",
    delete: Annotated[
        bool, typer.Option("--delete", help="Then remove it from the store, when it has been read back.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write an archive of what is older, beside a service that runs. Called again, it goes on."""
    from rfs.cli import keeping
    from rfs.cli.output import Output
    from rfs.cli.places import find_directory

    place = find_directory(directory, service)
    keeping.create_archive(place, target, Output(as_json=as_json), before=before, delete=delete)


@archive_app.command("verify")
def verify_archive(target: Archive, as_json: Json = False) -> None:
    """Read all of an archive, and compare it with its manifest."""
    from rfs.cli import keeping
    from rfs.cli.output import Output

    keeping.verify_archive(target, Output(as_json=as_json))


@archive_app.command("restore")
def restore_archive(target: Archive, directory: Directory = None, service: Service = "", as_json: Json = False) -> None:
    """Bring an archive back, into a directory that is there or into a new one. Called again, it changes nothing."""
    from rfs.cli import keeping
    from rfs.cli.output import Output
    from rfs.cli.places import find_directory

    place = find_directory(directory, service) if directory is None or directory.exists() else directory
    keeping.restore_archive(target, place, Output(as_json=as_json))


@archive_app.command("list")
def list_archives(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="An archive, or a folder with archives in it.")],
    as_json: Json = False,
) -> None:
    """What archives there are, and what is in them."""
    from rfs.cli import keeping
    from rfs.cli.output import Output

    keeping.list_archives(folder, Output(as_json=as_json))
