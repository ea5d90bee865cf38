"""Problems from files, and what is said of a bad one."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forethought.problems import open_task
from forethought.problems.files import gold
from forethought.types import Step, Trace

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
ROWS: list[dict[str, object]] = [
    {"question": "What is half of six?", "answer": "6/2=<<6/2=3>>3\n#### 3"},
    {"question": "What is a dozen?", "answer": "\\boxed{12}"},
    {"question": "What colour is the sky?", "answer": "blue"},
    {"question": "What is a half?", "answer": 0.5},
]
GOLDS = ["3", "12", "blue", "0.5"]


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_jsonl_json_and_parquet_read_alike(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *ROWS[:2], "", *ROWS[2:])
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    pq.write_table(
        pa.Table.from_pylist([{**row, "answer": str(row["answer"])} for row in ROWS]), tmp_path / "a.parquet"
    )
    for name in ("a.jsonl", "a.json", "a.parquet"):
        task = open_task(str(tmp_path / name))
        problems = task.load("test")
        assert [p.answer for p in problems] == GOLDS
        assert [p.messages[0]["content"] for p in problems] == [row["question"] for row in ROWS]
        assert problems[0].id == f"{name}/0"
        assert task.load("train", count=2, seed=5) == problems[:2]
        assert len(task.load("test", count=100)) == 4


def test_columns_are_named_by_the_caller(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"q": "1 + 1?", "a": "2"})
    assert open_task(str(path), question="q", answer="a").load("test")[0].answer == "2"


@pytest.mark.parametrize(
    ("cell", "answer"),
    [
        ("so \\boxed{1} and \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("#### 1\n#### 1,234\n", "1,234"),
        ("\\boxed{7} #### 8", "7"),
        ("  blue  ", "blue"),
        ("\\boxed{never closed", "\\boxed{never closed"),
    ],
)
def test_the_gold_in_a_cell(cell: str, answer: str) -> None:
    assert gold(cell) == answer


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (
            [ROWS[0], {"question": "x", "response": "y"}],
            r"a\.jsonl:2: there is no column 'answer'.*'question', 'respon",
        ),
        ([ROWS[0], "{not json", ROWS[1]], r"a\.jsonl:2: not JSON"),
        ([ROWS[0], "", '{"question": "x", '], r"a\.jsonl:3: not JSON"),
        ([ROWS[0], "[1, 2]"], r"a\.jsonl:2: \[1, 2\] is not an object"),
        ([], "holds no problem"),
        (["", "  "], "holds no problem"),
        ([{"question": "x", "answer": None}], "'answer' is None; it must be a text or a number"),
        ([{"question": "x", "answer": ["1"]}], r"'answer' is \['1'\]"),
        ([{"question": "x", "answer": True}], "'answer' is True"),
        (['{"question": "x", "answer": NaN}'], "must be a finite number"),
        ([{"question": 3, "answer": "1"}], "'question' is 3; it must be a text"),
        ([{"question": " ", "answer": "1"}], "'question' is ' '"),
    ],
)
def test_a_bad_file_is_refused_where_it_is_bad(tmp_path: Path, lines: list[object], named: str) -> None:
    task = open_task(str(write(tmp_path / "a.jsonl", *lines)))
    with pytest.raises(ValueError, match=named):
        task.load("test")


def test_what_is_not_a_file_of_problems(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*gone\.jsonl"):
        open_task(str(tmp_path / "gone.jsonl"))
    with pytest.raises(ValueError, match=r"there is no file .*train\.jsonl"):
        open_task(f"gsm8k:{tmp_path}")
    with pytest.raises(ValueError, match="neither a"):
        open_task(f"gsm8k:{tmp_path}/a.csv")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"a\.parquet is not a Parquet file"):
        open_task(str(tmp_path / "a.parquet")).load("test")
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        open_task(str(tmp_path / "a.jsonl")).load("test")
    (tmp_path / "a.json").write_text('[{"question": "x",\n "answer": }]')
    with pytest.raises(ValueError, match=r"a\.json:2: not JSON"):
        open_task(str(tmp_path / "a.json")).load("test")


def test_a_separator_inside_a_string_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "one\u2028two", "answer": "1"}\n', encoding="utf-8")
    assert open_task(str(path)).load("test")[0].messages[0]["content"] == "one\u2028two"


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"question": "1+1?", "answer": 2}\n')
    assert open_task(str(tmp_path / "a.jsonl")).load("test")[0].answer == "2"


def test_gsm8k_has_two_splits_and_worked_examples(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS[0])
    write(tmp_path / "test.jsonl", {"question": "x", "answer": "1 + 1 = 2\n#### 2"})
    task = open_task(f"gsm8k:{tmp_path}")
    problem = task.load("train")[0]
    assert problem.answer == "3"
    assert task.load("test")[0].answer == "2"
    assert task.worked is not None
    assert task.worked(problem) == "<think>\n6/2=3\n</think>\n\\boxed{3}"
    trace = Trace(problem.id, problem.messages, (Step("It is three.\n#### $3.00"),), "test@0")
    assert task.grade(problem, trace).score == 1.0


@pytest.mark.skipif(not (DATA / "gsm8k").exists(), reason="the GSM8K files are not beside the project")
@pytest.mark.parametrize(("split", "rows"), [("test", 1319), ("train", 7473)])
def test_gsm8k_gold_solutions_are_right(split: str, rows: int) -> None:
    path = DATA / "gsm8k" / f"{split}.jsonl"
    task = open_task(str(path))
    problems = task.load("test")
    assert len(problems) == rows
    solutions = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    traces = [Trace(p.id, p.messages, (Step(s),), "gold@0") for p, s in zip(problems, solutions, strict=True)]
    verdicts = [task.grade(p, t) for p, t in zip(problems, traces, strict=True)]
    assert [v for v in verdicts if v.score != 1.0] == []
    # Every problem's next neighbour is a wrong solution, unless it happens to have the same answer.
    shifted = [task.grade(p, t) for p, t in zip(problems, traces[1:] + traces[:1], strict=True)]
    by_luck = sum(p.answer == q.answer for p, q in zip(problems, problems[1:] + problems[:1], strict=True))
    assert sum(v.score == 1.0 for v in shifted) == by_luck
    assert {v.score for v in shifted} == {0.0, 1.0}
