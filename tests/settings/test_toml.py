"""Settings in a TOML file: what they mean, what takes precedence, and how a wrong one is told."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from smtp2cf.cli.check import check
from smtp2cf.cli.examine import configuration
from smtp2cf.settings import example, loading, toml_file
from smtp2cf.settings.fields import Plain, Settings, SettingsError
from smtp2cf.settings.toml_lines import lines_of
from tests.settings.conftest import Config
from tests.settings.test_wrong import BROKEN, SECRET
from tests.support.bridge import running_bridge


@pytest.mark.parametrize(
    ("line", "as_in_the_environment"),
    [
        ("api_timeout = 90", "90"),
        ("api_timeout = 1.5", "1.5"),
        ('api_timeout = "90s"', "90s"),
        ("max_recipients = 20", "20"),
        ('max_message_size = "5MiB"', "5MiB"),
        ("check_header_from = true", "yes"),
        ("check_header_from = false", "no"),
        ('check_header_from = "yes"', "yes"),
        ('allow_networks = ["10.0.0.0/8", "fd00::/8"]', "10.0.0.0/8,fd00::/8"),
        ('allow_networks = "none"', "none"),
        ('api_rate = "none"', "none"),
        ('tls_key_file = " /key "', "/key"),
        ('mode = ""', ""),
        ('spool_url = "sqlite:///x"', "sqlite:///x"),
    ],
)
def test_a_value_means_what_it_means_in_the_environment(
    config: Config, line: str, as_in_the_environment: str
) -> None:
    setting = line.partition(" ")[0]
    found = getattr(config.load(line), setting)
    assert found == getattr(config.load("", **{f"SMTP2CF_{setting.upper()}": as_in_the_environment}), setting)


@pytest.mark.parametrize("name", ["SMTP2CF_API_TOKEN", "CLOUDFLARE_API_TOKEN", "SMTP2CF_API_TOKEN_FILE"])
@pytest.mark.parametrize("key", ["api_token", "api_token_file"])
@pytest.mark.parametrize("in_env_file", [True, False])
def test_whatever_else_sets_a_secret_takes_precedence(
    config: Config, tmp_path: Path, name: str, key: str, in_env_file: bool
) -> None:
    (tmp_path / "token").write_text("other")
    value = str(tmp_path / "token") if name.endswith("FILE") else "other"
    config.path.write_text(f'{key} = "{tmp_path}/nothing"')
    if not in_env_file:
        config.environment.setenv(name, value)
    (tmp_path / "env").write_text(f"{name}={value}\n" if in_env_file else "")
    assert loading.load(tmp_path / "env").api_token == SecretStr("other")


def test_the_environment_goes_over_the_env_file_and_that_over_the_toml_file(
    config: Config, tmp_path: Path
) -> None:
    (tmp_path / "env").write_text("SMTP2CF_MAX_RECIPIENTS=2\nSMTP2CF_MAX_SESSIONS=2\n")
    config.path.write_text("max_recipients = 3\nmax_sessions = 3\nclient_max_sessions = 3\n")
    config.environment.setenv("smtp2cf_max_recipients", "1")
    config.environment.setenv("SMTP2CF_CLIENT_MAX_SESSIONS", "")  # as good as not set
    found = loading.load(tmp_path / "env")
    assert (found.max_recipients, found.max_sessions, found.client_max_sessions) == (1, 2, 3)


def test_the_env_file_may_name_the_toml_file(config: Config, tmp_path: Path) -> None:
    config.environment.delenv("SMTP2CF_CONFIG")
    config.path.write_text("max_recipients = 3")
    (tmp_path / "env").write_text(f"SMTP2CF_CONFIG={config.path}\n")
    assert loading.load(tmp_path / "env").max_recipients == 3


@pytest.mark.parametrize("is_there", [True, False])
def test_without_a_name_the_usual_file_is_read_if_it_is_there(config: Config, is_there: bool) -> None:
    config.environment.delenv("SMTP2CF_CONFIG")
    config.environment.setattr(toml_file, "DEFAULT", config.path)
    if is_there:
        config.path.write_text("max_recipients = 3")
    assert loading.load().max_recipients == (3 if is_there else 1000)


def test_a_secret_and_the_users_may_be_in_files_that_it_names(config: Config, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    settings = config.load(f'api_token_file = "{tmp_path}/token"\nusers_file = "/users"')
    assert settings.api_token == SecretStr("s3cret")
    assert loading.files_of_secrets() == {"api_token": tmp_path / "token"}
    assert loading.users_file() == Path("/users")
    assert loading.toml_with_secrets() is None
    config.path.write_text('api_token = "s3cret"')
    assert loading.toml_with_secrets() == config.path


IN_TOML = [row for row in BROKEN if row[0].startswith("SMTP2CF_")]


@pytest.mark.parametrize(("variable", "value", "why"), IN_TOML, ids=[f"{row[0]}={row[1]}" for row in IN_TOML])
def test_a_wrong_value_is_told_with_its_place(config: Config, variable: str, value: str, why: str) -> None:
    key = variable.removeprefix("SMTP2CF_").lower()
    said = config.error(f"# mine\n\n{key} = {json.dumps(value)}\n")
    assert said == f"FILE, line 3: {key}: {value!r} is wrong: {why}"


@pytest.mark.parametrize("row", [row for row in SECRET if row[0].startswith("SMTP2CF_")])
def test_a_wrong_secret_is_not_shown(config: Config, row: tuple[str, str, str]) -> None:
    variable, value, why = row
    key = variable.removeprefix("SMTP2CF_").lower()
    said = config.error(f"{key} = {json.dumps(value, ensure_ascii=False)}\n")
    assert said == f"FILE, line 1: {key}: its value is wrong: {why}"


NO_LIST = 'leave the line out for the default, or write "none" or "any"'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mode = true", "FILE, line 1: mode: true is wrong: it can't be yes or no"),
        ("socket_mode = 0o660", "FILE, line 1: socket_mode: 432 is wrong: it must be in quotes"),
        ("check_header_from = 1", "FILE, line 1: check_header_from: 1 is wrong: it must be true or false"),
        ("api_token = 12345", "FILE, line 1: api_token: its value is wrong: it must be in quotes"),
        ('hostname = ["a"]', 'FILE, line 1: hostname: ["a"] is wrong: it must be one value, not a list'),
        ("admin_hosts = [1]", "FILE, line 1: admin_hosts: [1] is wrong: each item must be in quotes"),
        (
            "expire_after = 2026-01-01",
            'FILE, line 1: expire_after: "2026-01-01" is wrong: it must be in quotes',
        ),
        (
            "allow_networks = []",
            f"FILE, line 1: allow_networks: [] is wrong: {NO_LIST}",
        ),
        ("hostname.x = 1", "FILE, line 1: hostname is not a table: write hostname = … above any [table]"),
        (
            'api_token = "s3cret"\napi_token_file = "x"',
            "FILE, line 1: api_token and FILE, line 2: api_token_file are both set: set only one of them",
        ),
        (
            '\napi_token_file = "/no/token"',
            "FILE, line 2: api_token_file: /no/token: No such file or directory",
        ),
    ],
)
def test_what_can_not_be_a_setting_is_told_with_its_place(config: Config, text: str, says: str) -> None:
    assert config.error(text) == says


@pytest.mark.parametrize(
    "text", ['api_token = "s3cret', "mode = direct", "a = 1\na = 2", "[", "x = " + "[" * 9999]
)
def test_a_broken_file_is_one_error_that_shows_nothing_of_it(config: Config, text: str) -> None:
    said = config.error(text)
    assert said.startswith("SMTP2CF_CONFIG: FILE is not valid TOML: ")
    assert "\n" not in said
    assert "s3cret" not in said


def test_a_file_that_is_named_and_not_there_is_told(config: Config) -> None:
    with pytest.raises(SettingsError, match=r"^SMTP2CF_CONFIG: .*smtp2cf.toml: No such file or directory$"):
        loading.load()


def test_check_fails_for_a_key_that_nobody_knows_and_names_the_nearest(config: Config) -> None:
    config.load('account_id = "a"\napi_token = "b"\nhostnam = "x"\ncolour = 1\nSMTP2CF_MODE = "queue"')
    _, found = configuration.settings_read(None)
    assert [
        finding.text.replace(str(config.path), "FILE") for finding in found if finding.status == "error"
    ] == [
        "FILE, line 3: hostnam is not a setting: did you mean hostname?",
        "FILE, line 4: colour is not a setting",
        "FILE, line 5: SMTP2CF_MODE is not a setting: did you mean mode?",
    ]


def test_a_bridge_starts_from_a_file_and_warns_of_what_it_does_not_know(tmp_path: Path) -> None:
    file = tmp_path / "smtp2cf.toml"
    file.write_text('smtp_lissen = "x"\ndrain_timeout = 1\n')
    with running_bridge(tmp_path, CONFIG=str(file)) as bridge:
        warned = [line["setting"] for line in bridge.log() if line["event"] == "settings.unknown"]
    assert warned == [f"{file}, line 1: smtp_lissen is not a setting: did you mean smtp_listen?"]


EXAMPLE = re.sub(r"(?m)^#(\[|\S+ = )", r"\1", example.example_toml())
"""Every line of it counts."""


def test_every_line_of_the_example_is_a_setting_and_its_default(config: Config) -> None:
    text = EXAMPLE.partition("[senders]")[0]
    assert list(tomllib.loads(text)) == list(Plain.model_fields)
    found, defaults = config.load(text), Settings()
    for name, field in Plain.model_fields.items():
        if not field.examples:
            assert getattr(found, name) == getattr(defaults, name), name


def test_the_file_on_the_page_is_read_as_it_stands(config: Config, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    text = "".join(block.partition("```")[0] for block in page.split("```toml\n")[1:])
    (tmp_path / "token").write_text("s3cret")
    settings = config.load(text.replace("/etc/smtp2cf/token", f"{tmp_path}/token"))
    assert not loading.unknown_variables()
    assert [str(place) for place in settings.smtp_listen] == ["0.0.0.0:2525", "unix:/run/smtp2cf/smtp"]
    assert settings.expire_after == 5 * 86400
    assert settings.recipients == {"root": ("ops@example.com", "night@example.com")}
    assert [row.name for row in (*settings.accounts, *settings.listeners)] == ["shop", "printers"]


SCHEMA = json.loads(example.toml_schema())
TYPES: dict[str, type] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
}  # type: ignore[dict-item]
HOLDS = {
    "description": lambda value, text: True,
    "enum": lambda value, words: value in words,
    "type": lambda value, kinds: any(
        is_a(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)
    ),
    "properties": lambda value, rules: all(
        fits(value[key], rule) for key, rule in rules.items() if key in value
    ),
    "additionalProperties": lambda value, rule: not rule or all(fits(item, rule) for item in value.values()),
    "required": lambda value, keys: value.keys() >= set(keys),
    "items": lambda value, rule: not isinstance(value, list) or all(fits(item, rule) for item in value),
    "minItems": lambda value, least: not isinstance(value, list) or len(value) >= least,
    "pattern": lambda value, pattern: not isinstance(value, str) or re.search(pattern, value) is not None,
    "minimum": lambda value, least: isinstance(value, str) or value >= least,
    "exclusiveMinimum": lambda value, least: isinstance(value, str) or value > least,
    "maximum": lambda value, most: isinstance(value, str) or value <= most,
}
"""JSON Schema, as far as ours goes."""


def is_a(value: object, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def fits(value: object, rule: dict[str, object]) -> bool:
    """Whether a value is what a schema asks for."""
    return all(HOLDS[word](value, argument) for word, argument in rule.items())


def test_the_schema_has_every_key_and_no_other() -> None:
    assert list(SCHEMA["properties"]) == toml_file.names()
    assert SCHEMA["additionalProperties"] is False


def test_the_schema_takes_the_example() -> None:
    written = tomllib.loads(EXAMPLE)
    refused = [key for key, value in written.items() if not fits(value, SCHEMA["properties"][key])]
    assert refused == ["hostname"]  # empty there: the host's own name can't be written down


@pytest.mark.parametrize(
    "line",
    [
        "api_timeout = 0",
        "api_concurrency = 10001",
        "max_message_size = 10",
        "max_recipients = 1.5",
        "mode = true",
        'mode = "fast"',
        "socket_mode = 0o660",
        'socket_mode = "0888"',
        "check_header_from = [true]",
        "admin_hosts = [1]",
        "allow_networks = []",
        "api_token = 12345",
        'hostname = "a b"',
    ],
)
def test_what_the_schema_refuses_the_bridge_refuses(config: Config, line: str) -> None:
    ((key, value),) = tomllib.loads(line).items()
    assert not fits(value, SCHEMA["properties"][key])
    assert config.error(line).startswith(f"FILE, line 1: {key}: ")


def test_what_is_in_use_is_shown_with_its_origin_and_without_secrets(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env, token = tmp_path / "env", tmp_path / "token"
    token.write_text("s3cret")
    env.write_text(
        "SMTP2CF_MAX_SESSIONS=2\nSMTP2CF_RETRY_MIN=9\nSMTP2CF_SPOOL_URL=postgresql://me:s3cret@h/d\n"
    )
    config.path.write_text(
        f'api_token_file = "{token}"\nmode = "queue"\nretry_min = 8\nadmin_listen = "none"\nmax_sessions = 9'
    )
    config.environment.setenv("CLOUDFLARE_ACCOUNT_ID", "a1")
    config.environment.setenv("SMTP2CF_RETRY_MIN", "7200")
    check(env, show=True)
    said = capsys.readouterr().out
    assert "s3cret" not in said
    shown = dict(line.split(" = ") for line in said.replace(str(tmp_path), "DIR").splitlines())
    assert list(shown) == list(Plain.model_fields)
    assert {name: text for name, text in shown.items() if not text.endswith("# default")} == {
        "account_id": "a1 # CLOUDFLARE_ACCOUNT_ID in the environment",
        "api_token": "*** # DIR/smtp2cf.toml, line 1: api_token_file",
        "max_sessions": "2 # SMTP2CF_MAX_SESSIONS in --env-file DIR/env",
        "mode": "queue # DIR/smtp2cf.toml, line 2: mode",
        "spool_url": "*** # SMTP2CF_SPOOL_URL in --env-file DIR/env",
        "retry_min": "2h # SMTP2CF_RETRY_MIN in the environment",
        "admin_listen": "none # DIR/smtp2cf.toml, line 4: admin_listen",
    }
    assert shown["api_timeout"] == "1m # default"
    check(env, as_json=True, show=True)
    first = capsys.readouterr().out.splitlines()[0]
    origin = "CLOUDFLARE_ACCOUNT_ID in the environment"
    assert json.loads(first) == {"setting": "account_id", "value": "a1", "origin": origin}


KEYS = st.sampled_from(["a", '"b"', "'c'", "d.e", " f "])
VALUES = st.sampled_from(
    ["1", '"x"', '"""\na = 1\n[t]\n"""', "'''\nb = 1\n'''", "[\n1,\n# a = 1\n]", "{ a = 1 }"]
)
BETWEEN = st.sampled_from(["", "# a = 1", "  ", "# [t]"])
STATEMENTS = st.lists(st.tuples(BETWEEN, KEYS, VALUES), unique_by=lambda found: found[1], max_size=5)


@given(STATEMENTS, STATEMENTS, st.sampled_from(["\n", "\r\n"]))
def test_the_line_of_a_key_is_where_its_statement_begins(
    top: list[tuple[str, str, str]], table: list[tuple[str, str, str]], newline: str
) -> None:
    text, lines = "", {}
    for key, value, between in ((key, value, between) for between, key, value in top):
        text += f"{between}\n"
        lines[key.strip(" \"'").partition(".")[0]] = text.count("\n") + 1
        text += f"{key} = {value} # b = 2\n"
    lines["z"] = text.count("\n") + 1
    text += "[z]\n" + "".join(f"{between}\n{key} = {value}\n" for between, key, value in table)
    found = lines_of(text.replace("\n", newline))
    assert {path[0]: line for path, line in found.items() if len(path) == 1} == lines
