#!/bin/sh
# All that a victim does: look at every file it has, say what it saw, switch itself off.
# Where the machine has a port victim.crash it writes and syncs files instead, until somebody pulls the plug.
LC_ALL=C
export LC_ALL

say() {
	printf '\n%s\n' "$*" >/dev/ttyS0
}

crash() {
	mkdir -p /srv/crash/synced /srv/crash/unsynced
	number=0
	while :; do
		number=$((number + 1))
		head -c $((number * 7919 % 300000 + 1)) /dev/urandom >/srv/crash/unsynced/$number
		cp /srv/crash/unsynced/$number /srv/crash/synced/$number
		sync /srv/crash/synced/$number /srv/crash/synced
		say "VICTIM-SYNCED $(sha256sum /srv/crash/synced/$number)"
		[ $((number % 3)) = 0 ] && rm /srv/crash/unsynced/$((number - 1))
	done
}

# Of each file its kind, mode, owner, place and what it points to; of regular ones the content.  Not what changes at each start.
files() {
	find "$@" \( -path /var/log -o -path /var/lib/systemd -o -path /var/tmp -o -path /etc/.updated -o -path /var/.updated \) -prune \
		-o \( -printf '%y %m %U:%G %p %l\n' \)
	find "$@" \( -path /var/log -o -path /var/lib/systemd -o -path /var/tmp -o -path /etc/.updated -o -path /var/.updated \) -prune \
		-o -type f -print0 | sort -z | xargs -0 -r sha256sum
}

firmware=BIOS
[ -d /sys/firmware/efi ] && firmware=UEFI
case $(od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c 2>&1) in
*1) firmware=SECURE-BOOT ;;
esac
say "VICTIM-FIRMWARE $firmware"
[ -e /dev/virtio-ports/victim.crash ] && crash
{
	files / -xdev
	while read -r folder; do
		mountpoint -q "$folder" || echo "$folder is not mounted"
		files "$folder"
	done </etc/victim/data
	sh /etc/victim/facts 2>&1
} | sort >/run/victim.list
[ -e /dev/virtio-ports/victim.list ] && cat /run/victim.list >/dev/virtio-ports/victim.list
say "VICTIM-OK $(sha256sum </run/victim.list | cut -d' ' -f1)"
systemctl poweroff
