"""What is told of the bridge itself: its account, its quotas, its certificate, its disk."""

from pathlib import Path

from smtp2cf.cloudflare.errors import TokenRefusedError
from smtp2cf.cloudflare.health import ApiHealth
from smtp2cf.journal import quotas
from smtp2cf.listen.certificate import Certificate
from smtp2cf.reply import Reply, Scope
from smtp2cf.spool.disk_space import Space
from tests.support.certificates import make_pair, write_pair
from tests.support.news import heard

MIB = 2**20


def test_what_changes_for_all_calls() -> None:
    now = 0.0
    health = ApiHealth(lambda: now, account="shop")
    with heard() as told:
        refused = TokenRefusedError(Reply(451, "4.3.5", "the token is wrong"), Scope.ACCOUNT)
        health.ended(0.0, refused)
        health.ended(0.0, refused)
        now = 240.0
        health.ended(200.0, None)
    assert [(one.kind, one.text) for one in told] == [
        ("api.token_refused", "mail waits: the token is wrong"),
        ("api.recovered", "mail goes out again after 4 minutes"),
    ]
    assert told[0].facts == {"reason": "the token is wrong", "account": "shop"}
    assert told[1].facts == {"was": "token_refused", "after": 240.0, "account": "shop"}


def test_who_nears_one_of_our_quotas() -> None:
    quotas.said = quotas.Said()
    with heard() as told:
        quotas.scarce(setting="SMTP2CF_USER_QUOTA", limit="10 messages/1h", seconds=60, who="anna", used=8)
    (one,) = told
    assert (one.kind, one.text) == ("quota.scarce", "anna has used 8 of 10 messages/1h (SMTP2CF_USER_QUOTA)")


def test_a_certificate_that_ends_or_can_not_be_read(tmp_path: Path) -> None:
    cert_file, key_file = write_pair(tmp_path, make_pair("mx.example", ends=3))
    certificate = Certificate(cert_file, key_file)
    with heard() as told:
        assert certificate.reload()
        key_file.write_text("no key")
        assert not certificate.reload()
    assert [one.kind for one in told] == ["tls.expires_soon", "tls.reload_failed"]
    assert str(cert_file) in told[0].text
    assert "SMTP2CF_TLS_KEY_FILE" in told[1].text


def test_a_disk_on_which_there_is_little_room() -> None:
    free: list[int] = []
    space = Space(Path("/spool"), 64 * MIB, on_disk=lambda _: free[-1], clock=iter(range(100)).__next__)

    def look(mib: int) -> None:
        free.append(mib * MIB)
        space.refusal()
        space.warn_if_scarce()

    with heard() as told:
        look(200)
        assert not told
        for mib in (120, 60, 130, 120):
            look(mib)
        assert [one.kind for one in told] == ["spool.nearly_full"], "said once, and not each time it flaps"
        for mib in (200, 100):
            look(mib)
    assert len(told) == 2
    assert told[0].text == (
        "only 120.0 MiB are free in /spool; below 64.0 MiB new mail is refused (SMTP2CF_SPOOL_MIN_FREE)"
    )
