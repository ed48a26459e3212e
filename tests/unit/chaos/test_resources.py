"""Limits of processes that other nemeses end meanwhile."""

import resource
import subprocess

from chaos.nemeses.resources import FILES_SPARE, _few_files


def files_of(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    return resource.prlimit(process.pid, resource.RLIMIT_NOFILE)


def test_files_are_limited_for_a_while() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        before = files_of(process)
        with _few_files(process.pid):
            assert FILES_SPARE < files_of(process)[0] < 50
        assert files_of(process) == before


def test_a_process_that_is_gone_before_or_meanwhile_is_no_mistake() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        with _few_files(process.pid):
            process.kill()
            process.wait()
        with _few_files(process.pid):
            pass
