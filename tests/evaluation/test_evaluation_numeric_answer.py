from fractions import Fraction

import pytest

from lrt.errors import InvalidValue
from lrt.evaluation import Behaviour, BehaviourUnreadable, Item
from lrt.evaluation.numeric_answer import NumericAnswer, numbers, stated_number
from lrt.evaluation.scorers import score_texts, scorer_from_data, scorer_to_data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # stated, whatever else is counted
        ("He has 3 and buys 4, so 3 + 4 = 7. The answer is 7.", 7),
        ("The final answer is <atok> 12 </atok>.", 12),
        ("The answer is 5 apples, which cost $10 in all.", 5),
        ("Answer: 3 + 4 = 7", 7),
        ("So he keeps \\boxed{1{,}250} of 4000 stamps.", 1250),
        ("5 + 6 = 11\n#### 11", 11),
        ("**Answer:** 42 pages, 7 a day", 42),
        ("The answer is 8. Check: 2 of 10 are gone.", 8),
        ("The answer is 9. No, the answer is 6 of 12.", 6),
        ("**Answer**\n17", 17),
        # the last one, where none is stated
        ("She had 20 and gave away 8, which leaves 12", 12),
        ("The answer is unknown: of 5, some are left.", 5),
        ("10-3", 3),
        # how numbers are written
        ("$1,234.50", Fraction("1234.5")),
        ("1234567", 1_234_567),
        ("-7", -7),
        ("\u22127 degrees", -7),
        ("-$5", -5),
        ("(3) - 4", 4),
        ("3/4", Fraction(3, 4)),
        ("145.0", 145),
        ("50%", 50),
        ("5kg", 5),
        ("12.", 12),
        ("1, 2", 2),
        # none
        ("x1 and Q2", None),
        ("seven", None),
        ("1/0", None),
        ("", None),
    ],
)
def test_the_number_that_a_text_gives(text: str, value: int | None) -> None:
    assert stated_number(text) == value


def test_numbers_stand_in_order() -> None:
    assert numbers("of 1,000 cars 2 were red and 0.5 of them new") == [1000, 2, Fraction(1, 2)]


def scores(scorer: NumericAnswer, answer: str, *texts: str) -> list[float]:
    return score_texts(scorer, texts, [Item("p", matching=answer)] * len(texts))


def test_an_answer_counts_where_the_numbers_are_equal() -> None:
    texts = ("The answer is 145.", "145.00", "about 146", "1450", "no idea", "")
    assert scores(NumericAnswer(), "145.0", *texts) == [1, 1, 0, 0, 0, 0]
    assert scores(NumericAnswer(), "1/3", "0.3333", "0.34") == [1, 0]
    assert scores(NumericAnswer(), "0", "The answer is 0", "0.001") == [1, 0]
    # of a worked solution the number at its end
    assert scores(NumericAnswer(), "5 and 6 are 11\n#### 11", "11", "5") == [1, 0]


def test_what_a_model_goes_on_with_is_not_read() -> None:
    text = "The answer is 4.\n\nQuestion: Ann has 9 cats. Answer: 9"
    assert scores(NumericAnswer(("Question:",)), "4", text) == [1]
    assert scores(NumericAnswer(), "4", text) == [0]
    assert scores(NumericAnswer(("</a>", "Question:")), "4", "is <a>4</a> of 7", "Question: 4") == [1, 0]


def test_settings_are_read_back_and_checked() -> None:
    scorer = NumericAnswer(("Question:",))
    assert scorer_from_data(scorer_to_data(scorer)) == scorer
    with pytest.raises(InvalidValue, match="stops"):
        NumericAnswer(("",))


def test_an_item_without_a_number_is_refused() -> None:
    with pytest.raises(BehaviourUnreadable, match="`matching`; got 'many'"):
        Behaviour(
            name="sums",
            metric="share correct",
            scorer=NumericAnswer(),
            positives=("a",),
            negatives=("b",),
            development=(Item("1 + 1?", matching="2"),),
            test=(Item("2 + 2?", matching="many"),),
            damage_texts=("text",),
        )
