from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpointing.format.strict_json import canonical_text, parse_json, require_json

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_what_is_accepted_comes_back(value):
    require_json(value, "value")
    assert parse_json(canonical_text(value).encode()) == value


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"a": [1, float("nan")]}, ValueError, r"state\['a'\]\[1\] is nan"),
        (float("inf"), ValueError, "inf"),
        ({"a": {3: 1}}, TypeError, r"state\['a'\] has the key 3"),
        ((1, 2), TypeError, "tuple"),
        ({"a": b"x"}, TypeError, "bytes"),
        ("\ud800", ValueError, "Unicode"),
    ],
)
def test_refuses_what_would_change(value, error, message):
    with pytest.raises(error, match=message):
        require_json(value, "state")


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b"[1",
        b'"\xff"',
        b"",
    ],
)
def test_refuses_what_is_not_json_in_ascii(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)


@pytest.mark.parametrize("text", [b'{"b":1,"a":2}', b'{"a":1,"a":1}', b'{"a": 1}', b'{"a":1}\n'])
def test_there_is_one_spelling(text):
    assert canonical_text(parse_json(text)).encode() != text


def test_what_is_nested_too_deeply_is_not_spelled():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="too deeply"):
        canonical_text(value)


def test_any_mapping_is_written():
    assert canonical_text(MappingProxyType({"a": MappingProxyType({})})) == '{"a":{}}'
