"""A million mailboxes and ten million messages on one node: memory, restart, cost of reading.

`python -m bench.scale`, by hand, about ten minutes; `--mailboxes`, `--messages` and `--big`
shrink it. FETCH is compared with an empty node that runs beside it, turn by turn, so that a noisy
machine slows both; FETCH+ACK with an empty mailbox of the same node. A bound that is missed is said
and makes the exit status 1.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import loadgen, report
from bench.harness import measure
from bench.loadgen import BUILD_DIR, Figures, Load, LoadGenerator
from bench.servers import Server, mq9_fleet

PAYLOAD_BYTES = 200
FILL_OUTSTANDING = 1000
ACK_BATCH = 1000  # messages per FETCH while acknowledging the big mailbox
PROBE_SECONDS = 3.0
PROBE_MESSAGES = 20_000  # more than one connection can fetch and acknowledge in PROBE_SECONDS
PROBE_ROUNDS = 3
SMALL_MAILBOXES = 100  # of the node that counts as empty
SLICES = 10  # the fill is reported in so many steps

RSS_BYTES_MAX = 2**30
RESTART_SECONDS_MAX = 10.0
SLOWDOWN_MAX = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure and its bound."""

    what: str
    value: float
    bound: float
    unit: str
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure is within its bound."""
        return self.value <= self.bound


class Scale:
    """The steps, in order; each says on the console what it saw."""

    def __init__(
        self,
        node: Server,
        generator: LoadGenerator,
        empty: LoadGenerator,
        options: argparse.Namespace,
        console: Console,
    ) -> None:
        self.node = node
        self.generator = generator
        self.empty = empty
        self.mailboxes: int = options.mailboxes
        self.messages: int = options.messages
        self.big: int = options.big
        self.console = console
        self.verdicts: list[Verdict] = []

    def run(self) -> list[Verdict]:
        """All of it."""
        self._fill_empty()
        self._fill()
        self._acknowledge_big()
        self._judge_fetch("FETCH p50, full node against empty")
        self._judge_fetch_ack()
        self._judge_memory("after the fill and the reads")
        self._judge_restart("SIGTERM", self.node.stop)
        self._judge_restart("SIGKILL", self.node.kill)
        self._judge_fetch("FETCH p50, restarted node against empty")
        self._judge_memory("after the restarts")
        return self.verdicts

    def _fill_empty(self) -> None:
        """The node to compare with has a hundred mailboxes of ten messages."""
        mine, self.generator = self.generator, self.empty
        self._create("box.%i", SMALL_MAILBOXES)
        self._send("box.%m", SMALL_MAILBOXES * 10, modulus=SMALL_MAILBOXES)
        self.generator = mine

    def _fill(self) -> None:
        self._create("box.%i", self.mailboxes)
        self._create("big", 1)
        self._send("big", self.big)
        self._send("box.%m", self.messages - self.big, modulus=self.mailboxes)

    def _acknowledge_big(self) -> None:
        load = Load(
            "fetch-ack",
            address="big",
            group="far",
            batch=ACK_BATCH,
            operations=self.big // ACK_BATCH,
        )
        figures = self.generator.run_faultless(load)
        self.console.print(
            f"acknowledged {figures.messages:,} messages of one mailbox in {figures.seconds:.1f} s"
        )

    def _judge_fetch(self, what: str) -> None:
        near: list[Figures] = []
        far: list[Figures] = []
        for _ in range(PROBE_ROUNDS):
            near.append(self._fetch(self.empty, SMALL_MAILBOXES))
            far.append(self._fetch(self.generator, self.mailboxes))
        empty, full = report.median(near, "p50_us"), report.median(far, "p50_us")
        detail = f"{empty:.0f} to {full:.0f} µs"
        self.verdicts.append(Verdict(what, full / empty, SLOWDOWN_MAX, "x", detail))

    def _judge_fetch_ack(self) -> None:
        """Both mailboxes get the same supply; one of them has a million done messages before it."""
        self._create("fresh", 1)
        near: list[Figures] = []
        far: list[Figures] = []
        for _ in range(PROBE_ROUNDS):
            for address, into in (("fresh", near), ("big", far)):
                self._send(address, PROBE_MESSAGES)
                into.append(self._fetch_ack(address))
        fresh, behind = report.median(near, "p50_us"), report.median(far, "p50_us")
        self.verdicts.append(
            Verdict(
                f"FETCH+ACK p50 behind {self.big:,} acknowledged against an empty mailbox",
                behind / fresh,
                SLOWDOWN_MAX,
                "x",
                f"{fresh:.0f} to {behind:.0f} µs",
            )
        )

    def _judge_memory(self, when: str) -> None:
        peak, now = self.node.rss_bytes("VmHWM"), self.node.rss_bytes()
        self.verdicts.append(
            Verdict(
                f"memory, peak, {when}",
                peak / 2**20,
                RSS_BYTES_MAX / 2**20,
                "MiB",
                f"now {now / 2**20:.0f} MiB",
            )
        )

    def _judge_restart(self, how: str, end: Callable[[], object]) -> None:
        began = time.monotonic()
        end()
        ended = time.monotonic() - began
        self.node.start()
        ready = self.node.await_ready()
        self.verdicts.append(
            Verdict(
                f"restart after {how}",
                ready,
                RESTART_SECONDS_MAX,
                "s",
                f"ended in {ended:.1f} s",
            )
        )

    def _fetch(self, generator: LoadGenerator, mailboxes: int) -> Figures:
        """FETCH one message from mailboxes at random."""
        load = Load(
            "request",
            "$mq9.AI.MSG.FETCH.box.%r",
            '{"deliver":"earliest","config":{"num_msgs":1,"max_wait_ms":0}}',
            '"msg_id":',
            seconds=PROBE_SECONDS,
            modulus=mailboxes,
        )
        return generator.run_faultless(load)

    def _fetch_ack(self, address: str) -> Figures:
        load = Load("fetch-ack", address=address, group="far", seconds=PROBE_SECONDS)
        return self.generator.run_faultless(load)

    def _create(self, name: str, count: int) -> None:
        load = Load(
            "request",
            "$mq9.AI.MAILBOX.CREATE",
            f'{{"name":"{name}"}}',
            outstanding=min(count, FILL_OUTSTANDING),
            operations=count,
        )
        figures = self.generator.run_faultless(load)
        if count > 1:
            self.console.print(
                f"created {count:,} mailboxes, {figures.operations_per_s:,.0f}/s, {self._rss()}"
            )

    def _send(self, address: str, count: int, modulus: int = 1) -> None:
        slices = SLICES if count >= FILL_OUTSTANDING * SLICES * 10 else 1
        for part in range(slices):
            first, last = count * part // slices, count * (part + 1) // slices
            load = Load(
                "request",
                f"$mq9.AI.MSG.SEND.{address}",
                PAYLOAD_BYTES,
                outstanding=FILL_OUTSTANDING,
                operations=last - first,
                first_operation=first,
                modulus=modulus,
            )
            figures = self.generator.run_faultless(load)
            if slices > 1:
                rate = figures.operations_per_s
                self.console.print(f"{address}: {last:,} messages, {rate:,.0f}/s, {self._rss()}")

    def _rss(self) -> str:
        return f"RSS {self.node.rss_bytes() / 2**20:.0f} MiB"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when every bound is met."""
    options = _parse(arguments)
    return measure("scale", lambda home, console: _judge(options, home, console))


