"""What a proof came to, as a page for people: what was promised, what was done, what came of it, and where."""

import os
import platform
import re
import subprocess
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from gateway.chaos.outcome import Outcome
from gateway.chaos.promises import Results

SOURCE = Path(__file__).parents[2]
PAGE = "docs/promises.md"
"""Where the page lies in the repository."""
HEAD = """\
# The promises, put to the proof

Written by `paymaster chaos`, last as `{command}`: run it yourself. It starts a gateway of its own with two workers
before the sandbox, a provider that keeps its own bill by its own price table, with a proxy before its Redis server and
one before the provider, and breaks what can break. Money is compared in nano-dollars, and a promise is kept only where
nothing at all was violated. `--only` renews the lines of some promises; each tells when, and of which commit.

"""
MEANING = """\
## What the figures mean

**P1** An *attempt* is one answer that the provider billed. In the first part only such faults are injected as leave the
provider's usage readable (a Redis server that is slow, cut off, silent, or whose replies are lost or garbled; a
provider that is slow or fails first; callers who hang up): what was spent is then the bill, with nothing to reconcile.
In the second part everything is broken: answers cut, garbled, timed out or without usage, workers that freeze, fail and
are cancelled. What nobody can know waits in suspense, and is gone after one reconciliation with the provider's bill, in
which every single attempt is compared. At each *sample* of the account with a limit, taken while all of it goes on,
spent ≤ billed ≤ spent + held + suspense.

**P2** A worker is killed by SIGKILL at a *point* of an attempt's life: before, during and after its reserve, its
dispatch, its answer, its journal entry, its settle. The leases are 2 s long.

**P3** Many callers race, through several processes, for room that is enough for some of them, in five scopes at once;
each round another scope is the tight one. *Admitted* must be what there is room for, neither more nor fewer. A request
asks Redis twice, and once more where its key was not met lately: more *round trips* break the promise. Beside it stands
what the two scripts of a request cost Redis at five scopes, by its own count, as the median of 40 batches and the best
of them, which other work on the machine disturbed least: where each scope has a limit for the day, and where it has one
for the lifetime, the month and the day. The aim is 60 µs and 100 µs; they break no promise, since a slow machine takes
longer.

**P4** The Redis primary is killed under load and its replica, which lags, takes its place. The *overspend* is what was
admitted beyond a limit because the replica did not know of it: nobody is, once the holds of what goes on are written
again. A *lost settle* is what was billed and is not booked once journals have had time; nothing is reconciled.

**P5** Every world of the other promises ends with this: all callers gone, one lease waited, and every scope of every
account read.

**P6** Many processes' worth of senders settle the same attempt at once through a proxy that breaks off requests and
replies, until each has heard that it is settled.

**P7** Redis is frozen, killed, refuses connections, swallows them, is loading, read-only or out of memory. Callers with
a limit are refused at once; streams under way go on; what was spent is booked when it is back. The 99th percentile is
of those who asked half a second after it began or later, the *slowest refusal* of all.

**P8** The workers are replaced one after the other while callers read streams. Nothing may fail or be cut.
"""


def page(results: Results, command: str, earlier: str = "") -> str:
    """The whole page, in Markdown. Promises that were not put to the proof keep their lines of the `earlier` page."""
    shown = {each.promise for each in results.outcomes}
    rows = _kept(r"\| (P\d) \|.*", earlier, shown) + [_row(results, each) for each in results.outcomes]
    violations = _kept(r"- (P\d): .*", earlier, shown)
    violations += [f"- {each.promise}: {words}" for each in results.outcomes for words in each.violations]
    broken = ["", "## What was violated", "", *sorted(violations)] if violations else []
    head = ["| | promise | what was done | | when, of what, where |", "|---|---|---|---|---|"]
    return HEAD.format(command=command) + "\n".join([*head, *sorted(rows), *broken, "", MEANING])


def _row(results: Results, outcome: Outcome) -> str:
    order, seconds = results.order, results.seconds.get(outcome.promise)
    lasted = "" if seconds is None else f", {seconds:,.0f} s"
    run = f"{'full' if order.full else 'quick'}, scale {order.scale:g}, seed {order.seed}{lasted}"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {results.redis}"
    where = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}; {run}; {machine}"
    return f"| {outcome.promise} | {outcome.claim} | {done(outcome)} | {verdict(outcome)} | {where} |"


def _kept(pattern: str, earlier: str, shown: Collection[str]) -> list[str]:
    """The earlier page's lines of the promises that were not shown anew."""
    return [match[0] for match in re.finditer(pattern, earlier) if match[1] not in shown]


def done(outcome: Outcome) -> str:
    """The figures in one line."""
    return "; ".join(f"{name}: {_written(figure)}" for name, figure in outcome.did.items())


def verdict(outcome: Outcome) -> str:
    return "kept" if outcome.kept else f"BROKEN ({outcome.violated})"


def commit() -> str:
    """What was tested: the commit, and whether anything was changed since; the page that tells it is not tested."""
    try:
        name = _git("rev-parse", "--short=12", "HEAD")
        return f"{name}, with changes" if _git("status", "--porcelain", "--", ".", f":!{PAGE}") else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(SOURCE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - no input


def _written(figure: float | str) -> str:
    return f"{figure:,}" if isinstance(figure, int) else f"{figure:g}" if isinstance(figure, float) else figure
