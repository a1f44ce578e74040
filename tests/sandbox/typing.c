/* Tries to act as the operator at the terminal, by every descriptor and every name of one. The arguments are the device and
 * inode numbers of the operator's terminal. Prints a line that begins with GOT for each thing that works. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned long device, inode;

static void try(int fd, const char *name)
{
	struct stat st;
	char shift = 6;

	if (ioctl(fd, TIOCSTI, "x") == 0)
		printf("GOT typing by %s\n", name);
	if (ioctl(fd, TIOCSTI | 1ul << 32, "x") == 0)
		printf("GOT typing with a long request by %s\n", name);
	if (ioctl(fd, TIOCLINUX, &shift) == 0)
		printf("GOT the console by %s\n", name);
	if (fstat(fd, &st) == 0 && st.st_dev == device && st.st_ino == inode)
		printf("GOT the operator's terminal as %s\n", name);
}

int main(int argc, char **argv)
{
	static const char *const names[] = { "/dev/tty*", "/dev/console", "/dev/pts/*", "/dev/std*",
					     "/proc/*/fd/*", "/proc/*/task/*/fd/*" };
	char name[64];
	size_t i, j;
	int fd;

	device = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;
	inode = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	setbuf(stdout, NULL);
	for (fd = 0; fd < 4096; fd++) {
		snprintf(name, sizeof(name), "descriptor %d", fd);
		try(fd, name);
	}
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		glob_t found;

		if (glob(names[i], 0, NULL, &found) != 0)
			continue;
		for (j = 0; j < found.gl_pathc; j++) {
			fd = open(found.gl_pathv[j], O_RDWR | O_NONBLOCK | O_NOCTTY);
			if (fd < 0)
				fd = open(found.gl_pathv[j], O_RDONLY | O_NONBLOCK | O_NOCTTY);
			if (fd < 0)
				continue;
			try(fd, found.gl_pathv[j]);
			close(fd);
		}
	}
	puts("tried");
	return 0;
}
