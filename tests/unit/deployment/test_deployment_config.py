"""Section [isthmus]: what it takes, what it refuses, and how it is documented."""

import dataclasses
from pathlib import Path

import pytest

from isthmus.deployment import config
from isthmus.deployment.config import DeploymentConfig
from isthmus.kit.errors import ConfigError

LEAST = {"deployment_id": "dq7xk2ma"}


def test_the_defaults_are_the_documented_ones() -> None:
    loaded = config.load(LEAST)
    assert loaded == DeploymentConfig(deployment_id="dq7xk2ma")
    assert (loaded.heartbeat_seconds, loaded.lease_seconds, loaded.running_lease_seconds) == (10, 30, 120)
    assert (loaded.max_body_bytes, loaded.max_execution_body_bytes) == (1024**2, 16 * 1024**2)
    assert (loaded.admin_host, loaded.listen_port, loaded.admin_port) == ("127.0.0.1", 8443, 8444)


def test_texts_become_values_as_airflow_gives_them() -> None:
    loaded = config.load(
        {
            **LEAST,
            "event_driven_scheduling": "False",
            "token_limit": "7",
            "heartbeat_seconds": 2,
            "allowed_connections": "public_*, warehouse",
            "trusted_proxies": "10.0.0.0/8, fd00::/8",
            "tls_certificate": "/etc/tls.crt",
            "tls_private_key": "/etc/tls.key",
            "notify_url": " ",
            "public_url": None,
        }
    )
    assert loaded.event_driven_scheduling is False
    assert loaded.token_limit == 7
    assert loaded.heartbeat_seconds == 2.0
    assert loaded.allowed_connections == ("public_*", "warehouse")
    assert [str(network) for network in loaded.trusted_proxies] == ["10.0.0.0/8", "fd00::/8"]
    assert loaded.tls_certificate == Path("/etc/tls.crt")
    assert loaded.notify_url is None


@pytest.mark.parametrize(
    ("section", "code", "names"),
    [
        ({}, "config_missing", "deployment_id"),
        ({**LEAST, "listen_prot": "1"}, "config_unknown_key", "LISTEN_PORT"),
        ({**LEAST, "anything": "1"}, "config_unknown_key", "RETENTION_HOURS"),
        ({"deployment_id": "airflow"}, "config_invalid", "deployment_id"),
        ({**LEAST, "lease_seconds": "soon"}, "config_invalid", "lease_seconds"),
        ({**LEAST, "lease_seconds": "5"}, "config_invalid", "lease_seconds"),
        ({**LEAST, "lease_seconds": "nan"}, "config_invalid", "lease_seconds"),
        ({**LEAST, "running_lease_seconds": "20"}, "config_invalid", "running_lease_seconds"),
        ({**LEAST, "claim_wait_seconds": "60"}, "config_invalid", "claim_wait_seconds"),
        ({**LEAST, "listen_port": "70000"}, "config_invalid", "listen_port"),
        ({**LEAST, "admin_port": "8443"}, "config_invalid", "admin_port"),
        ({**LEAST, "trusted_proxies": "ingress"}, "config_invalid", "trusted_proxies"),
        ({**LEAST, "tls_certificate": "/etc/tls.crt"}, "config_invalid", "tls_private_key"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(section: dict[str, str], code: str, names: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.load(section)
    assert refused.value.code == code
    assert names in f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize(
    ("patterns", "prefix", "allowed"),
    [
        ((), "", False),
        (("*",), "", True),
        (("shared_*",), "", False),
        (("shared_*",), "shared", False),
        (("shared_*",), "shared_", True),
        (("shared_*",), "shared_a", True),
        (("shared_",), "shared_", False),
        (("s?ared_*",), "shared_", False),
    ],
)
def test_keys_are_listed_only_under_a_prefix_that_one_pattern_covers(
    patterns: tuple[str, ...], prefix: str, allowed: bool
) -> None:
    loaded = DeploymentConfig(deployment_id="dq7xk2ma", allowed_variables=patterns)
    assert loaded.allows_listing(prefix) is allowed


def test_every_setting_is_documented_for_airflow() -> None:
    assert [option.name for option in config.OPTIONS] == [one.name for one in dataclasses.fields(DeploymentConfig)]
    assert all(option.description for option in config.OPTIONS)
    defaults = {option.name: option.default for option in config.OPTIONS if option.default}
    assert config.load({**defaults, **LEAST}) == config.load(LEAST)
