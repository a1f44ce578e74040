#!/bin/sh
# The first program of a board that boots an image of hearth. Finds the root that the kernel command line
# names, puts a layer of memory above it, and starts the system there. busybox runs it.
#
#   root=/dev/nfs nfsroot=[SERVER:]PATH[,OPTIONS]     a root on NFS, or
#   root=DEVICE|PARTUUID=ID|PARTLABEL=NAME|UUID=ID|LABEL=NAME|MAJOR:MINOR
#   rootfstype=TYPE[,TYPE] rootflags=OPTIONS rootwait=SECONDS rootdelay=SECONDS
#   ip=dhcp  ip=CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:AUTOCONF:DNS:DNS:NTP  BOOTIF=01-MAC
#   rw  init=PROGRAM
#   hearth.overlay=none    mount the root itself; writable only with rw
#   hearth.break=STAGE     a shell before modules, network, mount, overlay, switch; or instead of a reboot: panic
#   hearth.panic=SECONDS   how long to wait after a failure before the reboot; 0: for ever

PATH=/usr/bin:/usr/sbin:/bin:/sbin
export PATH
facts=/run/hearth/net
# shellcheck source=/dev/null # sets method client server gateway prefix hostname domain device dns ntp wrong
. /etc/hearth/ip.sh
# shellcheck source=/dev/null
. /etc/hearth/root.sh

# --- telling ---------------------------------------------------------------------------------------

# The kernel's log has it for the console, for dmesg and for the journal.
say() { echo "<5>hearth: $*" >/dev/kmsg; }

shell() {
	echo "hearth: a shell before stage '$1'; leave it to go on" >/dev/console
	setsid cttyhack sh
}

stage() {
	stage=$1
	if [ "$break_at" = "$stage" ]; then shell "$stage"; fi
}

fail() {
	echo "<3>hearth: FAILED in stage '$stage': $*" >/dev/kmsg
	if [ "$break_at" = panic ]; then shell panic; fi
	if [ "$panic" = 0 ]; then
		say "waiting for ever (hearth.panic=0)"
		while :; do sleep 3600; done
	fi
	say "rebooting in $panic s"
	sleep "$panic"
	reboot -f
}

# --- what to do ------------------------------------------------------------------------------------

mount_kernel_file_systems() {
	mount -t proc -o nosuid,nodev,noexec proc /proc
	mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
	mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev
	mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run
	mkdir -p "$facts"
	# Else the kernel drops all but ten of our lines in five seconds.
	echo on >/proc/sys/kernel/printk_devkmsg
}

# The arguments, one a line. Double quotes keep spaces together and are no part of an argument (lib/cmdline.c, next_arg).
arguments() {
	awk '{
		for (i = 1; i <= length($0); i++) {
			c = substr($0, i, 1)
			if (c == "\"") quoted = !quoted
			else if (c ~ /[ \t]/ && !quoted) printf "\n"
			else printf "%s", c
		}
		printf "\n"
	}' /proc/cmdline
}

read_command_line() {
	root='' type='' flags='' mode=ro nfsroot='' ip='' bootif='' init=/sbin/init
	overlay='' break_at='' panic=30 board='' limit=60
	while IFS= read -r word; do
		value=${word#*=}
		case $word in
		root=*) root=$value ;;
		nfsroot=*) nfsroot=$value ;;
		rootfstype=*) type=$value ;;
		rootflags=*) flags=$value ;;
		rootwait=* | rootdelay=*) case $value in '' | *[!0-9]*) ;; *) limit=$value ;; esac ;;
		ip=* | nfsaddrs=*) ip=$value ;;
		BOOTIF=*) bootif=$value ;;
		ro | rw) mode=$word ;;
		init=*) init=$value ;;
		hearth.overlay=*) overlay=$value ;;
		hearth.break=*) break_at=$value ;;
		hearth.panic=*) panic=$value ;;
		hearth.board=*) board=$value ;;
		esac
	done <<-END
		$(arguments)
	END
	case $panic in '' | *[!0-9]*) panic=30 ;; esac
	# A kernel that panics must not keep the board either.
	if [ "$(cat /proc/sys/kernel/panic)" = 0 ]; then echo "$panic" >/proc/sys/kernel/panic; fi
}

# --- devices ---------------------------------------------------------------------------------------

