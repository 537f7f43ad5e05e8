#!/usr/bin/env bash
# Installs, uses, updates, removes and purges the packages of `make deb` in a Debian of its own.
#   deploy/try_deb.sh dist [IMAGE]      IMAGE: of the same Debian, with Python. Needs buildah and root.
set -euo pipefail
packages=$(realpath "$1")
image=${2:-localhost/python-slim}
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
container=$(buildah from "$image")
trap 'buildah rm "$container" >/dev/null' EXIT
buildah copy -q "$container" "$packages" /packages >/dev/null
buildah run "$container" -- bash -euo pipefail -s <<'INSIDE'
export DEBIAN_FRONTEND=noninteractive
fail() { echo "failed: $*" >&2; exit 1; }
step() { echo "==> $*"; }
# Nobody answers a question here.
install() { apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@" </dev/null >/tmp/apt.log 2>&1 || { cat /tmp/apt.log; exit 1; }; }

step install
apt-get update -qq
install /packages/smtp2cf_*.deb /packages/smtp2cf-mta_*.deb
smtp2cf --version
id smtp2cf >/dev/null
[ "$(stat -c '%a %U' /var/spool/smtp2cf/drop)" = "3733 smtp2cf" ] || fail "the drop directory: $(stat -c '%a %U' /var/spool/smtp2cf/drop)"
for name in sbin/sendmail lib/sendmail bin/mailq bin/newaliases; do
    [ "$(readlink -f /usr/$name)" = /usr/lib/smtp2cf/bin/smtp2cf-sendmail ] || fail "$name"
done
for file in /lib/systemd/system/smtp2cf.service /lib/systemd/system/smtp2cf.socket \
    /usr/share/bash-completion/completions/smtp2cf /etc/smtp2cf/smtp2cf.toml; do
    [ -f "$file" ] || fail "$file is missing"
done
grep -q '^ExecStart=/usr/bin/smtp2cf ' /lib/systemd/system/smtp2cf.service
[ ! -e /etc/systemd/system/sockets.target.wants/smtp2cf.socket ] || fail "it is enabled without an account"

use() {
    step "use: $1"
    export SMTP2CF_SMTP_LISTEN=unix:/tmp/smtp SMTP2CF_ADMIN_LISTEN=none SMTP2CF_SOCKET_MODE=0666 SMTP2CF_LOG_FORMAT=json
    export STATE_DIRECTORY=/var/lib/smtp2cf SMTP2CF_SENDMAIL_HOST=$SMTP2CF_SMTP_LISTEN SMTP2CF_SENDMAIL_DOMAIN=example.com
    setpriv --reuid=smtp2cf --regid=smtp2cf --clear-groups smtp2cf serve --sandbox --sandbox-listen 127.0.0.1:0 \
        --sandbox-tls-listen none >/tmp/out 2>/tmp/log &
    bridge=$!
    for _ in $(seq 100); do grep -q serve.ready /tmp/log && break; sleep 0.1; done
    printf 'Subject: packaged\n\nHello\n' | sendmail -f app@example.com anna@example.net
    printf 'Subject: packaged\n\nHello\n' | setpriv --reuid=nobody --regid=nogroup --clear-groups sendmail ben@example.net
    kill $bridge
    wait $bridge
    [ "$(grep -c '"status":"sent"' /tmp/log)" = 2 ] || { cat /tmp/log; fail "two messages"; }
}
use "installed"

step update
echo '# mine' >>/etc/smtp2cf/smtp2cf.toml
touch /etc/smtp2cf/token
mkdir -m 700 -p /var/lib/smtp2cf && touch /var/lib/smtp2cf/kept
dpkg-deb -R /packages/smtp2cf_*.deb /tmp/newer
sed -i 's/^Version: .*/&+next/' /tmp/newer/DEBIAN/control
dpkg-deb -Znone -b /tmp/newer /tmp/newer.deb >/dev/null
dpkg -i /tmp/newer.deb </dev/null >/dev/null
dpkg-query -W -f '${Version}\n' smtp2cf | grep -q +next
grep -q mine /etc/smtp2cf/smtp2cf.toml
[ -e /var/lib/smtp2cf/kept ]
use "updated"

step "back to the version before"
dpkg -i /packages/smtp2cf_*.deb </dev/null >/dev/null 2>&1
use "rolled back"

step remove
apt-get remove -y -qq smtp2cf smtp2cf-mta </dev/null >/dev/null
[ ! -e /usr/lib/smtp2cf ] || fail "left behind: $(find /usr/lib/smtp2cf | head -3)"
[ ! -e /usr/sbin/sendmail ]
[ -e /etc/smtp2cf/token ] && [ -e /var/lib/smtp2cf/kept ]
step purge
apt-get purge -y -qq smtp2cf </dev/null >/dev/null
for place in /etc/smtp2cf /var/lib/smtp2cf /var/spool/smtp2cf; do
    [ ! -e $place ] || fail "$place is still there"
done
echo "installed, used, updated, rolled back, removed and purged"
INSIDE
