"""math-verify's workers: killed when they hang, replaced when they die, shared by threads."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forethought.problems import equal, grade_answer, workers
from forethought.problems.workers import Died, Pool, Worker


@pytest.fixture(scope="module")
def shared() -> Iterator[Pool]:
    """Starting a worker costs as much as a test: those that live are handed on."""
    pool = Pool("forethought.problems.worker")
    yield pool
    pool.close()


@pytest.fixture
def pool(shared: Pool, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool that remembers no answer and has a worker at rest."""
    monkeypatch.setattr(equal, "_pool", shared)
    equal._ask.cache_clear()
    assert equal.ask("x", "y") == "different"
    return shared


def next_worker(pool: Pool) -> int:
    """The process that the next question goes to."""
    return pool.idle[-1].process.pid


def test_a_comparison_that_hangs_is_ended_and_scores_0(pool: Pool) -> None:
    verdict = grade_answer("x^2", r"\boxed{10^{10^{10}}}")
    assert (verdict.score, verdict.note) == (0.0, "math-verify: timed out")
    assert equal.ask("x+1", "1+x") == "equal"


def test_a_worker_deaf_to_its_alarm_is_killed_and_another_asked(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, start, patience = next_worker(pool), workers.Worker, equal.SECONDS

    def fresh(module: str) -> Worker:
        monkeypatch.setattr(equal, "SECONDS", patience)
        return start(module)

    monkeypatch.setattr(equal, "SECONDS", 0.3)
    monkeypatch.setattr(workers, "Worker", fresh)
    os.kill(pid, signal.SIGSTOP)  # nothing inside it runs, alarms neither
    assert equal.ask("x+1", "1+x") == "equal"
    assert next_worker(pool) != pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_hang_on_the_answer_is_told_from_one_on_the_gold(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = next_worker(pool)
    monkeypatch.setattr(equal, "SECONDS", 1.5)  # less than the worker's own alarm
    assert equal.ask("x^2", "10^{10^{10}}") == "timed out"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_dead_worker_is_replaced_and_the_pair_asked_again(pool: Pool) -> None:
    pid = next_worker(pool)
    os.kill(pid, signal.SIGKILL)
    assert equal.ask("x+2", "2+x") == "equal"
    assert next_worker(pool) != pid


def test_a_pair_that_kills_two_workers_is_not_judged(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def say(worker: Worker, request: object) -> None:
        asked.append(worker.process.pid)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "say", say)
        verdict = grade_answer("x+3", r"\boxed{3+x}")
    assert (verdict.score, verdict.note) == (None, "math-verify's worker failed twice")
    assert len(set(asked)) == 2
    assert grade_answer("x+3", r"\boxed{3+x}").score == 1.0  # a fault is not remembered


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="/proc tells no limits here")
def test_a_worker_has_two_gigabytes(pool: Pool) -> None:
    limits = Path(f"/proc/{next_worker(pool)}/limits").read_text()
    assert re.search(r"Max address space +2147483648 ", limits)


def test_threads_share_a_bounded_number_of_workers(pool: Pool) -> None:
    before = threading.active_count()
    with ThreadPoolExecutor(12) as threads:
        outcomes = list(threads.map(lambda n: equal.ask(f"x+{n}", f"{n + n % 2}+x"), range(40)))
    assert outcomes == ["equal" if n % 2 == 0 else "different" for n in range(40)]
    assert 1 <= len(pool.idle) <= workers.WORKERS
    assert threading.active_count() == before


def test_a_verdict_is_remembered(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert equal.ask("x+4", "4+x") == "equal"
    monkeypatch.setattr(pool, "use", lambda *work: pytest.fail("asked again"))
    assert equal.ask("x+4", "4+x") == "equal"


def test_workers_end_with_their_parent() -> None:
    code = (
        "from forethought.problems import equal; equal.ask('x', 'y'); "
        "print(*(w.process.pid for w in equal._pool.idle), flush=True)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    for pid in run.stdout.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_a_forked_child_asks_workers_of_its_own() -> None:
    code = (
        "import os; from forethought.problems import equal; assert equal.ask('x', 'y') == 'different'; "
        "child = os.fork(); "
        "good = child or (equal._pool.idle == [] and equal.ask('x+1', '1+x') == 'equal'); "
        "child or (equal.close(), os._exit(0 if good else 1)); "
        "assert os.waitpid(child, 0)[1] == 0; assert equal.ask('x+2', '2+x') == 'equal'"
    )
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)


def test_the_parent_never_imports_sympy() -> None:
    code = (
        "import sys; from forethought.problems import grade_answer; grade_answer('x+1', '\\\\boxed{1+x}'); "
        "assert not {'sympy', 'math_verify'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)


def test_a_file_in_the_working_folder_does_not_become_the_algebra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "math_verify.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    worker = Worker("forethought.problems.worker")  # a fresh one: where it starts is what counts
    try:
        assert equal._compare("x+5", "5+x", worker) == "equal"
    finally:
        worker.kill()
