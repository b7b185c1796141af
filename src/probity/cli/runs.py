"""`probity runs …`: list, show, watch, abort and import runs."""

import hashlib
from pathlib import Path

import click

from probity.cli.output import json_option, print_json, print_table
from probity.cli.session import client
from probity.cli.watching import Show, exit_code, failures, follow, report, summary
from probity.client.http import Client
from probity.client.models import Run
from probity.client.spoolfile import import_spool

STATES = ["queued", "running", "passed", "failed", "error", "aborted"]


@click.group()
def runs() -> None:
    """List, show, watch and import runs."""


@runs.command("list")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True)
@click.option("--state", type=click.Choice(STATES))
@click.option("--project", help="Only runs of this project.")
@click.option("--search", "text", help="Only runs whose name contains this.")
@json_option
def list_command(limit: int, state: str | None, project: str | None, text: str | None, as_json: bool) -> None:
    """List runs, newest first."""
    with client() as api:
        found = api.list_runs(limit=limit, state=state, project=project, q=text)
    if as_json:
        print_json(found)
        return
    columns = ["run", "state", "passed", "failed", "errors", "skipped", "flaky", "started", "name"]
    print_table(columns, [_row(each) for each in found], empty="No runs yet. Start one with `probity run -- COMMAND`.")


@runs.command("show")
@click.argument("run")
@click.option("--log", "with_log", is_flag=True, help="Print the output of the command.")
@click.option("--results", "with_results", is_flag=True, help="List every attempt.")
@json_option
def show_command(run: str, with_log: bool, with_results: bool, as_json: bool) -> None:
    """Show one run (RUN-n or its UUID); exit code 1 unless it passed or still runs."""
    with client() as api:
        found = api.get_run(run)
        if as_json:
            print_json({"run": found, "results": list(api.results(found.uuid))} if with_results else found)
        elif with_log:
            for text in api.log(found.uuid):
                click.echo(text, nl=False)
        else:
            _show(api, found, with_results=with_results)
    if found.is_final:
        raise click.exceptions.Exit(exit_code(found))


@runs.command("watch")
@click.argument("run")
@click.option("--show", type=click.Choice([each.value for each in Show]), default=Show.OUTPUT.value, show_default=True)
@json_option
def watch_command(run: str, show: str, as_json: bool) -> None:
    """Follow a run to its end; the exit code is 0 when it passes, 1 when not."""
    with client() as api:
        ended = follow(api, run, Show.NOTHING if as_json else Show(show))
        if as_json:
            print_json(ended)
        else:
            report(api, ended)
    raise click.exceptions.Exit(exit_code(ended))


@runs.command("abort")
@click.argument("run")
@json_option
def abort_command(run: str, as_json: bool) -> None:
    """End a run that waits or runs."""
    with client() as api:
        api.abort_run(run)
        found = api.get_run(run)
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found.id} is aborted")


@runs.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--project", help="Project that the runs belong to.")
@click.option("--name", help="Name of the runs. [default: the file's]")
@json_option
def import_command(files: tuple[Path, ...], project: str | None, name: str | None, as_json: bool) -> None:
    """Import JUnit XML files, or events that the pytest plugin could not deliver. Importing a file twice is harmless."""
    imported = []
    with client() as api:
        for path in files:
            run = import_spool(api, path) if path.suffix == ".ndjson" else _import_junit(api, path, project, name)
            imported.append(run)
            if not as_json:
                click.echo(f"{path}: {summary(run)}")
    if as_json:
        print_json(imported)


def _import_junit(api: Client, path: Path, project: str | None, name: str | None) -> Run:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # The same file for another project or under another name is another run.
    key = hashlib.sha256(f"{digest}\0{project or ''}\0{name or path.name}".encode()).hexdigest()[:64]
    return api.import_junit(path, project=project, name=name or path.name, key=key)


def _show(api: Client, run: Run, *, with_results: bool) -> None:
    click.echo(summary(run))
    click.echo(f"  {run.name}")
    if with_results:
        rows = [(each.outcome, each.case, each.attempt, f"{each.duration_ms:.0f} ms") for each in api.results(run.uuid)]
        print_table(["outcome", "case", "attempt", "took"], rows, empty="No results.")
    else:
        for line in failures(api, run):
            click.echo(line)


def _row(run: Run) -> tuple[object, ...]:
    totals = run.totals
    started = (run.started_at or run.created_at or "")[:19].replace("T", " ")
    return run.id, run.state, totals.passed, totals.failed, totals.errors, totals.skipped, totals.flaky, started, run.name
