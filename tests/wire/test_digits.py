"""Numbers in text: what is documented is taken, and whatever else `int` and `float` would take is not."""

import pytest

from rootsrv.wire import digits

NO_NUMBERS = [
    "", " ", " 7", "7 ", "7\n", "1_0", "+1", "-1", "-0", "0x10", "1e3", "nan", "inf", "infinity", "٧", "²", "1,000",
    "9" * 21, "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", [*NO_NUMBERS, "1.0", ".5"])
def test_what_is_no_whole_number_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="must be a whole number in digits, got '") as refused:
        digits.whole(text)
    assert len(str(refused.value)) < 100


@pytest.mark.parametrize("text", [*NO_NUMBERS, "1.", ".", "1.2.3", "1._5"])
def test_what_is_no_number_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a number such as 2 or 0\.5, got '") as refused:
        digits.decimal(text)
    assert len(str(refused.value)) < 100


def test_numbers_within_bounds_are_taken_and_others_are_not() -> None:
    assert [digits.whole(each) for each in ("0", "53", "007", "18446744073709551615")] == [0, 53, 7, 2**64 - 1]
    assert [digits.decimal(each) for each in ("0", "2", "0.25", ".5", "10.0")] == [0, 2, 0.25, 0.5, 10]
    for text in ("0", "65536", "18446744073709551616"):
        with pytest.raises(ValueError, match=r"must be 1\.\.65535, got "):
            digits.whole(text, 1, 65_535)
    with pytest.raises(ValueError, match=r"must be 0\.5\.\.60, got 0\.25"):
        digits.decimal("0.25", 0.5, 60)
