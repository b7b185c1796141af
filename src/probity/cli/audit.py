"""`probity audit …`: prove the audit trail, and take it along."""

import asyncio
import sys
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import click

from probity.audit.errors import ChainBroken
from probity.audit.models import INSTALLATION, Checkpoint, Verification
from probity.audit.service import AuditService, verify_file
from probity.cli.database import Target
from probity.cli.db import DATA
from probity.cli.errors import CommandFailed
from probity.cli.masterkeys import installation_keys, required_keys
from probity.cli.output import json_option, print_json
from probity.cli.served import served
from probity.kernel.crypto import KeyRing
from probity.kernel.ids import parse_id
from probity.kernel.principal import OrgId
from probity.main import audit_beside_the_server


@click.group()
def audit() -> None:
    """Verify and export the audit trail."""


@audit.command("verify")
@click.option(
    "--file", "export", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Check an export instead of the database."
)
@DATA
@json_option
def verify_command(export: Path | None, data: Path, as_json: bool) -> None:
    """Check that no event was changed, removed or moved; exit code 1 names the first broken one.

    Checks the database of this installation, every organization in it. With --file an export is checked, for which neither database nor
    server are needed; with this installation's keys at hand, the signatures are checked against them.
    """
    if export is not None:
        ring = installation_keys(data)
        found = [verify_file(export, ring.public_keys() if ring else {})]
    else:
        ring = required_keys(data)
        with served(data) as target:
            found = asyncio.run(_verify(target, ring, data))
    verified = all(each.verified for each in found)
    if as_json:
        print_json({"verified": verified, "trails": found})
    else:
        for each in found:
            click.echo(_describe(each))
        if not found:
            click.echo("The trail is empty.")
    raise click.exceptions.Exit(0 if verified else 1)


@audit.command("export")
@click.option("--organization", metavar="ID", help="Which one, when there are several.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file. [default: standard output]")
@DATA
def export_command(organization: str | None, output: Path | None, data: Path) -> None:
    """Write a trail as NDJSON that proves itself; `probity audit verify --file` checks it anywhere."""
    ring = required_keys(data)
    org_id = parse_id(OrgId, organization) if organization else None
    with served(data) as target:
        if output is None:
            asyncio.run(_export(target, ring, data, org_id, sys.stdout.buffer))
        else:
            with output.open("wb") as file:
                asyncio.run(_export(target, ring, data, org_id, file))
            click.echo(f"wrote {output}", err=True)


@audit.command("prune")
@click.option("--older-than", "days", type=click.IntRange(1, 36500), required=True, metavar="DAYS", help="Remove events older than this.")
@click.option("--organization", metavar="ID", help="Which one, when there are several.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@DATA
@json_option
def prune_command(days: int, organization: str | None, yes: bool, data: Path, as_json: bool) -> None:
    """Remove old events for good; a signed boundary remains, and the rest still verifies.

    A trail that does not verify is left as it is. Export it first if the events may be asked for later.
    """
    ring = required_keys(data)
    org_id = parse_id(OrgId, organization) if organization else None
    if not yes:
        click.confirm(f"Remove all events older than {days} days?", abort=True, err=True)
    with served(data) as target:
        boundary = asyncio.run(_prune(target, ring, data, org_id, days))
    if as_json:
        print_json({"removed_up_to": boundary.seq if boundary else 0})
    else:
        click.echo(f"Removed everything up to number {boundary.seq}." if boundary else "No event is that old.")


async def _prune(target: Target, ring: KeyRing, data: Path, org_id: OrgId | None, days: int) -> Checkpoint | None:
    async with _service(target, ring, data) as service:
        if org_id is None:
            org_id = _only([each.org_id for each in await service.verify_all_tenants() if each.org_id != INSTALLATION])
        try:
            return await service.prune_all_tenants(org_id, datetime.now(UTC) - timedelta(days=days))
        except ChainBroken as error:
            raise CommandFailed(str(error)) from error


async def _verify(target: Target, ring: KeyRing, data: Path) -> list[Verification]:
    async with _service(target, ring, data) as service:
        return await service.verify_all_tenants()


async def _export(target: Target, ring: KeyRing, data: Path, org_id: OrgId | None, file: BinaryIO) -> None:
    async with _service(target, ring, data) as service:
        if org_id is None:
            org_id = _only([each.org_id for each in await service.verify_all_tenants() if each.org_id != INSTALLATION])
        async for chunk in await service.export_all_tenants(org_id):
            file.write(chunk)
        file.flush()


def _only(ids: list[UUID]) -> OrgId:
    if len(ids) == 1:
        return OrgId(ids[0])
    listed = "".join(f"\n  {each}" for each in ids)
    raise CommandFailed(f"there are {len(ids)} organizations; choose one with --organization:{listed}" if ids else "the trail is empty")


def _service(target: Target, ring: KeyRing, data: Path) -> AbstractAsyncContextManager[AuditService]:
    return audit_beside_the_server(url=target.dsns.app, system_url=target.dsns.system, ring=ring, data_dir=data.absolute())


def _describe(found: Verification) -> str:
    what = f"{found.org_id}: {found.events} events, {found.checkpoints} signed heads"
    if found.broken is None:
        return f"{what}: verified" + ("" if found.key_trusted else " (signed by keys that only the export vouches for)")
    where = f" at number {found.broken.seq}" if found.broken.seq is not None else ""
    event = f", event {found.broken.event_id}" if found.broken.event_id is not None else ""
    return f"{what}: BROKEN{where}{event}: {found.broken.reason.value.replace('_', ' ')}"
