"""TLS towards the brokers, for the client that isn't librdkafka.

Comes in: librdkafka's options, as ``[kafka.consumer]`` has them.  Goes out: the same for Python's ``ssl``.

Guarantees: no option about security is passed over: one that has no counterpart here is refused by name, for half of the
worker's connections would be without it.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from schemas.errors import SettingError

_FALSE = {"false", "f", "0"}
"""What librdkafka takes for it."""
_PREFIXES = ("ssl.", "sasl.", "enable.ssl.", "enable.sasl.")
_MAPPED = frozenset(
    {
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.key.password",
        "ssl.endpoint.identification.algorithm",
        "enable.ssl.certificate.verification",
        "sasl.username",
        "sasl.password",
        "sasl.mechanism",
        "sasl.mechanisms",
    }
)


def refuse_unmapped(options: Mapping[str, str]) -> None:
    """Raise SettingError for an option about security that slices would be read without."""
    for name in options:
        if name.startswith(_PREFIXES) and name not in _MAPPED:
            raise SettingError(
                f"[kafka.consumer] {name} can't be used: workers know {', '.join(sorted(_MAPPED))}; take it out"
            )


def context_of(options: Mapping[str, str]) -> ssl.SSLContext | None:
    """What ``security.protocol`` and the options beside it ask for; None: no TLS.  Raises SettingError."""
    refuse_unmapped(options)
    if not options.get("security.protocol", "plaintext").lower().endswith("ssl"):
        return None
    try:
        context = ssl.create_default_context(cafile=options.get("ssl.ca.location"))
        certificate = options.get("ssl.certificate.location")
        if certificate is not None:
            # Without a password OpenSSL would ask for one on the terminal.
            password = options.get("ssl.key.password", "")
            context.load_cert_chain(certificate, options.get("ssl.key.location"), password)
    except (OSError, ssl.SSLError) as error:
        raise SettingError(
            f"[kafka.consumer] ssl.ca.location, ssl.certificate.location or ssl.key.location can't be read: {error}"
        ) from None
    if options.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        context.check_hostname = False
    if str(options.get("enable.ssl.certificate.verification", "true")).lower() in _FALSE:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
