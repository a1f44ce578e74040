#!/bin/sh
# hearth's hook for mkinitramfs: what the board types and the recipe need, whatever MODULES= says.
# shellcheck disable=SC1091,SC2154 # mkinitramfs gives the variables
case $1 in prereqs) exit 0 ;; esac
. /usr/share/initramfs-tools/hook-functions

chosen=/etc/initramfs-tools/hearth
# shellcheck disable=SC2046 # one name a line
manual_add_modules $(cat $chosen/modules)
while read -r module; do
	force_load "$module"
done <$chosen/modules-at-start
while read -r binary; do
	copy_exec "$binary" || { echo "E: $binary, which the recipe names, cannot be copied" >&2; exit 1; }
done <$chosen/binaries
# hearth's way to mount a root on NFS is a layer above the distribution's.
cp -p /usr/share/initramfs-tools/scripts/nfs "$DESTDIR/scripts/nfs.distribution"
cp -p $chosen/functions "$DESTDIR/scripts/hearth"
cp -p $chosen/modules.hearth "$DESTDIR/lib/modules/$version/modules.hearth"
