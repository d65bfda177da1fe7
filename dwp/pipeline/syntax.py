"""Reduction of Python syntax trees to the parts that can change results."""

import ast
from collections.abc import Iterator

# Expressions with their own scope.
SCOPES = ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def without_prose(tree: ast.Module) -> ast.Module:
    """Return a tree without docstrings, other bare strings, and the descriptions of settings."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # A bare string is a docstring or serves as a comment.
            body[:] = [entry for entry in body if not _is_text(entry)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setting":
            node.args = node.args[1:]  # see `dwp.settings.setting`
    return tree


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def reached(body: list[ast.stmt], name: str) -> list[ast.stmt]:
    """Return the top-level statements of a module that a name depends on, in their order.

    These are the statement that binds the name, recursively those that bind the names it uses, and
    those that bind nothing, which run for their side effects. If nothing binds the name, all
    statements are returned.
    """
    statements = [single for statement in body for single in _singles(statement)]
    binds = [set(_bound(statement)) for statement in statements]
    if not any(name in names for names in binds):
        return statements
    wanted, kept = {name}, set()
    while more := {
        place
        for place, names in enumerate(binds)
        if place not in kept and (not names or not names.isdisjoint(wanted))
    }:
        kept |= more
        wanted |= {
            node.id for place in more for node in ast.walk(statements[place]) if isinstance(node, ast.Name)
        }
    return [statements[place] for place in sorted(kept)]


def attributes(body: list[ast.stmt], name: str) -> list[str]:
    """Return the attributes of a name that some statements use; none if they also use the name itself."""
    nodes = [node for statement in body for node in ast.walk(statement)]
    of_name = [node for node in nodes if isinstance(node, ast.Attribute) and _is_name(node.value, name)]
    alone = sum(_is_name(node, name) for node in nodes) > len(of_name)
    return [] if alone else sorted({node.attr for node in of_name})


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _singles(statement: ast.stmt) -> Iterator[ast.stmt]:
    """Yield an import of several names as imports of one name each, and other statements unchanged."""
    if isinstance(statement, ast.Import):
        yield from (ast.Import([alias]) for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            yield ast.ImportFrom(statement.module, [alias], statement.level)
    else:
        yield statement


def _bound(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement binds or changes in its scope."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.alias):
        yield node.asname or node.name.split(".")[0]
    elif isinstance(node, ast.Name):
        if not isinstance(node.ctx, ast.Load):
            yield node.id
    elif isinstance(node, ast.Attribute | ast.Subscript):
        if not isinstance(node.ctx, ast.Load):
            # `table[key] = value` changes `table`.
            yield from (inner.id for inner in ast.walk(node.value) if isinstance(inner, ast.Name))
    elif not isinstance(node, SCOPES):
        for child in ast.iter_child_nodes(node):
            yield from _bound(child)
