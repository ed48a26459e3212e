"""What the README and the SDK's page show works as it stands there."""

import asyncio
import re
import sys
from pathlib import Path

import nats
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CLIENT = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")


EXCHANGE = ["critical stop everything", "normal summarise chapter 1", "{'error': ''}"]
REGISTRATION = ["agent.writer {'load': 0.2}"]
CONSUMED = ["CRITICAL stop everything", "NORMAL summarise chapter 1"]
PRESENT = ["agent.translator"]


@pytest.mark.parametrize(
    ("page", "number", "says"),
    [
        pytest.param(README, 0, EXCHANGE, id="README, an exchange"),
        pytest.param(README, 1, REGISTRATION, id="README, a registration"),
        pytest.param(CLIENT, 0, CONSUMED, id="SDK, a consumer"),
        pytest.param(CLIENT, 1, PRESENT, id="SDK, an agent"),
    ],
)
async def test_the_python_programs_of_our_pages_work(serve_node, page, number, says):
    node = await serve_node()
    program = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[number]
    assert "nats://127.0.0.1:4222" in program
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program.replace("nats://127.0.0.1:4222", node.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await process.communicate()
    assert (errors.decode(), process.returncode) == ("", 0)
    assert said.decode().splitlines() == says


def commands():
    """Subject, body and priority of each `nats request` of the README."""
    pattern = r"^    nats request '(\S+)' '(.*?)'(?: -H mq9-priority:(\S+))?$"
    return re.findall(pattern, README, re.MULTILINE)


async def test_the_commands_of_the_readme_answer_as_it_says(serve_node):
    node = await serve_node()
    client = await nats.connect(node.url)
    replies = [
        (
            await client.request(
                subject,
                body.encode(),
                timeout=30,
                headers={"mq9-priority": priority} if priority else None,
            )
        ).data
        for subject, body, priority in commands()
    ]
    await client.close()
    assert len(replies) == 7
    assert b'"mail_address":"demo"' in replies[0]
    assert re.findall(rb'"payload":"(.*?)"', replies[3]) == [b"stop everything", b"hello"]
    for found in replies[5:]:
        assert b'"name":"agent.translator"' in found
