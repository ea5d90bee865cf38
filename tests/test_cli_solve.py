"""`forethought solve`, on scripts and against a server on the loopback."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Cli, command_line, scripted

from forethought.cli import model
from forethought.engines.http import HttpEngine
from forethought.engines.open import described, open_engine, public
from forethought.engines.scripted import Reply, always
from forethought.thought.marks import INSTRUCTION, compose
from forethought.types import Messages, Sampling, Step, Verdict, user
from forethought.verify.verdict import Opened


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`forethought` with these words, in a folder of its own."""
    return command_line(capsys, monkeypatch, tmp_path)


def test_solve_answers_with_the_majority_and_its_bill(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, [compose("2 + 2 = 5", "5"), compose("2 + 2 = 4", "4"), compose("four", "4.0")])
    said = cli("solve", "2+2?", "--k", 3)
    assert (said.status, said.out) == (0, "4\n")
    assert f"{engine.tokens} tokens, 3 thoughts" in said.err
    assert "2 of 3 votes" in said.err


def test_solve_shows_the_winning_thought_before_its_answer(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [compose("2 + 2 = 5", "5"), compose("2 +\x1b[2J 2 = 4", "4"), compose("four", "4")])
    assert cli("solve", "2+2?", "--k", 3, "--show-thought").out == "2 + 2 = 4\n\n4\n"


def test_solve_shows_a_text_without_marks_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, ["It is four."])
    said = cli("solve", "2+2?", "--k", 2, "--show-thought")
    assert said.out == "It is four.\n"
    assert "nobody boxed an answer" in said.err


@pytest.mark.parametrize(
    ("options", "calls", "most"),
    [
        (["--think", "low"], 1, 256),
        (["--think", "medium"], 4, 256),
        (["--think", "high"], 16, 256),
        (["--think", "100"], 1, 100),
        (["--think", "300", "--max-tokens", "64"], 4, 64),
        (["--think", "high", "--k", "2"], 2, 256),
        (["--think", "high", "--temperature", "0"], 1, 256),
    ],
)
def test_think_sets_how_many_thoughts(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, options: list[str], calls: int, most: int
) -> None:
    engine = scripted(monkeypatch, ["\\boxed{4}"])
    assert cli("solve", "2+2?", *options).status == 0
    assert [asked[2].max_tokens for asked in engine.asked] == [most] * calls


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--think", "0"], "a budget of 0 tokens"),
        (["--think=-5"], "a budget of -5 tokens"),
        (["--max-tokens", "0"], "max_tokens is 0"),
        (["--k", "0"], "k is 0"),
        (["--k", "3", "--temperature", "0"], "temperature 0 draws the same thought 3 times"),
        (["--temperature=-1"], "temperature is -1.0"),
        (["--top-p", "0"], "top_p is 0.0"),
    ],
)
def test_a_budget_that_buys_nothing_is_refused_before_the_model_is_opened(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, options: list[str], named: str
) -> None:
    monkeypatch.setattr(model, "open_engine", lambda name, **_: pytest.fail("the model was opened"))
    assert named in cli("solve", "2+2?", *options).error


def test_solve_reads_standard_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, ["\\boxed{4}"])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(read=lambda: "from a file?\n"))
    assert cli("solve", "-", "--instruct", "no").out == "4\n"
    assert engine.asked[0][0] == user("from a file?\n")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(read=lambda: " \n"))
    assert "the question is empty" in cli("solve", "-").error


@pytest.mark.parametrize(
    ("options", "instructed"),
    [
        ([], True),
        (["--instruct", "no"], False),
        (["--model", "tiny"], False),
        (["--model", "tiny", "--instruct=yes"], 1),
    ],
)
def test_a_model_that_we_did_not_train_is_told_how_to_think(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, options: list[str], instructed: bool
) -> None:
    engine = scripted(monkeypatch, ["\\boxed{4}"])
    said = cli("solve", "2+2?", *options)
    assert engine.asked[0][0] == user(f"2+2?\n\n{INSTRUCTION}" if instructed else "2+2?")
    assert ("tiny knows nothing until it is trained" in said.err) is ("tiny" in options)


def test_solve_says_when_no_thought_came_to_an_end(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, ["<think>\n" + "and " * 100])
    said = cli("solve", "2+2?", "--max-tokens", 20, "--k", 1)
    assert (said.status, said.out) == (1, "")
    assert "no thought came to an end (20 tokens" in said.err
    assert "--max-tokens" in said.err
    said = cli("solve", "2+2?", "--max-tokens", 20, "--k", 3, "--think", 20)  # the last two never start
    assert (said.status, said.out) == (1, "")
    assert "no thought came to an end (20 tokens" in said.err


def test_solve_says_why_an_engine_failed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, always(OSError("the server is gone")))
    assert "the server is gone" in cli("solve", "2+2?").error


def test_a_prompt_longer_than_the_context_is_refused(cli: Cli) -> None:
    error = cli("solve", "7 + " * 200, "--model", "tiny").error
    assert re.search(r"takes? 80\d tokens and tiny holds 512; shorten the prompt", error)


