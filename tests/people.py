"""Makes the principals of tests real people, for what points at their rows."""

from probity.kernel.db import Database, execute
from probity.kernel.principal import Principal


async def make_member(db: Database, principal: Principal) -> None:
    """Give a principal the rows of a user and of a membership in its organization."""
    user_id, org_id = principal.user_id, principal.org_id
    async with db.system() as tx:
        await execute(
            tx,
            "insert into users (id, email, display_name) values (:id, :email, :name)",
            id=user_id,
            email=f"{user_id}@example.test",
            name=principal.display,
        )
        await execute(tx, "insert into memberships (org_id, user_id) values (:org_id, :user_id)", org_id=org_id, user_id=user_id)
