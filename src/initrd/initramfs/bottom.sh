#!/bin/sh
# Puts a layer of memory above the root that was mounted, unless the command line says hearth.overlay=none; and tells
# the system what was configured here, so that it keeps it: the root hangs on it.
# shellcheck disable=SC1090,SC1091,SC2154 # init gives the variables, the initrd has the files
case $1 in prereqs) exit 0 ;; esac
. /scripts/functions
. /scripts/hearth

fail() {
	echo "<3>hearth: FAILED in stage 'overlay': $*" >/dev/kmsg
	panic "hearth: $*"
}

# The lower and the upper layer stay mounted below the new root, where nobody sees them: nothing can unmount
# them before the kernel stops.
mount_overlay() {
	modprobe overlay
	mkdir -p /lower /writable
	mount -o move "$rootmnt" /lower || fail "the root cannot be moved"
	mount -t tmpfs -o mode=0755 overlay /writable || fail "there is no tmpfs"
	mkdir /writable/upper /writable/work
	mount -t overlay -o lowerdir=/lower,upperdir=/writable/upper,workdir=/writable/work overlay "$rootmnt" ||
		fail "the kernel mounts no overlay"
}

# prefix NETMASK: how many bits it has.
prefix() {
	bits=0
	IFS=.
	for byte in $1; do
		while [ "$byte" -gt 0 ]; do
			bits=$((bits + byte % 2)) byte=$((byte / 2))
		done
	done
	unset IFS
	echo $bits
}

hand_over_network() {
	for facts in /run/net-*.conf; do
		if ! [ -e "$facts" ]; then return; fi
		. "$facts"
		mkdir -p /run/systemd/network
		read -r mac <"/sys/class/net/$DEVICE/address"
		{
			echo "# Written by hearth's initrd: this interface carries the root and must outlive everything."
			echo "[Match]"
			echo "MACAddress=$mac"
			echo "[Network]"
			echo "KeepConfiguration=yes"
			for address in $IPV4DNS0 $IPV4DNS1; do
				if [ "$address" != 0.0.0.0 ]; then echo "DNS=$address"; fi
			done
			if [ "$PROTO" = dhcp ]; then
				echo "DHCP=ipv4"
				# As ipconfig: a server then gives the same address again.
				printf '[DHCPv4]\nClientIdentifier=mac\n'
			else
				echo "Address=$IPV4ADDR/$(prefix "$IPV4NETMASK")"
				if [ "${IPV4GATEWAY:-0.0.0.0}" != 0.0.0.0 ]; then echo "Gateway=$IPV4GATEWAY"; fi
			fi
		} >/run/systemd/network/05-hearth-root.network
		say "$DEVICE has $IPV4ADDR/$(prefix "$IPV4NETMASK") ($PROTO)"
		return
	done
}

# A link that is managed by a program of the system is left to it.
hand_over_resolv_conf() {
	if ! [ -s /etc/resolv.conf ]; then return; fi
	target=$(readlink "$rootmnt/etc/resolv.conf")
	case $target in
	*systemd/resolve/*) ;;
	/run/* | ../run/*)
		target=/run/${target#*run/}
		mkdir -p "${target%/*}"
		cat /etc/resolv.conf >"$target"
		;;
	*) if [ "$writable" = yes ]; then cat /etc/resolv.conf >"$rootmnt/etc/resolv.conf"; fi ;;
	esac
}

# The board's own name, else what the DHCP server calls it.
hand_over_name() {
	name=$(argument hearth.board)
	if [ -z "$name" ]; then name=$HOSTNAME; fi
	case $name in '' | *[!a-zA-Z0-9.-]*) return ;; esac
	echo "$name" >/proc/sys/kernel/hostname
	if [ "$writable" = yes ]; then echo "$name" >"$rootmnt/etc/hostname"; fi
}

writable=yes
if [ "$(argument hearth.overlay)" = none ]; then
	if [ "$readonly" = y ]; then writable=no; fi
else
	mount_overlay
fi
HOSTNAME=
hand_over_network
hand_over_resolv_conf
hand_over_name
