"""Nobody sees another organization's rows: the database refuses, whatever a service forgets. design.md §5."""

import ast
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from probity.kernel.db import Database, OverPrivilegedRole, fetch_rows, fetch_value
from probity.kernel.principal import OrgId, Principal, system_principal
from tests.cluster import TestDatabase

SOURCE = Path(__file__).parents[2] / "src" / "probity"

# Tables without an organization of their own. Each says why; anything else must carry org_id and the policy.
WITHOUT_ORG = {
    "organizations": "is the organization; policy on its id",
    "users": "people belong to organizations through memberships; policy through them",
    "sessions": "belong to people; policy through memberships",
    "session_credentials": "belong to sessions; policy through them",
    "schema_migrations": "the schema's own history; the application has no rights on it",
    "audit_keys": "public halves of the keys that sign the heads of all chains",
    "periodic_tasks": "the server's timetable; names of tasks and times, no tenant's data",
}
UNPROTECTED = {"schema_migrations", "audit_keys", "periodic_tasks"}

# Functions that may read past the policy: look-ups of credentials, combined writes, sweeps. Each was reviewed; a new one is added here.
ALL_TENANTS = {
    "audit": """
        retention._remove_all_tenants retention.prune_chain_all_tenants service.export_all_tenants service.prune_all_tenants service.rotate_master_key_all_tenants
        service.verify_all_tenants store.chain_ids_all_tenants store.delete_oldest_all_tenants store.has_unsealed_all_tenants
        store.heads_all_tenants store.insert_checkpoint_all_tenants store.insert_links_all_tenants store.last_seq_before_all_tenants
        store.lock_sealer_all_tenants store.save_key_all_tenants store.take_unsealed_all_tenants store.try_lock_sealer_all_tenants
    """,
    "dispatch": """
        lease_store.claim_all_tenants lease_store.end_jobs_all_tenants lease_store.give_back_all_tenants
        lease_store.renew_all_tenants store.requeue_abandoned_all_tenants store.sweep_leases_all_tenants
    """,
    "fleet": """
        store.check_credential_all_tenants store.credential_state_all_tenants store.lock_token_all_tenants
        store.mark_stale_all_tenants store.save_enrollment_all_tenants store.save_heartbeats_all_tenants
    """,
    "identity": """
        keys.store.find_key_all_tenants sessions.service._note_refusal_all_tenants sessions.store.delete_expired_all_tenants
        sessions.store.find_known_user_all_tenants sessions.store.find_session_all_tenants
        store.find_user_orgs_all_tenants store.has_users_all_tenants
    """,
    "kernel": """
        mail._note_all_tenants mail._prepare_all_tenants mail.mailbox_all_tenants mail.prune_all_tenants
        queue.claim_tasks_all_tenants queue.end_attempts_all_tenants queue.fail_exhausted_tasks_all_tenants
        queue.failed_tasks_all_tenants queue.prune_tasks_all_tenants queue.register_periods_all_tenants
        queue.renew_tasks_all_tenants queue.requeue_task_all_tenants queue.start_due_periods_all_tenants
        sealed._rotate_batch_all_tenants sealed.rotate_all_tenants uploads.collect_batch_all_tenants
    """,
}
# Services that open a transaction of the system role themselves, to give it to several such functions; with what else they may give it
# to. `record` names the organization of its event.
BORROWERS = {
    "audit.sealer._seal_batch": {"_chain"},
    "audit.sealer._seal_waiting": set(),
    "dispatch.service._give_back": set(),
    "dispatch.tasks.sweep_leases": {"record", "publish"},
    "fleet.service.enrol": {"_record_refused_enrollment", "_admit"},
    "fleet.service.rejected": {"record"},
    "fleet.tasks.mark_stale_agents": set(),
    "runs.tasks.add_months": {"add_month"},
}
# Tenant tables that nobody reads by organization.
READ_OTHERWISE = {
    "audit_unsealed": "the sealer empties it as a whole",
    "blob_garbage": "the collector empties it in the order of time",
    "results": "read by run",
    "run_events": "read by run",
    "run_client_events": "read by run",
}
# The kernel's own workers have no tenant; they are the other users of the system role.
KERNEL = ("kernel",)


async def _tables(db: Database) -> dict[str, asyncpg.Record]:
    async with db.system() as tx:
        rows = await fetch_rows(
            tx,
            """
            select c.relname as name, c.relrowsecurity as enabled, c.relforcerowsecurity as forced,
                   c.relispartition as is_partition,
                   exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'org_id' and not a.attisdropped) as has_org,
                   (select count(*) from pg_policy p where p.polrelid = c.oid and p.polcmd in ('*', 'r')) as policies
              from pg_class c
             where c.relnamespace = 'public'::regnamespace
               and c.relkind in ('r', 'p')
            """,
        )
    # Partitions too: a query that names one does not see the policy of its parent.
    return {row["name"]: row for row in rows}


