"""The page Runs: what its curves are made of, and what it does in a browser while a run goes on."""

from __future__ import annotations

import json
import math
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browser import Browser
from serving import Talking, served, server, thinker

from forethought import pages
from forethought.pages.curves import FILE, Log, ends, smoothed, thinned
from forethought.pages.runs import folders, standing
from forethought.train.metrics import MetricsLog

HOSTILE = "<script>document.title='owned'</script>"


def run(root: Path, name: str, steps: int, of: int, recipe: str = "grpo", **settings: Any) -> Path:
    """A run that has come so far."""
    folder = root / name
    with MetricsLog(folder) as log:
        for step in range(1, steps + 1):
            log.log(step, {"loss": 1 / step, "computed": 10 * step, "gap": math.nan if step % 2 else 1.0})
    config = {"recipe": recipe, "config": {"steps": of, **settings}, "version": "0"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def append(folder: Path, **line: Any) -> None:
    with (folder / FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")


def test_a_curve_goes_over_steps_tokens_or_seconds(tmp_path: Path) -> None:
    for step, (when, computed) in enumerate([(100.0, 5), (101.5, 7), (104.0, 9)], 1):
        append(
            run(tmp_path, "a", 0, 9) if step == 1 else tmp_path / "a",
            step=step,
            time=when,
            loss=step,
            computed=computed,
        )
    log = Log(tmp_path / "a")
    log.refresh()
    assert log.metrics() == ["loss", "computed"]
    assert log.curve("loss", "step", 100) == ([1, 2, 3], [1, 2, 3])
    assert log.curve("loss", "tokens", 100) == ([5, 12, 21], [1, 2, 3])
    assert log.curve("loss", "seconds", 100) == ([0, 1.5, 4], [1, 2, 3])
    assert log.curve("reward", "step", 100) is None


def test_metrics_that_come_late_or_not_always_keep_their_places(tmp_path: Path) -> None:
    folder = run(tmp_path, "a", 0, 9)
    append(folder, step=1, time=1.0, loss=3.0)
    append(folder, step=2, time=2.0, reward=0.5, note="words", right=True, huge=10**400)
    append(folder, step=3, time=3.0, loss=None, reward=0.75)
    log = Log(folder)
    log.refresh()
    assert log.curve("loss", "step", 9) == ([1], [3])
    assert log.curve("reward", "step", 9) == ([2, 3], [0.5, 0.75])
    assert log.metrics() == ["loss", "reward"]
    assert log.curve("huge", "step", 9) is None
    assert log.curve("loss", "tokens", 9) is None


def test_a_file_is_read_on_from_where_it_ended_and_anew_when_it_is_another(tmp_path: Path) -> None:
    folder = run(tmp_path, "a", 3, 9)
    log = Log(folder)
    log.refresh()
    seen = log.seen
    log.refresh()
    assert log.seen == seen
    with (folder / FILE).open("a") as file:
        file.write('{"step": 4, "loss": 0.2')  # a line that is still being written
        file.flush()
        log.refresh()
        assert (log.seen, log.lines) == (seen, 3)
        file.write('5, "time": 9}\nnot json\n[1]\n')
    log.refresh()
    assert log.seen != seen
    assert (log.lines, log.broken) == (4, 2)
    assert log.curve("loss", "step", 9) == ([1, 2, 3, 4], [1.0, 0.5, pytest.approx(1 / 3, abs=1e-6), 0.25])
    with (folder / "new").open("w") as file:
        file.write('{"step": 1, "time": 1, "loss": 7}\n')
    os.replace(folder / "new", folder / FILE)
    log.refresh()
    assert log.curve("loss", "step", 9) == ([1], [7])
    (folder / FILE).unlink()
    log.refresh()
    assert log.lines == 1


def test_few_points_keep_every_spike_of_many() -> None:
    rng = np.random.default_rng(0)
    x, y = np.arange(100_000.0), rng.normal(size=100_000)
    y[31_337], y[77_777], y[5] = 50.0, -50.0, math.nan
    xs, ys = thinned(x, y, 400)
    assert 300 <= len(xs) <= 400
    assert xs == sorted(xs)
    assert (xs[0], xs[-1]) == (0.0, 99_999.0)
    assert (xs[ys.index(50.0)], xs[ys.index(-50.0)]) == (31_337.0, 77_777.0)
    assert set(zip(xs, ys, strict=True)) <= {(float(a), float(f"{b:.7g}")) for a, b in zip(x, y, strict=True)}
    assert thinned(x[:3], y[:3], 16) == ([0, 1, 2], [float(f"{one:.7g}") for one in y[:3]])
    assert thinned(x[:0], y[:0], 16) == ([], [])


def test_smoothing_is_an_average_of_what_came_before() -> None:
    y = np.array([1.0, math.nan, 3.0])
    assert smoothed(y, 0.0) is y
    first, gap, last = smoothed(y, 0.5)
    assert (first, last) == (1.0, pytest.approx((0.5 * 1.0 + 3.0) / 1.5))
    assert math.isnan(gap)


def test_where_a_run_stands(tmp_path: Path) -> None:
    now = time.time()
    told = {
        name: standing(name, run(tmp_path, name, steps, 4, recipe), now)
        for name, steps, recipe in (("begun", 0, "grpo"), ("half", 2, "grpo"), ("whole", 4, "grpo"))
    }
    assert {name: (one["state"], one["step"], one["of"]) for name, one in told.items()} == {
        "begun": ("running", None, 4),
        "half": ("running", 2, 4),
        "whole": ("ended", 4, 4),
    }
    assert standing("half", tmp_path / "half", now + 3600)["state"] == "stopped"
    assert standing("begun", tmp_path / "begun", now + 3600)["state"] == "begun", "it may still be measuring"
    assert told["half"]["recipe"] == "grpo"
    iterated = run(tmp_path, "star", 2, 100, "star", iterations=2)
    assert standing("star", iterated, now)["state"] == "ended"
    demo = run(tmp_path, "demo", 2, 100, "demo", rounds=1)
    assert standing("demo", demo, now)["state"] == "ended", "worked examples, and a round"
    first = tmp_path / "first"
    first.mkdir()
    (first / "config.json").write_text('{"recipe": "demo", "config": {"rounds": 1}}')
    os.utime(first / "config.json", (now - 500, now - 500))
    append(first, step=1, time=now)
    assert standing("first", first, now + 4000)["state"] == "running", "its first line took 500 seconds"
    assert standing("first", first, now + 6000)["state"] == "stopped"
    slow = tmp_path / "slow"
    slow.mkdir()
    append(slow, step=1, time=now - 4000)
    append(slow, step=3, time=now)
    assert standing("slow", slow, now)["seconds_a_step"] == 2000
    assert standing("slow", slow, now + 19_000)["state"] == "running"


@pytest.mark.parametrize("text", ["", "{", "[]\n", "null\n{}\n", '{"step": "x", "time": [1]}\n{"step": true}\n'])
def test_what_is_no_metrics_stands_nowhere(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    (tmp_path / "config.json").write_text(text)
    assert standing("r", tmp_path, time.time())["step"] is None
    assert (ends(tmp_path) is None) == (not text.startswith('{"'))


def test_runs_are_found_below_a_folder_those_written_last_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "deep/er/old", "older")):
        os.utime(run(tmp_path, name, 1, 2) / FILE, (1e9 - age, 1e9 - age))
    (tmp_path / "no-run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "new")
    assert list(folders(tmp_path)) == ["new", "deep/er/old", "older"]
    assert folders(tmp_path / "new") == {"new": tmp_path / "new"}
    assert folders(tmp_path / "nowhere") == {}


@pytest.mark.bench
def test_a_long_run_is_read_once_and_told_in_a_hundred_kilobytes(tmp_path: Path) -> None:
    """200,000 lines of ten numbers; bars are three times what a loaded machine of two cores took."""
    names = ("loss", "entropy", "grad_norm", "lr", "computed", "reward", "accuracy", "seconds_sampling")
    rng = np.random.default_rng(0)
    with (tmp_path / FILE).open("w") as file:
        for step, row in enumerate(rng.random((200_000, len(names))).tolist(), 1):
            file.write(json.dumps({"step": step, "time": 1e9 + step, **dict(zip(names, row, strict=True))}) + "\n")

    def timed(work: Callable[[], Any]) -> tuple[float, Any]:
        began = time.process_time()
        done = work()
        return time.process_time() - began, done

    log = Log(tmp_path)
    first, _ = timed(log.refresh)
    again, _ = timed(log.refresh)
    drawn, curves = timed(lambda: [log.curve(name, "tokens", 600) for name in names])
    smooth, _ = timed(lambda: [log.curve(name, "tokens", 600, 0.9) for name in names])
    size = len(json.dumps(curves))
    megabytes = (tmp_path / FILE).stat().st_size / 1e6
    memory = sum(column.itemsize * len(column) for column in log.columns.values()) / 1e6
    print(f"\n{megabytes:.0f} MB read in {first:.2f} s, again in {1e3 * again:.2f} ms, {memory:.0f} MB kept")
    print(f"{len(names)} curves in {drawn:.2f} s, {size / 1e3:.0f} kB; smoothed in {smooth:.2f} s")
    assert first < 6
    assert again < 0.01
    assert drawn < 1
    assert size < 200_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    run(tmp_path, "first", 30, 40, lr=1e-3, note=HOSTILE)
    run(tmp_path, f"second {HOSTILE.replace('/', '_')}", 20, 20, lr=3e-4)
    return tmp_path


@pytest.fixture
def url(root: Path) -> Iterator[str]:
    with server(served(Talking(thinker())), runs=str(root)) as there:
        yield there.url


def test_an_answer_is_bounded_and_says_nothing_twice(url: str, root: Path) -> None:
    asked: dict[str, Any] = {"run": "first", "metric": ["loss", "gap"], "points": 16}
    told = httpx.get(f"{url}/pages/runs/curves", params=asked).json()
    assert set(told["curves"]) == {"loss", "gap"}
    xs, ys = told["curves"]["loss"]["first"]
    assert len(xs) == len(ys) <= 16
    assert told["lines"] == {"first": 30}
    again = httpx.get(f"{url}/pages/runs/curves", params={**asked, "seen": told["seen"]}).json()
    assert again == {"seen": told["seen"]}
    append(root / "first", step=31, time=time.time(), loss=9.0)
    more = httpx.get(f"{url}/pages/runs/curves", params={**asked, "seen": told["seen"]}).json()
    assert more["curves"]["loss"]["first"][1][-1] == 9.0


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"run": "../first"}, 404),
        ({"run": "nothing"}, 404),
        ({"run": "first", "x": "hours"}, 400),
        ({"run": "first", "points": 10**6}, 400),
        ({"run": "first", "smooth": 1}, 400),
        ({"run": ["first"] * 17}, 400),
        ({}, 400),
    ],
)
def test_what_cannot_be_drawn_is_refused(asked: dict[str, Any], status: int, url: str) -> None:
    reply = httpx.get(f"{url}/pages/runs/curves", params=asked)
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


