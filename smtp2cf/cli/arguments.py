"""Command line: how commands are declared, how their help reads, and how they fail.

On top of typer: an option's value is a word that says what to type, a switch has none, and whatever is wrong
with the arguments is one line that names the nearest that is right. Knows no command.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from smtp2cf.cli.terminal import fail, one_line

EnvFile = Annotated[
    Path | None,
    typer.Option("--env-file", help="A file of settings, as in config.example.env.", metavar="FILE"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]

Function = TypeVar("Function", bound=Callable[..., Any])
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""click's, which typer has a copy of of its own in some versions."""


class _Command(TyperCommand):
    """A command whose help says words: typer would show <bool> and <str>."""

    def get_params(self, ctx: Any) -> Any:
        return _in_words(super().get_params(ctx))


class _Group(TyperGroup):
    """A command with commands of its own."""

    def get_params(self, ctx: Any) -> Any:
        return _in_words(super().get_params(ctx))


def _in_words(params: Any) -> Any:
    for param in params:
        if param.param_type_name == "argument":
            # Its name stands beside it, and says it.
            param.display_type_rich = lambda **_: None
        elif param.is_flag:
            param.metavar = ""
    return params


class App(typer.Typer):
    """A set of commands, whose help and errors are ours."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            cls=_Group,
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
            **options,
        )

    def command(self, name: str | None = None, **options: Any) -> Callable[[Function], Function]:
        """As typer's."""
        return super().command(name, cls=_Command, **options)


def run(app: App, name: str) -> int:
    """Run the command that the arguments name, and return its exit status.

    name: the program's. Arguments that are wrong end the process with 64 (sysexits.h), one line said.
    """
    try:
        return app(prog_name=name, standalone_mode=False) or 0
    except UsageError as error:
        ctx = getattr(error, "ctx", None)
        path = ctx.command_path if ctx is not None else name
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(str(error))
            return os.EX_USAGE
        fail(f"{_reworded(error)} (`{path} --help` shows what is possible)", os.EX_USAGE)
    except typer.Abort:
        return 1


def _reworded(error: Any) -> str:
    """What click says of wrong arguments, as we would."""
    text = one_line(error.format_message()).rstrip(".").replace("Value error, ", "")
    if type(error).__name__ == "NoSuchOption":
        near = error.possibilities[:1] if error.possibilities else ()
        return f"unknown option {error.option_name}{_did_you_mean(*near)}"
    if found := re.match(r"No such command '([^']*)'(?:\. Did you mean '([^']*)')?", text):
        return f"unknown command {found[1]}{_did_you_mean(*filter(None, found.groups()[1:]))}"
    if found := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", text):
        return f"too many arguments: {found[1]}"
    return f"{text[:1].lower()}{text[1:]}"


def _did_you_mean(near: str = "") -> str:
    return f": did you mean {near}?" if near else ""
