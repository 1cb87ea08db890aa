"""What an upgrade is asked for and answered by, and what is carried over the exec.

``gateway upgrade`` writes a request into the run folder and sends ``SIGUSR2``; the supervisor
answers in a file of the request's own. What the new supervisor inherits (descriptors, children, the
way back) is one JSON object in ``GATEWAY_UPGRADE``. Standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from gateway.supervisor import plan as plans
from gateway.version import VERSION

VARIABLE: Final = "GATEWAY_UPGRADE"
#: Raised when an older supervisor would misread what is carried. New fields may come any time.
FORMAT: Final = 1

REQUEST_FILE: Final = "upgrade.json"
ANSWER_FILES: Final = "upgrade-*.json"
#: Who runs here: ``About``.
ABOUT_FILE: Final = "supervisor.json"

#: Seconds that new workers get to be ready, unless the request says.
TIMEOUT: Final = 60.0
#: Seconds that they are watched once they serve, before old ones leave: what ``gateway upgrade``
#: asks for unless told.
HOLD: Final = 5.0
#: Seconds that a request may ask for at most.
_LONGEST: Final = 1e9
#: Octets of a request or an answer at most.
_MOST: Final = 256 * 1024

TRYING: Final = "trying"
REPLACING: Final = "replacing"
DONE: Final = "done"
REFUSED: Final = "refused"
ROLLED_BACK: Final = "rolled_back"
FAILED: Final = "failed"
FINAL: Final = frozenset({DONE, REFUSED, ROLLED_BACK, FAILED})
STATES: Final = frozenset({TRYING, REPLACING, *FINAL})


class UpgradeError(Exception):
    """A file or a variable is not what it should be; the text says which and why."""


class RequestError(UpgradeError):
    """A request that has an id, under which it can be answered, is otherwise of no use."""

    def __init__(self, text: str, request: str, uid: int) -> None:
        """``uid`` is whose file it was."""
        super().__init__(text)
        self.id = request
        self.uid = uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A version of the gateway that can be started: its interpreter, and where its package lies.

    ``root`` is the folder that the package is imported from, empty where the interpreter finds it
    by itself. ``plan`` is an encoded ``Plan`` of that version.
    """

    python: str
    root: str
    plan: str

    @property
    def argv(self) -> tuple[str, ...]:
        """The arguments that run this version's supervisor."""
        return (self.python, *plans.python("gateway.supervisor")[1:])

    def environment(self, **more: str) -> dict[str, str]:
        """Return this process's environment as the program is to have it, with ``more``.

        Where our own package lies is taken out of ``PYTHONPATH``: it would win over the new one.
        """
        own, separator = plans.package_root(), os.pathsep
        paths = [each for each in os.environ.get("PYTHONPATH", "").split(separator) if each]
        paths = [self.root] * bool(self.root) + [
            each for each in paths if each not in {own, self.root}
        ]
        env = {**os.environ, plans.VARIABLE: self.plan, **more}
        env.pop("PYTHONPATH", None)
        return {**env, "PYTHONPATH": separator.join(paths)} if paths else env


def own_program(plan: str) -> Program:
    """Return the version that runs this very code."""
    root = plans.package_root()
    return Program(python=plans.EXECUTABLE, root="" if plans.installed(root) else root, plan=plan)


