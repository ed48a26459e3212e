"""Registers and names: the newest message of a key as a register, CREATE of one name by many as
compare-and-set. Everything that is told must fit one order in time (`checkers.linear`).
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from typing import Final

from chaos.checkers import linear
from chaos.checkers.linear import Operation
from chaos.checkers.verdict import Verdict, too_little
from chaos.clients.connection import Answer, Caller, Stage, payload_of
from chaos.clients.workload import Record
from chaos.history import NEVER, Told

CLIENTS: Final = 6
MAILBOXES: Final = 4
KEYS: Final = 2
OPERATIONS_OF_A_KEY: Final = 300  # then another key: the search is over sets of them
OPERATIONS_OF_A_NAME: Final = 24
THINK_S: Final = 0.04
LEAST: Final = {"reads": 50, "writes": 50, "names": 10}


class Registers:
    """The workload."""

    name = "registers"

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.registers: dict[tuple[str, str], list[Operation]] = defaultdict(list)
        self.names: dict[str, list[Operation]] = defaultdict(list)
        self.odd: list[str] = []
        self._mailboxes = [f"{stage.name}.register{number}" for number in range(MAILBOXES)]
        self._begun: Counter[str] = Counter()

    async def prepare(self) -> None:
        """The mailboxes."""
        caller = Caller(self.stage, "registers open")
        for address in self._mailboxes:
            await caller.ask_until_told("MAILBOX.CREATE", {"name": address})
        caller.leave()

    async def work(self) -> None:
        """All clients, until the stop."""
        await asyncio.gather(*(self._client(number) for number in range(CLIENTS)))

    async def _client(self, number: int) -> None:
        rng = self.stage.rng(f"registers {number}")
        caller = Caller(self.stage, f"r{number}")
        while await self.stage.pause(rng.uniform(0, THINK_S)):
            mailbox = rng.choice(self._mailboxes)
            slot = f"{rng.randrange(KEYS)}"
            (how,) = rng.choices(("write", "read", "name", "move"), (40, 50, 9, 1))
            if how == "move":
                caller.leave()
            elif how == "name":
                await self._race(caller)
            else:
                await self._access(caller, mailbox, slot, how)
        caller.leave()

    def _current(self, what: str, operations: int) -> str:
        """The name of this moment: another one after so many operations."""
        self._begun[what] += 1
        return f"{what}.{self._begun[what] // operations}"

    async def _access(self, caller: Caller, mailbox: str, slot: str, how: str) -> None:
        key = self._current(f"{mailbox}/{slot}", OPERATIONS_OF_A_KEY).rpartition("/")[2]
        history = self.registers[mailbox, key]
        began = self.stage.now()
        if how == "write":
            value = f"v{self.stage.number()}"
            history.append(Operation(began, NEVER, "write", value))  # a read may see it meanwhile
            place = len(history) - 1
            answer = await caller.ask(f"MSG.SEND.{mailbox}", value.encode(), [("mq9-key", key)])
            if answer.told is Told.DONE:
                history[place] = Operation(began, self.stage.now(), "write", value)
            elif answer.told is Told.REFUSED:  # nothing was done: a read that sees it is wrong
                history[place] = Operation(began, NEVER, "look")
        else:
            answer = await caller.ask(f"MSG.QUERY.{mailbox}", {"key": key})
            if answer.told is Told.DONE:
                found = [payload_of(message) for message in answer.reply["messages"]]
                if len(found) > 1:
                    self.odd.append(f"{mailbox} has {found} under one key")
                told = found[-1] if found else None
                history.append(Operation(began, self.stage.now(), "read", told=told))
        self._note(answer, f"{how} of {mailbox} {key}")

    async def _race(self, caller: Caller) -> None:
        name = self._current(f"{self.stage.name}.name", OPERATIONS_OF_A_NAME)
        history = self.names[name]
        began = self.stage.now()
        if self._begun[f"{self.stage.name}.name"] % 3 == 0:
            answer = await caller.ask(f"MSG.QUERY.{name}", {"limit": 1})
            if answer.told is Told.DONE or answer.code == "mailbox_not_found":
                taken = answer.told is Told.DONE
                history.append(Operation(began, self.stage.now(), "look", told=taken))
                return
        else:
            answer = await caller.ask("MAILBOX.CREATE", {"name": name})
            if answer.told is Told.DONE or answer.code == "mailbox_exists":
                got = answer.told is Told.DONE
                history.append(Operation(began, self.stage.now(), "take", told=got))
                return
            if answer.told is Told.UNKNOWN:
                history.append(Operation(began, NEVER, "take"))
        self._note(answer, f"name {name}")

    def _note(self, answer: Answer, what: str) -> None:
        if answer.told is Told.REFUSED and not answer.again and answer.code != "nowhere":
            self.odd.append(f"{what}: {answer.reply}")

    async def finish(self) -> None:
        """Read every register once more."""
        caller = Caller(self.stage, "registers close", patient=True)
        for (mailbox, key), history in list(self.registers.items()):
            began = self.stage.now()
            answer = await caller.ask_until_told(f"MSG.QUERY.{mailbox}", {"key": key})
            if answer.told is Told.DONE:
                found = [payload_of(message) for message in answer.reply["messages"]]
                told = found[-1] if found else None
                history.append(Operation(began, self.stage.now(), "read", told=told))
            self._note(answer, f"last read of {mailbox} {key}")
        caller.leave()

    def node_lost(self, node: str, at: float) -> None:
        """Nothing is held."""

    def judge(self) -> list[Verdict]:
        """One order in time for each key and each name; and whether enough was done."""
        wrong: list[str] = []
        for (mailbox, key), history in self.registers.items():
            wrong += linear.judge(f"{mailbox} {key}", history, linear.register, None)
        for name, history in self.names.items():
            wrong += linear.judge(name, history, linear.name, False)
        everything = [one for history in self.registers.values() for one in history]
        named = sum(map(len, self.names.values()))
        done = {
            "reads": sum(one.does == "read" for one in everything),
            "writes": sum(one.does == "write" and not one.unknown for one in everything),
            "names": named,
        }
        return [
            Verdict("linearizable", len(everything) + named, wrong),
            Verdict("refusals of registers", len(everything), self.odd),
            too_little(done, LEAST),
        ]

    def records(self) -> Iterable[Record]:
        """Every operation."""
        for (mailbox, key), history in self.registers.items():
            for one in history:
                yield {"kind": "register", "mailbox": mailbox, "key": key, **_plain(one)}
        for name, history in self.names.items():
            for one in history:
                yield {"kind": "name", "name": name, **_plain(one)}


def _plain(operation: Operation) -> Record:
    return {name: value for name, value in asdict(operation).items() if value != NEVER}
