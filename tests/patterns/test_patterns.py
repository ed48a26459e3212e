"""The patterns of the mq9 documents, end to end through nats-py: what each promises its users."""

import asyncio
import json
from collections import Counter
from typing import Any

from tests.patterns.conftest import Agent
from tests.support.mq9 import Mq9, fresh, ids, payloads


def packed(**fields: Any) -> bytes:
    """A JSON payload."""
    return json.dumps(fields).encode()


async def unpacked(reader: Mq9, address: str, group: str, **fields: Any) -> list[dict[str, Any]]:
    """FETCH for a group; the payloads as objects, the whole batch acknowledged."""
    reply = await reader.fetch(address, group, **fields)
    if reply["messages"]:
        assert await reader.ack(address, group, ids(reply)[-1]) == {"error": ""}
    return [json.loads(payload) for payload in payloads(reply)]


async def test_point_to_point_a_message_waits_for_a_recipient_that_is_offline(agent: Agent) -> None:
    recipient = await agent()
    mailbox = await recipient.create()
    await recipient.connection.close()

    sender = await agent()
    await sender.send(mailbox, packed(task="summarize"))
    await sender.connection.close()

    back = await agent()
    assert await unpacked(back, mailbox, "me") == [{"task": "summarize"}]
    # "FETCH resumes from the last ACK": what was acknowledged does not come again
    assert await unpacked(back, mailbox, "me") == []


async def test_point_to_point_what_was_not_acknowledged_comes_again_after_reconnecting(
    agent: Agent,
) -> None:
    first = await agent()
    mailbox = await first.create()
    await first.send_all(mailbox, [b"1", b"2", b"3"])
    await first.fetch(mailbox, "me", num_msgs=2)
    await first.ack(mailbox, "me", 1)
    await first.connection.close()

    again = await agent()
    seen = await again.fetch(mailbox, "me", max_wait_ms=10_000, num_msgs=1)
    assert ids(seen) in ([2], [3])  # 3 alone, if the end of the first connection is not yet known
    for _ in range(100):
        if ids(seen := await again.fetch(mailbox, "me")) == [2, 3]:
            break
        await asyncio.sleep(0.05)
    assert ids(seen) == [2, 3]


async def test_competing_workers_do_each_task_once_though_they_join_leave_and_crash(
    agent: Agent,
) -> None:
    producer = await agent()
    queue = await producer.create(fresh("task.queue"))
    tasks = [f"t-{n}" for n in range(60)]
    done: Counter[str] = Counter()

    async def work(worker: Mq9, tasks_max: int) -> None:
        """Take tasks one by one; after `tasks_max` crash with one in hand, unacknowledged."""
        for taken in range(tasks_max + 1):
            reply = await worker.fetch(queue, "workers", num_msgs=1, max_wait_ms=1_000)
            if not reply["messages"] or taken == tasks_max:
                break
            (task,) = payloads(reply)
            done[task.decode()] += 1
            await worker.ack(queue, "workers", ids(reply)[-1])
        await worker.connection.close()

    early = [asyncio.create_task(work(await agent(), tasks_max)) for tasks_max in (3, 7, 100)]
    for task in tasks:
        await producer.send(queue, task.encode(), msg_id=task)
    late = [asyncio.create_task(work(await agent(), tasks_max)) for tasks_max in (5, 100)]
    await asyncio.gather(*early, *late)

    assert done == Counter(tasks)


async def test_competing_workers_get_the_critical_task_first(agent: Agent) -> None:
    producer, worker = await agent(), await agent()
    queue = await producer.create(fresh("task.queue"))
    await producer.send(queue, packed(id="t-1"))
    await producer.send(queue, packed(id="t-2"))
    await producer.send(queue, packed(id="t-3"), priority="critical")
    order = [
        task["id"]
        for _ in range(3)
        for task in await unpacked(worker, queue, "workers", num_msgs=1)
    ]
    assert order == ["t-3", "t-1", "t-2"]


