from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.deployment import tokens
from isthmus.deployment.errors import PlaneRefusedError
from isthmus.deployment.tokens import Token
from isthmus.wire.admin import TokenState
from isthmus.wire.names import Role
from isthmus.wire.problems import Code

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def token(**changes: object) -> Token:
    values: dict[str, object] = {
        "token_id": "aaaaaaaaaaaa",
        "name": "site",
        "secret_sha256": "",
        "roles": frozenset(),
        "queues": frozenset(),
        "created_at": NOON,
        "expires_at": None,
        "revoked_at": None,
        "last_used_at": None,
        "last_used_address": None,
        "successor_id": None,
    }
    return Token(**{**values, **changes})  # type: ignore[arg-type]


def test_a_minted_text_is_parsed_back_and_does_not_show_its_secret() -> None:
    for _ in range(200):
        text = tokens.mint("dtest234")
        assert tokens.parse(str(text)) == text
        assert text.secret not in repr(text)
        assert len(text.token_id) == 12


@given(st.text(max_size=120))
def test_what_is_not_a_token_is_not_parsed(text: str) -> None:
    assert tokens.parse(text) is None


def test_a_token_with_anything_around_it_is_not_a_token() -> None:
    text = str(tokens.mint("dtest234"))
    for wrong in (text + "\n", " " + text, text[:-1], text + "A", text.upper(), text.replace("isthmus", "other")):
        assert tokens.parse(wrong) is None


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, TokenState.ACTIVE),
        ({"expires_at": NOON + timedelta(seconds=1)}, TokenState.ACTIVE),
        ({"expires_at": NOON}, TokenState.EXPIRED),
        ({"revoked_at": NOON}, TokenState.REVOKED),
        ({"revoked_at": NOON, "expires_at": NOON}, TokenState.REVOKED),
    ],
)
def test_the_state_of_a_token(changes: dict[str, object], state: TokenState) -> None:
    assert token(**changes).state(NOON) == state


def test_a_scope_covers_roles_and_queues_and_an_empty_one_covers_all() -> None:
    tokens.check_scope(token(), Role.TRIGGERER, ["any"])
    scoped = token(roles=frozenset({Role.WORKER}), queues=frozenset({"edge", "gpu"}))
    tokens.check_scope(scoped, Role.WORKER, ["edge"])
    for role, queues in ((Role.TRIGGERER, ["edge"]), (Role.WORKER, ["edge", "other"])):
        with pytest.raises(PlaneRefusedError) as caught:
            tokens.check_scope(scoped, role, queues)
        assert caught.value.problem is Code.TOKEN_SCOPE
