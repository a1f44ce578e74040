#!/bin/sh
# Makes the keys of hearth's command line those of initramfs-tools; its init reads param.conf after this script.
# shellcheck disable=SC1091 # the initrd has the file
case $1 in prereqs) exit 0 ;; esac
. /scripts/hearth

# Else the kernel drops all but ten of our lines in five seconds.
echo on >/proc/sys/kernel/printk_devkmsg

panic=$(argument hearth.panic)
if [ -z "$panic" ]; then panic=$(argument panic); fi
case $panic in '' | *[!0-9]*) panic=30 ;; esac
# A kernel that panics must not keep the board either.
read -r kernel_panic </proc/sys/kernel/panic
if [ "$kernel_panic" = 0 ]; then echo "$panic" >/proc/sys/kernel/panic; fi
# To initramfs-tools 0 means to halt, and nothing means a shell.
if [ "$panic" = 0 ]; then panic=; fi
echo "panic=$panic" >>/conf/param.conf

# The configuration says BOOT=nfs.
boot=$(argument boot)
root=$(argument root)
case $boot,$root in
,/dev/nfs | ,) ;;
,*) echo "BOOT=local" >>/conf/param.conf ;;
esac
