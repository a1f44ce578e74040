#!/bin/sh
# Called by busybox's udhcpc with what happened; applies a lease and notes it for /init.
# shellcheck disable=SC2154 # udhcpc sets the variables
facts=/run/hearth/net

# class_prefix ADDRESS: as in ip.sh; busybox gives this script alone.
class_prefix() {
	case ${1%%.*} in
	[0-9] | [0-9][0-9] | 1[01][0-9] | 12[0-7]) echo 8 ;;
	12[89] | 1[3-8][0-9] | 19[01]) echo 16 ;;
	19[2-9] | 2[01][0-9] | 22[0-3]) echo 24 ;;
	*) return 1 ;;
	esac
}

case $1 in
deconfig)
	ip address flush dev "$interface"
	ip link set "$interface" up
	;;
bound | renew)
	# A server need not tell a netmask (RFC 2131, table 3): then the address has that of its class, as for the kernel.
	if [ -z "$mask" ]; then mask=$(class_prefix "$ip") || exit 1; fi
	ip address replace "$ip/$mask" ${broadcast:+broadcast "$broadcast"} dev "$interface" || exit 1
	gateway=${router%% *}
	if [ -n "$gateway" ]; then
		# A gateway beyond the netmask, as with a mask of 32 bits, is on this wire all the same.
		ip route replace default via "$gateway" dev "$interface" 2>/dev/null || {
			ip route replace "$gateway" dev "$interface"
			ip route replace default via "$gateway" dev "$interface"
		}
	fi
	echo "$interface" >$facts/interface
	echo "$ip" >$facts/address
	echo "$mask" >$facts/prefix
	echo "$gateway" >$facts/gateway
	echo "$dns" >$facts/dns
	echo "$hostname" >$facts/hostname
	echo "$domain" >$facts/domain
	echo "$siaddr" >$facts/server
	echo "$rootpath" >$facts/rootpath
	;;
esac
