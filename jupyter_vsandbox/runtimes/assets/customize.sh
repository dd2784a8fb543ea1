#!/bin/sh
# Runs in the new system's chroot, as its root, once all Debian packages are there.
# Lines "@vsandbox FRACTION TEXT" are read by the builder as progress of this script.
set -eu
here=/tmp/vsandbox-build
. "$here/params.sh"   # INTERPRETER

export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
say() { printf '@vsandbox %s\n' "$*"; }
as_user() { # not by setpriv: Debian 11's fails where there is no /proc, as in a build without rights to mount
    chroot --userspec=jovyan / \
        env HOME=/home/jovyan USER=jovyan PATH="/opt/venv/bin:$PATH" "$@"
}

rm -f /etc/resolv.conf
cp "$here/resolv.conf" /etc/resolv.conf

say 0.00 Adding the user and certificates
useradd --create-home --uid 1000 --user-group --shell /bin/bash jovyan
chmod 0440 /etc/sudoers.d/jovyan
python3 "$here/trust.py" "$here/host-certificates.pem" /etc/ssl/certs/ca-certificates.crt \
    /usr/local/share/ca-certificates
update-ca-certificates

say 0.05 Installing the agent
python3 -m venv /opt/vsandbox/venv
/opt/vsandbox/venv/bin/pip install --no-cache-dir --no-compile --progress-bar off -r "$here/agent.txt"
python3 -m compileall -q -j 0 /opt/vsandbox || true

if [ -n "$INTERPRETER" ]; then
    say 0.15 Installing the notebook environment
    install -d -o jovyan -g jovyan /opt/venv
    as_user "$INTERPRETER" -m venv /opt/venv
    as_user /opt/venv/bin/pip install --no-cache-dir --no-compile --progress-bar off -r "$here/packages.txt"
    say 0.70 Compiling Python files
    as_user /opt/venv/bin/python -m compileall -q -j 0 /opt/venv || true
    say 0.88 Warming caches
    as_user /opt/venv/bin/python -c 'import matplotlib.font_manager' 2>/dev/null || true
    # What completion would parse on the first Tab in a cell, for a minute under emulation.
    for object in '[]' '__import__("pandas").DataFrame()' '__import__("numpy").zeros(1)'; do
        as_user /opt/venv/bin/python -c "import jedi; jedi.Interpreter('x.a', [{'x': $object}]).complete()" \
            2>/dev/null || true
    done
    as_user /opt/venv/bin/pip list --format=freeze --disable-pip-version-check >"$here/python.txt"
else
    : >"$here/python.txt"
fi
python3 -m compileall -q -j 0 "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" || true

say 0.92 Setting up the services
sh "$here/boot.sh"
chown -R jovyan:jovyan /home/jovyan

say 0.95 Taking the kernel out
mkdir -p /boot/vsandbox
cp -L "$(ls /boot/vmlinuz-* | sort -V | tail -n 1)" /boot/vsandbox/vmlinuz
cp -L "$(ls /boot/initrd.img-* | sort -V | tail -n 1)" /boot/vsandbox/initrd.img
ls /boot/vmlinuz-* | sort -V | tail -n 1 | sed 's/.*vmlinuz-//' >"$here/kernel.txt"
dpkg-query -W -f '${binary:Package}=${Version}\n' >"$here/system.txt"
say 1.00 Configured
