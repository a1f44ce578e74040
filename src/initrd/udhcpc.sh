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
