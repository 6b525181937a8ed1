"""Server cookies, by the test vectors of RFC 9018 appendix A."""

from ipaddress import ip_address

import pytest

from rootsrv.answer.cookies import ServerCookies

SECRET = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")


def test_a_new_server_cookie_is_that_of_rfc_9018_a1() -> None:
    cookies = ServerCookies(SECRET)
    made = cookies.make(bytes.fromhex("2464c4abcf10c957"), ip_address("198.51.100.100").packed, 1559731985)
    assert made.hex() == "2464c4abcf10c957010000005cf79f111f8130c3eee29480"


def test_a_good_young_cookie_is_sent_back_as_in_rfc_9018_a2() -> None:
    cookies = ServerCookies(SECRET)
    cookie = bytes.fromhex("2464c4abcf10c957010000005cf79f111f8130c3eee29480")
    assert cookies.answer(cookie, ip_address("198.51.100.100").packed, 1559734385 - 1200) == (cookie, True)


def test_a_good_cookie_older_than_half_an_hour_is_renewed_as_in_rfc_9018_a2() -> None:
    cookies = ServerCookies(SECRET)
    cookie = bytes.fromhex("2464c4abcf10c957010000005cf79f111f8130c3eee29480")
    renewed, good = cookies.answer(cookie, ip_address("198.51.100.100").packed, 1559734385)
    assert good
    assert renewed.hex() == "2464c4abcf10c957010000005cf7a871d4a564a1442aca77"


def test_reserved_bits_of_a_cookie_do_not_matter() -> None:
    # The cookie of RFC 9018 appendix A.3, half an hour old.
    cookies = ServerCookies(SECRET)
    cookie = bytes.fromhex("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5")
    renewed, good = cookies.answer(cookie, ip_address("203.0.113.203").packed, 1559727985 + 1800)
    assert good
    assert renewed[:12].hex() == "fc93fc62807ddb8601000000"


def test_a_cookie_made_with_the_previous_secret_is_replaced_as_in_rfc_9018_a4() -> None:
    old, new = bytes.fromhex("dd3bdf9344b678b185a6f5cb60fca715"), bytes.fromhex("445536bcd2513298075a5d379663c962")
    source = ip_address("2001:db8:220:1:59de:d0f4:8769:82b8").packed
    cookie = bytes.fromhex("22681ab97d52c298010000005cf7c57926556bd0934c72f8")
    renewed, good = ServerCookies(new, (old,)).answer(cookie, source, 1559741961)
    assert good
    assert renewed.hex() == "22681ab97d52c298010000005cf7c609a6bb79d16625507a"


@pytest.mark.parametrize(
    ("cookie", "why"),
    [
        ("2464c4abcf10c957010000005cf79f111f8130c3eee29481", "wrong hash"),
        ("2464c4abcf10c957020000005cf79f111f8130c3eee29480", "unknown version"),
        ("2464c4abcf10c957", "client cookie only"),
        ("2464c4abcf10c957010000005cf79f111f8130c3eee2948000", "of another length"),
    ],
)
def test_a_bad_server_cookie_gets_a_fresh_one(cookie: str, why: str) -> None:
    answered, good = ServerCookies(SECRET).answer(
        bytes.fromhex(cookie), ip_address("198.51.100.100").packed, 1559731985
    )
    assert not good, why
    assert answered.hex() == "2464c4abcf10c957010000005cf79f111f8130c3eee29480"


@pytest.mark.parametrize(("age", "good"), [(-301, False), (-300, True), (3600, True), (3601, False)])
def test_a_cookie_is_good_for_an_hour_and_five_minutes_ahead(age: int, good: bool) -> None:
    cookies, source = ServerCookies(SECRET), b"\xc0\0\2\1"
    made = cookies.make(bytes(8), source, 1_000_000)
    assert cookies.answer(made, source, 1_000_000 + age)[1] is good


def test_the_timestamp_wraps_in_2106() -> None:
    cookies, source = ServerCookies(SECRET), b"\xc0\0\2\1"
    made = cookies.make(bytes(8), source, 2**32 - 10)
    assert cookies.answer(made, source, 2**32 + 10) == (made, True)


def test_another_client_cannot_use_a_cookie() -> None:
    cookies = ServerCookies(SECRET)
    made = cookies.make(bytes(8), b"\xc0\0\2\1", 1_000_000)
    assert not cookies.answer(made, b"\xc0\0\2\2", 1_000_000)[1]


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a cookie secret has 16 octets, got 15"):
        ServerCookies(bytes(15))
