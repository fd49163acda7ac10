"""Why a certificate is revoked."""

from __future__ import annotations

#: RFC 5280 5.3.1: the reasons that a subscriber may give, by name.
REASONS = {"unspecified": 0, "keyCompromise": 1, "affiliationChanged": 3, "superseded": 4, "cessationOfOperation": 5}
