# Finds the block device that root= names. Sourced by /init; changes nothing.
#
# The forms are the kernel's (Documentation/admin-guide/kernel-parameters.txt, root=; block/early-lookup.c) and those of
# initramfs-tools' scripts: PARTUUID=ID[/PARTNROFF=N] PARTLABEL=NAME UUID=ID LABEL=NAME /dev/NAME /dev/disk/by-…/NAME
# MAJOR:MINOR, or the number in hexadecimal. There is no udev here: partition tables are read, file systems left to blkid.
# shellcheck shell=sh

sys=${sys:-/sys} dev=${dev:-/dev}

# is_root_spec ROOT: whether it names a block device in a form that is known.
is_root_spec() {
	case $1 in
	/dev/disk/by-uuid/* | /dev/disk/by-label/* | /dev/disk/by-partuuid/* | /dev/disk/by-partlabel/*) ;;
	/dev/disk/*) return 1 ;;
	/dev/?* | UUID=?* | LABEL=?* | PARTUUID=?* | PARTLABEL=?*) ;;
	*) device_number "$1" >/dev/null ;;
	esac
}

# find_root ROOT: the device's path. Fails as long as it is not there.
find_root() {
	case $1 in
	PARTUUID=*) by_partuuid "${1#*=}" ;;
	PARTLABEL=*) by_partlabel "${1#*=}" ;;
	UUID=*) by_blkid UUID "${1#*=}" ;;
	LABEL=*) by_blkid LABEL "${1#*=}" ;;
	/dev/disk/by-partuuid/*) by_partuuid "${1##*/}" ;;
	/dev/disk/by-partlabel/*) by_partlabel "$(unescape "${1##*/}")" ;;
	/dev/disk/by-uuid/*) by_blkid UUID "${1##*/}" ;;
	/dev/disk/by-label/*) by_blkid LABEL "$(unescape "${1##*/}")" ;;
	/dev/*) node "${1#/dev/}" ;;
	*) by_number "$1" ;;
	esac
}

lower() { echo "$1" | tr '[:upper:]' '[:lower:]'; }

# udev writes what a file's name cannot have as \x20.
unescape() { printf '%b' "$(echo "$1" | sed 's/\\x\(..\)/\\x\1/g')"; }

# node NAME: the device with this name, if it is a block device.
node() { if [ -b "$dev/$1" ]; then echo "$dev/$1"; else return 1; fi; }

# The names of the block devices that have something on them, whole disks and partitions.
block_devices() {
	for path in "$sys"/class/block/*; do
		case ${path##*/} in ram* | loop* | nbd* | mtdblock* | '*') continue ;; esac
		if [ "$(cat "$path/size" 2>/dev/null)" != 0 ]; then echo "${path##*/}"; fi
	done
}

# property DEVICE KEY: out of the kernel's description of it.
property() { sed -n "s/^$2=//p" "$sys/class/block/$1/uevent" 2>/dev/null; }

