"""`probity agents …`: the fleet as the server knows it."""

import click

from probity.cli.errors import CommandFailed
from probity.cli.output import json_option, print_json, print_table
from probity.cli.session import client
from probity.client.http import Client
from probity.client.models import Agent


@click.group()
def agents() -> None:
    """List and manage enrolled agents."""


@agents.command("list")
@click.option("--all", "with_revoked", is_flag=True, help="Revoked ones too.")
@json_option
def list_command(with_revoked: bool, as_json: bool) -> None:
    """List agents, the oldest first."""
    with client() as api:
        found = [each for each in api.list_agents() if with_revoked or each.status != "revoked"]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each.name,
            each.status,
            (each.last_seen_at or "")[:19].replace("T", " ") or None,
            each.hostname,
            each.os,
            ", ".join(each.tags) or None,
            each.id,
        )
        for each in found
    ]
    print_table(
        ["name", "status", "last seen", "host", "os", "tags", "id"], rows, empty="No agents. Make a token with `probity agents token`."
    )


@agents.command("token")
@click.option("--name", help="What the token is for.")
@click.option(
    "--expires", "expires_s", type=click.IntRange(60, 30 * 86_400), default=900, show_default=True, help="Seconds it is good for."
)
@click.option("--uses", type=click.IntRange(1, 100_000), default=1, show_default=True, help="How many agents may enrol with it.")
@click.option("--tag", "tags", multiple=True, help="Tag for the agents that enrol with it; repeatable.")
@json_option
def token_command(name: str | None, expires_s: int, uses: int, tags: tuple[str, ...], as_json: bool) -> None:
    """Make an enrolment token and show it, this once."""
    with client() as api:
        token = api.create_enrollment_token(name=name, expires_in_seconds=expires_s, max_uses=uses, tags=list(tags))
        server = api.server
    if as_json:
        print_json(token)
        return
    click.echo(token.enrollment_token)
    click.echo(f"Good until {token.expires_at}. On the machine that shall join, with the token in PROBITY_ENROLLMENT_TOKEN:", err=True)
    click.echo(f"  probity agent enroll --server {server} && probity agent install", err=True)


@agents.command("revoke")
@click.argument("agent")
@click.option("--reason", help="Kept in the audit trail.")
@json_option
def revoke_command(agent: str, reason: str | None, as_json: bool) -> None:
    """Revoke an agent (name or id); its next request is refused and it stops."""
    with client() as api:
        found = _find(api, agent)
        api.revoke_agent(found.id, reason)
    if as_json:
        print_json({"id": found.id, "name": found.name, "status": "revoked"})
    else:
        click.echo(f"{found.name} is revoked")


def _find(api: Client, wanted: str) -> Agent:
    found = [each for each in api.list_agents() if wanted in (each.id, each.name)]
    # A name may have belonged to an agent that was revoked before.
    found = [each for each in found if each.status != "revoked"] or found
    if len(found) != 1:
        raise CommandFailed(f"no agent {wanted!r}" if not found else f"{len(found)} agents are called {wanted!r}; give the id")
    return found[0]
