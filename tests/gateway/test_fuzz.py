"""What a fuzzer finds that reads /openapi.json: whatever it sends, no request ends in an error that nobody foresaw."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup

from swarm.gateway.app import build
from tests.gateway.pretend import Client, gateway

schema = schemathesis.openapi.from_asgi("/openapi.json", build(gateway(Client("some words, and ünïcode"))))


@schema.parametrize()
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate))
def test_no_request_ends_in_an_error_that_nobody_foresaw(case):
    case.call_and_validate(checks=[not_a_server_error])


def test_the_fuzzer_reaches_every_path():
    found = {operation.ok().path for operation in schema.get_all_operations()}
    assert found == {"/v1/models", "/v1/models/{name}", "/v1/completions", "/v1/chat/completions", "/health", "/metrics", "/swarm.json"}


def test_the_fuzzer_would_notice():
    broken = schemathesis.openapi.from_asgi("/openapi.json", build(gateway(Client("", breaks=ZeroDivisionError("x")))))
    operation = broken["/v1/completions"]["POST"]
    with pytest.raises(FailureGroup):
        operation.Case(body={"model": "m", "prompt": "hi"}).call_and_validate(checks=[not_a_server_error])
