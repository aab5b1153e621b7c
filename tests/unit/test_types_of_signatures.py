"""Public functions and methods say what they take and give: no more bare `Any` in their signatures than stand here."""

import ast
from collections.abc import Iterator
from pathlib import Path

LIBRARY = Path(__file__).parents[2] / "qformer_viz"
MOST = 1
"""Bare `Any`s that are left; lower it when you replace one."""


def bare(node: ast.AST, path: str) -> Iterator[str]:
    """Where `Any` alone stands for a parameter or a result, of functions whose names have no leading underscore."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) and not each.name.startswith("_"):
            given = each.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            types = {one.arg: one.annotation for one in every if one is not None} | {"return": each.returns}
            for name, kind in types.items():
                if isinstance(kind, ast.Name) and kind.id == "Any":
                    yield f"{path}:{each.lineno} {each.name}, {name}"
        elif isinstance(each, (ast.ClassDef, ast.If, ast.Try)):
            yield from bare(each, path)


def test_a_bare_any_is_found():
    source = "class A:\n    def f(self, a: Any, *b: Any) -> Any: ...\n    def _g(self, a: Any): ...\n"
    found = list(bare(ast.parse(source), "a.py"))
    assert found == ["a.py:2 f, a", "a.py:2 f, b", "a.py:2 f, return"]


def test_public_signatures_name_their_types():
    found = [
        place
        for path in sorted(LIBRARY.rglob("*.py"))
        for place in bare(ast.parse(path.read_text("utf-8")), path.relative_to(LIBRARY).as_posix())
    ]
    assert len(found) <= MOST, "\n".join(found)
    assert len(found) == MOST, f"lower MOST to {len(found)}"
