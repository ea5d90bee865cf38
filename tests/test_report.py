"""The page, its pictures, and the file it is written again from."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from forethought.scaling.chart import course_charts, level_chart, thinking_chart, training_chart
from forethought.scaling.measure import Pool, Sample
from forethought.scaling.plot import svg
from forethought.scaling.report import gains, rebuild, write_report
from forethought.scaling.stages import Chart, Line, Report, Stage, examples, load_report, save_report
from forethought.scaling.words import counted, duration, flops, points, short

HOSTILE = "<script>alert('x')</script>\"'&<img src=https://evil.example/x.png onerror=alert(1)> $\\frac{$ -->"


def stage(name: str, share: float, *, seed: int = 0, problems: int = 40, k: int = 8, text: str = "so") -> Stage:
    rng = random.Random(seed)
    pools = []
    for i in range(problems):
        right = [rng.random() < share for _ in range(k)]
        samples = tuple(Sample(float(r), "7" if r else str(rng.randrange(9, 13)), 50 + i, text=text) for r in right)
        pools.append(Pool(f"p{i}", samples, question="3 + 4?", gold="7", level=str(9 + i % 3)))
    return Stage(name, tuple(pools), training_tokens=1_000 * seed, train_flops=6e9 * seed, seconds=30.0 * seed)


def report(**changes: object) -> Report:
    stages = (stage("as it is", 0.1), stage("cold start", 0.5, seed=1), stage("own thoughts", 0.7, seed=2))
    return replace(Report("A road", "tiny: one million parameters", stages, config={"seed": 3}), **changes)  # type: ignore[arg-type]


class Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_the_page_tells_each_gain_with_its_interval(tmp_path: Path) -> None:
    full = report()
    learned, taught, voted = gains(full)
    assert [gain.what for gain in (learned, taught, voted)] == [
        "cold start over as it is",
        "own thoughts over cold start",
        "a vote of 8 over one sample",
    ]
    assert learned.verdict == taught.verdict == voted.verdict == "gain"
    text = write_report(tmp_path / "report.html", full).read_text(encoding="utf-8")
    for gain in (learned, taught, voted):
        shown = [points(value) for value in (gain.difference.low, gain.difference.high)]
        assert f"[{shown[0]}, {shown[1]}]" in text
        assert points(gain.difference.value) in text
    assert text.count("the interval lies above 0") == 3
    assert "told from noise" not in text
    assert "tiny: one million parameters" in text
    assert "Accuracy against thinking" in text
    assert "Accuracy against training" in text


def test_a_gain_within_noise_and_a_loss_are_called_so(tmp_path: Path) -> None:
    start = stage("start", 0.5)
    same = Stage("more", tuple(reversed(start.pools)))
    text = write_report(tmp_path / "a.html", report(stages=(start, same), ks=(1,))).read_text(encoding="utf-8")
    assert "no gain that could be told from noise" in text
    assert "+0.0" in text
    worse = report(stages=(stage("start", 0.9), stage("spoilt", 0.1, seed=1)), ks=(1,))
    assert [gain.verdict for gain in gains(worse)] == ["loss"]
    text = write_report(tmp_path / "b.html", worse).read_text(encoding="utf-8")
    assert "a loss: the interval lies below 0" in text


def test_many_stages_are_told_from_first_to_last() -> None:
    many = report(stages=tuple(stage(f"iteration {i}", 0.1 + 0.1 * i, seed=i) for i in range(6)), ks=(1,))
    assert [gain.what for gain in gains(many)] == ["iteration 5 over iteration 0"]


def test_hostile_text_stays_text_and_the_page_reaches_out_to_nothing(tmp_path: Path) -> None:
    hostile = stage(HOSTILE, 0.6, seed=1, text=HOSTILE)
    pools = tuple(replace(pool, question=HOSTILE, gold=HOSTILE) for pool in hostile.pools)
    full = report(
        title=HOSTILE,
        model=HOSTILE,
        stages=(stage("before", 0.3, text=HOSTILE), replace(hostile, pools=pools, note=HOSTILE)),
        config={HOSTILE: {"deep": HOSTILE}},
        command=HOSTILE,
        notes=(HOSTILE,),
        charts=(Chart(HOSTILE, HOSTILE, HOSTILE, (Line(HOSTILE, (0.0, 1.0), (1.0, 2.0), labels=(HOSTILE, "b")),)),),
    )
    text = write_report(tmp_path / "report.html", full).read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "img", "link", "iframe", "object", "a", "form", "base", "image"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {name for name in names if name.startswith("on")} | (names & {"src", "srcset", "action"})
    assert all(value and value.startswith("#") for name, value in page.attributes if name.endswith("href"))
    assert text.count("alert(&#39;x&#39;)") > 5
    outside = re.sub(r"&lt;img src=https://evil\.example", "", text)
    assert not re.findall(r"(?:https?:)?//\w|@import|url\((?!#)", outside)
    assert "default-src 'none'" in text


def test_identifiers_in_the_page_are_unique_and_all_resolve(tmp_path: Path) -> None:
    text = write_report(tmp_path / "report.html", report()).read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text)) == set(ids)


def test_a_page_rebuilt_from_the_run_folder_is_the_same(tmp_path: Path) -> None:
    full = report(charts=course_charts([{"step": i, "loss": 1 / (i + 1)} for i in range(30)]))
    written = write_report(tmp_path / "direct.html", full).read_text(encoding="utf-8")
    path = save_report(tmp_path / "run", full)
    assert rebuild(tmp_path / "run", []).read_text(encoding="utf-8") == written
    shown = examples(full.stages)
    for saved, kept in zip(full.stages, load_report(tmp_path / "run").stages, strict=True):
        bare = [replace(pool, samples=tuple(replace(s, text="") for s in pool.samples)) for pool in saved.pools]
        assert kept.pools == tuple(
            full_pool if full_pool.problem_id in shown else thin
            for full_pool, thin in zip(saved.pools, bare, strict=True)
        )
    assert list(path.parent.glob("*.new")) == []


def test_rebuilding_draws_the_course_of_training_where_the_report_has_no_charts_of_its_own(tmp_path: Path) -> None:
    course = [{"step": 0, "reward": 0.1}, {"step": 1, "reward": 0.4}]
    save_report(tmp_path, report())
    assert "Training: reward" in rebuild(tmp_path, course).read_text(encoding="utf-8")
    assert "Training: reward" not in rebuild(tmp_path, []).read_text(encoding="utf-8")
    save_report(tmp_path, report(charts=course_charts([{"step": i, "loss": 1.0} for i in range(2)])))
    page = rebuild(tmp_path, course).read_text(encoding="utf-8")
    assert ("Training: loss" in page, "Training: reward" in page) == (True, False)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone is not a folder"):
        rebuild(tmp_path / "gone", [])
    with pytest.raises(ValueError, match=r"holds no stages\.json"):
        rebuild(tmp_path, [])
    path = save_report(tmp_path, report())
    whole = path.read_text()
    path.write_text(whole[:500])
    with pytest.raises(ValueError, match=r"stages\.json cannot be read"):
        rebuild(tmp_path, [])
    path.write_text(json.dumps({**json.loads(whole), "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        rebuild(tmp_path, [])


def test_a_report_without_measurements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one stage"):
        report(stages=())
    with pytest.raises(ValueError, match="name of its own"):
        report(stages=(stage("a", 0.5), stage("a", 0.6)))
    with pytest.raises(ValueError, match="each at least 1"):
        report(ks=(0, 1))
    unread = Stage("a", (Pool("p", (Sample(None),)),))
    with pytest.raises(ValueError, match="'a' has no judged sample"):
        write_report(tmp_path / "report.html", report(stages=(unread,)))


def test_examples_show_what_was_learned_lost_and_kept() -> None:
    def one(name: str, *right: bool) -> Stage:
        return Stage(name, tuple(Pool(str(i), (Sample(float(r), "7"),)) for i, r in enumerate(right)))

    before, after = one("a", True, False, False, True, False), one("b", True, False, True, False, True)
    assert examples((before, after)) == {"2": "learned", "1": "still wrong", "3": "lost", "0": "right"}


def test_thinking_is_drawn_against_tokens_or_samples_where_none_were_told() -> None:
    full = report()
    chart = thinking_chart(full.stages, (1, 2, 4, 8, 16))
    assert chart.log_x
    assert {line.kind for line in chart.lines} == {"vote (maj@k)", "any right (pass@k)"}
    assert chart.lines[0].x == pytest.approx((69.5, 139, 278, 556))
    assert all(
        low <= y <= high for line in chart.lines for low, y, high in zip(line.low, line.y, line.high, strict=True)
    )
    silent = Stage("http", tuple(Pool(str(i), (Sample(1.0, "7"), Sample(0.0, "8"))) for i in range(5)))
    assert thinking_chart((silent,), (1, 2)).lines[0].x == (1.0, 2.0)


def test_training_is_drawn_against_the_tokens_so_far_and_levels_in_their_order() -> None:
    full = report()
    chart = training_chart(full.stages, full.ks)
    assert chart is not None
    assert chart.lines[0].x == (0.0, 1_000.0, 3_000.0)
    assert training_chart(full.stages[:1], full.ks) is None
    stairs = level_chart(full.stages)
    assert stairs is not None
    assert [line.name for line in stairs.lines] == ["level 9", "level 10", "level 11"]
    assert level_chart(full.stages[:1]) is None


def test_the_course_of_training_is_smoothed_and_skips_what_is_not_a_number() -> None:
    rows = [{"step": i, "loss": float(i), "lr": 1.0} for i in range(40)]
    rows += [{"step": 40, "loss": float("nan")}, {"step": 41, "loss": 1.0}]
    (chart,) = course_charts(rows)
    raw, bold = chart.lines
    assert raw.faint
    assert raw.x == bold.x == (*map(float, range(40)), 41.0)
    assert raw.y == (*map(float, range(40)), 1.0)
    assert bold.y[:6] == (0.0, 0.5, 1.0, 1.5, 2.5, 3.5)


def test_a_picture_is_well_formed_follows_the_page_and_keeps_words_as_words() -> None:
    lines = tuple(
        Line(f"$x_{i}$", (1.0, 2.0, 4.0), (0.1, 0.2, 0.3), (0.0,) * 3, (0.4,) * 3, kind=str(i % 2)) for i in range(9)
    )
    text = svg(Chart("One & two", "tokens", "solved", lines, log_x=True, percent=True))
    assert ElementTree.fromstring(text).tag == "svg"
    assert "currentColor" in text
    assert "var(--chart-0" in text
    assert not re.search(r"#0102[0-9a-f]{2}", text)
    assert re.search(r"<text[^>]*>tokens</text>", text)
    assert re.search(r"<text[^>]*>\$x_0\$</text>", text)
    assert text == svg(Chart("One & two", "tokens", "solved", lines, log_x=True, percent=True))
    with pytest.raises(ValueError, match="no points"):
        svg(Chart("empty", "x", "y", ()))
    with pytest.raises(ValueError, match="2 x and 1 y"):
        Line("a", (1.0, 2.0), (1.0,))


def test_numbers_read_as_words() -> None:
    assert [short(value) for value in (0, 7, 950, 999.9, 1_000, 1_240, 33_700, 5.6e6, 7.8e9)] == [
        "0", "7", "950", "1k", "1k", "1.2k", "33.7k", "5.6M", "7.8B",
    ]  # fmt: skip
    assert [duration(value) for value in (0, 0.2, 42, 60, 130, 3_600, 3_900)] == [
        "–", "under 1 s", "42 s", "1 min", "2 min 10 s", "1 h", "1 h 5 min",
    ]  # fmt: skip
    assert (flops(5.25e13), flops(0), counted(1, "problem"), counted(1319, "problem")) == (
        "5.2e13", "–", "1 problem", "1,319 problems",
    )  # fmt: skip


def test_before_and_after_are_of_the_problems_that_both_could_tell() -> None:
    def one(name: str, *scores: float | None) -> Stage:
        return Stage(name, tuple(Pool(str(i), (Sample(score, "7"),)) for i, score in enumerate(scores)))

    (found,) = gains(report(stages=(one("a", None, 0, 1, 0), one("b", 1, 0, 1, 1)), ks=(1,)))
    assert (found.before.value, found.after.value, found.difference.value) == pytest.approx((1 / 3, 2 / 3, 1 / 3))
    assert found.before.n == found.after.n == found.difference.n == 3


def test_half_a_surrogate_pair_from_a_server_does_not_stop_the_page(tmp_path: Path) -> None:
    broken = report(stages=(stage("a", 0.5, text="\ud83d"),))
    save_report(tmp_path, broken)
    assert "A road" in rebuild(tmp_path, []).read_text(encoding="utf-8")
