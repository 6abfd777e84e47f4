"""librdkafka's security options as Python's ssl has them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from schemas.errors import SettingError
from stream_app.tls import context_of

TLS = {"security.protocol": "SASL_SSL"}


def test_without_tls_there_is_no_context() -> None:
    assert context_of({}) is None
    assert context_of({"security.protocol": "sasl_plaintext", "sasl.username": "u"}) is None


@pytest.mark.parametrize(
    ("options", "verified", "by_name"),
    [
        ({}, True, True),
        ({"ssl.endpoint.identification.algorithm": "none"}, True, False),
        ({"enable.ssl.certificate.verification": "false"}, False, False),
        ({"enable.ssl.certificate.verification": "0"}, False, False),
    ],
)
def test_certificates_are_verified_unless_the_options_say_otherwise(
    options: dict[str, str], *, verified: bool, by_name: bool
) -> None:
    context = context_of(TLS | options)
    assert context is not None
    assert (context.verify_mode is ssl.CERT_REQUIRED, context.check_hostname) == (verified, by_name)


@pytest.mark.parametrize("option", ["ssl.ca.location", "ssl.certificate.location"])
def test_a_file_that_isnt_there_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(SettingError, match=option):
        context_of({**TLS, option: str(tmp_path / "nothing.pem")})


@pytest.mark.parametrize("option", ["ssl.keystore.location", "sasl.oauthbearer.config", "enable.sasl.oauthbearer.x"])
def test_an_option_that_slices_would_be_read_without_is_refused(option: str) -> None:
    with pytest.raises(SettingError, match=option):
        context_of({option: "x"})
