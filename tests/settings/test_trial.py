"""What a sandbox changes in the settings, and what it leaves."""

from pathlib import Path

from smtp2cf.cloudflare.tally import Rate
from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.sandbox import Sandbox
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.trial import Trial


def test_a_sandbox_has_no_rate_unless_one_is_set(tmp_path: Path) -> None:
    trial = Trial(Endpoint("127.0.0.1", 0), None, Sandbox)
    settings = Settings(state_dir=tmp_path, tls_cert_file=tmp_path / "cert.pem")
    assert settings.api_rate == Rate(1200, 300.0)
    assert trial.set_up(settings).api_rate is None
    given = Settings(state_dir=tmp_path, tls_cert_file=tmp_path / "cert.pem", api_rate=Rate(40, 10.0))
    assert trial.set_up(given).api_rate == Rate(40, 10.0)
