# shellcheck shell=sh disable=SC1091,SC2154 # init gives the variables, the initrd has the files
# Mounts a root on NFS, as hearth's own initrd does: with the kernel's client for MOUNT and NFS, which knows all
# options (klibc's nfsmount knows neither mountport= nor proto=). initramfs-tools' init reads this file.
. /scripts/nfs.distribution
. /scripts/hearth

mountroot() {
	nfs_top
	modprobe af_packet
	modprobe nfs
	wait_for_udev 10
	configure_networking
	nfs_premount
	hearth_read_nfsroot
	hearth_mount
}

hearth_fail() {
	echo "<3>hearth: FAILED in stage 'mount': $*" >/dev/kmsg
	if [ -n "$panic" ]; then say "rebooting in $panic s"; fi
	panic "hearth: $*"
}

# nfsroot=[SERVER:]PATH[,OPTIONS]; what is missing, DHCP may have told.
hearth_read_nfsroot() {
	case $NFSROOT in '' | auto) NFSROOT=$ROOTPATH ;; esac
	options=
	case $NFSROOT in *,*) options=,${NFSROOT#*,} NFSROOT=${NFSROOT%%,*} ;; esac
	case $NFSROOT in
	*:/*) server=${NFSROOT%%:/*} path=/${NFSROOT#*:/} ;;
	/*) server=$ROOTSERVER path=$NFSROOT ;;
	*) hearth_fail "the command line has no nfsroot=SERVER:/PATH, and DHCP told no root path" ;;
	esac
	case $path in *%s*) path=${path%%%s*}$IPV4ADDR${path#*%s} ;; esac
	case $server in
	'') hearth_fail "nfsroot=$NFSROOT names no server, and DHCP told none" ;;
	*[!0-9.]*) hearth_fail "nfsroot=$NFSROOT: this initrd cannot resolve names; give the server's address" ;;
	esac
	case $options, in
	*,v4* | *vers=4*) options=$options,clientaddr=$IPV4ADDR ;;
	*,lock,* | *,nolock,*) ;;
	# Nobody here could keep locks for the server.
	*) options=$options,nolock ;;
	esac
}

hearth_mount() {
	mode=ro
	if [ "$(argument hearth.overlay)" = none ] && [ "$readonly" != y ]; then mode=rw; fi
	# busybox would otherwise look for mount.nfs.
	mount=mount
	if command -v busybox >/dev/null; then mount="timeout -s KILL 60 busybox mount -i"; fi
	say "mounting $server:$path (NFS: ${options#,})"
	for pause in 1 2 3 5 8 13 0; do
		# shellcheck disable=SC2086 # words
		if problem=$($mount -t nfs -o "$mode$options,addr=$server" "$server:$path" "$rootmnt" 2>&1); then return; fi
		if [ "$pause" != 0 ]; then say "$problem; again in $pause s"; fi
		sleep "$pause"
	done
	hearth_fail "$problem"
}
