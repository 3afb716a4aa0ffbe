"""Shapes of the API's answers. The OpenAPI document is made from these, and mypy checks the handlers against them."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict


class Info(TypedDict):
    """Where the faces of this registry are."""

    name: str
    version: str
    api: Literal["1"]
    hub: str
    index: str
    upload: str
    #: Grows with every change that clients can see.
    serial: int


class Membership(TypedDict):
    """A role in an organisation."""

    org: str
    role: str


class Me(TypedDict):
    """Who the token belongs to, and what it allows."""

    name: str
    admin: bool
    scopes: list[str]
    projects: list[str] | None
    orgs: list[Membership]


class PackageFile(TypedDict):
    """A file of the package index."""

    filename: str
    url: str
    sha256: str
    size: int
    upload_time: str
    metadata_sha256: str | None


class PackageVersion(TypedDict):
    """A version of a project."""

    version: str
    yanked: bool
    yanked_reason: str | None
    requires_python: str | None
    requires_dist: list[str]
    manifest: dict[str, Any] | None
    published_at: str
    files: list[PackageFile]


class Project(TypedDict):
    """A project of the package index; ``plugin_id`` and ``manifest`` are null when it is no plugin."""

    name: str
    plugin_id: str | None
    summary: str
    owner: str
    private: bool
    status: str
    status_reason: str | None
    sdists: bool
    serial: int
    downloads: int
    #: Newest first.
    versions: list[PackageVersion]


class Yanked(TypedDict):
    """A version after it was yanked or taken back."""

    version: str
    yanked: bool
    yanked_reason: str | None
    serial: int


class Envelope(TypedDict):
    """A DSSE envelope."""

    payload: str
    payloadType: str
    signatures: list[dict[str, Any]]


class FileSignatures(TypedDict):
    """The signatures of a file; ``publisher`` is the account whose keys verify them."""

    filename: str
    sha256: str
    publisher: str
    signatures: list[Envelope]


class Release(TypedDict):
    """A sealed version of a model or dataset."""

    version: str
    commit: str
    created_at: str
    author: str
    yanked: bool
    yanked_reason: str | None
    message: str
    requires: list[str]
    signed: bool


class Repository(TypedDict):
    """A model or dataset. ``head`` is the newest commit of main, null while there is none."""

    id: str
    kind: str
    owner: str
    private: bool
    gated: Literal[False] | str
    summary: str
    tags: list[str]
    downloads: int
    created_at: str
    updated_at: str
    head: str | None
    serial: int
    #: Newest first.
    releases: list[Release]


class RepositoryFile(TypedDict):
    """A file of a commit; ``oid`` is git's id of what stands in the tree."""

    path: str
    size: int
    sha256: str
    oid: str


class SignatureFile(TypedDict):
    """Where the signature lies in the repository."""

    path: str


class PluginCandidates(TypedDict):
    """The versions of a plugin that meet a requirement, best first; empty when this registry has none."""

    requirement: str
    candidates: list[str]


class Resolution(TypedDict):
    """What a reference to a model or dataset stands for, and what it needs. ``version`` is null when no release is meant."""

    id: str
    kind: str
    version: str | None
    commit: str
    sealed: bool
    yanked: bool
    yanked_reason: str | None
    requires: list[str]
    architecture: str | None
    publisher: str
    serial: int
    files: list[RepositoryFile]
    signature: SignatureFile | None
    plugins: list[PluginCandidates]


class PublisherKey(TypedDict):
    """A key of a publisher. What it signed before ``revoked_at`` is for the client to judge; it signs nothing new."""

    keyid: str
    pem: str
    comment: str
    created_at: str
    revoked_at: str | None


class PublisherKeys(TypedDict):
    """All keys that an account ever registered, oldest first."""

    account: str
    keys: list[PublisherKey]


class Refusal(TypedDict):
    """Every failure: what is wrong, and what to do."""

    error: str
    hint: NotRequired[str]


class Found(TypedDict):
    """A thing that was searched for; ``version`` is the newest that was not taken back, null when there is none."""

    kind: str
    name: str
    summary: str
    version: str | None
    owner: str
    downloads: int
    updated_at: str


class SearchResults(TypedDict):
    """A page of results; ``next`` is the cursor of the next page, null on the last."""

    results: list[Found]
    next: str | None


