"""Clients at their defaults, and a sandbox at its own: mail goes out, whatever they think of certificates.

Many use STARTTLS wherever it is offered and give up on a certificate that no public CA has signed.
"""

# ruff: noqa: E501 - programs in other languages have their own idea of a line

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.secure import PHPMAILER, RECIPIENT, SENDER
from tests.sendmail.test_callers import NODE_MODULES
from tests.support.bridge import Bridge, running_bridge
from tests.support.needs import needs

NODEMAILER, SYMFONY = f"{NODE_MODULES}/nodemailer", "/usr/share/php/Symfony/Component/Mailer/autoload.php"


def nodemailer(port: int, directory: Path) -> list[str]:
    code = f"""require('{NODEMAILER}').createTransport({{host: '127.0.0.1', port: {port}}})
        .sendMail({{from: '{SENDER}', to: '{RECIPIENT}', subject: 'x', text: 'hello'}})
        .then(() => 0, error => {{ console.error(error); process.exit(1); }});"""
    return ["node", "-e", code]


def phpmailer(port: int, directory: Path) -> list[str]:
    code = f"""require '{PHPMAILER}'; $mail = new PHPMailer\\PHPMailer\\PHPMailer(true);
        $mail->isSMTP(); $mail->Host = '127.0.0.1'; $mail->Port = {port};
        $mail->setFrom('{SENDER}'); $mail->addAddress('{RECIPIENT}'); $mail->Subject = 'x'; $mail->Body = 'hello';
        $mail->send();"""
    return ["php", "-r", code]


def symfony(port: int, directory: Path) -> list[str]:
    code = f"""require '{SYMFONY}';
        $transport = Symfony\\Component\\Mailer\\Transport::fromDsn('smtp://127.0.0.1:{port}');
        $mail = (new Symfony\\Component\\Mime\\Email())->from('{SENDER}')->to('{RECIPIENT}')->subject('x')->text('hello');
        (new Symfony\\Component\\Mailer\\Mailer($transport))->send($mail);"""
    return ["php", "-r", code]


def ruby_mail(port: int, directory: Path) -> list[str]:
    code = f"""require 'mail'
        Mail.defaults {{ delivery_method :smtp, address: '127.0.0.1', port: {port} }}
        Mail.deliver {{ from '{SENDER}'; to '{RECIPIENT}'; subject 'x'; body 'hello' }}"""
    return ["ruby", "-e", code]


def go_smtp(port: int, directory: Path) -> list[str]:
    program = directory / "main.go"
    program.write_text(f"""package main
import "net/smtp"
func main() {{
    err := smtp.SendMail("127.0.0.1:{port}", nil, "{SENDER}", []string{{"{RECIPIENT}"}}, []byte("Subject: x\\r\\n\\r\\nhello\\r\\n"))
    if err != nil {{ panic(err) }}
}}""")
    return ["go", "run", str(program)]


CLIENTS = {
    "Nodemailer": (nodemailer, needs("node", NODEMAILER)),
    "PHPMailer": (phpmailer, needs("php", PHPMAILER)),
    "Symfony": (symfony, needs("php", SYMFONY)),
    "Ruby's mail": (ruby_mail, needs("ruby")),
    "Go's SendMail": (go_smtp, needs("go")),
}


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """A sandbox as `make run` starts it."""
    with running_bridge(tmp_path_factory.mktemp("bridge")) as bridge:
        yield bridge


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [pytest.param(how, marks=marks, id=name) for name, (how, marks) in CLIENTS.items()]
)
def test_a_client_at_its_defaults_delivers_to_a_sandbox(bridge: Bridge, tmp_path: Path, command) -> None:
    bridge.clear()
    done = subprocess.run(
        command(bridge.smtp_port, tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (message,) = bridge.messages()
    assert message["recipients"] == [RECIPIENT]
