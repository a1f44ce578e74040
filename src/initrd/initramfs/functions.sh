# What hearth's scripts in the distribution's initrd share. Read by them, not run.

# The kernel's log has it for the console, for dmesg and for the journal.
say() { echo "<5>hearth: $*" >/dev/kmsg; }

# The value of a key on the kernel command line, the last one if there are several.
argument() {
	found=
	read -r line </proc/cmdline
	set -f
	for word in $line; do
		case $word in "$1="*) found=${word#*=} ;; esac
	done
	set +f
	echo "$found"
}
