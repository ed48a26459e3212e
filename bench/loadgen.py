"""Builds bench/loadgen.c on demand and runs it: a Load goes in, Figures come out.

Called by contenders (what to ask of which server), scale and hotpath. Knows neither mq9 nor
JetStream.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE / "loadgen.c"
BUILD_DIR = HERE / "build"
CFLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
RUN_SECONDS_MAX = 900  # a generator that hangs longer than the longest fill is broken


class LoadFailed(Exception):
    """Nothing was measured: the generator did not build or connect, or the server stalled."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to ask for: see the head of loadgen.c for the templates' letters."""

    mode: str  # request, fetch-ack, js-fetch-ack
    subject: str = ""
    payload: str | int = ""  # text, or that many bytes of filler
    expect: str = '"error":""'
    connections: int = 1
    outstanding: int = 1
    operations: int | None = None
    seconds: float | None = None
    first_operation: int = 0
    address: str = ""
    group: str = ""
    batch: int = 1
    modulus: int = 1

    def arguments(self) -> list[str]:
        """The generator's command line."""
        given: dict[str, object] = {
            "-m": self.mode,
            "-c": self.connections,
            "-o": self.outstanding,
            "-x": self.expect,
            "-k": self.batch,
            "-M": self.modulus,
            "-f": self.first_operation,
            "-n": self.operations,
            "-t": self.seconds,
            "-s": self.subject or None,
            "-a": self.address or None,
            "-g": self.group or None,
            "-b" if isinstance(self.payload, int) else "-P": self.payload,
        }
        return [
            word
            for flag, value in given.items()
            if value is not None
            for word in (flag, str(value))
        ]


@dataclass(frozen=True, slots=True)
class Figures:
    """One trial: operations that succeeded, what they took, and what did not succeed."""

    operations: int
    messages: int
    errors: int
    drained: bool  # a FETCH found nothing left: the trial ended there
    seconds: float
    operations_per_s: float
    p50_us: float
    p99_us: float
    max_us: float
    complaints: str = field(default="", compare=False)


class LoadGenerator:
    """The built program, and the ports it is to load."""

    def __init__(self, program: Path, ports: tuple[int, ...]) -> None:
        self.program = program
        self.ports = ports

    def run(self, load: Load) -> Figures:
        """Offer `load`; raises LoadFailed when nothing could be measured."""
        ports = ",".join(map(str, self.ports))
        command = [str(self.program), "-p", ports, *load.arguments()]
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise LoadFailed(f"no end after {RUN_SECONDS_MAX} s: {' '.join(command)}") from error
        if ended.returncode:
            raise LoadFailed(
                f"exit {ended.returncode}: {ended.stderr.strip()} ({' '.join(command)})"
            )
        return Figures(**json.loads(ended.stdout), complaints=ended.stderr.strip())

    def run_faultless(self, load: Load) -> Figures:
        """Like run, for what must succeed altogether; raises LoadFailed."""
        figures = self.run(load)
        if figures.errors:
            raise LoadFailed(f"{load.subject}: {figures.errors} errors: {figures.complaints}")
        return figures

    def ask(self, subject: str, payload: str = "", expect: str = '"error":""') -> None:
        """One request that must succeed; raises LoadFailed."""
        self.run_faultless(Load("request", subject, payload, expect, operations=1))


def build() -> Path:
    """The program, compiled when the source is newer."""
    program = BUILD_DIR / "loadgen"
    if program.exists() and program.stat().st_mtime >= SOURCE.stat().st_mtime:
        return program
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise LoadFailed(
            "no C compiler (cc, gcc or clang) on the path: the load generator cannot be built"
        )
    BUILD_DIR.mkdir(exist_ok=True)
    command = [compiler, *CFLAGS, "-o", str(program), str(SOURCE)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise LoadFailed(f"{' '.join(command)}\n{ended.stderr}")
    return program
