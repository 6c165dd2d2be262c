"""How long answers of peers are waited for."""

from __future__ import annotations

import pytest

from p2pmodels.core.peer import PeerId
from p2pmodels.core.questions import (
    ANSWER_S,
    SLOW_ANSWERS,
    TALKING_ANSWER_S,
    TALKING_MAX_S,
    AnswerTimes,
    Questions,
)

ONE, OTHER = PeerId("1" * 32), PeerId("2" * 32)


def waits(times: AnswerTimes, *, is_talking: bool = True) -> float:
    """How long a question stays open that nobody answers."""
    questions = Questions(times)
    questions.ask(ONE, 10.0, is_talking=is_talking)
    (until,) = questions.ends(10.0)
    assert questions.is_open(until - 0.01) and not questions.is_open(until)
    return until - 10.0


def test_who_talks_has_a_second_and_others_a_moment() -> None:
    assert waits(AnswerTimes()) == TALKING_ANSWER_S
    assert waits(AnswerTimes(), is_talking=False) == pytest.approx(ANSWER_S)


@pytest.mark.parametrize("late_s", [0.6, 0.9, 1.1])
def test_slow_answers_make_patient_for_other_blobs_too(late_s: float) -> None:
    times = AnswerTimes()
    questions = Questions(times)
    questions.ask(ONE, 10.0, is_talking=True)
    questions.answered(ONE, 10.0 + late_s)
    assert waits(times) == pytest.approx(SLOW_ANSWERS * late_s)


def test_patience_has_a_limit_and_wears_off_with_quick_answers() -> None:
    times = AnswerTimes()
    times.note(1000.0)
    assert waits(times) == TALKING_MAX_S
    for _ in range(200):
        times.note(0.01)
    assert waits(times) == TALKING_ANSWER_S


def test_who_did_not_talk_or_is_gone_says_nothing_of_how_busy_the_room_is() -> None:
    times = AnswerTimes()
    questions = Questions(times)
    questions.ask(ONE, 10.0, is_talking=False)
    questions.ask(OTHER, 10.0, is_talking=True)
    questions.answered(ONE, 12.0)
    questions.over(OTHER)
    questions.answered(OTHER, 12.0)
    assert waits(times) == TALKING_ANSWER_S
    assert not questions.are_unanswered
