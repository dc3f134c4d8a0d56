/* What a process in a container can learn of, and do to, every other one that comes by in its PID namespace.

   prober TERCES FILE NAMESPACE...: until /p/stop is there, watch for new processes; stop each by ptrace(2) if that is
   allowed, and go through all that /proc shows of it. Written to stdout, once each: what no process may let others have:
   the host's FILE by its root, working directory or a descriptor; a file that could be written and is not of its own
   root; the secret, which we are told backwards since that is known where our own command line is, in its environment or memory; capabilities or a freedom from filters beyond ours; one of the
   host's namespaces, named as in /proc/<pid>/ns. The last row tells how many processes were looked at, and how many of
   these ran a program that is not in their root: those on their way. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *secret, *file;
static char **namespaces;
static unsigned long long own_bounding;
static int own_filter, looked, underway;

static void found(const char *format, ...)
{
	static char seen[256][200];
	static int count;
	char text[200];
	va_list rest;

	va_start(rest, format);
	vsnprintf(text, sizeof text, format, rest);
	va_end(rest);
	for (int i = 0; i < count; i++)
		if (!strcmp(seen[i], text))
			return;
	if (count < 256)
		strcpy(seen[count++], text);
	puts(text);
	fflush(stdout);
}

static ssize_t content(int process, const char *name, char *buffer, size_t size)
{
	int fd = openat(process, name, O_RDONLY);
	ssize_t all = 0, got;

	if (fd < 0)
		return -1;
	while (all < (ssize_t)size - 1 && (got = read(fd, buffer + all, size - 1 - all)) > 0)
		all += got;
	close(fd);
	buffer[all] = 0;
	return all;
}

static unsigned long long field(const char *status, const char *name, int base)
{
	const char *row = strstr(status, name);
	return row ? strtoull(row + strlen(name), NULL, base) : 0;
}

/* Whether the host's file is there, from the directory behind a link of /proc. */
static void look_for_file(int process, const char *link)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof path, "%s/../../../../../../../../../../../..%s", link, file);
	if ((fd = openat(process, path, O_RDONLY)) >= 0)
		found("%s leads to the host's files", strncmp(link, "fd/", 3) ? link : "fd");
	close(fd);
}

/* The mount that what is behind a link is on; -1 when it is no file or directory. */
static long long mount_of(int process, const char *link)
{
	struct statx found;

	if (statx(process, link, 0, STATX_TYPE | STATX_MNT_ID, &found))
		return -1;
	return S_ISREG(found.stx_mode) || S_ISDIR(found.stx_mode) ? (long long)found.stx_mnt_id : -1;
}

static int is_foreign(int process, const char *link, long long own)
{
	long long mount = mount_of(process, link);
	return mount >= 0 && mount != own;
}

static void try_to_write(int process, const char *link, const char *what)
{
	int fd = openat(process, link, O_RDONLY), seals;
	struct statvfs mount;

	if (fd < 0)
		return;
	seals = fcntl(fd, F_GET_SEALS);
	fstatvfs(fd, &mount);
	close(fd);
	if (seals >= 0 && seals & F_SEAL_WRITE)
		return;
	/* while it is executed somewhere a file can't be opened for writing, whatever it is on; afterwards it may be */
	if (mount.f_flag & ST_RDONLY)
		return;
	fd = openat(process, link, O_RDWR);
	if (fd >= 0 || errno == ETXTBSY) {
		char target[200] = "";
		readlinkat(process, link, target, sizeof target - 1);
		found("%s can be written to: %s", what, target);
	}
	close(fd);
}

static void look_at_memory(int process)
{
	static char maps[1 << 18], memory[1 << 20];
	size_t length = strlen(secret);
	int fd = openat(process, "mem", O_RDONLY);

	if (fd < 0 || content(process, "maps", maps, sizeof maps) < 0) {
		close(fd);
		return;
	}
	for (char *row = strtok(maps, "\n"); row; row = strtok(NULL, "\n")) {
		unsigned long from, to;
		char rights[8];

		/* what is only read of a file is no secret of the process's */
		if (sscanf(row, "%lx-%lx %7s", &from, &to, rights) != 3 || rights[1] != 'w')
			continue;
		for (; from < to; from += sizeof memory - length) {
			size_t want = to - from < sizeof memory ? to - from : sizeof memory;
			ssize_t got = pread(fd, memory, want, from);
			if (got > 0 && memmem(memory, got, secret, length))
				found("the secret is in its memory: %s", strchr(row, '[') ? strchr(row, '[') : "");
		}
	}
	close(fd);
}