class Handler(BaseHTTPRequestHandler):
    """Says 4 to a conversation and 5 to a plain prompt."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = {"role": "assistant", "content": "<think>\n2 + 2\n</think>\n\\boxed{4}"}
        choice: dict[str, Any] = {"text": "\\boxed{5}"} if "prompt" in asked else {"message": said}
        choices = [{"index": i, "finish_reason": "stop", **choice} for i in range(asked.get("n", 1))]
        answer = json.dumps({"choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": 9}}).encode()
        self.send_response(200 if self.headers["Authorization"] == "Bearer sesame" else 401)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server() -> Iterator[str]:
    """A server's `host:port`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


def test_a_model_behind_a_url(cli: Cli, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FORETHOUGHT_API_KEY", raising=False)
    assert "refuses the key (401)" in cli("solve", "2+2?", "--model", f"http://{server}/v1#m").error
    monkeypatch.setenv("FORETHOUGHT_API_KEY", "sesame")
    assert cli("solve", "2+2?", "--model", f"http://{server}/v1#m", "--show-thought").out == "2 + 2\n\n4\n"
    (tmp_path / "p.jsonl").write_text('{"question": "2+2?", "answer": 4}\n')
    said = cli("eval", "--problems", "p.jsonl", "--k", 2, "--model", f"http://{server}/v1#m", "--out", "run")
    assert said.status == 0
    assert "100.0 [100.0, 100.0]" in said.out
    assert "sesame" not in "".join(path.read_text() for path in (tmp_path / "run").glob("*.*"))


def test_api_says_how_a_server_is_asked(cli: Cli, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FORETHOUGHT_API_KEY", "sesame")
    asked = ["--k", "1", "--model", f"http://{server}/v1#m", "--api"]
    assert cli("solve", "2+2?", *asked, "completions").out == "5\n"  # what the server says to a plain prompt
    (tmp_path / "p.jsonl").write_text('{"question": "2+2?", "answer": 5}\n')
    said = cli("eval", "--problems", "p.jsonl", *asked, "completions", "--out", "run")
    assert "100.0 [100.0, 100.0]" in said.out
    local = cli("solve", "?", "--model", "tiny", "--api", "tokens")
    assert "api is 'tokens', and tiny is not behind a server" in local.error
    refused = cli("solve", "?", *asked, "responses")
    assert refused.status == 2
    assert "Invalid choice" in refused.err


def test_a_password_in_a_url_is_not_shown(tmp_path: Path) -> None:
    assert isinstance(open_engine("http://me:secret@127.0.0.1:1/v1#m"), HttpEngine)
    assert public("http://me:secret@127.0.0.1:1/v1#m") == "http://127.0.0.1:1/v1#m"
    assert described("http://me:secret@127.0.0.1:1/v1#m") == "m behind http://127.0.0.1:1/v1"
    assert public("org/na@me") == "org/na@me"


def walker(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
    """A line, then an answer; two lines in three lead to a wrong one."""
    if prefix or not sampling.stop:
        return "</think>\\boxed{5}" if prefix and "wrong" in prefix[0].text else "</think>\\boxed{4}"
    return "<think> right\n" if (sampling.seed or 0) % 3 == 0 else "<think> wrong\n"


async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
    return Verdict(0.9 if "right" in steps[0].text else 0.1, cost=1)


def test_solve_searches_by_name_and_a_verifier(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, object]] = []

    def verifier(spec: str, engine: object, **options: object) -> Opened:
        opened.append((spec, engine))
        return Opened(judge)

    monkeypatch.setattr(model, "open_verifier", verifier)
    engine = scripted(monkeypatch, walker)
    options = ["--search", "mcts", "--max-tokens", 40, "--think", 400, "--seed", 0, "--verify-tokens", 1]
    said = cli("solve", "2+2?", *options, "--verify", "critic", "--show-thought")
    assert (said.status, said.out) == (0, "right\n\n4\n")
    assert opened == [("critic", engine)]
    assert "mcts, 400 tokens in all" in said.err
    assert "score 0.900" in said.err
    assert int(re.findall(r"(\d+) tokens, ", said.err)[-1]) > engine.tokens  # the judge's are counted


def test_a_folder_s_head_is_put_on_the_model_only_where_it_is_its_own(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("policy", "judge"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    opened: list[object] = []

    def verifier(spec: str, engine: object, **options: object) -> Opened:
        opened.append(engine)
        return Opened(judge)

    monkeypatch.setattr(model, "open_verifier", verifier)
    engine = scripted(monkeypatch, walker)
    for name in ("policy", "judge"):
        cli("solve", "2+2?", "--model", "./policy", "--verify", f"./{name}", "--instruct", "no")
    assert opened == [engine, None]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--search", "mtcs"], "there is no search 'mtcs'; did you mean 'mcts'"),
        (["--search", "beam"], "beam goes by a verifier's scores, and there is none: give --verify"),
        (["--think", "auto"], "there is no allocation; give --allocation FILE"),
        (["--allocation", "a.json"], "say --think auto"),
        (["--think", "auto", "--allocation", "a.json", "--k", "3"], "leave out --search and --k"),
        (["--think", "auto", "--allocation", "none.json"], "none.json cannot be read"),
        (["--think", "hihg"], "did you mean 'high'"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_the_model_is_opened(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, options: list[str], named: str
) -> None:
    monkeypatch.setattr(model, "open_engine", lambda name, **_: pytest.fail("the model was opened"))
    assert named in cli("solve", "2+2?", *options).error
