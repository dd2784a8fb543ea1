#!/bin/sh
# Runs in the chroot: what the system does at boot, and above all what it does not. Under emulation
# every program that starts costs tens of milliseconds, and a template's boot is waited for.
set -eu
kernel=$(ls /boot/vmlinuz-* | sort -V | tail -n 1 | sed 's/.*vmlinuz-//')

# Drivers by name, those that this kernel has as modules.
for module in virtio_net virtio_rng qemu_fw_cfg fuse; do
    if modinfo -k "$kernel" -F filename "$module" 2>/dev/null | grep -q '^/'; then
        echo "$module"
    fi
done >/etc/modules-load.d/vsandbox.conf

systemctl enable vsandbox-agent.service vsandbox-vmware.service systemd-networkd.service systemd-resolved.service
systemctl set-default multi-user.target

# No console, firmware variables, login sessions, D-Bus, encrypted or removable disks here.
for unit in \
    apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service \
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer man-db.timer \
    systemd-tmpfiles-clean.timer systemd-user-sessions.service \
    getty.target getty@.service serial-getty@.service console-getty.service \
    systemd-logind.service dbus.service dbus.socket \
    systemd-ask-password-console.path systemd-ask-password-wall.path \
    systemd-networkd-wait-online.service systemd-network-generator.service \
    systemd-networkd-persistent-storage.service systemd-resolved-monitor.socket systemd-resolved-varlink.socket \
    systemd-hwdb-update.service systemd-hibernate-clear.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-update-done.service \
    systemd-journal-flush.service systemd-journald-audit.socket systemd-initctl.socket \
    systemd-pstore.service systemd-remount-fs.service systemd-repart.service systemd-firstboot.service \
    systemd-boot-system-token.service systemd-boot-random-seed.service systemd-random-seed.service \
    systemd-machine-id-commit.service systemd-sysusers.service systemd-binfmt.service \
    systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-pcrmachine.service \
    systemd-pcrextend.socket systemd-pcrlock.socket systemd-udev-load-credentials.service \
    ldconfig.service systemd-journal-catalog-update.service tmp.mount \
    systemd-tpm2-setup.service systemd-tpm2-setup-early.service tpm2.target \
    kmod-static-nodes.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-setup-dev-early.service \
    modprobe@.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-kernel-config.mount sys-fs-fuse-connections.mount \
    proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount \
    cryptsetup.target integritysetup.target veritysetup.target remote-fs.target; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done
mkdir -p /etc/systemd/system-generators
for generator in /usr/lib/systemd/system-generators/* /lib/systemd/system-generators/*; do
    case ${generator##*/} in
        systemd-fstab-generator | '*') ;;
        *) ln -sf /dev/null "/etc/systemd/system-generators/${generator##*/}" ;;
    esac
done

# Nothing waits for name resolution: it starts once the agent has.
for folder in /usr/lib /lib; do
    unit=$folder/systemd/system/systemd-resolved.service
    [ -f "$unit" ] || continue
    sed -e '/^Before=/d' -e 's/^After=.*/After=vsandbox-agent.service/' -e 's/^WantedBy=.*/WantedBy=multi-user.target/' \
        "$unit" >/etc/systemd/system/systemd-resolved.service
    break
done
rm -f /etc/systemd/system/*.wants/systemd-resolved.service /etc/systemd/system/dbus-org.freedesktop.resolve1.service
systemctl enable systemd-resolved.service
rm -f /etc/systemd/system/*.wants/getty@*.service /etc/systemd/system/timers.target.wants/*

for service in systemd-journald systemd-udevd systemd-networkd systemd-resolved; do
    install -D -m 0644 "${0%/*}/service.conf" "/etc/systemd/system/$service.service.d/vsandbox.conf"
done
mkdir -p /etc/tmpfiles.d
for file in /usr/lib/tmpfiles.d/*; do
    case ${file##*/} in
        systemd.conf | systemd-network.conf | systemd-resolve.conf | tmp.conf | var.conf | sudo.conf | passwd.conf) ;;
        debian.conf | dbus.conf | home.conf | legacy.conf | provision.conf | static-nodes-permissions.conf | x11.conf | \
            systemd-*.conf | credstore.conf | 20-systemd-*.conf) ln -sf /dev/null "/etc/tmpfiles.d/${file##*/}" ;;
    esac
done
