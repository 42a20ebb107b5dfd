"""The program of the command line: its name, its commands in the order of the path, and its options."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import typer
from typer.core import TyperGroup

from edgeship.cli.streams import results_alone
from edgeship.version import __version__

COMMANDS = (
    "init", "doctor", "selftest", "check", "ship", "qat",
    "export", "slim", "preflight", "parity", "calibrate", "quantize", "build", "bench", "evaluate", "gate", "compare",
    "report", "history", "layers", "inspect", "bundle", "verify", "run", "hand-over", "rebuild",
    "fleet", "worker",
)  # fmt: skip
"""Every command, in the order of the path; ``--help`` shows them so."""
USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Click's base error: typer bundles click in some versions and depends on it in others."""


_JSON = "edgeship.as_json"
"""Key in the context's ``meta``: whether the line asks for JSON."""


class Program(TyperGroup):
    """The commands in the order of the path, each with its whole first sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and note whether the line asks for the result as JSON; the line of a command's help does not."""
        ctx.meta[_JSON] = "--json" in args and not {"-h", "--help"}.intersection(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; with ``--json`` nothing but its result reaches standard output."""
        with results_alone() if ctx.meta[_JSON] else nullcontext():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of :data:`COMMANDS`; a command that it lacks comes last."""
        place = {name: index for index, name in enumerate(COMMANDS)}
        return sorted(super().list_commands(ctx), key=lambda name: place.get(name, len(place)))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write every first sentence whole, wrapped where it is long."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, _first_sentence(item.help or "")) for name, item in commands if item and not item.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    return paragraph.split(". ")[0].rstrip(".") + "."


app = typer.Typer(
    name="edgeship",
    cls=Program,
    help="From a PyTorch vision model to an engine that may ship: one command, one verdict, with the evidence.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"edgeship {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Take the options that stand before a command."""
