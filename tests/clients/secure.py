"""Clients that encrypt and authenticate: how each is told to send one message, and in which way.

Each takes a `Target` and returns a command line; the message goes in on standard input or is the client's
own. Verification of the certificate stays on: it is for 127.0.0.1.
"""

# ruff: noqa: E501 - programs in other languages have their own idea of a line

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SENDER, RECIPIENT = "app@example.com", "anna@example.net"
PHPMAILER = "/usr/share/php/libphp-phpmailer/autoload.php"


class Target(NamedTuple):
    """Where to send to, and as whom. starttls, tls: ports. cert: the file to trust."""

    starttls: int
    tls: int
    cert: Path
    user: str
    password: str


Command = Callable[[Target], list[str]]


def swaks(*options: str, on_connect: bool = False) -> Command:
    def command(to: Target) -> list[str]:
        port = [
            "--port",
            str(to.tls if on_connect else to.starttls),
            "--tls-verify",
            "--tls-ca-path",
            str(to.cert),
        ]
        login = ["--auth-user", to.user, "--auth-password", to.password]
        way = ["--tlsc" if on_connect else "--tls", *options]
        return ["swaks", "--server", "127.0.0.1", *port, *way, *login, "--from", SENDER, "--to", RECIPIENT]

    return command


def curl(*options: str, on_connect: bool = False) -> Command:
    def command(to: Target) -> list[str]:
        url = f"smtps://127.0.0.1:{to.tls}" if on_connect else f"smtp://127.0.0.1:{to.starttls}"
        way = ["--ssl-reqd", "--cacert", str(to.cert), "--user", f"{to.user}:{to.password}", *options]
        envelope = ["--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "--upload-file", "-"]
        return ["curl", "--silent", "--show-error", "--verbose", f"{url}/app.example.com", *way, *envelope]

    return command


def msmtp(mechanism: str, *, on_connect: bool = False) -> Command:
    def command(to: Target) -> list[str]:
        port = to.tls if on_connect else to.starttls
        tls = ["--tls=on", f"--tls-starttls={'off' if on_connect else 'on'}", f"--tls-trust-file={to.cert}"]
        login = [f"--auth={mechanism}", f"--user={to.user}", f"--passwordeval=echo '{to.password}'"]
        return [
            "msmtp",
            "--file=/dev/null",
            "--host=127.0.0.1",
            f"--port={port}",
            *tls,
            *login,
            f"--from={SENDER}",
            "--",
            RECIPIENT,
        ]

    return command


def nodemailer(modules: str, *, on_connect: bool = False) -> Command:
    def command(to: Target) -> list[str]:
        options = {
            "host": "127.0.0.1",
            "port": to.tls if on_connect else to.starttls,
            "secure": on_connect,
            "requireTLS": True,
            "auth": {"user": to.user, "pass": to.password},
            "tls": {"ca": to.cert.read_text()},
        }
        code = f"""require('{modules}/nodemailer').createTransport({json.dumps(options)})
            .sendMail({{from: '{SENDER}', to: '{RECIPIENT}', subject: 'x', text: 'hello'}})
            .then(done => console.log(done.response), error => {{ console.error(error); process.exit(1); }});"""
        return ["node", "-e", code]

    return command


def phpmailer(mechanism: str, *, on_connect: bool = False) -> Command:
    def command(to: Target) -> list[str]:
        code = f"""require '{PHPMAILER}'; $mail = new PHPMailer\\PHPMailer\\PHPMailer(true);
            $mail->isSMTP(); $mail->Host = '127.0.0.1'; $mail->Port = {to.tls if on_connect else to.starttls};
            $mail->SMTPSecure = '{"ssl" if on_connect else "tls"}'; $mail->SMTPAuth = true; $mail->AuthType = '{mechanism}';
            $mail->Username = '{to.user}'; $mail->Password = '{to.password}'; $mail->SMTPDebug = 2;
            $mail->SMTPOptions = ['ssl' => ['cafile' => '{to.cert}']];
            $mail->setFrom('{SENDER}'); $mail->addAddress('{RECIPIENT}'); $mail->Subject = 'x'; $mail->Body = 'hello';
            $mail->send();"""
        return ["php", "-r", code]

    return command


def ruby(mechanism: str, *, on_connect: bool = False) -> Command:
    def command(to: Target) -> list[str]:
        code = f"""require 'net/smtp'
            smtp = Net::SMTP.new('127.0.0.1', {to.tls if on_connect else to.starttls})
            context = OpenSSL::SSL::SSLContext.new
            context.set_params(ca_file: '{to.cert}')
            smtp.{"enable_tls" if on_connect else "enable_starttls"}(context)
            smtp.start('app.example.com', '{to.user}', '{to.password}', :{mechanism}) do |session|
              session.send_message("Subject: x\\r\\n\\r\\nhello\\r\\n", '{SENDER}', '{RECIPIENT}')
            end"""
        return ["ruby", "-e", code]

    return command
