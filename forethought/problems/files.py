"""Problems from a file: JSONL, JSON or Parquet with a question and an answer column, and GSM8K.

The gold answer is the last `\\boxed{}` of the answer cell, else what follows its last `####`, else the cell itself.
One file is both splits; a folder with train.jsonl and test.jsonl (`gsm8k:FOLDER`) has two.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from forethought.problems.grading import grade
from forethought.problems.task import Split, Task, check_load
from forethought.thought.marks import boxes, compose
from forethought.types import Problem, user

SUFFIXES = (".jsonl", ".json", ".parquet")
MARK = "####"
_CALCULATION = re.compile(r"<<[^<>]*>>")

Row = tuple[str, dict[str, Any]]
"""Where it stands (`file.jsonl:17`) and its columns."""


def task(spec: str, path: Path, *, question: str, answer: str) -> Task:
    """The problems of a file, or of a folder with one JSONL file per split.

    Loading takes the first `count` rows in the file's order (`None`: all); `seed` changes nothing. Raises `ValueError`
    for a path that is neither; `load` raises it for an empty file, a broken line (by its number), a missing column, and
    a cell that is not what the column is for. `meta` has the line, and the solution where the answer cell holds one.
    """
    if path.is_dir():
        paths = {split: path / f"{split}.jsonl" for split in ("train", "test")}
    elif path.suffix.lower() in SUFFIXES:
        paths = {"train": path, "test": path}
    else:
        raise ValueError(f"{path} is neither a {', '.join(SUFFIXES)} file nor a folder with train.jsonl and test.jsonl")
    for each in paths.values():
        if not each.is_file():
            raise ValueError(f"{each} is not a file" if each.exists() else f"there is no file {each}")

    def load(split: Split, *, count: int | None = None, seed: int = 0) -> list[Problem]:
        check_load(split, count)
        problems: list[Problem] = []
        for index, (where, row) in enumerate(rows(paths[split])):
            if index == count:
                break
            problems.append(_problem(f"{paths[split].name}/{index}", where, row, question, answer))
        if not problems:
            raise ValueError(f"{paths[split]} holds no problem; it needs a row with {question!r} and {answer!r}")
        return problems

    # "What percent ...?" has the bare number as its gold in these collections.
    graded = partial(grade, mark=MARK, percent="unit")
    return Task(spec, load, graded, worked=worked if spec.startswith("gsm8k:") else None, finite=True)


def gold(cell: str) -> str:
    """The gold answer in an answer cell."""
    if found := boxes(cell):
        return found[-1]
    return cell.rpartition(MARK)[2].strip()


def worked(problem: Problem) -> str:
    """GSM8K's own solution as a worked example, without its calculator notes."""
    return compose(_CALCULATION.sub("", problem.meta["solution"]), problem.answer)


def _problem(name: str, where: str, row: dict[str, Any], question: str, answer: str) -> Problem:
    for column in (question, answer):
        if column not in row:
            raise ValueError(f"{where}: there is no column {column!r}; it has {', '.join(map(repr, row)) or 'none'}")
    asked, cell = row[question], row[answer]
    if not isinstance(asked, str) or not asked.strip():
        raise ValueError(f"{where}: {question!r} is {asked!r:.80}; it must be a text")
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        raise ValueError(f"{where}: {answer!r} is {cell!r:.80}; it must be a text or a number")
    if isinstance(cell, float) and not math.isfinite(cell):
        raise ValueError(f"{where}: {answer!r} is {cell!r}; it must be a finite number")
    cell = str(cell)
    meta: dict[str, Any] = {"line": where}
    if MARK in cell:
        meta["solution"] = cell.rpartition(MARK)[0].strip()
    return Problem(id=name, messages=user(asked), answer=gold(cell), meta=meta)


def rows(path: Path) -> Iterator[Row]:
    """The rows of a JSONL, JSON or Parquet file, of which the first two may be compressed (`.gz`), with their places.

    Raises `ValueError` for a file that is not what its name says, and for a row that is no object.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path)
        return
    packed = path.suffix.lower() == ".gz"
    try:
        content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
        text = content.decode("utf-8-sig")  # Windows tools begin a file with a byte-order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a gzip file: {error}") from error
    kind = Path(path.stem).suffix if packed else path.suffix
    if kind.lower() == ".json" and text.lstrip().startswith("["):
        try:
            found = [(f"{path.name}[{index}]", row) for index, row in enumerate(json.loads(text))]
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
        for where, row in found:
            yield where, _object(where, row)
        return
    # Only \n ends a line of JSONL: splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from error
        yield where, _object(where, row)


def listed(path: Path, under: str) -> list[tuple[str, Any]]:
    """What a `.jsonl` file has on its lines, or a `.yaml` one in its list (its only one, or that `under` a name), each
    with its place, `settings.yaml:7`.

    Raises `ValueError` for a file that cannot be read, is of another kind, or has no list.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if path.suffix.lower() in (".yaml", ".yml"):
        return _yaml(path, text, under)
    if path.suffix.lower() != ".jsonl":
        raise ValueError(f"{path} is neither .jsonl nor .yaml")
    found: list[tuple[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append((f"{path}:{number}", json.loads(line)))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from error
    return found


def _yaml(path: Path, text: str, under: str) -> list[tuple[str, Any]]:
    try:
        loader = yaml.SafeLoader(text)
        top = loader.get_single_node()
        if isinstance(top, yaml.MappingNode):
            top = next((value for key, value in top.value if key.value == under), None)
        if not isinstance(top, yaml.SequenceNode):
            raise ValueError(f"{path} holds no list, neither by itself nor under `{under}`")
        return [(f"{path}:{node.start_mark.line + 1}", loader.construct_object(node, deep=True)) for node in top.value]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:  # a character that YAML has not
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def _object(where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {row!r:.80} is not an object with columns")
    return row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from error
    number = 0
    for batch in file.iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield f"{path.name}:row {number}", row