class Vulnerability(TypedDict):
    """An advisory in the OSV format; the keys that every one has, and those that clients look at."""

    id: str
    modified: str
    published: str
    affected: list[dict[str, Any]]
    schema_version: NotRequired[str]
    withdrawn: NotRequired[str]
    aliases: NotRequired[list[str]]
    summary: NotRequired[str]
    details: NotRequired[str]
    severity: NotRequired[list[dict[str, str]]]
    references: NotRequired[list[dict[str, str]]]


class Vulnerabilities(TypedDict, total=False):
    """The advisories that answer a query; without ``vulns`` there are none."""

    vulns: list[Vulnerability]
    next_page_token: str


class VulnerabilityId(TypedDict):
    """An advisory's id, and when it changed last."""

    id: str
    modified: str


class BatchResult(TypedDict, total=False):
    """The answer to one query of a batch."""

    vulns: list[VulnerabilityId]
    next_page_token: str


class Batch(TypedDict):
    """The answers to a batch, in its order."""

    results: list[BatchResult]


class Day(TypedDict):
    """Downloads of one day (UTC)."""

    day: str
    count: int


class DownloadCounts(TypedDict):
    """Downloads altogether, and on each day that had some, oldest first. Counts are written every few seconds."""

    name: str
    total: int
    days: list[Day]


class AuditLine(TypedDict):
    """One line of the audit log; ``digest`` chains it to the line before."""

    id: int
    at: str
    actor: str
    token: int | None
    address: str
    action: str
    target: str
    detail: dict[str, Any]
    digest: str


class AuditLines(TypedDict):
    """A page of the audit log, the newest line first; ``next`` is the cursor of the next page."""

    lines: list[AuditLine]
    next: str | None


class Webhook(TypedDict):
    """An address that is told of events. The secret is shown once, when the hook is made."""

    id: int
    account: str
    url: str
    events: list[str]
    everything: bool
    created_at: str
    secret: NotRequired[str]


class Webhooks(TypedDict):
    """The hooks of an account, oldest first."""

    webhooks: list[Webhook]


class Delivery(TypedDict):
    """One event on its way to one hook. ``status``: what the address answered last; ``next_at``: the next attempt."""

    event_id: int
    event: str
    subject: str
    at: str
    attempts: int
    status: int | None
    error: str | None
    next_at: str | None
    done_at: str | None


class Deliveries(TypedDict):
    """The last deliveries of a hook, newest first."""

    deliveries: list[Delivery]


class TestDelivery(TypedDict):
    """What became of a test: the address's answer, or why there was none."""

    status: int | None
    error: str | None


class AttestationEntry(TypedDict):
    """What somebody found who computed documents of a record again."""

    digest: str
    by: str
    keyid: str
    verdict: str
    kind: str
    documents: int
    sample: int
    agreed: int
    refuted: int
    #: Sent by another account than the record's.
    independent: bool
    at: str


class EvalRecord(TypedDict):
    """A published record. ``state``: self-reported, spot-checked, fully re-run or refuted."""

    digest: str
    owner: str
    publisher: str
    model: str
    keyid: str
    created_at: str
    #: Why it was taken back, null when it was not.
    withdrawn: str | None
    state: str
    attestations: list[AttestationEntry]
    #: Task -> documents, for the samples that are here.
    samples: dict[str, int]


class EvalRecordDocument(EvalRecord):
    """With the record itself and the envelope that signs it."""

    record: dict[str, Any]
    signature: dict[str, Any]


class EvalSamples(TypedDict):
    """Samples of a task that were published."""

    task: str
    documents: int
    bytes: int


class LeaderboardTask(TypedDict):
    """A task with published scores."""

    task: str
    models: int


class Leaderboards(TypedDict):
    """The tasks of the leaderboards."""

    tasks: list[LeaderboardTask]


class AgainstAbove(TypedDict):
    """A row against the one above it: mean difference (above minus this) on shared documents, two-sided p."""

    documents: int
    difference: float
    p: float
    test: str


class LeaderboardRow(TypedDict):
    """One model's score."""

    rank: int
    model: str
    owner: str
    record: str
    value: float
    stderr: float | None
    ci_low: float | None
    ci_high: float | None
    state: str
    keyid: str
    created_at: str
    above: AgainstAbove | None


class LeaderboardColumn(TypedDict):
    """Scores that may be compared."""

    comparable: str
    metric: str
    filter: str
    higher_is_better: bool
    documents: int
    #: All of them; ``rows`` has the best.
    models: int
    rows: list[LeaderboardRow]


class Leaderboard(TypedDict):
    """The columns of a task."""

    task: str
    columns: list[LeaderboardColumn]
