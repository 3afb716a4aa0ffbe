"""Delivering events to webhooks: at least once, signed, with pauses that grow, by one process at a time.

What is to be delivered is in the database, so nothing is lost with a process. Headers and signature are those of
Standard Webhooks (https://www.standardwebhooks.com), for which libraries exist in many languages.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio
import sqlalchemy as sa
from anyio import to_thread
from sqlalchemy.dialects import postgresql, sqlite

from llmasos_registry.server.api.moments import rfc3339
from llmasos_registry.server.api.webhook_target import Resolve, Undelivered, read_target, resolve, send
from llmasos_registry.server.context import Registry
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_accounts import accounts, facts
from llmasos_registry.server.db.tables_api import events, webhook_deliveries, webhooks
from llmasos_registry.server.db.tables_index import project_tombstones, projects
from llmasos_registry.server.failures import Failure

#: Seconds between looks for something to do.
POLL = 1.0
#: A process that has not said so for this long does not deliver any more, and another takes over. Seconds.
LEASE = 60.0
#: Pauses before the second attempt, the third and so on; after the last there is no further one. Seconds.
PAUSES = (10, 60, 300, 1800, 7200, 6 * 3600, 12 * 3600, 24 * 3600)
#: Deliveries at the same time.
AT_ONCE = 8
#: Days that events and what became of them are kept.
KEPT_DAYS = 30
_FACT = "webhook_lease"
SECRET_PREFIX = "whsec_"


def new_secret() -> str:
    """A key for signatures as Standard Webhooks writes it; 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signature(secret: str, message: str, timestamp: int, body: bytes) -> str:
    """``v1,`` and the base64 HMAC-SHA256 over ``id.timestamp.body``."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def signed_message(
    secret: str, message: str, event: str, at: datetime, data: Mapping[str, Any], now: int
) -> tuple[bytes, dict[str, str]]:
    """(body, headers) of one delivery."""
    body = json.dumps(
        {"type": event, "timestamp": rfc3339(at), "data": dict(data)},
        separators=(",", ":"),
        ensure_ascii=False,
    ).encode()
    return body, {
        "Content-Type": "application/json",
        "User-Agent": "llmasos-registry",
        "webhook-id": message,
        "webhook-timestamp": str(now),
        "webhook-signature": signature(secret, message, now, body),
    }


def wants(patterns: Sequence[str], event: str) -> bool:
    """Whether a hook's list names an event: itself, ``family.*`` or ``*``."""
    return any(p in ("*", event) or (p.endswith(".*") and event.startswith(p[:-1])) for p in patterns)


@dataclass(frozen=True, slots=True)
class Due:
    """One delivery whose time has come."""

    webhook: int
    event: int
    attempts: int
    url: str
    secret: str
    name: str
    subject: str
    at: datetime
    payload: Mapping[str, Any]


