"""Who is calling: an account and what its token allows. Rights on objects are answered here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

#: Roles in an organisation, from least to most. A user is owner of his own namespace.
ROLES = ("reader", "maintainer", "owner")
SCOPES = ("read", "write", "publish", "admin")


@dataclass(frozen=True, slots=True)
class Caller:
    """One request's caller; ``account`` None is a stranger.

    ``scopes`` are those of the token (each includes the weaker ones as issued); ``projects`` restricts the token to names
    or patterns such as ``acme/*`` (None: no restriction); ``roles`` maps account names to this caller's role there.
    """

    account: int | None = None
    name: str = ""
    admin: bool = False
    scopes: frozenset[str] = frozenset()
    projects: tuple[str, ...] | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    token: int | None = None
    address: str = ""

    @property
    def anonymous(self) -> bool:
        """Whether no token was sent."""
        return self.account is None

    def role_in(self, owner: str) -> str | None:
        """The role in an account's namespace, None when there is none."""
        if self.anonymous:
            return None
        if owner.lower() == self.name.lower() or (self.admin and "admin" in self.scopes):
            return "owner"
        return self.roles.get(owner.lower())

    def covers(self, project: str) -> bool:
        """Whether the token's own restriction lets it touch a project (``org/name``, or a package's name)."""
        return self.projects is None or any(fnmatchcase(project.lower(), p.lower()) for p in self.projects)

    def owns(self, account: str, scope: str = "publish") -> bool:
        """Whether it speaks for an account itself: an owner, whose token is not restricted to projects. A pattern of
        projects may match the account's name, and means projects all the same."""
        return self.projects is None and scope in self.scopes and self.role_in(account) == "owner"

    def may_read(self, owner: str, project: str, *, private: bool) -> bool:
        """Whether an object may be seen at all."""
        if not private:
            return True
        return "read" in self.scopes and self.covers(project) and self.role_in(owner) is not None

    def may_write(self, owner: str, project: str, scope: str = "write", role: str = "maintainer") -> bool:
        """Whether an object may be changed: the token's scope and restriction, and the account's role, all three."""
        held = self.role_in(owner)
        return (
            scope in self.scopes
            and self.covers(project)
            and held is not None
            and ROLES.index(held) >= ROLES.index(role)
        )
