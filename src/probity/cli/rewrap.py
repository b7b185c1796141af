"""`probity db rewrap`: the second step of changing the master key."""

import asyncio
from pathlib import Path

from probity.cli.database import Target
from probity.cli.errors import CommandFailed
from probity.cli.masterkeys import required_keys
from probity.cli.served import served
from probity.kernel.crypto import KeyRing, SealBroken
from probity.kernel.sealed import Rotation
from probity.main import audit_beside_the_server


def rewrap_stored_secrets(data: Path) -> Rotation:
    """Wrap what older master keys wrap by the last one.

    Raises:
        CommandFailed: the keys are not known here, or one that is still needed was taken away too early.
    """
    ring = required_keys(data)
    with served(data) as target:
        try:
            return asyncio.run(_rewrap(target, ring, data))
        except SealBroken as error:
            raise CommandFailed(f"{error}; put the older key back in front of the new one, and repeat this") from error


async def _rewrap(target: Target, ring: KeyRing, data: Path) -> Rotation:
    dsns = target.dsns
    async with audit_beside_the_server(url=dsns.app, system_url=dsns.system, ring=ring, data_dir=data.absolute()) as service:
        return await service.rotate_master_key_all_tenants()
