"""Build the hot modules as optional extensions: no compiler, no harm.

Everything else about the package stands in pyproject.toml.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import setup
from setuptools.extension import Extension

ROOT = Path(__file__).parent
#: Where the sources stand that are compiled, each with its header beside it.
SOURCES = "build/hot"


def hot_modules() -> list[str]:
    """Read HOT_MODULES without importing the package (its dependencies may not be there yet)."""
    text = (ROOT / "gateway" / "hot.py").read_text()
    found = re.search(r"HOT_MODULES[^(]*\((.*?)\)", text, re.DOTALL)
    if found is None:
        raise SystemExit("setup.py: gateway/hot.py has no HOT_MODULES")
    return re.findall(r'"([\w.]+)"', found[1])


def stamps(source: str, header: str, needed: list[str]) -> str:
    """Return C that puts digests into an extension (see ``gateway/hot.py``)."""
    told = {"source": source, "header": header, "needs": " ".join(needed)}
    return "".join(
        f"__attribute__((used)) static const char gateway_{what}_stamp[] =\n"
        f'    "gateway-{what}-sha256:{digests}";\n'
        for what, digests in told.items()
    )


def own(name: str) -> ModuleType:
    """Load a module of the package without the package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "gateway" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def write(path: Path, text: str) -> None:
    """Write a file where that changes anything: a newer one has what uses it built anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def digest(text: str) -> str:
    """Return the hex SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def extensions() -> list[Any]:
    """Return the hot modules' extensions; none where Cython is missing or not wanted."""
    if os.environ.get("GATEWAY_NO_COMPILED", "") not in {"", "0"}:
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        return []
    headers = own("hotheaders").headers(ROOT, hot_modules())
    wanted = []
    for name, header in headers.items():
        path = ROOT / SOURCES / (name.replace(".", "/") + ".py")
        write(path, header.copy)
        write(path.with_suffix(".pxd"), header.text)
        for folder in path.relative_to(ROOT / SOURCES).parents[:-1]:
            write(ROOT / SOURCES / folder / "__init__.py", "")
        needed = [f"{each}={headers[each].digest}" for each in header.needs]
        stamp = path.with_suffix(".stamp.h")
        write(stamp, stamps(digest(header.source), header.digest, needed))
        included = str(stamp.relative_to(ROOT))
        wanted.append(
            Extension(
                name,
                [str(path.relative_to(ROOT))],
                depends=[included],
                extra_compile_args=["-O2", "-g0", "-include", included],
            )
        )
    built = cythonize(
        wanted,
        build_dir="build/cython",
        include_path=[SOURCES],
        compiler_directives={
            "language_level": "3",
            # None where an object was meant is an AttributeError, as in plain Python, and not the
            # end of the process: 1.7 % of a request's instructions.
            "nonecheck": True,
            "embedsignature": True,
            # Bounds checks stay on, and integer division stays Python's: what is compiled must
            # behave like what is not.
            "boundscheck": True,
            "wraparound": False,
            "cdivision": False,
            "infer_types": None,
        },
    )
    for extension in built:
        extension.optional = True  # cythonize() drops it when it is given before
    return list(built)


setup(ext_modules=extensions(), options={"build_ext": {"parallel": 2}})
