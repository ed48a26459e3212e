"""Agents of one test, among those of all others.

Agents of other tests are in the same registry: each test marks its own with a tag or a name of its
own and filters by that. What is registered at one node is looked for at a random one, at once.
"""

from typing import Any

from tests.support.mq9 import Mq9, Reply, fresh


class Agents:
    """The agents of one test, by a tag that no other has."""

    def __init__(self, mq9: Mq9) -> None:
        self.mq9 = mq9
        self.mark = fresh("mark")

    def name(self, name: str) -> str:
        return f"{self.mark}/{name}"

    async def add(self, name: str, **fields: Any) -> dict[str, Any]:
        """Register an agent; the object that was registered."""
        tags = [self.mark, *fields.pop("tags", [])]
        body = {"name": self.name(name), "tags": tags, **fields}
        reply = await self.mq9.ask("AGENT.REGISTER", body)
        assert reply["error"] == "", reply
        return body

    async def ask(self, **fields: Any) -> Reply:
        """DISCOVER among them."""
        condition = {"tags": self.mark, **fields.pop("filter", {})}
        reply = await self.mq9.ask("AGENT.DISCOVER", {"filter": condition, **fields})
        assert reply["error"] == "", reply
        assert "partial" not in reply, reply
        return reply

    async def find(self, **fields: Any) -> list[str]:
        """Their names, in order."""
        reply = await self.ask(**fields)
        return [agent["name"].removeprefix(self.mark + "/") for agent in reply["agents"]]
