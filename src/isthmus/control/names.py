"""Ids that the control plane makes."""

import base64
import secrets


def base32(characters: int) -> str:
    """Random characters of a-z and 2-7."""
    return base64.b32encode(secrets.token_bytes(characters)).decode().lower()[:characters]


def cluster_id() -> str:
    """``cl`` and nine base-32 characters (DESIGN: vocabulary)."""
    return f"cl{base32(9)}"
