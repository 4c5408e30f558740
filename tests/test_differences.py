"""Differences of settings in words."""

from __future__ import annotations

from clipsam.differences import differences, in_short


def test_every_value_that_differs_is_told_once():
    before = {
        "a": 1,
        "b": {"c": [1, 2], "d": "x" * 40, "same": None},
        "sam": {"crop": 0, "edges": 1},
        "gone": 2,
    }
    after = {"a": 1, "b": {"c": [1, 3], "d": "y", "same": None}, "sam": None, "new": True}
    assert differences(before, after) == [
        "b.c was [1, 2] and is [1, 3]",
        f'b.d was "{"x" * 19}..." and is "y"',
        "gone was 2 and is null",
        "new was null and is true",
        'sam was {"crop": 0, "edges": 1} and is null',
    ]
    assert differences(before, before) == []


def test_the_first_few_are_shown():
    assert in_short(["a", "b"]) == "a, b"
    assert in_short(list("abcdef")) == "a, b, c, d and 2 more"
