"""`probity users …`: what only somebody at the server may do."""

import asyncio
import secrets
import sys
from pathlib import Path

import click

from probity.cli.database import Target
from probity.cli.db import DATA
from probity.cli.output import json_option, print_json
from probity.cli.served import served
from probity.kernel.secret import Secret
from probity.main import identity_beside_the_server


@click.group()
def users() -> None:
    """Manage users of this installation."""


@users.command("reset-password")
@click.argument("email")
@click.option("--generate", is_flag=True, help="Make a password and print it.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the password from standard input.")
@DATA
@json_option
def reset_password_command(email: str, generate: bool, from_stdin: bool, data: Path, as_json: bool) -> None:
    """Set a new password, unlock the account and end its sessions. Works on the database, without a server."""
    password = Secret(_password(generate=generate, from_stdin=from_stdin))
    with served(data) as target:
        asyncio.run(_reset(target, email, password))
    if as_json:
        print_json({"email": email, "password": password.reveal() if generate else None})
    elif generate:
        click.echo(password.reveal())
    else:
        click.echo(f"The password of {email} is set; its sessions have ended.")


def _password(*, generate: bool, from_stdin: bool) -> str:
    if generate:
        return f"{secrets.token_urlsafe(15)}-Aa1"  # the tail satisfies every rule about kinds of characters
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    return str(click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True))


async def _reset(target: Target, email: str, password: Secret) -> None:
    async with identity_beside_the_server(url=target.dsns.app, system_url=target.dsns.system) as identity:
        await identity.reset_password(email, password)