static void look_at(int pid)
{
	static char text[1 << 16];
	char name[300], target[200];
	long long root;
	struct dirent *entry;
	DIR *directory;
	int process, stopped, fd;

	snprintf(name, sizeof name, "/proc/%d", pid);
	if ((process = open(name, O_RDONLY | O_DIRECTORY)) < 0)
		return;
	looked++;
	stopped = !ptrace(PTRACE_SEIZE, pid, 0, 0) && !ptrace(PTRACE_INTERRUPT, pid, 0, 0) && waitpid(pid, NULL, __WALL) == pid;
	look_for_file(process, "root");
	look_for_file(process, "cwd");
	if ((fd = openat(process, "fd", O_RDONLY | O_DIRECTORY)) >= 0 && (directory = fdopendir(fd))) {
		while ((entry = readdir(directory))) {
			snprintf(name, sizeof name, "fd/%.20s", entry->d_name);
			ssize_t got = readlinkat(process, name, target, sizeof target - 1);
			if (got < 0)
				continue;
			target[got] = 0;
			look_for_file(process, name);
			if (atoi(entry->d_name) > 2 && strncmp(target, "socket:", 7) && strncmp(target, "pipe:", 5))
				found("fd > 2: %s", target);
		}
		closedir(directory);
	}
	if ((root = mount_of(process, "root")) >= 0) {
		if (is_foreign(process, "exe", root)) {
			underway++;
			try_to_write(process, "exe", "exe");
		}
		if ((fd = openat(process, "map_files", O_RDONLY | O_DIRECTORY)) >= 0 && (directory = fdopendir(fd))) {
			while ((entry = readdir(directory))) {
				snprintf(name, sizeof name, "map_files/%.100s", entry->d_name);
				if (is_foreign(process, name, root))
					try_to_write(process, name, "map_files");
			}
			closedir(directory);
		}
	}
	ssize_t got = content(process, "environ", text, sizeof text);
	if (got > 0 && memmem(text, got, secret, strlen(secret)))
		found("the secret is in its environment");
	if (content(process, "status", text, sizeof text) > 0) {
		unsigned long long more = field(text, "CapPrm:", 16) & ~own_bounding;
		if (more)
			found("more capabilities: %llx", more);
		if (own_filter && !strstr(text, "State:\tZ") && !field(text, "Seccomp:", 10))
			found("no filter");
	}
	for (char **host = namespaces; *host; host++) {
		snprintf(name, sizeof name, "ns/%.*s", (int)strcspn(*host, ":"), *host);
		got = readlinkat(process, name, target, sizeof target - 1);
		if (got > 0 && (target[got] = 0, !strcmp(target, *host)))
			found("the host's namespace %s", name + 3);
	}
	if (stopped) {
		look_at_memory(process);
		ptrace(PTRACE_DETACH, pid, 0, 0);
	}
	close(process);
}

static char *reversed(const char *text)
{
	size_t length = strlen(text);
	char *other = calloc(length + 1, 1);

	for (size_t i = 0; i < length; i++)
		other[i] = text[length - 1 - i];
	return other;
}

int main(int count, char **arguments)
{
	static char text[1 << 16];

	if (count < 3)
		return 2;
	secret = reversed(arguments[1]);
	file = arguments[2];
	namespaces = arguments + 3;
	content(AT_FDCWD, "/proc/self/status", text, sizeof text);
	own_bounding = field(text, "CapBnd:", 16);
	own_filter = field(text, "Seccomp:", 10) > 0;
	puts("ready");
	fflush(stdout);
	int last = getpid();
	while (access("/p/stop", F_OK)) {
		/* numbers are given one after the other; some are of threads, which are not listed but found all the same */
		for (int pid = last + 1; pid < last + 4; pid++) {
			char name[32];
			snprintf(name, sizeof name, "/proc/%d", pid);
			if (!access(name, F_OK)) {
				look_at(pid);
				last = pid;
			}
		}
	}
	/* those that were there before us */
	for (int pid = 1; pid <= last; pid++)
		if (pid != getpid())
			look_at(pid);
	printf("looked at %d, %d underway\n", looked, underway);
	return 0;
}