def test_without_a_folder_there_is_no_run() -> None:
    with server(served(Talking(thinker()))) as there:
        told = httpx.get(f"{there.url}/pages/runs").json()
        assert (told["folder"], told["runs"]) == (None, [])


def test_runs_are_the_operators(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text("alice sk-alice-0123456789\nowner sk-owner-0123456789 600 operator\n")
    with server(served(Talking(thinker())), runs=str(root), keys=str(keys)) as there:
        for path in ("/pages/runs", "/pages/runs/curves?run=first", "/pages/runs/config?run=first"):
            status = [
                httpx.get(f"{there.url}{path}", headers={"authorization": f"Bearer sk-{who}-0123456789"}).status_code
                for who in ("alice", "owner")
            ]
            assert status == [403, 200]


def test_the_library_that_draws_is_as_it_was_released_and_has_its_licence() -> None:
    place = Path(pages.__file__).parent
    released = "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
    assert sha256((place / "uplot.js").read_bytes()).hexdigest() == released
    assert "MIT License" in (place / "uplot.license").read_text()
    project = tomllib.loads((place.parent.parent / "pyproject.toml").read_text())
    assert "**/*.license" in project["tool"]["setuptools"]["package-data"]["forethought"]


def test_in_a_browser_runs_lie_over_one_another_and_grow(browser: Browser, url: str, root: Path) -> None:
    browser.screen()
    browser.open(f"{url}/runs")
    browser.until("document.querySelectorAll('.plot canvas').length === 3")
    assert browser.ask("[...document.querySelectorAll('.plot h2')].map(e => e.textContent)") == [
        "loss",
        "computed",
        "gap",
    ]
    names = browser.ask("[...document.querySelectorAll('#list .name')].map(e => e.textContent)")
    assert sorted(names) == sorted(folders(root))
    assert "<script>" in " ".join(names)
    other = "[...document.querySelectorAll('#list input')].find(e => !e.checked)"
    browser.ask(f"{other}.click()")
    browser.until("document.querySelectorAll('.plot .u-series').length === 9")  # the axis and two runs, three times
    browser.until("document.getElementById('state').textContent.startsWith('50 lines of 2 runs')")
    append(root / "first", step=31, time=time.time(), loss=9.0, reward=1.0)
    browser.until("document.querySelectorAll('.plot canvas').length === 4")  # by itself
    browser.until("document.getElementById('state').textContent.startsWith('51 lines of 2 runs')")
    for axis, word in (("tokens", "tokens"), ("seconds", "seconds")):
        browser.ask(
            f"(x => {{ x.value = '{axis}'; x.dispatchEvent(new Event('change')) }})(document.getElementById('x'))"
        )
        browser.until(f"document.querySelector('.plot .u-label').textContent === '{word}'")
    browser.ask("document.getElementById('settings').open = true")
    browser.until("document.querySelectorAll('#config tr').length > 3")
    differs = browser.ask("[...document.querySelectorAll('#config .differs th')].map(e => e.textContent)")
    assert sorted(differs) == ["lr", "note", "steps"]
    assert HOSTILE in browser.ask("document.getElementById('config').textContent")
    address = browser.ask("location.href")
    browser.open("about:blank")
    browser.open(address)  # it is kept in the address what was chosen
    browser.until("document.querySelectorAll('#list input:checked').length === 2")
    assert browser.ask("document.getElementById('x').value") == "seconds"
    assert browser.ask("document.title") == "Runs · forethought"
    assert browser.hosts() == {url.removeprefix("http://")}
    assert browser.complaints() == []


def test_in_a_browser_runs_fit_a_phone_in_the_dark(browser: Browser, url: str) -> None:
    browser.screen(360, 740, dark=True)
    browser.open(f"{url}/runs")
    browser.until("document.querySelectorAll('.plot canvas').length === 3")
    browser.ask("document.getElementById('settings').open = true")
    browser.until("document.querySelectorAll('#config tr').length > 3")
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 24)"
    browser.screen()
    assert browser.complaints() == []