# The disk that a partition is on, and the partition on a disk with a number.
disk_of() { path=$(readlink -f "$sys/class/block/$1") && path=${path%/*} && echo "${path##*/}"; }
partition_of() {
	for other in $(block_devices); do
		if [ "$(partition_number "$other")" = "$2" ] && [ "$(disk_of "$other")" = "$1" ]; then
			node "$other"
			return
		fi
	done
	return 1
}
partition_number() { cat "$sys/class/block/$1/partition" 2>/dev/null; }

# bytes DEVICE OFFSET COUNT: in hexadecimal. dd seeks to the offset.
bytes() { dd if="$dev/$1" bs=1 skip="$2" count="$3" 2>/dev/null | hexdump -v -e '1/1 "%02x"'; }

# swapped HEX: the bytes in the opposite order, as little-endian numbers are read.
swapped() { echo "$1" | sed 's/\(..\)/\1 /g' | awk '{ for (i = NF; i > 0; i--) printf "%s", $i }'; }

# partuuid DEVICE: the id that the kernel gives a partition: a GPT's GUID, or a DOS label's with the partition's number
# (block/partitions/efi.c, msdos.c).
partuuid() {
	number=$(partition_number "$1") disk=$(disk_of "$1")
	if [ -z "$number" ]; then return 1; fi
	sector=$(cat "$sys/class/block/$disk/queue/logical_block_size" 2>/dev/null)
	sector=${sector:-512}
	if [ "$(bytes "$disk" "$sector" 8)" = 4546492050415254 ]; then
		table=$((0x$(swapped "$(bytes "$disk" $((sector + 72)) 8)")))
		size=$((0x$(swapped "$(bytes "$disk" $((sector + 84)) 4)")))
		bytes "$disk" $((table * sector + (number - 1) * size + 16)) 16 |
			sed 's/\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(....\)/\4\3\2\1-\6\5-\8\7-\9-/'
	elif [ "$(bytes "$disk" 510 2)" = 55aa ]; then
		printf '%s-%02x' "$(swapped "$(bytes "$disk" 440 4)")" "$number"
	fi
}

# by_partuuid ID[/PARTNROFF=N]: N partitions on from the one with the id, on the same disk.
by_partuuid() {
	id=$(lower "${1%%/*}") offset=0
	case $1 in */PARTNROFF=*) offset=${1##*=} ;; esac
	for candidate in $(block_devices); do
		if [ "$(partuuid "$candidate")" != "$id" ]; then continue; fi
		partition_of "$(disk_of "$candidate")" $(($(partition_number "$candidate") + offset))
		return
	done
	return 1
}

by_partlabel() {
	for candidate in $(block_devices); do
		if [ "$(property "$candidate" PARTNAME)" = "$1" ]; then
			node "$candidate"
			return
		fi
	done
	return 1
}

# attribute LINE KEY: a value out of a line of blkid's.
attribute() { echo "$1" | sed -n "s/.* $2=\"\([^\"]*\)\".*/\1/p"; }

# by_blkid UUID|LABEL VALUE: a UUID may be in upper or lower case.
by_blkid() {
	wanted=$2
	if [ "$1" = UUID ]; then wanted=$(lower "$2"); fi
	for candidate in $(block_devices); do
		value=$(attribute "$(blkid "$dev/$candidate")" "$1")
		if [ "$1" = UUID ]; then value=$(lower "$value"); fi
		if [ "$value" = "$wanted" ]; then
			node "$candidate"
			return
		fi
	done
	return 1
}

# device_number ROOT: MAJOR:MINOR in decimal (block/early-lookup.c, devt_from_devnum; linux/kdev_t.h, new_decode_dev).
device_number() {
	case $1 in
	*[!0-9:]*:* | *:*[!0-9:]* | :* | *:) return 1 ;;
	*:*:*) return 1 ;;
	*:*) echo "$1" ;;
	*)
		number=${1#0x}
		case $number in '' | *[!0-9a-fA-F]*) return 1 ;; esac
		number=$((0x$number))
		echo $(((number & 0xfff00) >> 8)):$(((number & 0xff) | ((number >> 12) & 0xfff00)))
		;;
	esac
}

by_number() {
	number=$(device_number "$1") || return 1
	for candidate in "$sys"/class/block/*; do
		if [ "$(cat "$candidate/dev" 2>/dev/null)" = "$number" ]; then
			node "${candidate##*/}"
			return
		fi
	done
	return 1
}

# What is there instead, for the message when a root is not found.
describe_devices() {
	described=
	for candidate in $(block_devices); do
		ids=$(blkid "$dev/$candidate" 2>/dev/null | sed 's/^[^:]*://')
		id=$(partuuid "$candidate") label=$(property "$candidate" PARTNAME)
		ids="${id:+ PARTUUID=$id}${label:+ PARTLABEL=\"$label\"}$ids"
		described="$described${described:+, }$candidate${ids:+ (${ids# })}"
	done
	if [ -n "$described" ]; then
		echo "there are $described"
	else
		echo "there are no block devices: is the driver in the initrd?"
	fi
}

# type_of DEVICE: the file system on it.
type_of() { attribute "$(blkid "$1")" TYPE; }
