"""Who is believed of a piece, and who is found to lie."""

from __future__ import annotations

from random import Random

from p2pmodels.core import testimony as statements
from p2pmodels.core.peer import PeerId
from p2pmodels.core.testimony import WRONG_LIMIT

ONE, TWO, THREE = (PeerId(f"{number:032x}") for number in (1, 2, 3))
TRUE, FALSE = b"t" * 32, b"f" * 32


def test_who_says_two_things_of_a_piece_lies() -> None:
    testimony = statements.Testimony(1)
    assert not testimony.hear(ONE, 0, TRUE, is_vouched=False)
    assert testimony.hear(ONE, 0, FALSE, is_vouched=False)


def test_who_begins_anew_may_say_something_else() -> None:
    testimony = statements.Testimony(1)
    testimony.hear(ONE, 0, FALSE, is_vouched=False)
    testimony.retract(ONE)
    assert not testimony.hear(ONE, 0, TRUE, is_vouched=False)


def test_one_piece_of_the_origin_tells_the_liar_from_those_it_deceived() -> None:
    testimony = statements.Testimony(2)
    testimony.hear(ONE, 0, FALSE, is_vouched=True)
    testimony.hear(TWO, 0, FALSE, is_vouched=False)
    testimony.hear(THREE, 0, TRUE, is_vouched=False)
    assert testimony.in_doubt == {0}
    assert testimony.settle(0, TRUE) == {ONE}
    assert testimony.in_doubt == set()


def test_who_only_repeats_is_a_liar_when_it_was_wrong_too_often() -> None:
    testimony = statements.Testimony(WRONG_LIMIT)
    found = []
    for piece in range(WRONG_LIMIT):
        testimony.hear(ONE, piece, FALSE, is_vouched=False)
        found.append(testimony.settle(piece, TRUE))
    assert found == [set()] * (WRONG_LIMIT - 1) + [{ONE}]


def test_what_only_a_liar_vouched_for_is_void_whoever_repeats_it() -> None:
    testimony = statements.Testimony(2)
    testimony.hear(ONE, 0, FALSE, is_vouched=True)
    testimony.hear(TWO, 0, FALSE, is_vouched=False)
    testimony.hear(THREE, 1, TRUE, is_vouched=True)
    assert testimony.disown(ONE) == {0}
    assert not testimony.check(0, FALSE)
    assert testimony.check(0, TRUE)
    assert testimony.check(1, TRUE)


def test_bytes_other_than_announced_are_seen() -> None:
    testimony = statements.Testimony(1)
    testimony.hear(ONE, 0, TRUE, is_vouched=False)
    assert not testimony.is_what_it_said(ONE, 0, FALSE)
    assert testimony.is_what_it_said(TWO, 0, FALSE)
    assert not testimony.check(0, FALSE)


def test_a_witness_of_each_source_is_called_and_none_for_what_the_origin_gave() -> None:
    testimony = statements.Testimony(4)
    testimony.hear(ONE, 0, TRUE, is_vouched=True)
    testimony.given(TWO, 1)
    testimony.given(TWO, 2)
    testimony.settle(3, TRUE)
    called = testimony.witnesses(range(4), 1, Random(1))
    assert 0 in called
    assert len(called & {1, 2}) == 1
    assert 3 not in called
