"""How long files and functions are: a room's worth and no more. Prints the figures (`pytest -s`)."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import smtp2cf

FILE, MEDIAN, P90, LONGEST = 400, 7, 20, 50
"""Lines."""
CODE = Path(smtp2cf.__file__).parent


def _functions(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.end_lineno - node.lineno + 1, node.name


def test_files_and_functions_are_short() -> None:
    sources = {path.relative_to(CODE): path.read_text(encoding="utf-8") for path in CODE.rglob("*.py")}
    files = {str(path): source.count("\n") for path, source in sources.items()}
    functions = sorted(
        (length, f"{path}: {name}") for path, source in sources.items() for length, name in _functions(source)
    )
    lengths = [length for length, _ in functions]
    median, p90 = statistics.median(lengths), lengths[len(lengths) * 9 // 10]
    without_sendmail = sum(lines for path, lines in files.items() if not path.startswith("sendmail/"))
    print(f"{len(files)} files, {sum(files.values())} lines, {without_sendmail} of them without sendmail")
    print(f"functions: median {median:.0f}, p90 {p90}, longest {lengths[-1]}; {len(lengths)} of them")
    assert [path for path, lines in files.items() if lines > FILE] == []
    assert [named for length, named in functions if length > LONGEST] == []
    assert (median, p90) <= (MEDIAN, P90)
