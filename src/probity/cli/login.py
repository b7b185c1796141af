"""`probity login`: remember a server and a credential for it."""

import os

import click

from probity.cli.output import json_option, print_json
from probity.client.http import Client, sign_in
from probity.client.profile import Profile, save_profile
from probity.kernel.serverurl import server_url


@click.command()
@click.option("--server", envvar="PROBITY_URL", default="http://127.0.0.1:8484", show_default=True, help="Address of the server.")
@click.option("--email", help="Sign in with this address; asked for when neither it nor a key is given.")
@click.option("--password", envvar="PROBITY_PASSWORD", help="Better asked for, or given by the environment, than on the command line.")
@click.option("--api-key", envvar="PROBITY_API_KEY", help="Use an API key instead; - asks for it.")
@click.option("--insecure", is_flag=True, help="Allow plain http to another machine.")
@json_option
def login(server: str, email: str | None, password: str | None, api_key: str | None, insecure: bool, as_json: bool) -> None:
    """Sign in to a Probity server."""
    base = server_url(server, insecure=insecure)
    profile = _with_key(base, api_key) if api_key and email is None else _with_password(base, email, password)
    path = save_profile(os.environ, profile)
    if as_json:
        print_json({"server": base, "email": profile.email, "expires_at": profile.expires_at, "file": str(path)})
    else:
        until = f" until {profile.expires_at}" if profile.expires_at else ""
        click.echo(f"Signed in to {base}{until}.")


def _with_key(server: str, api_key: str) -> Profile:
    if api_key == "-":
        api_key = click.prompt("API key", hide_input=True, err=True)
    profile = Profile(server, api_key)
    with Client(profile) as client:
        client.list_runs(limit=1)  # a key that does not work is better refused now
    return profile


def _with_password(server: str, email: str | None, password: str | None) -> Profile:
    email = email or click.prompt("E-mail", err=True)
    password = password or click.prompt("Password", hide_input=True, err=True)
    signed_in = sign_in(server, email, password)
    return Profile(server, signed_in.token, email, signed_in.expires_at)