def _judge(options: argparse.Namespace, home: Path, console: Console) -> int:
    facts = report.circumstances(home)
    program = loadgen.build()
    with (
        mq9_fleet(home / "full", 1).running() as fleet,
        mq9_fleet(home / "empty", 1).running() as beside,
    ):
        generator = LoadGenerator(program, fleet.ports)
        empty = LoadGenerator(program, beside.ports)
        verdicts = Scale(fleet.servers[0], generator, empty, options, console).run()
    _show(console, verdicts, options, facts)
    return 0 if all(verdict.met for verdict in verdicts) else 1


def _show(
    console: Console,
    verdicts: Sequence[Verdict],
    options: argparse.Namespace,
    facts: report.Circumstances,
) -> None:
    title = f"{options.mailboxes:,} mailboxes, {options.messages:,} messages on one node"
    table = Table("", "measured", "at most", "", "", title=title, title_justify="left")
    for each in verdicts:
        measured, bound = f"{each.value:,.2f} {each.unit}", f"{each.bound:,.0f} {each.unit}"
        table.add_row(each.what, measured, bound, "met" if each.met else "MISSED", each.detail)
    console.print(table)
    results = BUILD_DIR / "results"
    results.mkdir(exist_ok=True)
    document = {
        "circumstances": asdict(facts),
        "mailboxes": options.mailboxes,
        "messages": options.messages,
        "verdicts": [asdict(each) for each in verdicts],
    }
    path = results / f"scale-{facts.stamp()}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    console.print(f"written: {path}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--mailboxes", type=int, default=1_000_000)
    parser.add_argument("--messages", type=int, default=10_000_000, help="in all")
    parser.add_argument("--big", type=int, default=1_000_000, help="of them in one mailbox")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
