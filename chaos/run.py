"""One cell of the matrix, from an empty folder to a verdict.

Owns the order of things: start, work in peace, faults, heal, work on, read everything, judge,
keep. Called by `__main__` and by tests; calls everything else.
"""

import asyncio
import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from chaos import machine
from chaos.cells import HEALED_S_MAX, WORKLOADS, Cell, Result
from chaos.checkers.availability import judge_healing, judge_outages
from chaos.checkers.growth import judge_growth
from chaos.checkers.replicas import all_equal, apart, judge_answers
from chaos.checkers.verdict import Verdict
from chaos.clients.connection import Caller, Stage
from chaos.clients.mailboxes import Mailboxes
from chaos.clients.probes import Probes
from chaos.clients.workload import Workload
from chaos.cluster.network import Loopback, Namespaces, Network
from chaos.cluster.nodes import FaultyCluster
from chaos.cluster.power import WITHOUT_SYNC, FragileDisk
from chaos.cluster.shim import Shim, build
from chaos.janitor import Janitor
from chaos.nemeses.scene import WHOLE_S_MAX, Nemesis, Scene, until_whole
from chaos.report.timeline import Event, Timeline

START_S_MAX: Final = 90.0
PLAY_S_MAX: Final = 180.0  # beyond the cell's own time: a nemesis that hangs
FINISH_S_MAX: Final = 180.0
PEACE_S: Final = 1.5  # of work before the first fault, and after the last
EQUAL_S_MAX: Final = 45.0
LOST_S_MAX: Final = 20.0  # patience with nodes that may have lost what they need
QUIET_S: Final = 0.5  # between two looks at replicas
COMPARED_MAX: Final = 1000  # messages of a mailbox, asked of every node
DISK_MIB: Final = 512


