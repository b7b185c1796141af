"""`probity db`: the schema, and backups of everything that cannot be made again."""

import asyncio
from pathlib import Path

import click

from probity.cli.errors import CommandFailed
from probity.cli.output import json_option, print_json
from probity.cli.served import served
from probity.kernel.migrate import MigrationChanged, migrate

DATA = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".probity"),
    envvar="PROBITY_DATA_DIR",
    show_default=True,
    help="Data directory: blobs, audit heads and, without DATABASE_URL, PostgreSQL.",
)


@click.group(short_help="Migrate, back up and restore the database.")
def db() -> None:
    """Migrate, back up and restore the database.

    Works on the database of DATABASE_URL, DATABASE_SYSTEM_URL and DATABASE_MIGRATION_URL; without them on the one that `probity up` keeps
    in the data directory, whether it runs or not.

    \b
    Your own PostgreSQL needs three roles before the first migration:
      create role probity_owner login password '…';               -- DATABASE_MIGRATION_URL
      create role probity_app login password '…';                 -- DATABASE_URL
      create role probity_system login bypassrls password '…';    -- DATABASE_SYSTEM_URL
      create database probity owner probity_owner;
    and, in that database, as probity_owner:
      alter default privileges grant select, insert, update, delete on tables to probity_app, probity_system;
      alter default privileges grant usage, select on sequences to probity_app, probity_system;
    """


@db.command("migrate")
@DATA
@json_option
def migrate_command(data: Path, as_json: bool) -> None:
    """Bring the schema up to this version. Safe to repeat, and to run from several machines at once."""
    with served(data) as target:
        try:
            applied = asyncio.run(migrate(target.dsns.owner))
        except MigrationChanged as error:
            raise CommandFailed(str(error)) from error
    if as_json:
        print_json({"applied": applied})
    elif applied:
        click.echo("\n".join(f"applied {name}" for name in applied))
    else:
        click.echo("The schema is up to date.")


@db.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--with-secrets", is_flag=True, help="Include the keys of this data directory; then guard the file like them.")
@DATA
@json_option
def backup(file: Path, with_secrets: bool, data: Path, as_json: bool) -> None:
    """Write the database, blobs and audit heads to FILE while everything runs.

    Blobs in an S3 bucket are not included. Neither are the master keys (PROBITY_MASTER_KEYS), without which sealed values cannot be opened:
    keep them elsewhere, or give --with-secrets.
    """
    from probity.cli.backup import write_backup

    with served(data) as target:
        manifest = write_backup(target, data, file, with_secrets=with_secrets)
    if as_json:
        print_json({"file": str(file), "size_bytes": file.stat().st_size, "members": len(manifest.members)})
    else:
        click.echo(f"Wrote {file} ({file.stat().st_size / 1e6:.1f} MB, {len(manifest.members)} members).")


@db.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@DATA
@json_option
def restore(file: Path, data: Path, as_json: bool) -> None:
    """Restore FILE into an empty database, in one transaction, after checking that it is whole.

    For an installation of `probity up` name a new directory, and start it with the same: probity up --data DIRECTORY.
    """
    from probity.cli.backup import restore_backup

    data.mkdir(mode=0o711, parents=True, exist_ok=True)
    with served(data) as target:
        manifest = restore_backup(target, data, file)
    if as_json:
        print_json({"created_at": manifest.created_at, "members": len(manifest.members)})
    else:
        click.echo(f"Restored the backup of {manifest.created_at:%Y-%m-%d %H:%M} UTC ({len(manifest.members)} members).")


@db.command()
@DATA
@json_option
def rewrap(data: Path, as_json: bool) -> None:
    """Wrap stored secrets by the last of the master keys, so that the others can be taken away.

    Safe to repeat, to interrupt, and while servers run; they must have been restarted with the new key. Exit code 1: some are still
    wrapped by an older key; repeat it.
    """
    # The whole server is imported, which the other commands here do without.
    from probity.cli.rewrap import rewrap_stored_secrets

    rotation = rewrap_stored_secrets(data)
    if as_json:
        print_json({"rewrapped": rotation.rewrapped, "left": rotation.left})
    else:
        click.echo(f"{rotation.rewrapped} stored secrets wrapped anew, {rotation.left} left under older keys.")
    raise click.exceptions.Exit(1 if rotation.left else 0)
