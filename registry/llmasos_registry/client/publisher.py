"""A publisher's key on this machine, and whether the registry knows it."""

from __future__ import annotations

from pathlib import Path

from llmasos.errors import UsageError
from llmasos_registry.client.connection import Connection, RegistryError
from llmasos_registry.client.verify import registry_keys
from llmasos_registry.signatures.keys import PrivateKey, keyid

#: Below the configuration folder.
KEY_FILE = Path("keys", "publisher.pem")


def key_path(config_dir: Path, named: Path | None = None) -> Path:
    """The file that was named, else the one that `llmasos registry key new` makes."""
    return named if named is not None else config_dir / KEY_FILE


def caller_name(connection: Connection) -> str:
    """The account that this connection's token belongs to. Raises RegistryError."""
    answer = connection.get("/api/whoami-v2")
    name = answer.get("name") if isinstance(answer, dict) else None
    if not isinstance(name, str) or not name:
        raise RegistryError(f"{connection.url} does not say whose token this is")
    return name


def check_registered(connection: Connection, account: str, key: PrivateKey) -> None:
    """Raise UsageError when the registry would refuse signatures of this key for this account: not registered, or revoked."""
    name = keyid(key.public_key())
    known = {row.keyid: row for row in registry_keys(connection)(account)}
    if name not in known:
        raise UsageError(
            f"the key {name} is not registered for {account} at {connection.url}",
            hint=f"an owner of {account} registers it: llmasos registry key register --account {account}",
        )
    if known[name].revoked:
        raise UsageError(
            f"the key {name} of {account} was revoked",
            hint="make a new one in another file: llmasos registry key new --key FILE",
        )
