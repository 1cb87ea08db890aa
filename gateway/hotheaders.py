"""From the hot modules to what Cython compiles: a header (``.pxd``) of each, made of its source.

With a header the modules see each other's C types: an attribute of another module's class is read
from its struct, and a call goes to the C function instead of through Python. The sources stay what
they are, Python in Cython's pure mode; nothing is declared twice.

A module's header has its classes (their attributes and their ``cfunc`` and ``ccall`` methods), its
``ccall`` functions, and ``cimport`` of what it imports from hot modules that stand before it in
``HOT_MODULES``. The copy of the source that is compiled (``build/hot``) is the source without what
the header says: line for line the same, so that errors name the right place.

Used by ``setup.py`` alone; standard library only.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

C_TYPES = {
    "bint": "bint",
    "char": "char",
    "double": "double",
    "int": "int",
    "long": "long",
    "longlong": "long long",
    "p_char": "char*",
    "p_uchar": "unsigned char*",
    "Py_ssize_t": "Py_ssize_t",
    "uchar": "unsigned char",
    "uint": "unsigned int",
    "ulonglong": "unsigned long long",
}
_SHOWN = {"cfunc", "ccall"}
BUILTINS = frozenset(("bytearray", "bytes", "dict", "list", "set", "str", "tuple"))


@dataclass(slots=True)
class Header:
    """What is known of one module."""

    name: str
    source: str
    tree: ast.Module
    classes: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    #: Names that are cimported, by module.
    needs: dict[str, list[str]] = field(default_factory=dict)
    text: str = ""
    #: The source that is compiled.
    copy: str = ""
    #: Of the header and, for it reaches further, of those that it needs: hex SHA-256.
    digest: str = ""


def headers(root: Path, names: list[str]) -> dict[str, Header]:
    """Return the modules' headers, in the order of ``names``."""
    found: dict[str, Header] = {}
    for name in names:
        source = (root / (name.replace(".", "/") + ".py")).read_text()
        header = Header(name, source, ast.parse(source))
        _names(header)
        _imports(header, found)
        _write(header)
        told = [header.text, *(found[need].digest for need in header.needs)]
        header.digest = hashlib.sha256("\n".join(told).encode()).hexdigest()
        found[name] = header
    return found


def _decorators(node: ast.ClassDef | ast.FunctionDef) -> dict[str, ast.expr]:
    """Return Cython's decorators by their names, ``final`` of ``@cython.final``."""
    found: dict[str, ast.expr] = {}
    for each in node.decorator_list:
        target = each.func if isinstance(each, ast.Call) else each
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "cython":
            found[target.attr] = each
    return found


def _names(header: Header) -> None:
    for node in header.tree.body:
        if isinstance(node, ast.ClassDef) and "cclass" in _decorators(node):
            header.classes.add(node.name)
        elif isinstance(node, ast.FunctionDef) and "ccall" in _decorators(node):
            header.functions.add(node.name)


def _statements(tree: ast.Module) -> list[ast.ImportFrom]:
    """Return the imports of the module's level, those for the type checker included."""
    found = []
    for node in tree.body:
        inner = node.body if isinstance(node, ast.If) else [node]
        found += [each for each in inner if isinstance(each, ast.ImportFrom)]
    return found


def _imports(header: Header, found: dict[str, Header]) -> None:
    for node in _statements(header.tree):
        other = found.get(node.module or "")
        if other is None:
            continue
        names = [
            each.name
            for each in node.names
            if each.asname is None and each.name in other.classes | other.functions
        ]
        if names:
            header.needs.setdefault(other.name, []).extend(names)


def _c_type(  # noqa: PLR0911 - one for each kind
    node: ast.expr | None, known: set[str]
) -> str:
    """Return the C type that Cython makes of an annotation, what containers hold included."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    if isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
        kept = [each for each in parts if not (isinstance(each, ast.Constant) and not each.value)]
        return _c_type(kept[0], known) if len(kept) == 1 else "object"
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cython":
        return C_TYPES[node.attr]
    if isinstance(node, ast.Subscript):
        base = _c_type(node.value, known)
        if ast.unparse(node.value).startswith("cython."):
            return f"{base}[{ast.unparse(node.slice)}]"
        held = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        inner = ["..." if isinstance(each, ast.Constant) else _c_type(each, known) for each in held]
        if base in BUILTINS and set(inner) - {"object", "..."}:
            return f"{base}[{', '.join(inner)}]"
        return base
    if isinstance(node, ast.Name) and (node.id in BUILTINS or node.id in known):
        return node.id
    return "object"


def _raises(decorators: dict[str, ast.expr]) -> str:
    """Return the exception clause of a function."""
    given = decorators.get("exceptval")
    if not isinstance(given, ast.Call):
        return ""
    check = next((ast.unparse(each.value) for each in given.keywords if each.arg == "check"), None)
    if not given.args:
        return " except *" if check == "True" else " noexcept"
    value = ast.unparse(given.args[0])
    return f" except {value}" if check == "False" else f" except? {value}"


def _function(node: ast.FunctionDef, decorators: dict[str, ast.expr], known: set[str]) -> str:
    kind = "cpdef" if "ccall" in decorators else "cdef"
    arguments = []
    optional = len(node.args.args) - len(node.args.defaults)
    for at, each in enumerate(node.args.args):
        if each.arg == "self" and at == 0:
            arguments.append("self")
            continue
        default = "=*" if at >= optional else ""
        arguments.append(f"{_c_type(each.annotation, known)} {each.arg}{default}")
    answer = _c_type(node.returns, known)
    inline = "inline " if "inline" in decorators else ""
    return f"{kind} {inline}{answer} {node.name}({', '.join(arguments)}){_raises(decorators)}"


def _declared(value: ast.expr | None) -> ast.Call | None:
    """Return the call of ``cython.declare`` that a value is."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "cython.declare":
        return value
    return None