async def test_request_reply_through_mailboxes_needs_nobody_online_together(agent: Agent) -> None:
    asker = await agent()
    service = await asker.create(fresh("agent.b"))
    reply_to = await asker.create(ttl=600)
    question = packed(request="translate", text="Hello world", lang="fr", reply_to=reply_to)
    await asker.send(service, question)
    assert payloads(await asker.fetch(reply_to)) == []
    await asker.connection.close()

    answerer = await agent()
    for request in await unpacked(answerer, service, "b-worker"):
        assert (request["text"], request["lang"]) == ("Hello world", "fr")
        await answerer.send(request["reply_to"], packed(result="Bonjour le monde"))
    await answerer.connection.close()

    back = await agent()
    (answer,) = payloads(await back.fetch(reply_to))
    assert json.loads(answer) == {"result": "Bonjour le monde"}


async def test_request_reply_answers_a_waiting_asker_at_once(agent: Agent) -> None:
    asker, answerer = await agent(), await agent()
    service, reply_to = await asker.create(), await asker.create(ttl=600)

    async def serve() -> None:
        (request,) = await unpacked(answerer, service, "b", max_wait_ms=10_000)
        await answerer.send(request["reply_to"], packed(sum=request["a"] + request["b"]))

    serving = asyncio.create_task(serve())
    await asker.send(service, packed(a=20, b=22, reply_to=reply_to))
    assert await unpacked(asker, reply_to, "me", max_wait_ms=10_000) == [{"sum": 42}]
    await serving


async def test_cloud_to_edge_delivers_in_priority_order_after_a_long_time_away(
    agent: Agent,
) -> None:
    cloud = await agent()
    edge_mailbox = await cloud.create(fresh("edge.agent"))
    for cmd, priority in (
        ("run_diagnostic", "normal"),
        ("rotate_logs", "normal"),
        ("reconfigure", "critical"),
        ("update_model", "urgent"),
        ("stop_motor", "critical"),
    ):
        await cloud.send(edge_mailbox, packed(cmd=cmd), priority=priority)
    # of a repeated setting only the last one counts, and an outdated command is not carried out
    await cloud.send(edge_mailbox, packed(cmd="rate", value=1), key="rate")
    await cloud.send(edge_mailbox, packed(cmd="rate", value=2), key="rate")
    await cloud.send(edge_mailbox, packed(cmd="wave"), ttl=1)
    await asyncio.sleep(1.2)

    edge = await agent()
    commands: list[str] = []
    while batch := await unpacked(edge, edge_mailbox, "edge", num_msgs=2):
        commands += [command["cmd"] for command in batch]
    assert commands == [
        "reconfigure",
        "stop_motor",
        "update_model",
        "run_diagnostic",
        "rotate_logs",
        "rate",
    ]


async def test_cloud_to_edge_a_lost_line_in_the_middle_of_a_batch_loses_and_repeats_nothing(
    agent: Agent,
) -> None:
    cloud = await agent()
    edge_mailbox = await cloud.create(fresh("edge.agent"))
    await cloud.send_all(edge_mailbox, [b"%d" % n for n in range(1, 11)])
    carried_out: list[bytes] = []
    while len(carried_out) < 10:
        edge = await agent()
        reply = await edge.fetch(edge_mailbox, "edge", num_msgs=4, max_wait_ms=10_000)
        for message_id, payload in zip(ids(reply)[:3], payloads(reply)[:3], strict=True):
            carried_out.append(payload)
            await edge.ack(edge_mailbox, "edge", message_id)
        await edge.connection.close()
        # the line is lost with the fourth command in hand; the cluster learns it a moment later
        watcher = await agent()
        for _ in range(100):
            left = 10 - len(carried_out)
            if len(ids(await watcher.fetch(edge_mailbox, "edge", num_msgs=10))) == left:
                break
            await asyncio.sleep(0.05)
        await watcher.connection.close()
        await asyncio.sleep(0.05)
    assert sorted(carried_out) == sorted(b"%d" % n for n in range(1, 11))


