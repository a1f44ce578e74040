#!/bin/sh
# Called by busybox's udhcpc with what happened; applies a lease and notes it for /init.
# shellcheck disable=SC2154 # udhcpc sets the variables
facts=/run/hearth/net

case $1 in
deconfig)
	ip address flush dev "$interface"
	ip link set "$interface" up
	;;
bound | renew)
	# A server need not tell the netmask (option 1); as in the kernel, that of the address's class is taken then.
	if [ -z "$mask" ]; then
		case ${ip%%.*} in
		? | ?? | 1[01]? | 12[0-7]) mask=8 ;;
		1[2-8]? | 19[01]) mask=16 ;;
		*) mask=24 ;;
		esac
	fi
	ip address replace "$ip/$mask" ${broadcast:+broadcast "$broadcast"} dev "$interface" || exit 1
	gateway=${router%% *}
	if [ -n "$gateway" ]; then ip route replace default via "$gateway" dev "$interface"; fi
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
