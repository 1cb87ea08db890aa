"""The loader behind ``Loader``: from the configuration file to control's settings."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config.build import build_topology, file_endpoints, listener_tls
from gateway.config.load import ConfigErrors, read_file
from gateway.control.checks import health_policy
from gateway.control.settings import ServiceSettings, Settings, SettingsError, Token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.config.schema import Config
    from gateway.config.secrets import Kept

log = logging.getLogger("gateway.control")


def read(path: Path, env: Mapping[str, str], kept: Kept | None = None) -> Settings:
    """Return the file's settings. Blocking; raises SettingsError with every fault at once.

    ``kept`` stands in for what was in force and whose files are of no use now; that is logged.
    """
    try:
        loaded = read_file(path, env, kept=kept)
        if kept is not None and (kept.certificates or kept.client_ca):
            for warning in loaded.warnings:
                log.warning("%s", warning)
        return settings_of(loaded.config)
    except ConfigErrors as error:
        raise SettingsError(
            tuple(
                (
                    f"{each.file}:{each.line}:{each.column}",
                    f"{each.path}: {each.message}" if each.path else each.message,
                )
                for each in error.problems
            )
        ) from error


def settings_of(config: Config) -> Settings:
    """Return control's settings from a valid configuration."""
    services = tuple(
        ServiceSettings(
            name=name,
            initial_stable=section.initial_stable,
            blue=tuple(each.url for each in file_endpoints(config, name, "blue")),
            green=tuple(each.url for each in file_endpoints(config, name, "green")),
            health=health_policy(section),
            triggers=section.triggers,
        )
        for name, section in sorted(config.services.items())
    )
    tokens = tuple(
        Token(
            name=each.name,
            role=each.role,
            digest=hashlib.sha256(config.secrets.tokens[each.name].encode()).digest(),
        )
        for each in config.admin.tokens
    )
    return Settings(
        template=build_topology(config, number=0, pools=(), rows=dict.fromkeys(config.services, 0)),
        services=services,
        tokens=tokens,
        admin_hosts=_hosts(config),
        admin_tls=listener_tls(config, config.admin.tls, "admin"),
        client_ca=config.secrets.client_ca,
        client_ca_file=(config.admin.tls and config.admin.tls.client_ca) or "",
        state_path=Path(config.state.path),
        releases=config.releases,
        fixed=(
            ("listen", ", ".join(str(each.address) for each in config.listen)),
            ("admin.address", str(config.admin.address)),
            ("admin.tls", "off" if config.admin.tls is None else "on"),
            ("workers", str(config.workers or "auto")),
            ("state.path", config.state.path),
        ),
    )


def _hosts(config: Config) -> tuple[str, ...]:
    """Return the Host names that the admin API answers to, besides the loopback's."""
    names = set(config.admin.hosts)
    if config.admin.address.host:
        names.add(config.admin.address.host)
    return tuple(sorted(names))