class Play:
    """A cell under way."""

    def __init__(
        self,
        cell: Cell,
        nemesis: Nemesis,
        seed: str,
        janitor: Janitor,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.cell = cell
        self._environment = environment or {}
        self.seed = seed
        self._nemesis = nemesis
        self._janitor = janitor
        self._began = time.monotonic()
        self.events: list[Event] = []
        self._workloads = list[Workload]()
        self._extra: list[Verdict] = []
        self._fragile: dict[str, FragileDisk] = {}
        self._shimmed: dict[str, Shim] = {}

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def tell(self, what: str, **facts: Any) -> None:
        """Enter an event."""
        self.events.append(Event(self.now(), what, facts))

    async def play(self, folder: Path) -> Result:
        """All of it; the result is kept in `folder`."""
        with ExitStack() as closing:
            data = Path(tempfile.mkdtemp(prefix="mq9-chaos-"))
            self._janitor.remove(data)
            closing.callback(shutil.rmtree, data, ignore_errors=True)
            network = closing.enter_context(self._network())
            self._fragile = self._disks(closing, data)
            self._shimmed = self._shims(closing, data)
            cluster = self._cluster(network, data)
            hosts = {node.name: (node.host, node.port) for node in cluster.nodes}
            stage = Stage(self.now, hosts, self.seed, "run")
            try:
                result = await self._play_on(cluster, stage)
            except (Exception, asyncio.CancelledError) as error:
                broken = Verdict("harness", 0, [repr(error), traceback.format_exc()])
                self._keep(cluster, stage, Result(self.cell, self.seed, [broken]), folder)
                raise
            finally:
                await cluster.stop()
            result.folder = folder
            self._keep(cluster, stage, result, folder)
            return result

    def _disks(self, closing: ExitStack, data: Path) -> dict[str, FragileDisk]:
        """A file system per node, if the nemesis is after them."""
        if machine.DISK not in self._nemesis.needs:
            return {}
        made = {}
        for name in self._names():
            (data / name).mkdir()
            mounted = str(data / name / "fragile")
            undo = self._janitor.undo_with("umount", "--lazy", mounted)
            made[name] = closing.enter_context(FragileDisk(data / name, DISK_MIB))
            closing.callback(self._janitor.done, undo)
        return made

    def _shims(self, closing: ExitStack, data: Path) -> dict[str, Shim]:
        """A way to every node's calls, if the nemesis needs one."""
        if machine.SHIM not in self._nemesis.needs:
            return {}
        library = build(data)
        made = {}
        for name in self._names():
            made[name] = Shim(library, data / f"{name}.shim", data / name)
            closing.callback(made[name].close)
        return made

    @contextmanager
    def _network(self) -> Iterator[Network]:
        names = self._names()
        made: Network = (
            Loopback(len(names))
            if machine.NETWORK in machine.lacking()
            else Namespaces(names, self._janitor, self.seed)
        )
        try:
            yield made
        finally:
            made.close()

    def _names(self) -> list[str]:
        return [f"n{number + 1}" for number in range(self.cell.nodes)]

    def _cluster(self, network: Network, data: Path) -> FaultyCluster:
        environment = {"MQ9_TEST_STATE_HASHES": "1", **self._environment}
        if self.cell.unsynced:
            environment |= WITHOUT_SYNC
        if self.cell.log_entries_kept:
            environment["MQ9_TEST_LOG_ENTRIES_KEPT"] = str(self.cell.log_entries_kept)

        def folder(name: str) -> Path:
            (data / name).mkdir(exist_ok=True)
            disk = self._fragile.get(name)
            return (disk.path if disk else data / name) / "data"

        shims = {name: shim.environment for name, shim in self._shimmed.items()}
        return FaultyCluster(
            self._names(),
            network,
            folder,
            self._janitor,
            self.tell,
            self.now,
            {name: {**environment, **shims.get(name, {})} for name in self._names()},
            self.cell.shards,
        )

    async def _play_on(self, cluster: FaultyCluster, stage: Stage) -> Result:
        await cluster.start(START_S_MAX)
        probes = Probes(stage)
        self._workloads = [probes, *(WORKLOADS[one](stage) for one in self.cell.workloads)]
        await asyncio.gather(*(one.prepare() for one in self._workloads))
        self.tell("work begins")
        working = asyncio.gather(*(one.work() for one in self._workloads))
        try:
            faults_at, healed_at = await self._faults(cluster, working)
        finally:
            stage.stop.set()
        await asyncio.wait_for(working, FINISH_S_MAX)
        stopped_at = self.now()
        self.tell("work ends")
        within_s = LOST_S_MAX if self.cell.unsynced else FINISH_S_MAX
        try:
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(one.finish() for one in self._workloads))
                await self._compare(cluster, stage)
        except TimeoutError:
            seen = await cluster.describe()
            self.tell("wrong", why=f"not everything could be read within {within_s:g} s: {seen}")
        return self._judge(cluster, stage, probes, (faults_at, healed_at, stopped_at))

    async def _faults(
        self, cluster: FaultyCluster, working: "asyncio.Future[Any]"
    ) -> tuple[float, float]:
        """Peace, faults, healing, peace; when the faults began and when they were healed."""
        await _while_working(working, asyncio.sleep(PEACE_S))
        rng = Stage(self.now, {}, self.seed, "").rng(self.cell.nemesis)
        scene = Scene(
            cluster,
            rng,
            self.now,
            self.tell,
            self._workloads,
            self._fragile,
            self._shimmed,
            self._janitor,
            whole_s_max=LOST_S_MAX if self.cell.unsynced else WHOLE_S_MAX,
        )
        began = self.now()
        scene.until = began + self.cell.seconds
        async with asyncio.timeout(self.cell.seconds + PLAY_S_MAX):
            await _while_working(working, self._nemesis.play(scene))
        await cluster.heal()
        healed_at = self.now()
        self.tell("all healed")
        await _while_working(working, until_whole(cluster, self.tell, scene.whole_s_max))
        await _while_working(working, asyncio.sleep(PEACE_S))
        return began, healed_at

    # --- afterwards ------------------------------------------------------------------------------

    async def _compare(self, cluster: FaultyCluster, stage: Stage) -> None:
        """Replicas must come to be equal, and nodes answer the same."""
        until = self.now() + EQUAL_S_MAX
        wrong: list[str] = []
        looks = 0
        while True:
            looks += 1
            answers = await asyncio.gather(
                *(node.ask("/cluster?state_hashes=1") for node in cluster.nodes)
            )
            standings = {
                node.name: {shard: (int(at), str(state)) for shard, (at, state) in found.items()}
                for node, answer in zip(cluster.nodes, answers, strict=True)
                if (found := (answer or {}).get("state_hashes")) is not None
            }
            wrong = apart(standings)
            equal = all_equal(standings, min(3, self.cell.nodes))
            if wrong or equal or self.now() > until:
                break
            await asyncio.sleep(QUIET_S)
        if not equal and not wrong:
            wrong = [f"not all replicas stand at one entry after {EQUAL_S_MAX:g} s: {standings}"]
        self._extra.append(Verdict("replicas", looks, wrong))
        self._extra.append(judge_answers(await self._ask_everywhere(cluster, stage)))

    async def _ask_everywhere(
        self, cluster: FaultyCluster, stage: Stage
    ) -> dict[str, dict[str, list[object]]]:
        caller = Caller(stage, "comparer", patient=True)
        answers: dict[str, dict[str, list[object]]] = {}
        for workload in self._workloads:
            if not isinstance(workload, Mailboxes):
                continue
            for mailbox in workload.histories:
                for node in cluster.names:
                    await caller.go_to(node)
                    answer = await caller.ask_until_told(
                        f"MSG.QUERY.{mailbox}", {"limit": COMPARED_MAX}
                    )
                    found = answer.reply.get("messages", [answer.code, node])  # equal to none
                    answers.setdefault(mailbox, {})[node] = found
        caller.leave()
        return answers

    def _judge(
        self,
        cluster: FaultyCluster,
        stage: Stage,
        probes: Probes,
        times: tuple[float, float, float],
    ) -> Result:
        faults_at, healed_at, stopped_at = times
        whole_at = probes.whole_again(healed_at)
        verdicts = [one for workload in self._workloads for one in workload.judge()]
        verdicts += self._extra
        verdicts.append(judge_healing(healed_at, whole_at, self.cell.healed_s_max))
        outages, recoveries = self._after_faults(probes, stopped_at)
        if self.cell.outage_s_max:
            verdicts.append(judge_outages(outages, self.cell.outage_s_max))
        if self.cell.healed_s_max < HEALED_S_MAX:
            verdicts += [judge_healing(0, one, self.cell.healed_s_max) for one in recoveries]
        if self.cell.soak:
            verdicts += judge_growth(cluster.looks)
        told = [str(one.facts["why"]) for one in self.events if one.what == "wrong"]
        verdicts.append(Verdict("nodes", len(cluster.nodes), told + self._troubles(cluster)))
        told_by = [one.told for one in stage.operations]
        return Result(
            self.cell,
            self.seed,
            verdicts,
            operations=len(told_by),
            unknown=told_by.count("unknown"),
            refused=told_by.count("refused"),
            faults=sum(one.what == "fault" for one in self.events),
            outage_s=probes.outage_s(faults_at, stopped_at),
            outages_s=outages,
            whole_s=whole_at - healed_at,
            recoveries_s=recoveries,
            took_s=self.now(),
        )

    def _after_faults(self, probes: Probes, until: float) -> tuple[list[float], list[float]]:
        """The longest silence after each fault, before the next; and how long each healing took."""
        moments = [one for one in self.events if one.what in ("fault", "healed")]
        begins = [one.at for one in moments if one.what == "fault"]
        outages = [probes.outage_s(at, following) for at, following in pairwise([*begins, until])]
        healed = [one.at for one in moments if one.what == "healed"]
        return outages, [probes.whole_again(at) - at for at in healed]

    def _troubles(self, cluster: FaultyCluster) -> list[str]:
        """What no node should have done: it may end by itself only where the nemesis breaks it."""
        found = [f"{node} logged {text[:300]}" for node, text in cluster.tracebacks()]
        if not self._nemesis.breaks_nodes:
            found += [f"{one.node} ended by itself with {one.code}" for one in cluster.deaths]
            found += [f"{node} logged {text[:300]}" for node, text in cluster.errors()]
        return found

    def _keep(self, cluster: FaultyCluster, stage: Stage, result: Result, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "history.jsonl").open("w") as file:
            for workload in self._workloads:
                for record in workload.records():
                    file.write(json.dumps({"workload": workload.name, **record}) + "\n")
        with (folder / "operations.jsonl").open("w") as file:
            for operation in stage.operations:
                file.write(json.dumps(operation._asdict()) + "\n")
        with (folder / "events.jsonl").open("w") as file:
            for event in self.events:
                file.write(json.dumps({"at": event.at, "what": event.what, **event.facts}) + "\n")
        for node in cluster.nodes:
            lines = [str(line.get("raw") or json.dumps(line)) for line in node.whole_log()]
            (folder / f"{node.name}.log").write_text("\n".join(lines))
        Timeline(result.cell.name, result.seed, self.events, stage.operations, cluster.looks).write(
            folder, result.verdicts
        )


async def _while_working(working: "asyncio.Future[Any]", doing: Any) -> None:
    """Wait for `doing`; raises what a worker raises, for then the harness itself is broken."""
    task = asyncio.ensure_future(doing)
    try:
        await asyncio.wait((task, working), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            raise AssertionError("workers ended before their time")
        await task
    finally:
        task.cancel()
