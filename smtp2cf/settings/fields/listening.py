"""Listening: where mail is taken and from which networks, the sockets, and TLS."""

import socket
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.settings.values import HOST_NAME, LOOPBACK, ClientNetworks, Endpoints, Networks


class ListeningFields(BaseModel):
    """Where clients connect."""

    smtp_listen: Endpoints = Field(
        (Endpoint("127.0.0.1", 2525),),
        description="Where to accept mail: host:port, [v6]:port or unix:/path, separated by commas.",
    )
    smtps_listen: Endpoints = Field(
        (),
        description="Where to accept mail over SMTP with TLS from the first byte (port 465 elsewhere). Needs"
        " SMTP2CF_TLS_CERT_FILE.",
        examples=["0.0.0.0:2465"],
    )
    lmtp_listen: Endpoints = Field(
        (),
        description="Where to accept mail over LMTP, which answers for each recipient separately.",
        examples=["unix:/run/smtp2cf/lmtp"],
    )
    socket_mode: str = Field(
        "0660",
        pattern=r"^0?[0-7]{3}$",
        description="Permissions of the bridge's unix sockets, in octal. Who may write to a socket may"
        " connect.",
    )
    socket_group: str = Field(
        "",
        description="The group of the bridge's unix sockets, a name or a number. Default: the process's"
        " group.",
        examples=["mail"],
    )
    hostname: str = Field(
        default_factory=lambda: socket.gethostname(),
        validate_default=True,
        pattern=HOST_NAME,
        description="The name in the SMTP greeting. Default: this host's name.",
    )
    allow_networks: ClientNetworks = Field(
        LOOPBACK,
        description="Networks whose clients may send without a password, separated by commas. connected:"
        " those of this host's interfaces. private: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7,"
        " link-local addresses, and this host. none: nobody.",
    )
    proxy_networks: Networks = Field(
        (),
        description="Networks of load balancers that speak the PROXY protocol. Every connection from there"
        " must begin with a PROXY header, which names the client.",
        examples=["10.0.0.0/24"],
    )
    tls_cert_file: Path | None = Field(
        None,
        description="The server's certificate with its chain, in PEM. Turns on STARTTLS. Re-read when it"
        " changes and on SIGHUP.",
        examples=["/etc/smtp2cf/tls/fullchain.pem"],
    )
    tls_key_file: Path | None = Field(
        None,
        description="The certificate's private key, in PEM, not encrypted. Default: in"
        " SMTP2CF_TLS_CERT_FILE.",
        examples=["/etc/smtp2cf/tls/privkey.pem"],
    )
    tls_ca_file: Path | None = Field(
        None,
        description="The CA that your clients trust, in PEM, if it is not a public one. Only used to warn at"
        " the start about a certificate that clients will refuse.",
        examples=["/etc/smtp2cf/tls/ca.pem"],
    )
    tls_min_version: Literal["1.0", "1.1", "1.2", "1.3"] = Field(
        "1.2",
        description="The oldest TLS version a client may use. 1.0 and 1.1 are broken: use them only for old"
        " devices.",
    )
    i_am_an_open_relay: bool = Field(
        False,
        description="If SMTP2CF_ALLOW_NETWORKS or SMTP2CF_PROXY_NETWORKS contains every address, the bridge"
        " starts only if this is yes.",
    )
