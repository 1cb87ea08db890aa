"""Build the hot modules as optional extensions: no compiler, no harm.

Everything else about the package stands in pyproject.toml.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.extension import Extension

ROOT = Path(__file__).parent
STAMP_HEADER = "build/gateway_stamp.h"


def hot_modules() -> list[str]:
    """Read HOT_MODULES without importing the package (its dependencies may not be there yet)."""
    text = (ROOT / "gateway" / "hot.py").read_text()
    found = re.search(r"HOT_MODULES[^(]*\((.*?)\)", text, re.DOTALL)
    if found is None:
        raise SystemExit("setup.py: gateway/hot.py has no HOT_MODULES")
    return re.findall(r'"([\w.]+)"', found[1])


def stamp_header() -> str:
    """Write the header that puts a source's digest into its extension; return its path."""
    path = ROOT / STAMP_HEADER
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "__attribute__((used)) static const char gateway_source_stamp[] =\n"
        '    "gateway-source-sha256:" GATEWAY_SOURCE_SHA256;\n'
    )
    return str(path)


def extensions() -> list[Any]:
    """Return the hot modules' extensions; none where Cython is missing or not wanted."""
    if os.environ.get("GATEWAY_NO_COMPILED", "") not in {"", "0"}:
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        return []
    header = stamp_header()
    wanted = []
    for name in hot_modules():
        path = name.replace(".", "/") + ".py"
        digest = hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
        wanted.append(
            Extension(
                name,
                [path],
                define_macros=[("GATEWAY_SOURCE_SHA256", f'"{digest}"')],
                extra_compile_args=["-O2", "-g0", "-include", header],
            )
        )
    built = cythonize(
        wanted,
        build_dir="build/cython",
        compiler_directives={
            "language_level": "3",
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
