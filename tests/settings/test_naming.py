"""What is said of settings names them as the file does that has set them."""

from pathlib import Path

from smtp2cf.cli.examine import examine
from smtp2cf.settings import loading, toml_file
from smtp2cf.settings.naming import named
from tests.settings.conftest import Config
from tests.support.command import smtp2cf
from tests.support.each import each

PLACES = {
    "SMTP2CF_RETRY_MIN": "F, line 2: retry_min",
    "SMTP2CF_API_BASE_URL": "F, line 3: api_base_url",
    "SMTP2CF_MODE": "F, line 4: mode",
}
TABLES = toml_file.Tables(
    Path("F"), {"listener": [{"name": "a"}, {"name": "printers"}]}, {("listener", 0): 7, ("listener", 1): 9}
)


@each(
    ("line", "says"),
    [
        ("SMTP2CF_RETRY_MAX=2h is less", "SMTP2CF_RETRY_MAX=2h is less"),
        ("SMTP2CF_RETRY_MIN=2h is more", "F, line 2: retry_min=2h is more"),
        ("raise it, or lower SMTP2CF_RETRY_MIN", "raise it, or lower retry_min (F, line 2)"),
        ("more than SMTP2CF_RETRY_MIN=2h, so", "more than retry_min=2h (F, line 2), so"),
        ("SMTP2CF_RETRY_MINI is none", "SMTP2CF_RETRY_MINI is none"),
        ("SMTP2CF_API_BASE_URL=http://a/v4 sends", "F, line 3: api_base_url=http://a/v4 sends"),
        ("see SMTP2CF_MODE: it", "see mode (F, line 4): it"),
        ("[[listener]] printers has no listen", "F, line 9: [[listener]] printers has no listen"),
        ("allow_networks of [[listener]] a contains", "F, line 7: allow_networks of [[listener]] a contains"),
        ("[[listener]] unheard of", "[[listener]] unheard of"),
        ("not [[listener]] a", "not [[listener]] a"),
    ],
)
def test_what_the_file_has_set_is_named_with_its_place(line: str, says: str) -> None:
    assert named(line, PLACES, TABLES) == says


async def test_check_names_what_contradicts_in_the_words_of_the_file(config: Config, tmp_path: Path) -> None:
    config.environment.setenv("SMTP2CF_RETRY_MAX", "1m")
    config.path.write_text(
        f'retry_min = "2m"\nmode = "queue"\nspool_url = "none"\nstate_dir = "{tmp_path}"\n'
        'smtp_listen = "none"\nadmin_listen = "none"\n'
        '[[listener]]\nname = "a"\nlisten = "127.0.0.1:0"\ntls = "required"\n'
    )
    config.environment.setenv("SMTP2CF_ACCOUNT_ID", "a1")
    said = [finding.text.replace(str(config.path), "FILE") async for finding in examine(None)]
    for begins in (
        "FILE, line 2: mode=queue needs a spool, but spool_url (FILE, line 3) is none",
        "FILE, line 1: retry_min=2m is more than SMTP2CF_RETRY_MAX=1m, so it has no effect",
        "FILE, line 7: [[listener]] a needs a certificate: SMTP2CF_TLS_CERT_FILE is not set",
    ):
        assert [line for line in said if line.startswith(begins)], said


def test_a_start_does_too(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('mode = "queue"\nspool_url = "none"\n')
    done = smtp2cf("serve", "--sandbox", CONFIG=str(tmp_path / "c.toml"))
    place = f"{tmp_path}/c.toml, line"
    assert done.err == f"smtp2cf: {place} 1: mode=queue needs a spool, but spool_url ({place} 2) is none\n"
    (tmp_path / "c.toml").write_text('tls_cert_file = "/no/cert"\n')
    done = smtp2cf("serve", "--sandbox", CONFIG=str(tmp_path / "c.toml"))
    assert done.err == f"smtp2cf: {place} 1: tls_cert_file: /no/cert: No such file or directory\n"


def test_a_file_that_broke_since_is_told_elsewhere(config: Config) -> None:
    config.path.write_text("mode = ")
    assert loading.named(["SMTP2CF_MODE=queue"]) == ["SMTP2CF_MODE=queue"]
