"""The real callers, from Debian's packages and npm: what they mean to send is what reaches send_raw."""

# ruff: noqa: E501 - programs in other languages have their own idea of a line

import json
import os
import shutil
import subprocess
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.sendmail.conftest import Sendmail
from tests.support.bridge import Bridge
from tests.support.needs import needs
from tests.support.waiting import PATIENCE

PHPMAILER = "/usr/share/php/libphp-phpmailer/autoload.php"
SYMFONY_MAILER = "/usr/share/php/Symfony/Component/Mailer/autoload.php"
RUBY_MAIL = "/usr/share/doc/ruby-mail"
LOGWATCH = "/usr/share/logwatch/scripts/logwatch.pl"
GIT_SEND_EMAIL = "/usr/lib/git-core/git-send-email"
MAIL_ADDRESS = "/usr/share/perl5/Mail/Address.pm"
NODE_MODULES = next(
    (
        path
        for path in ("/usr/share/nodejs", "/usr/lib/node_modules", "/usr/local/lib/node_modules")
        if Path(path, "nodemailer").exists()
    ),
    "/usr/lib/node_modules",
)

needs_a_namespace = pytest.mark.skipif(
    os.getuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="needs root and a mount namespace of its own",
)


def run(sendmail: Sendmail, *command: str, text: str = "", cwd: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        command, input=text.encode(), capture_output=True, env={**sendmail.env, **env}, cwd=cwd, timeout=60
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode()


def only_message(bridge: Bridge) -> tuple[str, list[str], EmailMessage]:
    [message] = bridge.messages()
    parsed = message_from_bytes(message["mime_message"], policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    assert parsed.defects == []
    assert b"\r\r" not in message["mime_message"]
    return message["from"], message["recipients"], parsed


@needs("php")
@pytest.mark.parametrize(
    ("extra", "sender"), [("", "root@example.com"), ("-fbounces@shop.example", "bounces@shop.example")]
)
def test_php_mail(sendmail: Sendmail, bridge: Bridge, extra: str, sender: str) -> None:
    code = (
        "exit(mail('anna@example.net', 'Grüße', \"Zeile eins\\n.\\nZeile zwei\\n\", "
        f"['From' => 'shop@shop.example', 'Bcc' => 'copy@example.net'], '{extra}') ? 0 : 1);"
    )
    run(sendmail, "php", "-d", f"sendmail_path={sendmail.path} -t -i", "-r", code)

    found, recipients, message = only_message(bridge)
    assert (found, recipients) == (sender, ["anna@example.net", "copy@example.net"])
    assert message.get_content().split() == ["Zeile", "eins", ".", "Zeile", "zwei"]
    assert message["Bcc"] is None


@needs("php")
def test_php_mail_fails_when_the_recipient_is_refused(sendmail: Sendmail) -> None:
    code = "exit(mail('bounce@example.net', 's', 'b') ? 0 : 3);"
    command = ["php", "-d", f"sendmail_path={sendmail.path} -t -i", "-r", code]

    assert subprocess.run(command, env=sendmail.env, capture_output=True).returncode == 3


@needs("php", PHPMAILER)
def test_phpmailer(sendmail: Sendmail, bridge: Bridge) -> None:
    code = f"""require '{PHPMAILER}';
        $mail = new PHPMailer\\PHPMailer\\PHPMailer(true);
        $mail->isSendmail(); $mail->Sendmail = '{sendmail.path}'; $mail->CharSet = 'UTF-8';
        $mail->setFrom('shop@shop.example', 'Jörg'); $mail->addAddress('anna@example.net', 'Anna');
        $mail->addBCC('copy@example.net'); $mail->Subject = 'Grüße'; $mail->Body = "eins\\n.\\nzwei";
        $mail->addStringAttachment(str_repeat("\\x00\\xff", 3000), 'data.bin'); $mail->send();"""
    run(sendmail, "php", "-r", code)

    sender, recipients, message = only_message(bridge)
    assert (sender, sorted(recipients)) == ("shop@shop.example", ["anna@example.net", "copy@example.net"])
    assert (message["Subject"], message["From"]) == ("Grüße", "Jörg <shop@shop.example>")
    [attachment] = message.iter_attachments()
    assert attachment.get_content() == b"\x00\xff" * 3000


@needs("php", SYMFONY_MAILER)
def test_symfony_mailer_over_bs(sendmail: Sendmail, bridge: Bridge) -> None:
    code = f"""require '{SYMFONY_MAILER}'; require_once '/usr/share/php/Symfony/Component/Mime/autoload.php';
        use Symfony\\Component\\Mailer\\Transport\\SendmailTransport; use Symfony\\Component\\Mime\\Email;
        $transport = new SendmailTransport('{sendmail.path} -bs');
        foreach (['anna', 'bob'] as $name) {{
            $transport->send((new Email())->from('shop@shop.example')->to("$name@example.net")
                ->bcc('copy@example.net')->subject("Grüße $name")->text("eins\\n.\\n..zwei"));
        }}
        try {{ $transport->send((new Email())->from('a@b.example')->to('bounce@example.net')->text('x')); exit(4); }}
        catch (Symfony\\Component\\Mailer\\Exception\\TransportExceptionInterface $refused) {{ echo $refused->getMessage(); }}
        """
    said = run(sendmail, "php", "-r", code)

    messages = bridge.messages()
    assert [one["recipients"] for one in messages[:2]] == [
        ["anna@example.net", "copy@example.net"], ["bob@example.net", "copy@example.net"],
    ]  # fmt: skip
    message = message_from_bytes(messages[0]["mime_message"], policy=policy.default)
    assert message["Subject"] == "Grüße anna"
    assert isinstance(message, EmailMessage)
    assert message.get_content().split() == ["eins", ".", "..zwei"]
    assert "550" in said


@needs("git", GIT_SEND_EMAIL, MAIL_ADDRESS)
def test_git_send_email(sendmail: Sendmail, bridge: Bridge, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    git = ("git", "-c", "user.name=Jörg", "-c", "user.email=j@x.example")
    repository = tmp_path / "repository"
    run(sendmail, *git, "init", "-q", str(repository), **home)
    (repository / "file").write_text("a\n.\nb\n")
    run(sendmail, *git, "add", "file", cwd=repository, **home)
    run(sendmail, *git, "commit", "-q", "-m", "Add a file", cwd=repository, **home)
    send = (
        "send-email",
        f"--smtp-server={sendmail.path}",
        "--confirm=never",
        "--quiet",
        "--envelope-sender=bounces@x.example",
    )
    run(
        sendmail,
        *git,
        *send,
        "--to=Anna <anna@example.net>",
        "--cc=list@example.org",
        "-1",
        cwd=repository,
        **home,
    )

    sender, recipients, message = only_message(bridge)
    assert sender == "bounces@x.example"
    assert sorted(recipients) == ["anna@example.net", "j@x.example", "list@example.org"]
    assert message["Subject"] == "[PATCH] Add a file"
    assert "\n+.\n+b" in message.get_content().replace("\r", "")


@needs("mutt")
def test_mutt(sendmail: Sendmail, bridge: Bridge, tmp_path: Path) -> None:
    (tmp_path / "muttrc").write_text(
        f'set sendmail="{sendmail.path} -oem -oi"\nset from="Jörg <j@x.example>"\nset use_envelope_from=yes\n'
        'set envelope_from_address="bounces@x.example"\nset dsn_notify="failure,delay"\nset dsn_return="hdrs"\n'
        f'set record=""\nset charset="utf-8"\nset folder="{tmp_path}"\n'
    )
    attached = tmp_path / "data.bin"
    attached.write_bytes(bytes(range(256)))
    command = (
        "mutt",
        "-n",
        "-F",
        str(tmp_path / "muttrc"),
        "-s",
        "Grüße",
        "-b",
        "copy@example.net",
        "-a",
        str(attached),
    )
    run(
        sendmail,
        *command,
        "--",
        "anna@example.net",
        text="eins\n.\nzwei ü\n",
        HOME=str(tmp_path),
        LC_ALL="C.UTF-8",
    )

    sender, recipients, message = only_message(bridge)
    assert (sender, sorted(recipients)) == ("bounces@x.example", ["anna@example.net", "copy@example.net"])
    assert message["Subject"] == "Grüße"
    body = message.get_body()
    assert body is not None
    assert body.get_content().split() == ["eins", ".", "zwei", "ü"]
    assert next(message.iter_attachments()).get_content() == bytes(range(256))


@needs("s-nail")
def test_s_nail(sendmail: Sendmail, bridge: Bridge, tmp_path: Path) -> None:
    command = (
        "s-nail",
        "-:/",
        "-S",
        f"mta={sendmail.path}",
        "-S",
        "sendwait",
        "-S",
        "ttycharset=utf-8",
    )
    run(
        sendmail, *command, "-r", "j@x.example", "-s", "Grüße", "-b", "copy@example.net", "anna@example.net",
        text="eins\n.\nzwei\n", HOME=str(tmp_path), LC_ALL="C.UTF-8",
    )  # fmt: skip

    sender, recipients, message = only_message(bridge)
    assert (sender, sorted(recipients)) == ("j@x.example", ["anna@example.net", "copy@example.net"])
    assert message["Subject"] == "Grüße"
    assert "eins" in message.get_content()


@needs("ruby", RUBY_MAIL)
def test_ruby_mail(sendmail: Sendmail, bridge: Bridge) -> None:
    code = f"""require 'mail'
        Mail.defaults {{ delivery_method :sendmail, location: '{sendmail.path}' }}
        Mail.deliver do
          from 'Jörg <j@x.example>'; to ['anna@example.net', 'bob@example.net']; bcc 'copy@example.net'
          subject 'Grüße'; charset = 'UTF-8'; body "eins\\n.\\nzwei"
        end"""
    run(sendmail, "ruby", "-e", code, LC_ALL="C.UTF-8")

    sender, recipients, message = only_message(bridge)
    assert (sender, sorted(recipients)) == (
        "j@x.example",
        ["anna@example.net", "bob@example.net", "copy@example.net"],
    )
    assert message["Subject"] == "Grüße"
    assert message.get_content().split() == ["eins", ".", "zwei"]


@needs("node", f"{NODE_MODULES}/nodemailer")
def test_nodemailer(sendmail: Sendmail, bridge: Bridge) -> None:
    mail = {
        "from": "Jörg <j@x.example>", "to": "anna@example.net", "bcc": "copy@example.net", "subject": "Grüße",
        "text": "eins\n.\nzwei ü", "attachments": [{"filename": "d.bin", "content": "00ff", "encoding": "hex"}],
    }  # fmt: skip
    code = f"""require('nodemailer').createTransport({{sendmail: true, path: {json.dumps(sendmail.path)}, newline: 'unix'}})
        .sendMail({json.dumps(mail)}).then(() => process.exit(0), error => {{ console.error(error); process.exit(1) }})"""
    run(sendmail, "node", "-e", code, NODE_PATH=NODE_MODULES)

    sender, recipients, message = only_message(bridge)
    assert (sender, sorted(recipients)) == ("j@x.example", ["anna@example.net", "copy@example.net"])
    assert message["Subject"] == "Grüße"
    assert next(message.iter_attachments()).get_content() == b"\x00\xff"


def in_a_host_with_our_sendmail(sendmail: Sendmail, tmp_path: Path, *programs: str) -> list[str]:
    """The start of a command that runs where /usr/sbin has our sendmail and those programs, and no other."""
    sbin = tmp_path / "sbin"
    sbin.mkdir()
    for program in programs:
        shutil.copy(program, sbin)
    settings = "".join(
        f"export {name}='{value}'\n" for name, value in sendmail.env.items() if name.startswith("SMTP2CF")
    )
    wrapper = sbin / "sendmail"
    wrapper.write_text(f'#!/bin/sh\n{settings}exec {sendmail.path} "$@"\n')
    wrapper.chmod(0o755)
    return ["unshare", "--mount", "sh", "-c", f'mount --bind {sbin} /usr/sbin && exec "$@"', "sh"]


@needs("unshare", "perl", LOGWATCH)
@needs_a_namespace
def test_logwatch(sendmail: Sendmail, bridge: Bridge, tmp_path: Path) -> None:
    host = in_a_host_with_our_sendmail(sendmail, tmp_path)
    Path("/var/cache/logwatch").mkdir(exist_ok=True)
    report = (
        "--output",
        "mail",
        "--mailto",
        "root anna@example.net",
        "--format",
        "text",
        "--service",
        "zz-sys",
        "--range",
        "all",
    )
    run(sendmail, *host, "perl", LOGWATCH, *report, "--hostname", "web1")

    _, recipients, message = only_message(bridge)
    assert recipients == ["root@example.com", "anna@example.net"]
    assert message["Subject"].startswith("Logwatch for web1")
    assert "Logwatch End" in message.get_content()


@needs("unshare", "/usr/sbin/cron")
@needs_a_namespace
def test_cron_job_that_prints(sendmail: Sendmail, bridge: Bridge, tmp_path: Path) -> None:
    """A real cron with a crontab of its own, in a mount namespace of its own; the host's sees nothing.

    @reboot jobs run as soon as cron finds no mark in /run that it has started before: no minute to wait for.
    """
    host = in_a_host_with_our_sendmail(sendmail, tmp_path, "/usr/sbin/cron")
    crontabs, empty, run_directory = tmp_path / "crontabs", tmp_path / "empty", tmp_path / "run"
    for directory in (crontabs, empty, run_directory):
        directory.mkdir()
    (crontabs / "root").write_text("@reboot echo 'out of cron'; echo .; echo more\n")
    (crontabs / "root").chmod(0o600)
    (tmp_path / "crontab").write_text("")
    mounts = {
        "/var/spool/cron/crontabs": crontabs,
        "/etc/cron.d": empty,
        "/etc/crontab": tmp_path / "crontab",
        "/run": run_directory,
    }
    bind = " && ".join(f"mount --bind {source} {target}" for target, source in mounts.items())
    with subprocess.Popen([*host, "sh", "-c", f"{bind} && exec cron -f"], env=sendmail.env) as cron:
        try:
            bridge.wait_for(1, timeout=60)
        finally:
            cron.terminate()
            cron.wait(PATIENCE)

    message = bridge.messages()[0]
    assert (message["from"], message["recipients"]) == ("root@example.com", ["root@example.com"])
    parsed = message_from_bytes(message["mime_message"], policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    assert parsed["From"].addresses[0].addr_spec == "root@example.com"
    assert parsed["To"] == "root@example.com"
    assert parsed.get_content().split("\n")[:3] == ["out of cron\r", ".\r", "more\r"]
