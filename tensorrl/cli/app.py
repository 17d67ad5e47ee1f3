"""The command `tensorrl`: thin over the library. Heavy imports wait until a command needs them."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from tensorrl.cli import listings, pictures, reports, results, sweeps, trials
from tensorrl.cli.options import join_bash_words
from tensorrl.cli.streams import finish, make_readable
from tensorrl.errors import InputError, one_line
from tensorrl.uris import redact

# The error for a wrong option. It comes from Typer's own copy of Click or from Click itself, depending on the version.
_ClickError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Data-efficient Rainbow with few coefficients on Atari 100k.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tensorrl {version('tensorrl')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line; bad input is one line on stderr and exit code 2."""
    make_readable()
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Formatter())
    sys.exit(finish(_run()))


class _Formatter(logging.Formatter):
    """Prints only the message, for libraries' records too, and hides passwords."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(record.getMessage())


def _run() -> int:
    """Runs the command line and returns the exit code. An error is printed as one line."""
    join_bash_words(os.environ)
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        return 1
    except _ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return 2
        context = getattr(error, "ctx", None)
        place = context.command_path if context is not None else "tensorrl"
        said = one_line(f"{place}: {error.format_message()}")
    except InputError as error:
        said = f"tensorrl: {error}"
    except OSError as error:
        # Code that reads and writes files gives a better message where it can, but a disk can fill up anywhere.
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        said = one_line(f"tensorrl: {where}{error.strerror or error}")
    except MemoryError as error:
        said = one_line(f"tensorrl: not enough memory: {error}")
    else:
        return code if isinstance(code, int) else 0
    print(said, file=sys.stderr)
    return 2


for part in (listings, trials, pictures, sweeps, reports, results):
    part.register(app)
