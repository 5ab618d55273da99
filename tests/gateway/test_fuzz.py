"""What a fuzzer finds that reads /openapi.json: whatever it sends, no request ends in an error that nobody foresaw."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup

from swarm.gateway.app import build
from tests.gateway.pretend import Client, gateway

MODEL = "m"
PATHS = {"/v1/models", "/v1/models/{name}", "/v1/completions", "/v1/chat/completions", "/health", "/metrics", "/swarm.json"}

schema = schemathesis.openapi.from_asgi("/openapi.json", build(gateway(Client("some words, and ünïcode"), host="testserver")))


@schema.hook("map_body")
def ask_for_a_model_that_is_there(context, body):
    """Most of the time, or nearly everything would end with a 404."""
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(body["model"]) % 4:
        body["model"] = MODEL
    return body


def test_no_request_ends_in_an_error_that_nobody_foresaw():
    reached: set[tuple[str, int]] = set()
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:

        @settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate))
        @given(operation.as_strategy())
        def try_it(case):
            response = case.call_and_validate(checks=[not_a_server_error])
            reached.add((case.path, response.status_code))

        try_it()
    assert {operation.path for operation in operations} == PATHS
    assert {(path, status) for path in ("/v1/completions", "/v1/chat/completions") for status in (200, 400)} <= reached, "it got answers, and refusals"


def test_the_fuzzer_would_notice():
    broken = schemathesis.openapi.from_asgi("/openapi.json", build(gateway(Client("", breaks=ZeroDivisionError("x")), host="testserver")))
    operation = broken["/v1/completions"]["POST"]
    with pytest.raises(FailureGroup):
        operation.Case(body={"model": "m", "prompt": "hi"}).call_and_validate(checks=[not_a_server_error])
