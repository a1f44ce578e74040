# Reads ip= and BOOTIF=. Sourced by /init; sets variables and touches nothing.
# shellcheck shell=sh disable=SC2034 # /init uses them

# class_prefix ADDRESS: the prefix length that an IPv4 address has by its class (RFC 791, section 3.2), as the kernel
# guesses it where no netmask is given (net/ipv4/ipconfig.c, ic_defaults).
class_prefix() {
	case ${1%%.*} in
	[0-9] | [0-9][0-9] | 1[01][0-9] | 12[0-7]) echo 8 ;;
	12[89] | 1[3-8][0-9] | 19[01]) echo 16 ;;
	19[2-9] | 2[01][0-9] | 22[0-3]) echo 24 ;;
	24[0-9] | 25[0-5]) echo 32 ;;
	*) return 1 ;;
	esac
}

# is_address TEXT: whether it is an IPv4 address.
is_address() { ipcalc -ns "$1" 255.255.255.255 >/dev/null 2>&1; }

# An address of all zeroes or ones says that there is none.
given() { case $1 in 0.0.0.0 | 255.255.255.255) ;; *) echo "$1" ;; esac; }

# The ways to configure that the kernel and klibc's ipconfig know by name.
method_of() {
	case $1 in
	'' | on | any | all | both | dhcp | dhcp,* | bootp) echo dhcp ;;
	off | none | static) echo none ;;
	*) return 1 ;;
	esac
}

# Splits ip= as the kernel does (Documentation/admin-guide/nfs/nfsroot.rst; net/ipv4/ipconfig.c,
# ip_auto_config_setup), and takes what klibc's ipconfig and dracut take beyond: an interface alone, or with a method.
# Sets client server gateway prefix hostname domain device method dns ntp; or wrong, a sentence.
read_ip() {
	client='' server='' gateway='' prefix='' hostname='' domain='' device='' dns='' ntp='' wrong=''
	if method=$(method_of "$1"); then return; fi
	case $1 in
	*:*:*) read_ip_fields "$1" ;;
	*:*)
		device=${1%%:*}
		method=$(method_of "${1#*:}") || wrong="ip=$1: ${1#*:} is no way to configure an interface"
		;;
	*[!a-zA-Z0-9_.-]*) wrong="ip=$1 is neither a method such as dhcp nor CLIENT:SERVER:GATEWAY:NETMASK:…" ;;
	*) read_ip_word "$1" ;;
	esac
}

# ip=ADDRESS, or ip=DEVICE.
read_ip_word() {
	case $1 in
	*.*.*.*) read_ip_fields "$1:" ;;
	rarp | dhcp6 | auto6 | ibft) wrong="ip=$1 is not supported; use dhcp or an address" ;;
	*) device=$1 method=dhcp ;;
	esac
}

read_ip_fields() {
	IFS=: read -r client server gateway netmask hostname device way dns0 dns1 ntp _ <<-END
		$1
	END
	client=$(given "$client") server=$(given "$server") gateway=$(given "$gateway")
	dns="$(given "$dns0") $(given "$dns1")" ntp=$(given "$ntp")
	dns=${dns# } dns=${dns% }
	case $hostname in *.*) domain=${hostname#*.} hostname=${hostname%%.*} ;; esac
	case $client in */*) netmask=${client#*/} client=${client%%/*} ;; esac
	method=$(method_of "$way") || {
		wrong="ip=$1: $way is no way to configure an interface"
		return
	}
	if [ -z "$client" ]; then return; fi
	method=static
	if ! is_address "$client"; then
		wrong="ip=$1: $client is not an address"
		return
	fi
	prefix=$(prefix_of "$client" "$netmask") || wrong="ip=$1: $client and $netmask are not an address and a netmask"
	if [ -n "$gateway" ] && ! is_address "$gateway"; then wrong="ip=$1: the gateway $gateway is not an address"; fi
}

# prefix_of ADDRESS NETMASK|PREFIX|'': the prefix length.
prefix_of() {
	case $2 in
	# All ones say to the kernel that there is none.
	'' | 255.255.255.255) class_prefix "$1" ;;
	[0-9] | [12][0-9] | 3[0-2]) echo "$2" ;;
	*.*)
		bits=$(ipcalc -ps "$1" "$2" 2>/dev/null) || return 1
		echo "${bits#PREFIX=}"
		;;
	*) return 1 ;;
	esac
}

# mac_of BOOTIF: PXELINUX writes 01-aa-bb-cc-dd-ee-ff, with ARP's number for Ethernet before the MAC.
mac_of() {
	mac=$(echo "$1" | tr 'A-F-' 'a-f:')
	case $mac in ??:??:??:??:??:??:??) mac=${mac#??:} ;; esac
	echo "$mac"
}
