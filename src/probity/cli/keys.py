"""`probity keys …`: API keys."""

import re

import click

from probity.cli.errors import CommandFailed
from probity.cli.output import json_option, print_json, print_table
from probity.cli.session import client
from probity.client.http import Client
from probity.client.models import ApiKey


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command("list")
@click.option("--all", "with_revoked", is_flag=True, help="Revoked ones too.")
@json_option
def list_command(with_revoked: bool, as_json: bool) -> None:
    """List keys, the newest first; never the keys themselves."""
    with client() as api:
        found = [each for each in api.list_keys() if with_revoked or each.revoked_at is None]
    if as_json:
        print_json(found)
        return
    rows = [(each.name, f"{each.key_prefix}…", each.scope, each.created_at, each.expires_at, each.last_used_at, each.id) for each in found]
    print_table(
        ["name", "key", "scope", "created", "expires", "last used", "id"], rows, empty="No keys. Make one with `probity keys create NAME`."
    )


@keys.command("create")
@click.argument("name")
@click.option("--scope", type=click.Choice(["read", "read-write"]), default="read", show_default=True)
@click.option("--expires", metavar="TIME", help="When it ends, in UTC: 2027-01-31T00:00:00Z. [default: never]")
@json_option
def create_command(name: str, scope: str, expires: str | None, as_json: bool) -> None:
    """Make a key and show it, this once."""
    if expires is not None and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", expires):
        raise click.UsageError("--expires is a time in UTC like 2027-01-31T00:00:00Z")
    with client() as api:
        key = api.create_key(name=name, scope=scope, expires_at=expires)
    if as_json:
        print_json(key)
        return
    click.echo(key.key)
    click.echo("Keep it now: it is not shown again.", err=True)


@keys.command("revoke")
@click.argument("key")
@json_option
def revoke_command(key: str, as_json: bool) -> None:
    """Revoke a key (its name, its first characters, or its id); it ends at once."""
    with client() as api:
        found = _find(api, key)
        api.revoke_key(found.id)
    if as_json:
        print_json({"id": found.id, "name": found.name, "revoked": True})
    else:
        click.echo(f"{found.name} ({found.key_prefix}…) is revoked")


def _find(api: Client, wanted: str) -> ApiKey:
    live = [each for each in api.list_keys() if each.revoked_at is None]
    found = [each for each in live if wanted in (each.id, each.name, each.key_prefix) or wanted.startswith(each.key_prefix)]
    if len(found) != 1:
        raise CommandFailed(f"no key {wanted!r}" if not found else f"{len(found)} keys match {wanted!r}; give the id")
    return found[0]
