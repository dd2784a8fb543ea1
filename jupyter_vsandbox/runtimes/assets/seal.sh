#!/bin/sh
# The last thing that runs in the chroot: takes away what only the build needed.
set -eu
apt-get clean
rm -rf /tmp/vsandbox-build /boot/* /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/* /vmlinuz* /initrd.img* \
    /root/.cache /etc/apt/apt.conf.d/99mmdebstrap /var/cache/debconf/*-old /var/lib/dpkg/*-old
mkdir -p /var/lib/apt/lists/partial /var/log/apt
# A kernel update inside the guest changes nothing, as the kernel comes from outside: do not spend minutes on it.
sed -i 's/^update_initramfs=.*/update_initramfs=no/' /etc/initramfs-tools/update-initramfs.conf
# The files with which mmdebstrap keeps services from starting; it does not mind that they are gone.
rm -f /usr/sbin/policy-rc.d
if [ -e /sbin/start-stop-daemon.REAL ]; then
    mv /sbin/start-stop-daemon.REAL /sbin/start-stop-daemon
fi
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
echo vsandbox >/etc/hostname
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed
