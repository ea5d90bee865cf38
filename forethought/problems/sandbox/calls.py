"""The two programs of an examination, each run in a jail of its own; `exam` starts them and carries what they say.

The *callee* holds the model's program: it is told which functions to call with which values, and says what came back.
It never sees a test. The *examiner* holds the tests, and knows the program only as answers: a call that it has no
answer to yet is asked for, and stands as a `Pending` meanwhile. A `Pending` may be an argument of another call; any
other use of it ends the assertion, to be tried again when the answer is there. So all calls of a test suite are
usually asked for at once.

Values cross as JSON and are rebuilt as plain ones of Python: what a program made equal to everything is, outside,
nothing but its digits. Standard library only, any Python from 3.9; this file runs as text.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import json
import os
import random
import signal
import sys
from itertools import islice
from typing import Any

NOTE = 300
"""Characters of one note."""
LONGEST = 100_000
"""Items taken of an iterator, which may have no end."""


class Later(BaseException):
    """A value was used that has not been asked for yet; no `except Exception` of a test shall catch it."""


class Pending:
    """Stands for the value of a call until it is known."""

    def __init__(self, call: Any) -> None:
        self.call = call


def _later(*arguments: Any, **options: Any) -> Any:
    Examiner.later = True
    raise Later


for _name in (
    *("eq", "ne", "lt", "le", "gt", "ge", "bool", "len", "iter", "next", "getitem", "setitem", "delitem", "contains"),
    *("call", "hash", "str", "repr", "format", "bytes", "int", "float", "complex", "index", "round", "trunc", "floor"),
    *("ceil", "abs", "neg", "pos", "invert", "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod"),
    *("pow", "lshift", "rshift", "and", "or", "xor", "radd", "rsub", "rmul", "rtruediv", "rfloordiv", "rmod", "rpow"),
    *("rdivmod", "rand", "ror", "rxor", "rlshift", "rrshift", "getattr", "deepcopy", "copy", "reversed", "enter"),
):
    setattr(Pending, f"__{_name}__", _later)


def encode(value: Any) -> Any:
    """A value as JSON: a plain one whole, of an iterator its items, of any other object only what it is called."""
    if isinstance(value, (Pending, Opaque)):
        return value.call
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        value = int(value)
        return value if -(2**53) < value < 2**53 else {"int": hex(value)}
    if isinstance(value, float):
        value = float(value)
        return value if value - value == 0 else {"float": repr(value)}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, (set, frozenset)):
        # In one order, so that a call can be known again.
        kind = "set" if isinstance(value, set) else "frozenset"
        return {kind: sorted((encode(item) for item in value), key=json.dumps)}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [encode(value.real), encode(value.imag)]}
    if isinstance(value, range):
        return {"range": [encode(value.start), encode(value.stop), encode(value.step)]}
    if hasattr(value, "__next__"):
        return {"iter": [encode(item) for item in islice(value, LONGEST)]}
    return {"object": [type(value).__name__, bool(value)]}


class Opaque:
    """A value that is not plain: all that is known of it outside is its type's name, and whether it counts as true.

    As the argument of another call it stands for the call that it came from, which is made again.
    """

    def __init__(self, name: str, true: bool) -> None:
        self.name, self.true = name, true
        self.call: Any = None

    def __bool__(self) -> bool:
        return self.true

    def __repr__(self) -> str:
        return f"<{self.name}>"


def decode(value: Any, call: Any = None) -> Any:
    """The plain value that some JSON stands for; `call` does what a call inside it says."""
    if isinstance(value, list):
        return [decode(item, call) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "call" and call is not None:
        return call(content)
    if kind in ("tuple", "set", "frozenset"):
        return getattr(builtins, kind)(decode(item, call) for item in content)
    if kind == "dict":
        return {decode(key, call): decode(item, call) for key, item in content}
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "range":
        return range(*(decode(item) for item in content))
    if kind == "iter":
        return iter([decode(item) for item in content])
    if kind == "object":
        return Opaque(str(content[0]), content[1] is True)
    if kind == "complex":
        return complex(decode(content[0]), decode(content[1]))
    return int(content, 16) if kind == "int" else float({"float": content}[kind])


def write(file: int, text: str) -> None:
    """All of a text, however much a pipe takes at a time."""
    left = text.encode()
    while left:
        left = left[os.write(file, left) :]


def fault(error: BaseException) -> list[Any]:
    """An exception's name, text, and the line of the program where it was raised (0 where there is none)."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "answer.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and not line:
        line = error.lineno or 0
    try:
        text = str(error)[:NOTE]
    except BaseException:  # noqa: BLE001 - the sandbox's wall: the program wrote this exception's __str__
        text = ""
    return ["raise", type(error).__name__, text, line]


def answer(request: Any, out: int) -> None:
    """Run the program, then make the calls: one line each, its number and what came of it."""

    def say(name: object, reply: list[Any]) -> None:
        write(out, f"{name} {json.dumps(reply)}\n")

    def call(content: Any) -> Any:
        name, positional, named = content
        if name not in scope:
            raise NameError(f"the program has no {name}")
        arguments = [decode(value, call) for value in positional]
        return scope[name](*arguments, **{key: decode(value, call) for key, value in named.items()})

    def too_long(*_: object) -> None:
        raise TimeoutError(f"longer than {request['seconds']} s")

    scope: dict[str, Any] = {"__name__": "program", "__builtins__": builtins}
    module = type(sys)("program")
    module.__dict__.update(scope)
    scope = module.__dict__
    sys.modules["program"] = module
    try:
        exec(compile(request["program"], "answer.py", "exec"), scope)
    except BaseException as error:  # noqa: BLE001 - the sandbox's wall: a program may raise anything
        say("program", fault(error))
        return
    signal.signal(signal.SIGPROF, too_long)
    for number, content in enumerate(request["calls"]):
        try:
            signal.setitimer(signal.ITIMER_PROF, request["seconds"])
            reply = ["value", encode(call(content))]
        except BaseException as error:  # noqa: BLE001 - the sandbox's wall: a program may raise anything
            reply = fault(error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        say(number, reply)


class Silent(Exception):  # noqa: N818 - it tells of what was not said
    """The program gave no answer that can be read."""


def _builtin(kind: str, text: str) -> Exception | None:
    """One of Python's own exceptions, which a test may wait for."""
    known = getattr(builtins, kind, None)
    if isinstance(known, type) and issubclass(known, Exception) and known not in (AssertionError, SyntaxError):
        with contextlib.suppress(TypeError):  # UnicodeDecodeError wants five arguments
            return known(text)
    return None


class Examiner:
    """Runs the tests' statements against the answers there are, and collects the calls there are none for."""

    later = False
    """Was a value used that is not there yet, since this was last reset?"""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.answers = request["answers"]
        self.calls: dict[str, Any] = {}
        self.asked = False
        self.got = ""

    def __enter__(self) -> None:
        """Around each assertion: one that cannot be decided yet does not keep the next from asking."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is Later

    def remote(self, name: str) -> Any:
        """What a test calls in the program's place."""

        def function(*positional: Any, **named: Any) -> Any:
            self.asked = True
            call = [name, [encode(value) for value in positional], {key: encode(item) for key, item in named.items()}]
            key = json.dumps(call, sort_keys=True)
            if key not in self.answers:
                self.calls[key] = call
                return Pending({"call": call})
            value = self.value(self.answers[key])
            if isinstance(value, Opaque):
                value.call = {"call": call}
            return value

        return function

    def value(self, answer: str) -> Any:
        """The value in an answer, or the exception in it, raised; the program may have written anything at all."""
        try:
            said, *rest = json.loads(answer)
            if said == "value":
                return decode(rest[0])
            kind, text, line = str(rest[0])[:NOTE], str(rest[1])[:NOTE], int(rest[2])
        except (ValueError, TypeError, KeyError, IndexError, RecursionError, MemoryError, OverflowError) as error:
            raise Silent("its answer cannot be read") from error
        where = f" (line {line})" if line else ""
        raise _builtin(kind, f"{text}{where}") or Silent(f"{kind}: {text}{where}")

    def same(self, left: Any, right: Any) -> bool:
        """`left == right`, with what was got kept for the note."""
        equal = bool(left == right)
        self.got = f"got {left!r}"[:NOTE] if not equal else ""
        return equal

    def examine(self) -> dict[str, Any]:
        """Run every statement; which tests passed, and which calls are still to be made."""
        random.seed(0)
        scope: dict[str, Any] = {"__name__": "tests", "plain": plain}
        exec(compile(self.request["setup"], "tests.py", "exec"), scope)
        for name in self.request["remote"]:
            scope[name] = self.remote(name)
        scope["candidate"] = scope[self.request["remote"][0]]
        scope["_asserted"], scope["_same"] = self, self.same
        results: list[tuple[str, str, bool]] = []
        for source in self.request["units"]:
            self.asked, self.got, Examiner.later = False, "", False
            tree = ast.parse(source)
            tests = any(isinstance(node, ast.Assert) for node in ast.walk(tree))
            state, note = self.unit(ast.fix_missing_locations(_Guard().visit(tree)), scope)
            results.append((state, note, tests and (self.asked or Examiner.later)))
            if state == "later" and not tests:
                break  # what follows may stand on it
        return {"calls": list(self.calls.items()), "results": results}

    def unit(self, tree: ast.Module, scope: dict[str, Any]) -> tuple[str, str]:
        """Run one statement: `passed`, `failed` and why, or `later`."""
        note = None
        try:
            exec(compile(tree, "tests.py", "exec"), scope)
        except AssertionError as error:
            note = self.got or str(error)
        except Silent as error:
            note = str(error)
        except BaseException as error:  # noqa: BLE001 - the sandbox's wall: an answer may break a test in any way
            note = f"{type(error).__name__}: {error}"
        if Examiner.later:
            return "later", ""
        return ("passed", "") if note is None else ("failed", note[:NOTE])


class _Guard(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            node.test = ast.Call(ast.Name("_same", ast.Load()), [test.left, test.comparators[0]], [])
        return ast.With([ast.withitem(ast.Name("_asserted", ast.Load()))], [node])


def plain(value: Any) -> Any:
    """A value as JSON would have it, floats to 9 significant digits."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return float(f"{value:.9g}") if isinstance(value, float) else value


def main() -> None:
    """Read the request, and write what there is to say to what standard output was; a program's prints go nowhere."""
    request = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdin = io.StringIO("")
    if "program" in request:
        answer(request, out)
    else:
        write(out, json.dumps(Examiner(request).examine()))


if __name__ == "__main__":
    main()
