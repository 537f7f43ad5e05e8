# The image of smtp2cf: the bridge and what it needs, no compiler, no package installer, no shell used to run.
#
#   docker build --build-arg VERSION=1.2.3 --build-arg REVISION=$(git rev-parse HEAD) -t smtp2cf .
#   docker run --read-only -p 127.0.0.1:2525:2525 -e SMTP2CF_ACCOUNT_ID=… -e SMTP2CF_API_TOKEN=… smtp2cf
#
# It runs as 10025:10025 with a read-only root and writes nowhere but in its volume. Like everywhere it
# relays for loopback only until SMTP2CF_ALLOW_NETWORKS names the networks of its clients.

# Any image with Python 3.11 to 3.13 and pip. Both stages stand on it: the environment made in the first
# one points to the interpreter of the second.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_PROGRESS_BAR=off
WORKDIR /build
# strip, where the base lacks it: a third of what is installed below are symbols that only a debugger reads.
RUN command -v strip >/dev/null \
    || { apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils >/dev/null \
        && rm -rf /var/lib/apt/lists/*; }
# Two environments: one to build our wheel with, and one that becomes the image, without pip.
RUN python3 -m venv --without-pip /build/tools \
    && python3 -m venv --without-pip /opt/smtp2cf
# What changes seldom comes first. Wheels only: there is no compiler here, and hashes say which ones.
COPY requirements/build.txt requirements/image.txt requirements/
RUN python3 -m pip --python /build/tools/bin/python install --require-hashes --only-binary :all: -r requirements/build.txt \
    && python3 -m pip --python /opt/smtp2cf/bin/python install --require-hashes --only-binary :all: -r requirements/image.txt \
    && find /opt/smtp2cf -name '*.so*' -type f -exec strip --strip-unneeded {} +
COPY pyproject.toml README.md LICENSE ./
COPY smtp2cf smtp2cf
RUN python3 -m pip --python /build/tools/bin/python wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
    && python3 -m pip --python /opt/smtp2cf/bin/python install --no-index --no-deps dist/*.whl \
    && find /opt/smtp2cf/bin -mindepth 1 ! -name 'python*' ! -name 'smtp2cf*' -delete

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="smtp2cf" \
      org.opencontainers.image.description="A local SMTP relay that hands mail to Cloudflare's Email Sending API" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The base's own installer goes, and what comes along with a Python: nobody installs or develops in here.
RUN for path in $(python3 -I -c 'import sys; print(*filter(None, sys.path))'); do \
        rm -rf "$path"/pip "$path"/pip-* "$path"/setuptools "$path"/setuptools-* "$path"/pkg_resources \
            "$path"/_distutils_hack "$path"/distutils-precedence.pth "$path"/wheel "$path"/wheel-* \
            "$path"/ensurepip "$path"/idlelib; \
    done \
    && rm -rf /usr/share/python-wheels /root/.cache \
    && find "$(dirname "$(python3 -I -c 'import os, sys; print(os.path.realpath(sys.executable))')")" \( \
        -name pip -o -name 'pip[0-9]*' -o -name 'easy_install*' -o -name wheel -o -name 'idle*[0-9]' -o -name idle \
        -o -name 'pydoc*' -o -name '2to3*' -o -name 'python*-config' \) -delete
COPY --from=build /opt/smtp2cf /opt/smtp2cf
# A number and no name: Kubernetes' runAsNonRoot believes only numbers.
RUN ["install", "-d", "-o", "10025", "-g", "10025", "-m", "0750", "/var/lib/smtp2cf"]
# A container's loopback ends inside it, so both doors open to its network: mail comes from other
# containers, probes and metrics are asked for by the kubelet and by Prometheus. SMTP stays shut for
# whoever is not in SMTP2CF_ALLOW_NETWORKS; the admin page shows addresses of recent mail and takes no
# commands: publish 8025 only where these may be seen. Temporary files go to the volume, the one place
# that can be written where the root is read-only.
ENV PATH=/opt/smtp2cf/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    SMTP2CF_SMTP_LISTEN=0.0.0.0:2525 \
    SMTP2CF_ADMIN_LISTEN=0.0.0.0:8025 \
    STATE_DIRECTORY=/var/lib/smtp2cf \
    TMPDIR=/var/lib/smtp2cf
VOLUME ["/var/lib/smtp2cf"]
EXPOSE 2525 8025
USER 10025:10025
STOPSIGNAL SIGTERM
# Needs `--format docker` with buildah and podman: the OCI format has no health checks.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python3", "-I", "-m", "smtp2cf.cli.healthcheck"]
ENTRYPOINT ["smtp2cf"]
CMD ["serve"]
