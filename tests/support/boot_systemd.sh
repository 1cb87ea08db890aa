#!/usr/bin/env bash
# Boot systemd as process 1 of namespaces of its own: boot_systemd.sh FOLDER, as root, in a mount
# namespace already (`unshare --mount`). Ends when that process 1 does, and leaves nothing behind.
#
# FOLDER has etc-gateway/, opt/ (with empty python/ and site/) and units/, and gets systemd.log.
# $PREFIX is bound to /opt/python and $SITE to /opt/site. Network and kernel are the machine's.
set -euo pipefail
folder=$1

if [ "${2:-}" != inside ]; then
    mkdir -p "$folder/cgroups"
    mount -t cgroup2 cgroup2 "$folder/cgroups"
    own=$folder/cgroups/gateway-test-$$
    mkdir "$own"
    trap 'find "$own" -depth -type d -exec rmdir {} +' EXIT
    # What systemd sees as the root of its groups is the group that it is started in.
    (
        echo "$BASHPID" >"$own/cgroup.procs"
        exec unshare --pid --fork --kill-child --mount --cgroup --ipc --uts \
            "$0" "$folder" inside </dev/null
    ) || true
    exit 0
fi

mount --make-rprivate /
mount -t proc proc /proc
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup

mount --bind "$folder/opt" /opt
mount --bind "$PREFIX" /opt/python
mount --bind "$SITE" /opt/site

mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/etc /run/rig
mount --bind "$folder" /run/rig
cp -a /etc/. /run/etc/
mount --bind /run/etc /etc
rm -rf /etc/systemd/system /etc/gateway /etc/ld.so.conf.d/rig.conf
cp -r "$folder/units" /etc/systemd/system
mkdir /etc/gateway
mount --bind "$folder/etc-gateway" /etc/gateway
echo 'gateway:x:64123:' >>/etc/group
echo 'gateway:x:64123:64123::/var/lib/gateway:/usr/sbin/nologin' >>/etc/passwd
# A Python outside of /usr may name its library by a path that ProtectHome= hides.
echo /opt/python/lib >/etc/ld.so.conf.d/rig.conf
ldconfig 2>/dev/null || true
mount -t tmpfs -o mode=755 tmpfs /var
mkdir -p /var/lib /var/tmp /var/log
mount -t tmpfs -o mode=1777 tmpfs /tmp
# Its own log goes to the console.
touch /run/console
mount --bind /run/console /dev/console 2>/dev/null || true

exec env -i container=rig "PATH=$PATH" SYSTEMD_UNIT_PATH=/etc/systemd/system \
    /lib/systemd/systemd --system --unit=rig.target --show-status=0 --log-target=console