load_modules() {
	while read -r module; do
		modprobe -bq "$module" || say "the module $module cannot be loaded"
	done </etc/hearth/modules
	load_drivers
}

# Loads the drivers of the devices that are there, and of those that appear with them. Devices that were seen
# before are left alone, so that it costs little to call this again.
load_drivers() {
	seen=/run/hearth/devices
	# busybox takes an empty file of patterns for one that everything matches.
	[ -s $seen ] || echo none >$seen
	for pass in 1 2 3 4 5; do
		cat /sys/bus/*/devices/*/modalias 2>/dev/null | sort -u | grep -vxFf $seen >$seen.new || return 0
		cat $seen.new >>$seen
		xargs modprobe -abq <$seen.new 2>/dev/null
	done
	say "after $pass passes there are still new devices"
}

# --- network ---------------------------------------------------------------------------------------

# What is known of the network; quotes and the like, which a DHCP server might send, are left out.
fact() { if [ -e "$facts/$1" ]; then tr -cd '[:alnum:]._:/,=@%+ \n-' <"$facts/$1"; fi; }

# Ethernet interfaces that the command line allows.
interfaces() {
	for path in /sys/class/net/*; do
		name=${path##*/}
		if [ "$(cat "$path/type")" != 1 ] || [ -e "$path/phy80211" ]; then continue; fi
		if [ "${device:-$name}" != "$name" ]; then continue; fi
		address=$(cat "$path/address")
		if [ "${mac:-$address}" != "$address" ]; then continue; fi
		echo "$name"
	done
}

bring_up_network() {
	method='' client='' server='' gateway='' prefix='' hostname='' domain='' device='' dns='' ntp='' wrong=''
	read_ip "$ip"
	if [ -n "$wrong" ]; then fail "$wrong"; fi
	mac=$(mac_of "$bootif")
	if [ -n "$hostname" ]; then echo "$hostname" >$facts/hostname; fi
	if [ "$method" = none ]; then return; fi
	ip link set lo up
	wanted="${device:+ $device}${mac:+ with MAC $mac}"
	waited=0
	while [ -z "$(interfaces)" ]; do
		if [ "$waited" = 60 ]; then fail "no network interface$wanted appeared within 60 s"; fi
		if [ "$waited" = 5 ]; then say "waiting for a network interface$wanted"; fi
		sleep 1
		waited=$((waited + 1))
		load_drivers
	done
	for pause in 1 2 3 5 8 13 0; do
		for interface in $(linked_interfaces); do
			if "set_$method" "$interface"; then
				announce_network
				return
			fi
		done
		if [ "$pause" != 0 ]; then say "no address yet; again in $pause s"; fi
		sleep "$pause"
		load_drivers
	done
	fail "no interface$wanted got an address ($method); is the cable plugged in, and is there a DHCP server?"
}

# The interfaces that have a link, as soon as one has: which of several has the cable, nobody said.
linked_interfaces() {
	for interface in $(interfaces); do ip link set "$interface" up; done
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		linked=
		for interface in $(interfaces); do
			if [ "$(cat "/sys/class/net/$interface/carrier" 2>/dev/null)" = 1 ]; then linked="$linked $interface"; fi
		done
		if [ -n "$linked" ]; then
			echo "$linked"
			return
		fi
		sleep 1
	done
	for interface in $(interfaces); do say "$interface has no link"; done
}

set_dhcp() {
	udhcpc -i "$1" -f -q -n -t 4 -T 3 -s /etc/hearth/udhcpc.sh -O rootpath -O hostname \
		${board:+-x hostname:"$board"} >/run/hearth/udhcpc.log 2>&1
}

set_static() {
	ip address replace "$client/$prefix" dev "$1" || return 1
	if [ -n "$gateway" ]; then ip route replace default via "$gateway" dev "$1"; fi
	echo "$1" >$facts/interface
	echo "$client" >$facts/address
	echo "$prefix" >$facts/prefix
	echo "$gateway" >$facts/gateway
	echo "$dns" >$facts/dns
	echo "$ntp" >$facts/ntp
}

