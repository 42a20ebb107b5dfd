"""What a long step is doing, on standard error: one live display in a terminal, a line now and then in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeship.cli.output import console, show
from edgeship.progress import Progress
from edgeship.text import line

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

    from edgeship.results import StageRun

QUIET_S = 8.0
"""A log gets a line at least this often while something runs."""
TICK_S = 0.2
STARTED_S = 0.4
"""A log tells the start of a stage that has run this long; a reused stage has one line."""
ETA_FROM_S = 2.0
"""A step has an estimate of its end after this time."""
BAR = 20
"""Columns of the bar, where there is room for one."""


@dataclass
class Step:
    """A stage or a command under way, and what it does now."""

    name: str
    start: float = field(default_factory=time.monotonic)
    what: str = ""
    since: float = field(default_factory=time.monotonic)
    begun: int = 0
    """What was done of it at ``since``."""
    done: int = 0
    moved: float = field(default_factory=time.monotonic)
    """When ``done`` was told for the first time."""
    total: int | None = None
    told: bool = False
    """Whether the log names it."""

    def at(self, done: int, total: int | None, what: str, now: float) -> bool:
        """Note where it is at ``now``, in seconds of the monotonic clock. Returns whether ``what`` is new."""
        changed = what != self.what
        if changed or done < self.done:
            self.what, self.since, self.begun, self.moved = what, now, done, now
        elif done > self.done:
            self.moved = now
        self.done, self.total = done, total
        return changed

    def left(self, now: float) -> float | None:
        """Seconds until what it does is done, if it goes on as before; negative when it should be done; None while
        that is not known."""
        if not self.total or not self.begun < self.done < self.total or now - self.since < ETA_FROM_S:
            return None
        pace = (self.moved - self.since) / (self.done - self.begun)
        return pace * (self.total - self.done) - (now - self.moved)

    def words(self, now: float) -> str:
        """What it does now: ``frames 128/512, 31 s, about 60 s left``."""
        parts = [self.what if self.what != self.name else ""]
        if not parts[0] and not self.total:
            parts = ["working"]
        if self.total and self.done < self.total:
            parts[0] += f" {self.done}/{self.total}"
        parts.append(duration(now - self.start))
        left = self.left(now)
        if left is not None:
            parts.append("longer than expected" if left < 0 else f"about {duration(max(1, round(left)))} left")
        return ", ".join(part.strip() for part in parts if part.strip())


def duration(seconds: float) -> str:
    """``0.4 s``, ``31 s``, ``4 min 05 s``, ``2 h 07 min``."""
    if seconds < 9.95 and not isinstance(seconds, int):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Display:
    """The steps under way. Told by any thread; shown by one."""

    def __init__(self, name: str = "", *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose
        self.steps: dict[str, Step] = {}
        self.owners: dict[int, Step] = {}
        self.turn = threading.RLock()
        self.spoken = time.monotonic()
        if name:
            self.steps[name] = Step(name, told=True)

    def progress(self, done: int, total: int | None, what: str) -> None:
        """See :class:`edgeship.progress.Progress`."""
        with self.turn:
            step = self.owners.get(threading.get_ident()) or next(reversed(self.steps.values()), None)
            if step is None:
                step = self.steps[what] = Step(what, told=True)
            now = time.monotonic()
            if step.at(done, total, line(what), now) and self.verbose:
                self.say(f"{step.name:<28} {step.words(now)}")

    def stage(self, name: str, run: StageRun | None) -> None:
        """A stage began (None) or ended."""
        with self.turn:
            before = self.owners.pop(threading.get_ident(), None)
            if before is not None and self.steps.get(before.name) is before:
                del self.steps[before.name]
            if run is None:
                self.steps[name] = self.owners[threading.get_ident()] = Step(name)
                return
            how = "reused" if run.cached else duration(run.seconds)
            self.say(f"{name:<28} {how}" + (f", made again: {run.again}" if run.again else ""))

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.spoken = time.monotonic()
        if not self.quiet:
            show(f"  {text}", error=True)

    def tick(self) -> None:
        """In a log: tell the start of a stage that takes time, and break a long silence."""
        with self.turn:
            now = time.monotonic()
            for step in self.steps.values():
                if not step.told and now - step.start >= STARTED_S:
                    step.told = True
                    self.say(f"{step.name:<28} started")
            if now - self.spoken >= QUIET_S:
                for step in self.steps.values():
                    self.say(f"{step.name:<28} {step.words(now)}")

    def __rich_console__(self, _screen: Console, options: ConsoleOptions) -> RenderResult:
        """A line for each step under way."""
        with self.turn:
            now = time.monotonic()
            for step in self.steps.values():
                if now - step.start >= STARTED_S:
                    yield _drawn(step, options, now)


def _drawn(step: Step, options: ConsoleOptions, now: float) -> Text:
    from rich.text import Text

    width = options.max_width
    name = f"  {step.name[: max(10, min(28, width // 3))]:<{max(10, min(28, width // 3))}} "
    text = Text(name, style="bold", no_wrap=True, overflow="ellipsis", end="")
    if step.total and step.done < step.total and width >= len(name) + BAR + 40:
        full = BAR * step.done // step.total
        filled, rest = ("#", "-") if options.ascii_only else ("━", "─")
        text.append(filled * full, style="cyan")
        text.append(rest * (BAR - full), style="dim")
        text.append(" ")
    text.append(step.words(now), style="not bold")
    text.append("\n")
    text.truncate(width, overflow="ellipsis")
    return text


@contextmanager
def display(name: str = "", *, quiet: bool = False, verbose: bool = False) -> Iterator[Display]:
    """A display of what runs inside the block; ``quiet`` shows nothing, for results as JSON."""
    shown = Display(name, quiet=quiet, verbose=verbose)
    if quiet:
        yield shown
        return
    screen = console(error=True)
    if screen.is_terminal and not screen.is_dumb_terminal:
        from rich.live import Live

        with Live(shown, console=screen, transient=True, redirect_stdout=False, redirect_stderr=False):
            yield shown
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(TICK_S):
            shown.tick()

    ticker = threading.Thread(target=watch, daemon=True)
    ticker.start()
    try:
        yield shown
    finally:
        done.set()
        ticker.join()


@contextmanager
def progress_bar(*, quiet: bool = False) -> Iterator[Progress]:
    """Show the progress of one long step."""
    with display(quiet=quiet) as shown:
        yield shown.progress


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Show that a step works which cannot tell how far it is."""
    with display(what, quiet=quiet):
        yield