class Deliverer:
    """One process's part in delivering. ``clock`` gives seconds since the epoch; tests give their own."""

    def __init__(
        self, registry: Registry, *, clock: Callable[[], float] = time.time, resolver: Resolve = resolve
    ) -> None:
        self.registry = registry
        self.name = secrets.token_hex(8)
        self._clock = clock
        self._resolve = resolver
        self._leads_until = 0.0
        self._purge_at = 0.0
        self._threads = anyio.CapacityLimiter(AT_ONCE)

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            while True:
                busy = await self.step()
                await anyio.sleep(0 if busy else POLL)
        finally:
            self.release()

    def release(self) -> None:
        """Let another process deliver at once, where this one did; without it they wait for the lease to end."""
        if self._leads_until > self._clock():
            with self.registry.db.write() as conn:
                mine = facts.c.value.startswith(f"{self.name}|", autoescape=True)
                conn.execute(facts.update().where(facts.c.name == _FACT, mine).values(value="|0"))
            self._leads_until = 0.0

    async def step(self) -> bool:
        """Do what is to be done now; whether there may be more at once."""
        if not await to_thread.run_sync(self.lead):
            return False
        noted = await to_thread.run_sync(self.note_deliveries)
        due = await to_thread.run_sync(self.due)
        async with anyio.create_task_group() as group:
            for one in due:
                group.start_soon(partial(to_thread.run_sync, self.deliver, one, limiter=self._threads))
        return noted or len(due) == AT_ONCE

    def lead(self) -> bool:
        """Whether this process is the one that delivers. Writes nothing while there is nothing to do."""
        now = self._clock()
        with self.registry.db.read() as conn:
            idle = conn.execute(sa.select(webhooks.c.id).limit(1)).first() is None
        if idle and now < self._purge_at:
            return False
        # Renewed in time for a step that takes as long as it may.
        if now < self._leads_until - LEASE / 2:
            return True
        with self.registry.db.write() as conn:
            until = self._take_lease(conn, now)
            if until is None:
                return False
            if now >= self._purge_at:
                old = utcnow() - timedelta(days=KEPT_DAYS)
                conn.execute(events.delete().where(events.c.at < old))
                self._purge_at = now + 3600
        self._leads_until = until
        return not idle

    def _take_lease(self, conn: sa.Connection, now: float) -> float | None:
        insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
        conn.execute(insert(facts).values(name=_FACT, value="|0").on_conflict_do_nothing())
        held = conn.execute(
            sa.select(facts.c.value).where(facts.c.name == _FACT).with_for_update()
        ).scalar_one()
        holder, _, until = held.partition("|")
        if holder != self.name and float(until) > now:
            return None
        conn.execute(
            facts.update().where(facts.c.name == _FACT).values(value=f"{self.name}|{now + LEASE:.0f}")
        )
        return now + LEASE

    def note_deliveries(self) -> bool:
        """Turn new events into deliveries to the hooks that want them; whether there may be more events."""
        with self.registry.db.read() as conn:
            open_events = sa.select(events).where(sa.not_(events.c.handled)).order_by(events.c.id).limit(200)
            found = conn.execute(open_events).all()
            if not found:
                return False
            hooks = conn.execute(
                sa.select(webhooks, accounts.c.admin)
                .join(accounts, accounts.c.id == webhooks.c.account_id)
                .where(sa.not_(accounts.c.disabled))
            ).all()
            owners = {row.id: _owner(conn, row.event, row.subject) for row in found}
        now = utcnow()
        rows = [
            {"webhook_id": hook.id, "event_id": row.id, "attempts": 0, "next_at": now}
            for row in found
            for hook in hooks
            if hook.created_at <= row.at
            and wants(hook.events, row.event)
            and ((hook.everything and hook.admin) or owners[row.id] in (hook.account_id, _EVERYBODY))
        ]
        with self.registry.db.write() as conn:
            insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
            # A hook that was deleted meanwhile gets nothing.
            alive = set(conn.execute(sa.select(webhooks.c.id)).scalars())
            rows = [row for row in rows if row["webhook_id"] in alive]
            if rows:
                conn.execute(insert(webhook_deliveries).on_conflict_do_nothing(), rows)
            conn.execute(
                events.update().where(events.c.id.in_([row.id for row in found])).values(handled=True)
            )
        return len(found) == 200

    def due(self) -> list[Due]:
        """The deliveries whose time has come, those that wait longest first."""
        with self.registry.db.read() as conn:
            rows = conn.execute(
                sa.select(webhook_deliveries, webhooks.c.url, webhooks.c.secret, events)
                .join(webhooks, webhooks.c.id == webhook_deliveries.c.webhook_id)
                .join(events, events.c.id == webhook_deliveries.c.event_id)
                .where(webhook_deliveries.c.next_at <= datetime.fromtimestamp(self._clock(), utcnow().tzinfo))
                .order_by(webhook_deliveries.c.next_at)
                .limit(AT_ONCE)
            ).all()
        return [
            Due(
                webhook=row.webhook_id,
                event=row.event_id,
                attempts=row.attempts,
                url=row.url,
                secret=row.secret,
                name=row.event,
                subject=row.subject,
                at=row.at,
                payload=row.payload,
            )
            for row in rows
        ]

    def deliver(self, due: Due) -> None:
        """One attempt, and its result in the database."""
        data = {"subject": due.subject, **due.payload}
        message = f"evt_{due.event}_{due.webhook}"
        body, headers = signed_message(due.secret, message, due.name, due.at, data, int(self._clock()))
        status, error = attempt(
            due.url, body, headers, private=self.registry.settings.webhook_private, resolver=self._resolve
        )
        attempts = due.attempts + 1
        pause = PAUSES[attempts - 1] if error and attempts <= len(PAUSES) else None
        now = datetime.fromtimestamp(self._clock(), utcnow().tzinfo)
        with self.registry.db.write() as conn:
            conn.execute(
                webhook_deliveries.update()
                .where(
                    webhook_deliveries.c.webhook_id == due.webhook, webhook_deliveries.c.event_id == due.event
                )
                .values(
                    attempts=attempts,
                    status=status,
                    error=error,
                    next_at=None if pause is None else now + timedelta(seconds=pause),
                    done_at=now if pause is None else None,
                )
            )


def attempt(
    url: str, body: bytes, headers: Mapping[str, str], *, private: bool, resolver: Resolve = resolve
) -> tuple[int | None, str | None]:
    """(status, error) of one delivery; no error when the address answered 2xx."""
    try:
        # Checked again: what is allowed may have changed since the hook was made.
        status = send(read_target(url, private=private), body, headers, private=private, resolver=resolver)
    except (Undelivered, Failure) as error:
        return None, str(error)
    if 300 <= status < 400:
        return status, "redirects are not followed"
    return status, None if 200 <= status < 300 else f"the address answered {status}"


#: Stands for the owner of what everybody may know.
_EVERYBODY = 0


def _owner(conn: sa.Connection, event: str, subject: str) -> int | None:
    """The account whose business an event is."""
    family = event.partition(".")[0]
    if family == "advisory":
        return _EVERYBODY
    if family == "plugin":
        known = conn.execute(
            sa.select(projects.c.owner_id).where(projects.c.key == subject)
        ).scalar_one_or_none()
        if known is not None:
            return int(known)
        gone = sa.select(project_tombstones.c.owner).where(project_tombstones.c.key == subject)
        name = conn.execute(gone).scalar_one_or_none() or ""
    else:
        name = subject.partition("/")[0]
    found = conn.execute(
        sa.select(accounts.c.id).where(accounts.c.name_key == name.lower())
    ).scalar_one_or_none()
    return None if found is None else int(found)


async def deliver_webhooks(registry: Registry) -> None:
    """The task beside the requests."""
    await Deliverer(registry).run()