def _attribute(node: ast.stmt, known: set[str]) -> str:
    """Return the declaration of an attribute; empty where the statement is none."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        call = _declared(node.value)
        if node.value is not None and call is None:
            return ""
        kind = _c_type(node.annotation, known)
        if call is not None:
            told = _c_type(call.args[0], known)
            # `object` is what pure mode can say of another module's class.
            if told != kind.partition("[")[0] and not (told == "object" and kind in known):
                kind = told
        shown = [ast.literal_eval(e.value) for e in call.keywords] if call is not None else []
        return " ".join(["cdef", *shown, kind, node.target.id])
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        call = _declared(node.value)
        if call is not None:
            return f"cdef {_c_type(call.args[0], known)} {node.targets[0].id}"
    return ""


def _class(node: ast.ClassDef, known: set[str]) -> list[str]:
    decorators = _decorators(node)
    base = ast.unparse(node.bases[0]) if node.bases else ""
    lines = [
        "@" + ast.unparse(decorators[name]) for name in ("freelist", "final") if name in decorators
    ]
    lines.append(f"cdef class {node.name}({base}):" if base else f"cdef class {node.name}:")
    for each in node.body:
        if isinstance(each, ast.FunctionDef):
            told = _decorators(each)
            if "cfunc" in told or "ccall" in told:
                lines.append("    " + _function(each, told, known))
        elif line := _attribute(each, known):
            lines.append("    " + line)
    if len(lines) == 1 + ("freelist" in decorators) + ("final" in decorators):
        lines.append("    pass")
    return lines


def _write(header: Header) -> None:
    """Write the header, and the copy of the source without what it says."""
    known = header.classes | {name for names in header.needs.values() for name in names}
    lines = ["cimport cython"]
    lines += [f"from {name} cimport {', '.join(names)}" for name, names in header.needs.items()]
    copy = header.source.split("\n")
    classes = [
        n for n in header.tree.body if isinstance(n, ast.ClassDef) and n.name in header.classes
    ]
    lines += [f"cdef class {node.name}" for node in classes]
    for node in header.tree.body:
        if isinstance(node, ast.ClassDef) and node.name in header.classes:
            lines += _class(node, known)
            for each in node.body:
                if _attribute(each, known):
                    _blank(copy, each, _annotated(each))
                elif isinstance(each, ast.FunctionDef) and _decorators(each).keys() & _SHOWN:
                    _simplify(copy, each, known)
        elif isinstance(node, ast.FunctionDef) and node.name in header.functions:
            lines.append(_function(node, _decorators(node), known))
            _simplify(copy, node, known)
    for node in _statements(header.tree):
        taken = set(header.needs.get(node.module or "", ()))
        if taken:
            left = [ast.unparse(each) for each in node.names if each.name not in taken]
            indent = " " * node.col_offset
            _blank(
                copy,
                node,
                f"{indent}from {node.module} import {', '.join(left)}" if left else f"{indent}pass",
            )
    header.text = "\n".join(lines) + "\n"
    header.copy = "\n".join(copy)


def _annotated(node: ast.stmt) -> str:
    """Return what is left of an attribute's declaration: nothing, for the header has it."""
    return " " * node.col_offset + "pass"


def _simplify(copy: list[str], node: ast.FunctionDef, known: set[str]) -> None:
    """Write a signature's types as the header does."""
    given = [each.annotation for each in node.args.args] + [node.returns]
    edits: list[tuple[int, int, int, str]] = []
    for annotation in given:
        if annotation is None:
            continue
        pieces = [annotation]
        while isinstance(pieces[-1], ast.BinOp):
            last = pieces.pop()
            assert isinstance(last, ast.BinOp)
            pieces += [last.right, last.left]
        for piece in pieces:
            instead = ""
            if isinstance(piece, ast.Subscript):
                instead = _c_type(piece, known)
            elif isinstance(piece, ast.Name) and piece.id in {"bool", "int", "float"}:
                instead = "object"
            if instead:
                assert piece.end_lineno == piece.lineno
                assert piece.end_col_offset is not None
                edits.append((piece.lineno, piece.col_offset, piece.end_col_offset, instead))
    for line, begin, end, instead in sorted(edits, reverse=True):
        text = copy[line - 1]
        copy[line - 1] = text[:begin] + instead + text[end:]


def _blank(copy: list[str], node: ast.stmt, instead: str = "") -> None:
    """Take a statement out, its lines not."""
    end = node.end_lineno or node.lineno
    for at in range(node.lineno - 1, end):
        copy[at] = ""
    copy[node.lineno - 1] = instead
