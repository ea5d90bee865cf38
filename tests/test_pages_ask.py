"""*Ask* in a browser: the tree grows, a node opens, hostile thoughts stay text, and nothing leaves the machine."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from browser import Browser
from serving import Running, Talking, served, server, thinker, wait

from forethought.engines.scripted import endless
from forethought.types import Messages, Sampling, Step, Verdict

HOSTILE = (
    "<script>document.title='owned'</script><img src=//evil.example/x onerror=\"document.title='owned'\">\u202eevil"
)


async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
    """Thoughts with longer texts are worth less."""
    return Verdict(1 / len("".join(step.text for step in steps)), cost=3)


def said(number: int) -> str:
    return f"<think>\nthought {number}{'!' * number}\n</think>\nIt is {number}."


def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> str:
    return f"<think>\n{HOSTILE}\n</think>\nIt is {HOSTILE}." if "hostile" in messages[-1]["content"] else said(call % 4)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    shown = served(Talking(script, delay=0.05), judge, thought_tokens=64, search="best-of-n", show_thoughts=True)
    hidden = served(Talking(script), judge, name="hidden", thought_tokens=64, search="best-of-n")
    slow = served(Talking(endless(), delay=60), name="slow")
    lines = Talking([f"line {i}\n" for i in range(50)], delay=0.4)
    steps = served(lines, judge, name="steps", search="mcts", thought_tokens=8)
    typing = Talking(thinker("It is a long answer."))
    typing.pause = 0.25
    with server(
        shown, hidden, slow, steps, served(typing, name="typing"), examples=("2 + 2 = ?", "Why? " * 40)
    ) as there:
        yield there


def ask(browser: Browser, url: str, question: str, model: str = "small") -> None:
    """The page, and a question to one of its models."""
    browser.open(f"{url}/ask")
    browser.until("!document.getElementById('go').disabled")
    browser.ask(
        f"(f => {{ f.value = '{model}'; f.dispatchEvent(new Event('change')) }})(document.getElementById('model'))"
    )
    browser.type("document.getElementById('question')", question)
    browser.ask("document.getElementById('go').click()")


def text(browser: Browser, id: str) -> str:
    return str(browser.ask(f"document.getElementById('{id}').innerText"))


DONE = "document.getElementById('state').textContent.startsWith('done')"
GROWN = "document.querySelectorAll('.row').length"


def test_a_question_grows_a_tree_whose_nodes_open(browser: Browser, running: Running) -> None:
    ask(browser, running.url, "2 + 2 = ?")
    browser.until(DONE)
    assert text(browser, "answer") == "It is 0."
    assert browser.rows()[1:] == [f"<think> ↵ thought {i}{'!' * i} ↵ </think> ↵ It is {i}." for i in range(4)]
    assert browser.ask("document.querySelector('.row.best').id") == "node-1"
    browser.ask("document.getElementById('node-3').click()")
    assert text(browser, "text") == said(2)
    panel = text(browser, "fields")
    assert f"score\n{1 / len(said(2)):.3g}" in panel
    assert f"tokens\n{len(said(2))}" in panel
    siblings = browser.ask("[...document.querySelectorAll('#siblings button')].map(e => e.innerText)")
    assert len(siblings) == 4
    assert "thought 0" in siblings[0]
    assert "the judge computed 3 tokens" in text(browser, "said")
    bill = text(browser, "bill").split("\n")
    drawn = sum(len(said(i)) for i in range(4))
    assert bill[bill.index("drawn") + 1] == f"{drawn} tokens"
    assert browser.hosts() == {running.url.removeprefix("http://")}
    assert browser.complaints() == []


def test_the_tree_is_seen_while_it_grows(browser: Browser, running: Running) -> None:
    ask(browser, running.url, "A plan?", "steps")
    browser.until(f"{GROWN} > 2 && !({DONE})")
    browser.until(DONE)
    depths = browser.ask("[...document.querySelectorAll('.row')].map(e => Number(e.getAttribute('aria-level')))")
    assert max(depths) > 2
    assert browser.complaints() == []


def test_the_answer_is_seen_while_it_is_told(browser: Browser, running: Running) -> None:
    ask(browser, running.url, "2 + 2 = ?", "typing")
    answer = "document.getElementById('answer').textContent"
    browser.until(f"{answer}.startsWith('It is') && {answer}.length < 'It is a long answer.'.length")
    browser.until(DONE)
    assert text(browser, "answer") == "It is a long answer."


def test_a_thought_that_may_not_be_shown_has_a_place_and_a_score(browser: Browser, running: Running) -> None:
    ask(browser, running.url, "2 + 2 = ?", "hidden")
    browser.until(DONE)
    assert browser.rows() == ["the question", *["(hidden)"] * 4]
    browser.ask("document.getElementById('node-2').click()")
    assert "score" in text(browser, "fields")
    assert not browser.ask("document.getElementById('text').checkVisibility()")
    assert "thought 1" not in browser.ask("document.documentElement.textContent")


def test_hostile_thoughts_and_answers_stay_text(browser: Browser, running: Running) -> None:
    ask(browser, running.url, "hostile")
    browser.until(DONE)
    browser.ask("document.getElementById('node-1').click()")
    assert "<script>document.title='owned'</script><img" in text(browser, "text")
    assert "<script>document.title='owned'</script><img" in text(browser, "answer")
    assert "⟨U+202E⟩evil" in text(browser, "answer")
    assert browser.ask("document.title") == "Ask · forethought"
    assert browser.ask("document.querySelectorAll('main img, main script').length") == 0
    assert browser.hosts() == {running.url.removeprefix("http://")}
    assert browser.complaints() == []


def test_stop_ends_the_search(browser: Browser, running: Running) -> None:
    ask(browser, running.url, "?", "slow")
    gate = running.app.state.house.gate
    wait(lambda: gate.inside == 1, "the question did not come in")
    browser.until("document.getElementById('stop').checkVisibility()")
    browser.ask("document.getElementById('stop').click()")
    browser.until("document.getElementById('state').textContent.startsWith('stopped')")
    wait(lambda: gate.inside == 0, "the search went on")
    assert not browser.ask("document.getElementById('wrong').checkVisibility()")


def test_a_refusal_is_said(browser: Browser, running: Running) -> None:
    browser.open(f"{running.url}/ask")
    browser.until("!document.getElementById('go').disabled")
    browser.type("document.getElementById('question')", "?")
    browser.ask("document.getElementById('effort').append(new Option('wild', 'wild'))")
    browser.ask("document.getElementById('effort').value = 'wild'; document.getElementById('go').click()")
    browser.until("document.getElementById('wrong').checkVisibility()")
    assert "Effort is 'wild'" in text(browser, "wrong")


def test_an_example_is_put_into_the_question(browser: Browser, running: Running) -> None:
    browser.open(f"{running.url}/ask")
    browser.until("document.querySelectorAll('#examples button').length === 2")
    browser.ask("document.querySelectorAll('#examples button')[1].click()")
    assert browser.ask("document.getElementById('question').value") == "Why? " * 40


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_in_light_and_dark(browser: Browser, running: Running, dark: bool) -> None:
    browser.screen(360, 740, dark=dark)
    try:
        ask(browser, running.url, "2 + 2 = ?")
        browser.until(DONE)
        assert browser.ask("document.documentElement.scrollWidth") <= 360
        ink, paper = browser.ask("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
        brightness = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, paper)]
        assert (brightness[0] > brightness[1]) is dark
    finally:
        browser.screen()


GROWING = """(async () => {
  document.getElementById('growth').hidden = false;
  const data = { parent: [-1], text: [""], tokens: [null], visits: [0], mean: [null], stop: ["end"],
    action: ["step"], sampled: [0], own: [null], scores: { score: [null] }, said: {}, best: null, mark: "" };
  treeView.show(data);
  const times = [];
  while (data.parent.length <= 20000) {
    for (let i = 0; i < 200; i++) {
      const node = data.parent.length;
      data.parent.push(Math.floor((node - 1) / 3));
      for (const [name, value] of [["text", `step ${node}`], ["tokens", 2], ["visits", 0], ["mean", null],
        ["stop", "stop"], ["action", "step"], ["sampled", 1], ["own", null]]) data[name].push(value);
      data.scores.score.push((node % 97) / 97);
    }
    document.getElementById('all').click();
    const began = performance.now();
    treeView.update();
    document.body.getBoundingClientRect(); // laid out, too
    times.push(performance.now() - began);
    await new Promise(requestAnimationFrame);
  }
  const frames = [];
  for (let i = 0; i < 100; i++) {
    const began = performance.now();
    document.getElementById('tree').scrollTop = 997 * i;
    for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
    frames.push((performance.now() - began) / 2);
  }
  treeView.choose(data.best = 19999);
  treeView.update();
  return [times, frames, document.getElementById('rows').style.height, document.querySelectorAll('.row').length,
    document.querySelector('.row.chosen .what').textContent];
})()"""
"""Twenty thousand nodes, all open, two hundred at a time; then the way through them."""


def grown(browser: Browser, running: Running) -> tuple[list[float], list[float]]:
    """Milliseconds of each drawing, and of each frame while it is scrolled."""
    browser.open(f"{running.url}/ask")
    browser.until("!document.getElementById('go').disabled")
    times, frames, tall, rows, best = browser.ask(GROWING)
    assert tall == f"{20_001 * 30}px"
    assert rows < 100
    assert best == "step 19999"
    return times, frames


def test_of_twenty_thousand_nodes_that_grew_only_those_in_sight_are_drawn(browser: Browser, running: Running) -> None:
    times, frames = grown(browser, running)
    assert (len(times), len(frames)) == (100, 100)


@pytest.mark.bench
def test_twenty_thousand_nodes_grow_and_scroll_at_sixty_frames_a_second(browser: Browser, running: Running) -> None:
    times, frames = map(sorted, grown(browser, running))
    for name, found in (("drawing", times), ("frame", frames)):
        print(f"{name}: median {found[50]:.1f} ms, p95 {found[95]:.1f} ms, most {found[-1]:.1f} ms")
    assert times[95] < 16.7
    assert frames[50] < 17


@pytest.mark.parametrize("bad", ["model=1", "x" * 5000, "%00", "%ff%fe"])
def test_bad_words_are_no_fault_of_the_server(running: Running, bad: str) -> None:
    assert httpx.get(f"{running.url}/pages/ask?{bad}").status_code < 500
    assert httpx.get(f"{running.url}/pages/{bad}").status_code < 500
