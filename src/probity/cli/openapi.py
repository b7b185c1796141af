"""`probity openapi`: the document that describes every route, without a database."""

import base64
from pathlib import Path

import click
import msgspec

from probity import config


@click.command(short_help="Print the OpenAPI document.")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file instead.")
def openapi(output: Path | None) -> None:
    """Print the OpenAPI 3.1 document of this version as JSON. Needs no database and no settings."""
    document = msgspec.json.format(msgspec.json.encode(describe()), indent=2).decode()
    if output is None:
        click.echo(document)
    else:
        output.write_text(document + "\n", encoding="utf-8")


def describe() -> dict[str, object]:
    """Return the document of an application that is built and never started."""
    from probity import main
    from probity.kernel.http.groups import all_rules
    from probity.kernel.http.openapi import ApiDocument

    placeholder = base64.b64encode(bytes(range(32))).decode()
    settings = config.load(
        {
            "PROBITY_ENV": "development",
            "DATABASE_URL": "postgresql://probity_app@localhost/probity",
            "DATABASE_SYSTEM_URL": "postgresql://probity_system@localhost/probity",
            "PROBITY_MASTER_KEYS": placeholder,
            "SB_JWT_SECRET": placeholder,
        }
    )
    app = main.build(settings)
    return ApiDocument().of(app, all_rules(app))