announce_network() {
	echo "$method" >$facts/method
	# What the command line says counts for more than what a DHCP server says.
	if [ -n "$server" ]; then echo "$server" >$facts/server; fi
	if [ -n "$hostname" ]; then echo "$hostname" >$facts/hostname; fi
	if [ -n "$domain" ]; then echo "$domain" >$facts/domain; fi
	for server_of_names in $(fact dns); do echo "nameserver $server_of_names"; done >/etc/resolv.conf
	say "$(fact interface) has $(fact address)/$(fact prefix) ($method)"
}

# --- root ------------------------------------------------------------------------------------------

# Tries $@ until it works, with growing pauses; says why it did not.
persist() {
	for pause in 1 2 3 5 8 13 0; do
		if problem=$("$@" 2>&1); then return; fi
		if [ "$pause" != 0 ]; then say "$problem; again in $pause s"; fi
		sleep "$pause"
	done
	fail "$problem"
}

# nslookup first tells which server it asked; the answer begins with the name.
address_of() {
	nslookup "$1" 2>/dev/null | awk '
		/^Name/ { answer = 1 }
		answer && /^Address/ { for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+[.][0-9]+[.][0-9]+[.][0-9]+$/) { print $i; exit } }'
}

# The kernel speaks MOUNT and NFS by itself (fs/nfs/fs_context.c), but wants the server's address in numbers.
mount_nfs() {
	spec=${nfsroot:-$(fact rootpath)}
	options=
	case $spec in *,*) options=,${spec#*,} spec=${spec%%,*} ;; esac
	case $spec in
	*:/*) server=${spec%%:/*} path=/${spec#*:/} ;;
	/*) server=$(fact server) path=$spec ;;
	*) fail "the command line has no nfsroot=SERVER:/PATH, and DHCP told no root path" ;;
	esac
	case $path in *%s*) path=${path%%%s*}$(fact address)${path#*%s} ;; esac
	if [ -z "$server" ]; then fail "nfsroot=$spec names no server, and DHCP told none"; fi
	case $server in
	*[!0-9.]*) address=$(address_of "$server") ;;
	*) address=$server ;;
	esac
	if [ -z "$address" ]; then fail "the name of the NFS server, $server, cannot be resolved"; fi
	case $options, in
	*,v4* | *vers=4*) options=$options,clientaddr=$(fact address) ;;
	*,lock,* | *,nolock,*) ;;
	# Nobody here could keep locks for the server.
	*) options=$options,nolock ;;
	esac
	say "mounting $server:$path (NFS: ${options#,})"
	# A server that swallows everything would otherwise hold us for minutes.
	persist timeout -s KILL 60 mount -i -t nfs -o "$1$options,addr=$address" "$server:$path" "$2"
}

# Seconds since the kernel began: a look at all devices may take more than one.
uptime() {
	read -r up _ </proc/uptime
	echo "${up%%.*}"
}

mount_device() {
	begun=$(uptime) told=
	until device=$(find_root "$root"); do
		waited=$(($(uptime) - begun))
		if [ "$waited" -ge "$limit" ]; then
			fail "the root device $root did not appear within $limit s; $(describe_devices)"
		fi
		if [ "$waited" -ge 5 ] && [ -z "$told" ]; then
			told=yes
			say "waiting for $root"
		fi
		sleep 1
		load_drivers
	done
	if [ -z "$type" ]; then type=$(type_of "$device"); fi
	if [ -z "$type" ]; then fail "$device ($root) holds no file system that blkid knows; set rootfstype="; fi
	say "mounting $device ($type)"
	persist mount_types "$1${flags:+,$flags}" "$device" "$2"
}

# mount_types OPTIONS DEVICE DIRECTORY: by the first of the types that fits. Says why the last did not.
mount_types() {
	for one in $(echo "$type" | tr , ' '); do
		if why=$(mount -t "$one" -o "$1" "$2" "$3" 2>&1); then return; fi
	done
	echo "$why"
	return 1
}

# mount_root MODE DIRECTORY
mount_root() {
	case $root in
	/dev/nfs) mount_nfs "$1" "$2" ;;
	'') fail "the command line has no root=" ;;
	*)
		if ! is_root_spec "$root"; then
			fail "root=$root is none of /dev/nfs, a device, PARTUUID=ID, PARTLABEL=NAME, UUID=ID, LABEL=NAME"
		fi
		mount_device "$1" "$2"
		;;
	esac
}

# The lower and the upper layer stay mounted below the new root, where nobody sees them: nothing can unmount
# them before the kernel stops.
mount_overlay() {
	mount -t tmpfs -o mode=0755 overlay /writable || fail "there is no tmpfs"
	mkdir /writable/upper /writable/work
	problem=$(mount -t overlay -o lowerdir=/lower,upperdir=/writable/upper,workdir=/writable/work \
		overlay /newroot 2>&1) || fail "$problem"
}

# --- the system ------------------------------------------------------------------------------------

# Tells the booted system what was configured here, so that it keeps it: the root hangs on it.
hand_over_network() {
	interface=$(fact interface)
	if [ -z "$interface" ]; then return; fi
	mkdir -p /run/systemd/network
	{
		echo "# Written by hearth's initrd: this interface carries the root and must outlive everything."
		echo "[Match]"
		echo "MACAddress=$(cat "/sys/class/net/$interface/address")"
		echo "[Network]"
		echo "KeepConfiguration=yes"
		if [ "$(fact method)" = dhcp ]; then
			echo "DHCP=ipv4"
			for address in $(fact dns); do echo "DNS=$address"; done
			# As udhcpc: a server then gives the same address again.
			printf '[DHCPv4]\nClientIdentifier=mac\n'
		else
			echo "Address=$(fact address)/$(fact prefix)"
			for address in $(fact dns); do echo "DNS=$address"; done
			for address in $(fact gateway); do echo "Gateway=$address"; done
			for address in $(fact ntp); do echo "NTP=$address"; done
		fi
	} >/run/systemd/network/05-hearth-root.network
	# As klibc's ipconfig and initramfs-tools leave it.
	# shellcheck disable=SC2046
	set -- $(fact dns)
	cat >"/run/net-$interface.conf" <<-END
		DEVICE='$interface'
		PROTO='$(fact method)'
		IPV4ADDR='$(fact address)'
		IPV4NETMASK='$(ipcalc -ms "$(fact address)/$(fact prefix)" | sed 's/.*=//')'
		IPV4GATEWAY='$(fact gateway)'
		IPV4DNS0='$1'
		IPV4DNS1='$2'
		HOSTNAME='$(fact hostname)'
		DNSDOMAIN='$(fact domain)'
		ROOTSERVER='$(fact server)'
		ROOTPATH='$(fact rootpath)'
	END
	if [ -s /etc/resolv.conf ]; then hand_over_resolv_conf; fi
}

# A link that is managed by a program of the system is left to it.
hand_over_resolv_conf() {
	target=$(readlink /newroot/etc/resolv.conf)
	case $target in
	*systemd/resolve/*) ;;
	/run/* | ../run/*)
		target=/run/${target#*run/}
		mkdir -p "${target%/*}"
		cp /etc/resolv.conf "$target"
		;;
	*) if [ "$writable" = yes ]; then cp /etc/resolv.conf /newroot/etc/resolv.conf; fi ;;
	esac
}

# The board's own name, else what the DHCP server calls it.
hand_over_name() {
	name=${board:-$(fact hostname)}
	case $name in '' | *[!a-zA-Z0-9.-]*) return ;; esac
	hostname "$name"
	if [ "$writable" = yes ]; then echo "$name" >/newroot/etc/hostname; fi
}

mount_kernel_file_systems
read_command_line
if [ -s /etc/hearth/library-path ]; then
	LD_LIBRARY_PATH=$(cat /etc/hearth/library-path)
	export LD_LIBRARY_PATH
fi
stage modules
load_modules
stage network
case $root in /dev/nfs) bring_up_network ;; *) if [ -n "$ip" ]; then bring_up_network; fi ;; esac
stage mount
writable=yes
if [ "$overlay" = none ]; then
	mount_root "$mode" /newroot
	if [ "$mode" = ro ]; then writable=no; fi
else
	mount_root ro /lower
	stage overlay
	mount_overlay
fi
stage switch
hand_over_network
hand_over_name
if ! [ -x "/newroot$init" ] && ! [ -L "/newroot$init" ]; then fail "the root has no $init"; fi
# All of them first: what fails later could no longer be told.
for directory in dev proc sys run; do
	if ! [ -d "/newroot/$directory" ]; then fail "the root has no directory /$directory"; fi
done
for directory in dev proc sys run; do mount -o move "/$directory" "/newroot/$directory"; done
unset LD_LIBRARY_PATH
exec switch_root /newroot "$init" "$@"