def no_way_back() -> str:
    """Say why this very version could not be started again; empty where it could.

    Whoever installs a newer one over it leaves nothing to go back to.
    """
    if not os.access(plans.EXECUTABLE, os.X_OK):
        return f"the interpreter of {VERSION}, {plans.EXECUTABLE}, is no longer there"
    package = Path(plans.package_root(), "gateway")
    try:
        found = re.search(r'^VERSION = "([^"]*)"', (package / "version.py").read_text(), re.M)
    except OSError:
        return f"the files of {VERSION} in {package} are no longer there"
    version = found.group(1) if found else "another version"
    return "" if version == VERSION else f"the files of {VERSION} in {package} are {version}'s now"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a supervisor says of itself for ``gateway upgrade``.

    ``pid`` is its number among the processes of ``namespace``, which is empty where nobody knows.
    """

    pid: int
    version: str
    config: str = ""
    namespace: str = ""
    format: int = FORMAT


def namespace() -> str:
    """Name what this process's number is one of: a container has numbers of its own (Linux)."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One wish for an upgrade. ``timeout`` is in seconds.

    ``uid`` is whose file it was, -1 where there was none; ``user`` is that one's name, as the asker
    says. ``hold`` is how long every new process has to live, in seconds, before old workers leave.
    ``require_way_back``: rather no upgrade than one that cannot be undone.
    """

    id: str
    program: Program
    timeout: float = TIMEOUT
    hold: float = 0.0
    user: str = ""
    require_way_back: bool = False
    uid: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How an upgrade stands. ``state`` is one of this module's; ``seconds`` since it was asked for.

    ``board``: ``kept``, or ``new`` where the versions' boards differ; ``draining``: old workers
    that still have something in hand. ``no_way_back`` says why there is none, and is empty where
    there is one.
    """

    id: str
    state: str
    old: str = ""
    new: str = ""
    text: str = ""
    seconds: float = 0.0
    board: str = ""
    draining: int = 0
    workers: int = 0
    way_back: bool = True
    no_way_back: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A worker that goes on over the exec. Times are CLOCK_MONOTONIC in seconds.

    ``keep``: it holds a seat; on the way back it is to hold it again.
    """

    pid: int
    slot: int
    slab: int
    started: float
    phase: str
    kill_at: float = 0.0
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Baggage:
    """What one supervisor leaves to the next in the same process.

    Descriptors are open and inherited: ``sockets`` are (address, slot, descriptor), slot -1 for one
    that all slots share. ``given`` are addresses whose sockets somebody else made. ``back`` is how
    to undo it, None on the way back itself, where ``why`` says what was wrong. ``began`` is when
    the upgrade was asked for, ``uid`` and ``user`` are who did. ``no_way_back``: why ``back`` is
    not the version before. ``journal`` is ``upgrades.Journal``'s text: the disk may be full.
    """

    lock: int
    board: int
    sockets: tuple[tuple[str, int, int], ...]
    admin: tuple[str, int]
    given: tuple[str, ...] = ()
    workers: tuple[Carried, ...] = ()
    control: tuple[int, ...] = ()
    id: str
    began: float
    timeout: float = TIMEOUT
    hold: float = 0.0
    old: str = ""
    back: Program | None = None
    why: str = ""
    uid: int = -1
    user: str = ""
    no_way_back: str = ""
    journal: str = ""
    format: int = FORMAT

    @property
    def descriptors(self) -> frozenset[int]:
        """All that must survive the exec."""
        sockets = {fd for _, _, fd in self.sockets}
        return frozenset({self.lock, self.board, self.admin[1], *sockets} - {-1})

    def encode(self) -> str:
        """Return the value of ``VARIABLE`` that ``decode`` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read ``VARIABLE``'s value; what another version added is left out.

        Raises UpgradeError.
        """
        try:
            values = json.loads(text)
            found = values.get("format")
            values["sockets"] = tuple((str(t), int(s), int(f)) for t, s, f in values["sockets"])
            values["admin"] = (str(values["admin"][0]), int(values["admin"][1]))
            values["given"] = tuple(map(str, values.get("given", ())))
            values["control"] = tuple(map(int, values.get("control", ())))
            values["workers"] = tuple(_known(Carried, each) for each in values.get("workers", ()))
            back = values.get("back")
            values["back"] = None if back is None else _known(Program, back)
            baggage: Self = _known(cls, values)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise UpgradeError(f"{VARIABLE} is of no use: {error}") from error
        if found != FORMAT:
            raise UpgradeError(f"{VARIABLE} has format {found}, expected {FORMAT}")
        return baggage

    @classmethod
    def inherited(cls) -> Self | None:
        """Take this process's own out of its environment; None on an ordinary start."""
        text = os.environ.pop(VARIABLE, None)
        return None if text is None else cls.decode(text)


def _known(kind: Any, values: dict[str, Any]) -> Any:
    """Build ``kind`` of the values that this version knows."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})


# --- files ----------------------------------------------------------------------------------------


def write(path: Path, what: About | Request | Answer) -> None:
    """Put one object into a file of the run folder, whole or not at all. Raises OSError.

    Root's is for the owner to read, and the other way round, whatever the umask: nobody else
    enters the folder.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(dataclasses.asdict(what)) + "\n", encoding="utf-8")
        beside.chmod(0o644)
        beside.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def answer_file(run_dir: Path, request: str) -> Path:
    """Return where one request is answered."""
    return run_dir / ANSWER_FILES.replace("*", request)


def read_answer(path: Path) -> Answer | None:
    """Return an answer; None where there is none yet. Raises UpgradeError."""
    values = _read(path)
    return None if values is None else _built(path, Answer, values)


def read_about(run_dir: Path) -> About | None:
    """Return who runs here; None for a version that knows no upgrades. Raises UpgradeError."""
    values = _read(run_dir / ABOUT_FILE)
    return None if values is None else _built(run_dir / ABOUT_FILE, About, values)


def take_request(run_dir: Path) -> Request | None:
    """Take a request out of the run folder; None where there is none.

    Raises UpgradeError: RequestError where there is somebody to be answered.
    """
    path = run_dir / REQUEST_FILE
    uid = -1
    try:
        with contextlib.suppress(OSError):
            uid = path.stat().st_uid
        values = _read(path)
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    if values is None:
        return None
    named = values.get("id")
    if not isinstance(named, str) or not re.fullmatch("[0-9a-f]{8,32}", named):
        raise UpgradeError(f"{path}: the id is not one")
    try:
        values["program"] = _built(path, Program, values.get("program"))
        values["uid"] = uid
        request: Request = _built(path, Request, values)
        wrong = _wrong(request)
    except UpgradeError as error:
        raise RequestError(str(error), named, uid) from error
    if wrong:
        raise RequestError(f"{path}: {wrong}", named, uid)
    return request


def _wrong(request: Request) -> str:
    """Name the first value that is not of its kind; empty where all are."""
    program = request.program
    for name, text in (
        ("python", program.python),
        ("root", program.root),
        ("plan", program.plan),
        ("user", request.user),
    ):
        if not isinstance(text, str) or not _passable(text):
            return f"{name} is not a text without NUL"
    for name, seconds in (("timeout", request.timeout), ("hold", request.hold)):
        # No bool, and a NaN is in no range.
        if type(seconds) not in {int, float} or not 0 <= seconds <= _LONGEST:
            return f"{name} is not from 0 to {_LONGEST:g} seconds"
    return "" if isinstance(request.require_way_back, bool) else "require_way_back is not a bool"


def _passable(text: str) -> bool:
    """Tell whether a program can be given it as an argument or in its environment."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _built(path: Path, kind: Any, values: Any) -> Any:
    try:
        return _known(kind, values)
    except (TypeError, AttributeError) as error:
        raise UpgradeError(f"{path}: {error}") from error


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(_MOST))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UpgradeError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise UpgradeError(f"{path}: not an object")
    return values
