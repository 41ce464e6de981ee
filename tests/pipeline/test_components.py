"""The guard over components: thin, and loadable where nothing but kfp is installed."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(p for p in (ROOT / "components").rglob("*.py") if p.name != "__init__.py")
ALLOWED = {*sys.stdlib_module_names, "kfp"}


def named(path: Path) -> str:
    return path.relative_to(ROOT / "components").as_posix()


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_top_level_imports_are_the_standard_library_and_kfp(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            assert name.split(".")[0] in ALLOWED, f"{named(path)} imports {name} at its top"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_component_is_a_docstring_imports_and_one_call(path: Path) -> None:
    functions = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)]
    assert [function.name for function in functions] == [path.stem]
    (function,) = functions
    assert ast.get_docstring(function)
    assert all(argument.annotation for argument in function.args.args)
    _, *body = function.body
    *imports, call = body
    assert all(isinstance(node, ast.ImportFrom) for node in imports)
    assert isinstance(call, ast.Expr | ast.Return)
    assert isinstance(call.value, ast.Call)


def test_every_component_is_in_the_pipeline() -> None:
    source = (ROOT / "pipelines" / "training.py").read_text()
    for path in MODULES:
        module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        assert f"from {module} import {path.stem}" in source
