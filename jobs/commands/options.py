"""The parts that commands are declared with: the decorator, shared options, types of values.

A command's function gets the settings and its own options, and returns the last line to print.
Click only parses: it makes a `Call` of the function, which `jobs/main.py` runs.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import click

EXIT_CODES = (
    "Exit codes: 0 done; 1 unexpected; 2 usage or settings; 3 data refused; 4 gate refused; "
    "5 locked by another run; 130 interrupted."
)

_Function: TypeAlias = Callable[..., str]
_Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class Call:
    """A command with its arguments.

    Attributes:
        run: runs it, and returns the last line to print.
        quiet, verbose: how much is printed besides.
    """

    run: Callable[[], str]
    quiet: bool
    verbose: bool


class CommandGroup(click.Group):
    """Lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class Alternative(click.Option):
    """An option that excludes others.

    Args:
        others: names of the parameters that it excludes.
        one_required: whether this one or one of the others must be given.
    """

    def __init__(
        self, *args: Any, others: Sequence[str], one_required: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._others, self._one_required = others, one_required

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        flags = {p.name: p.opts[0] for p in ctx.command.params if p.name in self._others}
        given = [flag for name, flag in flags.items() if name in opts]
        if ctx.resilient_parsing:
            # Of a line that is being completed.
            return super().handle_parse_result(ctx, opts, args)
        if self.name in opts and given:
            raise click.UsageError(f"{self.opts[0]} and {given[0]} exclude each other.", ctx)
        if self._one_required and self.name not in opts and not given:
            names = " or ".join([self.opts[0], *flags.values()])
            raise click.UsageError(f"One of {names} is required.", ctx)
        return super().handle_parse_result(ctx, opts, args)


class Date(click.ParamType[str]):
    """A date YYYY-MM-DD, as text."""

    name = "date"

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> str:
        try:
            return dt.date.fromisoformat(value).isoformat()
        except ValueError as error:
            self.fail(f"{value!r} is no date YYYY-MM-DD: {error}", param, ctx)


class DateRange(click.ParamType[list[str]]):
    """FIRST..LAST, as the list of all dates from the first to the last."""

    name = "dates"

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> list[str]:
        if not isinstance(value, str):
            return list(value)
        first, dots, last = value.partition("..")
        if not dots:
            self.fail(f"{value!r} is no range FIRST..LAST of dates YYYY-MM-DD", param, ctx)
        start, end = (dt.date.fromisoformat(Date().convert(d, param, ctx)) for d in (first, last))
        if start > end:
            self.fail(f"{value!r} ends before it starts", param, ctx)
        return date_range(start, end)


def date_range(first: dt.date, last: dt.date) -> list[str]:
    """All dates from the first to the last, as text."""
    return [str(first + dt.timedelta(days)) for days in range((last - first).days + 1)]


# No word of a command line can hold this character.
_BETWEEN = "\0"


class Values(click.ParamType[tuple[str, ...]]):
    """All words up to the next option, at least one, as a tuple."""

    name = "values"

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(value.split(_BETWEEN)) if isinstance(value, str) else tuple(value)


class JobCommand(click.Command):
    """A command with options of type `Values`, and whose options take no other one as value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(self._words(ctx, args)))

    def _words(self, ctx: click.Context, args: Sequence[str]) -> Iterator[str]:
        """The words of the command line, with the values of each `Values` as one word."""
        options = {flag: p for p in self.get_params(ctx) for flag in p.opts}
        words = deque(args)
        while words:
            word = words.popleft()
            yield word
            option = options.get(word)
            if not isinstance(option, click.Option) or option.is_flag:
                continue
            if not ctx.resilient_parsing and words and words[0] in options:
                raise click.BadOptionUsage(word, f"Option {word!r} requires an argument.", ctx)
            values = []
            while isinstance(option.type, Values) and words and not words[0].startswith("-"):
                values.append(words.popleft())
            if values:
                yield _BETWEEN.join(values)


def command(text: str) -> Callable[[_Function], click.Command]:
    """Makes a function a command of its name that reads the settings.

    Args:
        text: what it does, without a full stop; the help shows it.
    """

    def decorated(function: _Function) -> click.Command:
        @_named(function, text)
        @click.option(
            "--config",
            required=True,
            metavar="FILE",
            type=click.Path(readable=False),
            help="The settings, a YAML file.",
        )
        @click.option(
            "--set",
            "changes",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Override a setting; may be repeated.",
        )
        @_talk
        @functools.wraps(function)
        def call(
            config: str, changes: Sequence[str], quiet: bool, verbose: bool, **options: Any
        ) -> Call:
            def run() -> str:
                from jobs.settings.load import load_settings

                return function(load_settings(config, changes), **options)

            return Call(run, quiet, verbose)

        return call

    return decorated


def command_without_settings(text: str, details: str) -> Callable[[_Function], click.Command]:
    """Makes a function a command of its name; see `command`.

    Args:
        details: what the command's own help says besides.
    """

    def decorated(function: _Function) -> click.Command:
        @_named(function, text, details)
        @_talk
        @functools.wraps(function)
        def call(quiet: bool, verbose: bool, **options: Any) -> Call:
            return Call(functools.partial(function, **options), quiet, verbose)

        return call

    return decorated


def _named(
    function: _Function, text: str, details: str = ""
) -> Callable[[Callable[..., Any]], click.Command]:
    """Click's decorator for a command of the function's name."""
    help_text = f"{text[0].upper()}{text[1:]}{details}."
    return click.command(
        function.__name__, cls=JobCommand, help=help_text, short_help=text, epilog=EXIT_CODES
    )


def _talk(function: Callable[..., Any]) -> Callable[..., Any]:
    quiet = click.option(
        "--quiet",
        cls=Alternative,
        others=["verbose"],
        is_flag=True,
        help="Print the result alone; not with --verbose.",
    )
    verbose = click.option("--verbose", is_flag=True, help="Show also what libraries say.")
    return quiet(verbose(function))


def model_option(default: str) -> _Decorator:
    """`--model`, as the parameter `model`."""
    return click.option(
        "--model",
        default=default,
        metavar="VERSION|ALIAS",
        help=f"Which model; `latest` is the newest (default: {default}).",
    )


def dates_options(text: str, required: bool = True) -> _Decorator:
    """`--date` and `--dates`, as the parameters `date` and `dates`, either of which is None.

    Args:
        text: help of `--date`.
    """

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        date = click.option(
            "--date",
            cls=Alternative,
            others=["dates"],
            one_required=required,
            type=Date(),
            metavar="DATE",
            help=f"{text}; as YYYY-MM-DD.",
        )
        dates = click.option(
            "--dates",
            type=DateRange(),
            metavar="FIRST..LAST",
            help="The same for a range of dates, both included.",
        )
        return date(dates(function))

    return decorated
