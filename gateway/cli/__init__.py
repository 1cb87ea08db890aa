"""The command line: one file per verb.

Verbs are imported when they are called, and their one-line helps stand in a table here: start-up
and ``--help`` load click and nothing else.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import click

from gateway.client.exits import Exit


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb lives (a module with a click ``command``) and its line in ``--help``."""

    module: str
    about: str


VERBS: dict[str, Verb] = {
    "run": Verb("gateway.cli.run", "Run the gateway."),
    "demo": Verb("gateway.cli.demo", "Run the demo platform behind a gateway."),
    "check": Verb("gateway.cli.check", "Check a configuration file."),
    "schema": Verb("gateway.cli.schema", "Print the configuration's JSON Schema."),
    "status": Verb("gateway.cli.status", "Show services, pools and processes."),
    "traffic": Verb("gateway.cli.traffic", "Read, set or finalize the split."),
    "rollback": Verb("gateway.cli.rollback", "Send everything back to stable at once."),
    "release": Verb("gateway.cli.release", "Start, watch, explain and steer releases."),
    "adopt": Verb("gateway.cli.adopt", "Say which color production is."),
    "pool": Verb("gateway.cli.pool", "Set, drain or isolate a service's pool."),
    "isolate": Verb("gateway.cli.isolate", "Take a color out until it is lifted."),
    "maintenance": Verb("gateway.cli.maintenance", "Answer 503 for a service, or end that."),
    "breakers": Verb("gateway.cli.breakers", "List, open or reset endpoints' breakers."),
    "audit": Verb("gateway.cli.audit", "List who changed what, newest first."),
    "cohort-token": Verb("gateway.cli.cohort_token", "Mint a tester's override."),
    "api-key": Verb("gateway.cli.api_key", "Make an API key."),
    "reload": Verb("gateway.cli.reload", "Make the gateway read its file again."),
    "backup": Verb("gateway.cli.backup", "Write the state to one file, running or not."),
    "restore": Verb("gateway.cli.restore", "Put a backup's state in place."),
    "upgrade": Verb("gateway.cli.upgrade", "Have the running gateway become this version."),
}


class Verbs(click.Group):
    """The group of ``VERBS``, each imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table: the way one meets them."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb; None where there is no such."""
        del ctx
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command = import_module(verb.module).command
        if not isinstance(command, click.Command):
            raise TypeError(f"{verb.module}.command is no click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing any verb."""
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.about) for name, verb in VERBS.items()])


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    """Print what runs here: the version, the form of the hot modules, Python."""
    if not wanted or ctx.resilient_parsing:
        return
    from gateway.hot import compiled_state
    from gateway.version import VERSION

    python = ".".join(map(str, sys.version_info[:3]))
    click.echo(f"gateway {VERSION} ({compiled_state()}, Python {python})")
    ctx.exit()


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version, the form of the hot modules and Python's version.",
)
def cli() -> None:
    """The ingress that makes a release safe.

    Verbs that talk to a gateway find it by --admin or GATEWAY_ADMIN and prove themselves by
    GATEWAY_TOKEN; a demo that runs here is found without either.
    """


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status.

    click's own statuses are kept off 1, which says that a release was rolled back.
    """
    try:
        # Without standalone mode, ctx.exit(n) makes main() return n; verbs return None.
        result = cli.main(args=list(arguments), prog_name="gateway", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except click.Abort:
        return Exit.INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else Exit.DONE
    except Exception:  # noqa: BLE001  the last resort: Python's own status, 1, has a meaning here
        traceback.print_exc()
        return Exit.BUG
    return result if isinstance(result, int) else Exit.DONE


def main() -> None:
    """Run the command line of this process."""
    sys.exit(invoke(sys.argv[1:]))
