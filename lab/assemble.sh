#!/bin/sh
# assemble.sh TAR GUEST WORK SIZE_MIB: make WORK/base.raw, a disk that boots by itself, from a root tar.
#
# Run by lab.image in mount and PID namespaces of its own: the mount goes with them, and with the mount its
# loop device (mount -o loop detaches it by itself), so an interrupted run leaves nothing but files in WORK.
set -eu
tar=$1 guest=$2 work=$3 size_mib=$4
disk=$work/base.raw root=$work/root
mkdir -p "$root"

echo "making a disk of $size_mib MiB"
truncate -s "${size_mib}M" "$disk"
printf 'label: dos\nlabel-id: 0x1a57317e\nstart=2048, type=83, bootable\n' | sfdisk -q "$disk"
dd if=/usr/lib/EXTLINUX/mbr.bin of="$disk" bs=440 count=1 conv=notrunc status=none
# ^64bit: extlinux cannot read it. No lazy initialisation: the guest's kernel would write it out later,
# and a lab wants a disk that is quiet when nobody writes.
mkfs.ext4 -q -F -L lwroot -O ^metadata_csum_seed,^64bit -E offset=1048576,lazy_itable_init=0,lazy_journal_init=0 \
    "$disk" "$((size_mib - 1))M"
mount -o loop,offset=1048576 "$disk" "$root"

echo "unpacking the root file system"
tar -C "$root" -xf "$tar" --exclude='./dev/*' --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*'

echo "configuring"
install -D -m 755 "$guest"/workload.py "$guest"/check.py "$guest"/files.py -t "$root/usr/local/lib/lwdemo"
install -D -m 755 "$guest/10-lwdemo" -t "$root/etc/lastwrite/consistency.d"
install -D -m 644 "$guest/lwdemo-db.service" -t "$root/etc/systemd/system"
install -D -m 644 "$guest/10-eth.network" -t "$root/etc/systemd/network"
install -D -m 644 "$guest/extlinux.conf" -t "$root/boot/extlinux"
chroot "$root" /usr/local/lib/lwdemo/files.py write /srv/files
mkdir -p "$root/var/lib/lwdemo" "$root/etc/systemd/journald.conf.d"
echo 'LABEL=lwroot / ext4 noatime,errors=remount-ro 0 1' >"$root/etc/fstab"
echo lwguest >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 lwguest\n' >"$root/etc/hosts"
: >"$root/etc/machine-id" # each guest makes its own at its first boot
# The log stays in memory: it would be most of what an idle guest writes.
printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\n' >"$root/etc/systemd/journald.conf.d/lab.conf"
chroot "$root" passwd -q -d root
chroot "$root" systemctl -q enable systemd-networkd.service
# Slow under emulation, or writers of a disk that should be quiet.
chroot "$root" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer logrotate.timer man-db.timer systemd-networkd-wait-online.service \
    systemd-timesyncd.service systemd-pstore.service systemd-hwdb-update.service ldconfig.service \
    lvm2-monitor.service systemd-binfmt.service systemd-update-utmp.service systemd-update-utmp-runlevel.service
extlinux --install "$root/boot/extlinux" >/dev/null 2>&1
# For the accelerator's probe and for booting without the loader.
cp "$root"/boot/vmlinuz-* "$work/vmlinuz"
cp "$root"/boot/initrd.img-* "$work/initrd.img"
umount "$root"
e2fsck -f -n "$disk?offset=1048576" >/dev/null