async def test_every_table_is_protected_or_says_why_not(db: Database) -> None:
    tables = await _tables(db)

    without = {name for name, row in tables.items() if not row["has_org"]}
    assert without == set(WITHOUT_ORG)
    bare = {name for name, row in tables.items() if not (row["enabled"] and row["forced"] and row["policies"] == 1)}
    assert bare == UNPROTECTED


async def test_every_tenant_table_is_indexed_by_organization_or_parent(db: Database) -> None:
    async with db.system() as tx:
        rows = await fetch_rows(
            tx,
            """
            select c.relname as name
              from pg_class c
              join pg_attribute a on a.attrelid = c.oid and a.attname = 'org_id' and not a.attisdropped
             where c.relnamespace = 'public'::regnamespace
               and c.relkind in ('r', 'p')
               and not c.relispartition
               and not exists (select from pg_index i where i.indrelid = c.oid and i.indkey[0] = a.attnum)
            """,
        )

    assert {row["name"] for row in rows} <= set(READ_OTHERWISE)


async def _insert_a_row(superuser: asyncpg.Connection, table: str, org_id: OrgId) -> None:
    """Make one row of `table` that belongs to `org_id`, filling whatever the table demands; triggers and foreign keys are off."""
    columns = await superuser.fetch(
        """
        select a.attname as name, format_type(a.atttypid, a.atttypmod) as type
          from pg_attribute a
         where a.attrelid = $1::regclass
           and a.attnum > 0
           and not a.attisdropped
           and a.attgenerated = ''
        """,
        table,
    )
    values = [f"'{org_id}'" if column["name"] == "org_id" else _example(column["type"]) for column in columns]
    names = ", ".join(f'"{column["name"]}"' for column in columns)
    checks = await superuser.fetch("select conname from pg_constraint where conrelid = $1::regclass and contype = 'c'", table)
    drops = "".join(f'alter table {table} drop constraint "{check["conname"]}";' for check in checks)
    await superuser.execute(f"{drops} insert into {table} ({names}) overriding system value values ({', '.join(values)})")


def _example(kind: str) -> str:
    if kind.endswith("[]"):
        return f"'{{}}'::{kind}"
    examples = {
        "uuid": "gen_random_uuid()",
        "jsonb": "'{}'",
        "json": "'{}'",
        "boolean": "false",
        "bytea": "decode(repeat('00', 32), 'hex')",
        # The partition of the present month exists.
        "date": "date_trunc('month', now())::date",
        "timestamp with time zone": "now()",
        "inet": "'192.0.2.1'",
    }
    if kind in examples:
        return examples[kind]
    return "1" if kind in ("bigint", "integer", "smallint", "double precision", "real") or kind.startswith("numeric") else f"'x'::{kind}"


async def test_through_the_applications_role_another_organization_sees_no_row(
    pg: TestDatabase, db: Database, org: OrgId, admin: Principal, outsider: Principal
) -> None:
    superuser = await asyncpg.connect(pg.owner.reveal().replace("probity_owner@", "postgres@"))
    tables = sorted(name for name, row in (await _tables(db)).items() if row["has_org"] and not row["is_partition"])
    outcome: dict[str, tuple[int, int, int]] = {}
    try:
        for table in tables:
            # One transaction per table, rolled back: it also takes the dropped check constraints back.
            change = superuser.transaction()
            await change.start()
            try:
                await superuser.execute("set local session_replication_role = replica")
                await _insert_a_row(superuser, table, org)
                outcome[table] = (
                    await _count_as_app(superuser, table, admin),
                    await _count_as_app(superuser, table, outsider),
                    await _count_as_app(superuser, table, system_principal()),
                )
            finally:
                await change.rollback()
    finally:
        await superuser.close()

    assert outcome == dict.fromkeys(tables, (1, 0, 0))
    assert {"agents", "api_keys", "audit_events", "jobs", "memberships", "projects", "role_grants", "roles", "runs"} <= set(tables)


async def _count_as_app(superuser: asyncpg.Connection, table: str, principal: Principal) -> int:
    """Count the rows that the application's role sees for `principal`; the connection stays the superuser's."""
    orgs = "{" + ",".join(str(org_id) for org_id in principal.org_ids) + "}"
    await superuser.execute(f"set local role probity_app; set local probity.org_ids = '{orgs}'")
    try:
        return int(await superuser.fetchval(f"select count(*) from {table}"))
    finally:
        await superuser.execute("reset role")


async def test_people_sessions_and_their_credentials_are_seen_through_a_shared_organization(
    db: Database, org: OrgId, other_org: OrgId
) -> None:
    async with db.system() as tx:
        await tx.conn.execute(
            """
            insert into users (id, email, display_name) values (gen_random_uuid(), 'ours@x.test', 'Ours');
            insert into sessions (id, user_id, kind, created_at, last_used_at, expires_at, idle_expires_at)
            select gen_random_uuid(), id, 'ui', now(), now(), now() + interval '8 hours', now() + interval '30 minutes' from users;
            insert into session_credentials (hash, session_id, kind) select sha256('x'), id, 'cookie' from sessions;
            """
        )
        await tx.conn.execute("insert into memberships (org_id, user_id) select $1, id from users", org)

    for principal, expected in ((system_principal(org), 1), (system_principal(other_org), 0), (system_principal(), 0)):
        async with db.transaction(principal) as tx:
            seen = [
                await fetch_value(tx, "select count(*) from users"),
                await fetch_value(tx, "select count(*) from sessions"),
                await fetch_value(tx, "select count(*) from session_credentials"),
                await fetch_value(tx, "select count(*) from organizations"),
            ]
        assert seen == [expected, expected, expected, 1 if principal.org_ids else 0]


async def test_another_organizations_people_cannot_be_changed(db: Database, org: OrgId, other_org: OrgId) -> None:
    async with db.system() as tx:
        await tx.conn.execute("insert into users (id, email, display_name) values (gen_random_uuid(), 'ours@x.test', 'Ours')")
        await tx.conn.execute("insert into memberships (org_id, user_id) select $1, id from users", org)

    async with db.transaction(system_principal(other_org)) as tx:
        assert await tx.conn.execute("update users set password_hash = 'x'") == "UPDATE 0"
        assert await tx.conn.execute("delete from users") == "DELETE 0"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.transaction(system_principal(other_org)) as tx:
            # Joining their person to our organization would make the person visible; joining ours to theirs must not work.
            await tx.conn.execute("insert into memberships (org_id, user_id) select $1, gen_random_uuid()", org)


async def test_the_application_cannot_read_past_the_policy_by_changing_role(db: Database) -> None:
    for statement in ("set role probity_owner", "set role probity_system", "set row_security = off; select count(*) from users"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with db.transaction(system_principal()) as tx:
                await tx.conn.execute(statement)


@pytest.mark.parametrize("app", ["owner", "system", "superuser"])
async def test_the_server_refuses_an_over_privileged_role(pg: TestDatabase, app: str) -> None:
    roles = {"owner": pg.owner, "system": pg.system, "superuser": type(pg.owner)(pg.owner.reveal().replace("probity_owner@", "postgres@"))}

    with pytest.raises(OverPrivilegedRole):
        await Database.open(dsn=roles[app], system_dsn=pg.system)


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions() -> Iterator[tuple[str, Function]]:
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function):
                yield f"{module}.{node.name}", node


def _borrows(function: Function) -> bool:
    """Return whether a function itself asks a database for the system role: `db.system()`, `self._db.system_connection()`."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("system", "system_connection", "dedicated")
        and ast.unparse(node.func.value).rpartition(".")[2] in ("db", "_db", "database", "_database")
        for node in ast.walk(function)
    )


def _given_the_transaction(function: Function) -> set[str]:
    """Return the names of what a function calls with its transaction."""
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {
        ast.unparse(call.func).rpartition(".")[2]
        for call in calls
        if any(isinstance(argument, ast.Name) and argument.id == "tx" for argument in call.args)
    }


def test_only_reviewed_functions_borrow_the_system_role() -> None:
    borrowers = {name: function for name, function in _functions() if not name.startswith(KERNEL) and _borrows(function)}
    unnamed = {name: function for name, function in borrowers.items() if not name.endswith("_all_tenants")}

    assert set(unnamed) == set(BORROWERS)
    for name, function in unnamed.items():
        extra = {called for called in _given_the_transaction(function) if not called.endswith("_all_tenants")}
        assert extra <= BORROWERS[name], name


def test_the_functions_that_read_past_the_policy_are_these() -> None:
    named = {name for name, _ in _functions() if name.endswith("_all_tenants")}

    # A difference here wants a review, then a line in ALL_TENANTS.
    assert named == {f"{domain}.{name}" for domain, names in ALL_TENANTS.items() for name in names.split()}
