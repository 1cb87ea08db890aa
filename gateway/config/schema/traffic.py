"""How clients are told apart and what a split means for pages: ``traffic``."""

from __future__ import annotations

from gateway.config.schema.types import (
    Duration,
    FilePath,
    Flag,
    Host,
    HttpToken,
    PathPattern,
    Seconds,
    Section,
    Variable,
    key,
)


class Cohort(Section):
    """What a client is told apart by. At most one of ``secret_file`` and ``secret_env``."""

    cookie: HttpToken = key("gw_cohort", description="Name of the gateway's own cookie.")
    header: HttpToken | None = key(
        None,
        description="Field with the user's identity, believed of trusted proxies and internal "
        "callers only.",
    )
    max_age: Seconds = key("30d", description="How long a browser keeps the cookie.")
    domain: Host | None = key(None, description="The cookie's Domain; null: the host alone.")
    secret_file: FilePath | None = key(
        None, description="File with the secret that signs testers' overrides."
    )
    secret_env: Variable | None = key(
        None, description="Environment variable with that secret instead."
    )


class Assets(Section):
    """Hashed files of pages, asked of the other color where one does not have them."""

    paths: tuple[PathPattern, ...] = key(
        ("/assets/*",), description="Paths of assets; a * at the end matches the rest."
    )
    keep: Duration = key(
        "7d", description="How long copies of the former stable's assets are kept."
    )


class TrafficSection(Section):
    """Splitting, for every service."""

    cohort: Cohort = key({}, description="How clients are told apart.")
    assets: Assets = key({}, description="Files that both colors must go on answering.")
    behind_cdn: Flag = key(
        default=False, description="A shared cache stands in front: HTML of a split is private."
    )
