"""bench/loadgen.c against a server of our own invention: what it counts, and what it must not."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from bench import loadgen
from bench.loadgen import Load, LoadFailed, LoadGenerator

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="the generator needs a C compiler"
)

Answer = Callable[[str, bytes, int], bytes]  # subject, body, number of the request → reply body


class FakeServer:
    """Speaks as much NATS as the generator does, and answers each PUB with `answer`."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[tuple[str, bytes]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b"INFO {}\r\n")
            for line in lines:
                words = line.split()
                if words[0] == b"PING":
                    connection.sendall(b"PONG\r\n")
                elif words[0] == b"PUB":
                    body = lines.read(int(words[3]) + 2)[:-2]
                    self.requests.append((words[1].decode(), body))
                    reply = self.answer(words[1].decode(), body, len(self.requests))
                    head = b"MSG %s 1 %d\r\n" % (words[2], len(reply))
                    # in two pieces, so that an answer split anywhere is put together again
                    connection.sendall(head[:7])
                    connection.sendall(head[7:] + reply + b"\r\n")


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], tuple[FakeServer, LoadGenerator]]]:
    servers = []

    def start(answer: Answer) -> tuple[FakeServer, LoadGenerator]:
        servers.append(FakeServer(answer))
        return servers[-1], LoadGenerator(loadgen.build(), (servers[-1].port,))

    yield start
    for server in servers:
        server.close()


def test_every_expected_answer_is_one_operation(serve):
    server, generator = serve(lambda *_: b'{"error":""}')
    figures = generator.run(
        Load("request", "to.%c", "p%i", connections=3, outstanding=4, operations=50)
    )
    assert (figures.operations, figures.errors) == (50, 0)
    assert {body for _, body in server.requests} == {b"p%d" % i for i in range(50)}
    assert {subject for subject, _ in server.requests} == {"to.0", "to.1", "to.2"}


def test_an_answer_without_the_expected_text_is_an_error_and_no_operation(serve):
    def answer(_subject: str, _body: bytes, number: int) -> bytes:
        return b'{"error":"overloaded"}' if number % 5 == 0 else b'{"error":""}'

    _, generator = serve(answer)
    figures = generator.run(Load("request", "t", outstanding=2, operations=50))
    assert (figures.operations, figures.errors) == (40, 10)
    assert "overloaded" in figures.complaints


def test_numbers_in_templates_start_at_the_first_operation_and_wrap_at_the_modulus(serve):
    server, generator = serve(lambda *_: b'{"error":""}')
    generator.run(Load("request", "t.%m", "%i %%", operations=4, first_operation=7, modulus=3))
    expected = [("t.1", b"7 %"), ("t.2", b"8 %"), ("t.0", b"9 %"), ("t.1", b"10 %")]
    assert server.requests == expected


def test_fetch_ack_acknowledges_the_last_message_under_its_handout(serve):
    fetched = b'{"error":"","handout":"h-1","messages":[{"msg_id":41},{"msg_id":42}]}'

    def answer(subject: str, _body: bytes, _number: int) -> bytes:
        return fetched if ".FETCH." in subject else b'{"error":""}'

    server, generator = serve(answer)
    load = Load("fetch-ack", address="box.%c", group="g", operations=3, batch=2)
    figures = generator.run(load)
    assert (figures.operations, figures.messages, figures.errors) == (3, 6, 0)
    (fetch, asked), (ack, confirmed) = server.requests[:2]
    assert (fetch, json.loads(asked)) == (
        "$mq9.AI.MSG.FETCH.box.0",
        {
            "group_name": "g",
            "deliver": "earliest",
            "config": {"max_wait_ms": 0, "num_msgs": 2},
        },
    )
    assert (ack, json.loads(confirmed)) == (
        "$mq9.AI.MSG.ACK.box.0",
        {"group_name": "g", "msg_id": 42, "handout": "h-1"},
    )


def test_several_fetches_on_one_connection_are_consumers_of_their_own(serve):
    server, generator = serve(lambda *_: b'{"error":"","messages":[{"msg_id":1}]}')
    load = Load("fetch-ack", address="b", group="g", outstanding=2, operations=2)
    generator.run(load)
    consumers = {json.loads(body).get("consumer") for _, body in server.requests[:2]}
    assert consumers == {"c0s0", "c0s1"}


def test_an_empty_mailbox_ends_the_trial_and_counts_as_nothing(serve):
    supply = iter(range(1, 4))

    def answer(subject: str, _body: bytes, _number: int) -> bytes:
        if ".ACK." in subject:
            return b'{"error":""}'
        number = next(supply, None)
        return b'{"error":"","messages":[%s]}' % (b'{"msg_id":%d}' % number if number else b"")

    _, generator = serve(answer)
    figures = generator.run(Load("fetch-ack", address="b", group="g", operations=1000))
    assert (figures.operations, figures.errors, figures.drained) == (3, 0, True)


def test_a_refused_acknowledgement_is_an_error(serve):
    def answer(subject: str, _body: bytes, _number: int) -> bytes:
        return b'{"error":"message not found"}' if ".ACK." in subject else FETCHED_ONE

    _, generator = serve(answer)
    figures = generator.run(Load("fetch-ack", address="b", group="g", operations=4))
    assert (figures.operations, figures.errors) == (0, 4)


def test_a_server_that_is_not_there_is_no_measurement():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(LoadFailed, match="connect"):
        LoadGenerator(loadgen.build(), (port,)).run(Load("request", "t", operations=1))


FETCHED_ONE = b'{"error":"","messages":[{"msg_id":1}]}'
