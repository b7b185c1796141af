"""How a command ends: exit codes, and errors a person can act on."""

import sys
from collections.abc import Sequence

import click

from probity.kernel.errors import ProbityError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


class CheckFailed(click.ClickException):
    """The command worked and the answer is no: failed tests, a broken chain, an unhealthy server."""

    exit_code = EXIT_FAILED


class CommandFailed(click.ClickException):
    """The command could not do its work; the message says what to do next."""

    exit_code = EXIT_FAILED


def exit_code_of(command: click.Command, argv: Sequence[str] | None = None) -> int:
    """Run `command` and return its exit code; expected errors are one line on stderr, never a traceback."""
    try:
        result = command.main(args=list(argv) if argv is not None else None, prog_name="probity", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except ProbityError as error:
        _show(error)
        return EXIT_FAILED
    except BrokenPipeError:
        # The reader (`| head`) has gone; writing more, even at exit, would only raise again.
        sys.stderr.close()
        return EXIT_OK
    except OSError as error:
        # A place that somebody named, and that cannot be used. Without a place it is a bug of ours.
        if error.filename is None:
            raise
        click.echo(f"Error: {error.filename}: {error.strerror}", err=True)
        return EXIT_FAILED
    return result if isinstance(result, int) else EXIT_OK


def _show(error: ProbityError) -> None:
    click.echo(f"Error: {error}", err=True)
    for field in error.fields:
        click.echo(f"  {field.path}: {field.message}", err=True)