async def test_human_approval_uses_the_same_protocol_on_both_sides(agent: Agent) -> None:
    worker, human = await agent(), await agent()
    human_mailbox, worker_mailbox = await human.create(), await worker.create()

    async def reviewer() -> None:
        """The human reads the urgent request before the newsletter, and answers it alone."""
        reply = await human.fetch(human_mailbox, "alice", max_wait_ms=10_000, encoding="text")
        requests = [json.loads(message["payload"]) for message in reply["messages"]]
        for request, msg_id in zip(requests, ids(reply), strict=True):
            if request["type"] == "approval_request":
                approved = request["action"] != "delete_dataset"
                answer = packed(approved=approved, reviewer="alice", about=request["id"])
                await human.send(request["reply_to"], answer)
                await human.ack(human_mailbox, "alice", msg_id, scope="message")

    await worker.send(human_mailbox, packed(type="newsletter"))
    for number, action in enumerate(("delete_dataset", "restart_job"), 1):
        request = packed(type="approval_request", id=number, action=action, reply_to=worker_mailbox)
        await worker.send(human_mailbox, request, priority="urgent", msg_id=f"ask-{number}")
    await reviewer()

    answers = await unpacked(worker, worker_mailbox, "worker", max_wait_ms=10_000)
    assert [(answer["about"], answer["approved"]) for answer in answers] == [(1, False), (2, True)]
    # the newsletter is still unread
    assert await unpacked(human, human_mailbox, "alice") == [{"type": "newsletter"}]


async def test_an_approval_nobody_gave_can_be_withdrawn(agent: Agent) -> None:
    worker, human = await agent(), await agent()
    human_mailbox = await human.create()
    msg_id = await worker.send(human_mailbox, packed(type="approval_request"))
    assert await worker.delete(human_mailbox, msg_id) == {"error": "", "deleted": True}
    assert await unpacked(human, human_mailbox, "alice") == []


async def test_results_are_delivered_to_a_parent_that_was_away(agent: Agent) -> None:
    parent = await agent()
    dispatch = await parent.create(fresh("task.dispatch"))
    results = await parent.create(ttl=3600)
    for part in range(5):
        task = packed(task="summarize", part=part, reply_to=results)
        await parent.send(dispatch, task, msg_id=f"part-{part}")
    await parent.connection.close()

    async def sub_agent() -> None:
        worker = await agent()
        while tasks := await unpacked(worker, dispatch, "sub-agents", num_msgs=1):
            part = tasks[0]["part"]
            result = packed(part=part, summary=f"summary of part {part}")
            # a sub-agent that is not sure whether it delivered delivers again
            for _ in range(2):
                await worker.send(tasks[0]["reply_to"], result, msg_id=f"result-{part}")
        await worker.connection.close()

    await asyncio.gather(*(sub_agent() for _ in range(3)))

    back = await agent()
    collected = await unpacked(back, results, "orchestrator")
    assert sorted(result["part"] for result in collected) == list(range(5))


async def test_fan_out_every_group_gets_every_message(agent: Agent) -> None:
    publisher = await agent()
    events = await publisher.create(fresh("events"))
    await publisher.send_all(events, [b"1", b"2"])
    for group in ("billing", "audit", "search"):
        member = await agent()
        assert payloads(await member.fetch(events, group)) == [b"1", b"2"]


async def test_poison_a_task_nobody_can_do_ends_in_the_dead_letters_and_holds_up_nobody(
    agent: Agent,
) -> None:
    worker = await agent()
    queue = await worker.create(fresh("task.queue"), max_deliver=3)
    await worker.send_all(queue, [b"good", b"poison", b"good too"])
    done: list[bytes] = []
    while reply := await worker.fetch(queue, "workers", num_msgs=1):
        if not reply["messages"]:
            break
        (payload,) = payloads(reply)
        if payload == b"poison":
            await worker.nack(queue, "workers", ids(reply)[0])
        else:
            done.append(payload)
            await worker.ack(queue, "workers", ids(reply)[0])
    assert done == [b"good", b"good too"]
    assert payloads(await worker.query(f"{queue}.dlq")) == [b"poison"]
