"""The URL of a spool as it is shown: never with a password, however that is written into it."""

from smtp2cf.spool.url import can_be_read, without_password
from tests.support.each import each

SECRET = "s3cret"
SHOWN = {
    "postgresql://h/d": "postgresql://h/d",
    "postgresql://me@h:5432/d": "postgresql://me@h:5432/d",
    f"postgresql://me:{SECRET}@h/d": "postgresql://me:***@h/d",
    f"postgresql://me:x@{SECRET}@h/d": "postgresql://me:***@h/d",
    f"postgres://me:{SECRET}%2Fx@h1:1,[::1]:2/d": "postgres://me:***@h1:1,[::1]:2/d",
    f"postgresql://me:{SECRET}@/d?host=/run/pg": "postgresql://me:***@/d?host=/run/pg",
    f"postgresql://h/d?user=me&password={SECRET}": "postgresql://h/d",
    f"postgresql:///d?sslpassword={SECRET}&host=/run/pg&x={SECRET}": "postgresql:///d?host=/run/pg",
}
UNREADABLE = (
    f"me:{SECRET}/x@h/d",
    f"me:{SECRET}#x@h/d",
    f"me:{SECRET}?x@h/d",
    f"me:1/{SECRET}@h/d",
    f"me:1#{SECRET}@h/d",
    f"me:1?{SECRET}@h/d",
    f"me:{SECRET}\N{ACCOUNT OF}@h/d",
    f"me:{SECRET}@[::1/d",
    f"h:{SECRET}/d",
)


@each(("url", "shown"), SHOWN.items())
def test_it_says_who_connects_and_where_to(url: str, shown: str) -> None:
    assert can_be_read(url)
    assert without_password(url) == shown


@each("place", UNREADABLE)
def test_one_that_can_be_misread_shows_nothing(place: str) -> None:
    assert not can_be_read(f"postgresql://{place}")
    assert without_password(f"postgresql://{place}") == "postgresql://***"
