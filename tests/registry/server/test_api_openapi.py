"""The OpenAPI document: all of what is served under /v1/, and true of real answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from registries import InProcess
from registry_seeds import CARD_TEXT, safetensors, seed_project, seed_repo, sha256
from result_documents import a_record, an_attestation, packed, samples_of, signed

from llmasos_registry.server.serve import all_routes
from llmasos_registry.signatures.keys import generate, keyid, prove, public_pem
from llmasos_registry.signatures.wheel_statement import sign_wheel

#: Requests that schemathesis makes up for each operation.
EXAMPLES = 60
_PART = re.compile(r"\{(\w+)(?::\w+)?\}")


@pytest.fixture
def described(app: InProcess) -> dict[str, Any]:
    answer = app.get("/v1/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_every_route_is_in_the_document(described: dict[str, Any]) -> None:
    served = {
        (route.method.lower(), _PART.sub(r"{\1}", route.pattern))
        for route in all_routes()
        if route.pattern.startswith("/v1/")
    }
    named = {(method, path) for path, item in described["paths"].items() for method in item}
    assert named == served
    assert len(named) > 40


def test_the_document_is_valid_openapi(described: dict[str, Any]) -> None:
    assert described["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(described).iter_errors()) == []
    operations = [one for item in described["paths"].values() for one in item.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all(one["summary"].endswith(".") for one in operations)
    # Every operation says what it answers; whatever is refused has one shape.
    for one in operations:
        assert one["responses"]["default"]["content"]["application/json"]["schema"]
    # What is public needs no token, the rest does.
    assert {one["x-scope"] for one in operations if {} in one["security"]} == {"public"}


class Checked:
    """Calls whose answers are compared with the document."""

    def __init__(self, app: InProcess, document: dict[str, Any]) -> None:
        self.app = app
        self.document = document
        self.seen: set[tuple[str, str]] = set()

    def __call__(self, method: str, path: str, token: str | None = None, **options: Any) -> Any:
        answer = self.app.call(method, path, token, **options)
        template = self._template(method.lower(), path.partition("?")[0])
        self.seen.add((method.lower(), template))
        responses = self.document["paths"][template][method.lower()]["responses"]
        assert answer.status_code < 500, answer.text
        described = responses.get(str(answer.status_code))
        if described is None:
            assert answer.status_code >= 400, f"{method} {path} answered {answer.status_code}: {answer.text}"
            described = responses["default"]
        if "content" not in described:
            assert answer.content == b""
            return None
        schema = {
            **described["content"]["application/json"]["schema"],
            "components": self.document["components"],
        }
        Draft202012Validator(schema).validate(answer.json())
        return answer.json()

    def _template(self, method: str, path: str) -> str:
        def pattern(template: str) -> str:
            text = template.replace("{kinds}", "(?:models|datasets)")
            return re.sub(r"\\\{\w+\\\}|\{\w+\}", "[^/]+", text)

        found = [
            template
            for template, item in self.document["paths"].items()
            if method in item and re.fullmatch(pattern(template), path)
        ]
        # The one with the fewest parameters, as the router takes literal addresses first.
        return min(found, key=lambda template: template.count("{"))


def test_real_answers_are_as_described(app: InProcess, described: dict[str, Any], tmp_path: Path) -> None:
    call = Checked(app, described)
    ann, chief = app.user("ann"), app.user("chief", ["admin"], admin=True)
    key = generate(tmp_path / "key.pem")
    number = keyid(key.public_key())
    call("GET", "/v1/info")
    call("GET", "/v1/me", ann)
    call("GET", "/v1/me")
    proof = {"pem": public_pem(key.public_key()), "proof": prove(key, "ann")}
    call("POST", "/v1/publishers/ann/keys", ann, json=proof)
    call("POST", "/v1/publishers/ann/keys", ann, json=proof)
    call("GET", "/v1/publishers/ann/keys")
    call("GET", "/v1/publishers/nobody/keys")
    files = {
        "README.md": CARD_TEXT,
        "model.safetensors": safetensors(),
        "llmasos.toml": b'requires = ["llmasos-acme>=1"]',
    }
    seed_repo(app, "ann/tiny", files)
    seed_project(app, "ann", "llmasos-acme", {"1.0.0": b"x"}, summary="Acme")
    model, plugin = "/v1/models/ann/tiny", "/v1/plugins/llmasos-acme"
    call("GET", model)
    call("POST", f"{model}/releases", ann, json={"version": "1.0.0"})
    call("POST", f"{model}/releases", ann, json={"version": "1.0.0"})
    call("POST", f"{model}/releases", ann, json={"version": "x"})
    call("GET", model)
    call("GET", f"{model}/resolve")
    call("GET", f"{model}/resolve?version=9.9.9")
    call("POST", f"{model}/releases/1.0.0/yank", ann, json={})
    call("DELETE", f"{model}/releases/1.0.0/yank", ann)
    call("GET", f"{model}/downloads")
    call("GET", plugin)
    name = "llmasos_acme-1.0.0-py3-none-any.whl"
    envelope = sign_wheel(key, name, sha256(b"x"), "llmasos-acme", "1.0.0", "ann")
    call("POST", f"{plugin}/files/{name}/signatures", ann, json=envelope)
    call("GET", f"{plugin}/files/{name}/signatures")
    call("POST", f"{plugin}/versions/1.0.0/yank", ann, json={"reason": "bad"})
    call("GET", plugin)
    call("DELETE", f"{plugin}/versions/1.0.0/yank", ann)
    call("GET", f"{plugin}/downloads?days=7")
    call("POST", "/v1/plugins", ann, json={"name": "llmasos-fresh"})
    call("PATCH", "/v1/plugins/llmasos-fresh", ann, json={"status": "deprecated", "status_reason": "old"})
    call("DELETE", f"{plugin}/files/{name}", ann)
    call("DELETE", "/v1/plugins/llmasos-fresh", ann)
    call("GET", "/v1/search?q=acme&limit=1")
    call("GET", "/v1/search")
    call("GET", "/v1/search?limit=0")
    affected = {"package": {"ecosystem": "PyPI", "name": "llmasos-acme"}, "versions": ["1.0.0"]}
    advisory = {"id": "x_LLMASOS-2026-0001", "summary": "bad", "affected": [affected]}
    call("POST", "/v1/advisories", chief, json=advisory)
    call("PUT", "/v1/advisories/x_LLMASOS-2026-0001", chief, json=advisory)
    call("GET", "/v1/vulns/x_LLMASOS-2026-0001")
    asked = {"package": {"purl": "pkg:pypi/llmasos-acme@1.0.0"}}
    assert call("POST", "/v1/query", json=asked)["vulns"]
    assert call("POST", "/v1/querybatch", json={"queries": [asked, {"commit": "abc"}]})["results"][0]["vulns"]
    record = a_record([1.0, 0.0] * 5)
    call(
        "POST",
        "/v1/records",
        ann,
        json={"account": "ann", "record": record, "signature": signed(record, key)},
    )
    call("POST", "/v1/records", ann, json={"account": "ann", "record": {}, "signature": {}})
    one = f"/v1/records/{record['digest']}"
    call("PUT", f"{one}/samples/quick", ann, content=packed(samples_of([1.0, 0.0] * 5)))
    assert call("GET", one)["samples"] == {"quick": 10}
    call("GET", f"{one}/samples/slow")
    attestation = an_attestation(record)
    body = {"account": "ann", "attestation": attestation, "signature": signed(attestation, key)}
    call("POST", f"{one}/attestations", ann, json=body)
    call("GET", "/v1/leaderboards")
    assert call("GET", "/v1/leaderboards/quick")["columns"]
    call("POST", f"{one}/withdraw", ann, json={"reason": "because"})
    hook = call("POST", "/v1/webhooks", ann, json={"url": "https://localhost/", "events": ["*"]})
    call("GET", "/v1/webhooks", ann)
    call("GET", f"/v1/webhooks/{hook['id']}/deliveries", ann)
    call("POST", f"/v1/webhooks/{hook['id']}/test", ann)
    call("DELETE", f"/v1/webhooks/{hook['id']}", ann)
    call("GET", "/v1/audit?limit=3", ann)
    call("GET", "/v1/audit", chief)
    call("DELETE", f"/v1/publishers/ann/keys/{number}", ann)
    token = call("POST", "/v1/tokens", ann, json={"name": "ci", "scopes": ["read"]})
    call("GET", "/v1/tokens", ann)
    call("DELETE", f"/v1/tokens/{token['id']}", ann)
    call("POST", "/v1/orgs", ann, json={"name": "acme"})
    call("PUT", "/v1/orgs/acme/members/chief", ann, json={"role": "reader"})
    call("GET", "/v1/orgs/acme", ann)
    call("DELETE", "/v1/orgs/acme/members/chief", ann)
    call("GET", "/v1/accounts/ann/usage", ann)
    call("GET", "/v1/openapi.json")
    everything = {(method, path) for path, item in described["paths"].items() for method in item}
    assert call.seen == everything


@pytest.mark.slow
def test_schemathesis_finds_no_server_error(make_app: Callable[..., InProcess]) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.strategies import sampled_from
    from schemathesis import checks

    app = make_app(rate_api=0)
    chief, ann = app.user("chief", ["admin"], admin=True), app.user("ann")
    seed_repo(app, "ann/tiny", {"README.md": CARD_TEXT, "model.safetensors": safetensors()})
    seed_project(app, "ann", "llmasos-acme", {"1.0.0": b"x"})
    wanted = [checks.not_a_server_error, checks.response_schema_conformance, checks.content_type_conformance]
    schema = schemathesis.openapi.from_asgi("/v1/openapi.json", app.client.app)
    limits = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    statuses: Counter[int] = Counter()

    def run(case: Any, token: str | None) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        answer = case.call_and_validate(headers=headers, checks=wanted)
        statuses[answer.status_code] += 1

    for operation in schema.get_all_operations():
        strategy = operation.ok().as_strategy()
        limits(given(case=strategy, token=sampled_from((chief, chief, ann, None)))(run))()
    assert statuses.total() > 40 * EXAMPLES
    # Not all of it stopped at the door.
    assert statuses[200] + statuses[201] > EXAMPLES


def test_the_page_names_every_operation(described: dict[str, Any]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "registry-api.md").read_text()
    missing = [path for path in described["paths"] if path not in page]
    assert missing == []
