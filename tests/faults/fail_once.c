/* Preloaded into an instance: in the role that a test names, the next call of a kind fails once with an error of the
 * test's choice.  The test and all processes share the file $FAULT_FILE, a struct order.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum call { OPEN, WRITE, FSYNC, RENAME, FORK, PIPE, ACCEPT, MMAP, CALLS };

struct order {
	int32_t armed;  /* how many calls are still to fail */
	int32_t role;   /* index in ROLES, or -1: any */
	int32_t call;
	int32_t error;
	int32_t failed; /* how many did */
};

static const char *const ROLES[] = { "maintain", "serve", "report", "worker" };

static volatile struct order *order;
static int role = -1;

static int role_of_this_process(void)
{
	char line[4096] = "";
	int file = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t size = file < 0 ? 0 : read(file, line, sizeof(line) - 1);

	if (file >= 0)
		close(file);
	for (ssize_t at = 0; at < size; at++)
		if (!line[at])
			line[at] = ' ';
	if (strstr(line, "rootsrv.server.worker"))
		return 3;
	for (int each = 0; each < 3; each++) {
		const char *said = strstr(line, "--role ");

		if (said && !strncmp(said + 7, ROLES[each], strlen(ROLES[each])))
			return each;
	}
	return -1;
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("FAULT_FILE");
	int file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
	void *mapped;

	if (file < 0)
		return; /* another account, or a sandbox */
	mapped = (void *)syscall(SYS_mmap, NULL, sizeof(*order), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0L);
	close(file);
	if (mapped == MAP_FAILED)
		return;
	role = role_of_this_process();
	order = mapped;
}

/* Whether this call is to fail; errno is set then. */
static int fails(enum call call)
{
	if (!order || order->armed <= 0 || order->call != (int32_t)call || role < 0)
		return 0;
	if (order->role >= 0 && order->role != role)
		return 0;
	if (__sync_fetch_and_sub(&order->armed, 1) <= 0)
		return 0;
	__sync_fetch_and_add(&order->failed, 1);
	errno = order->error;
	return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPENS(name)                                                        \
	int name(const char *path, int flags, ...)                         \
	{                                                                  \
		va_list more;                                              \
		mode_t mode;                                               \
                                                                           \
		va_start(more, flags);                                     \
		mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
		va_end(more);                                              \
		return fails(OPEN) ? -1 : NEXT(name)(path, flags, mode);   \
	}
OPENS(open)
OPENS(open64)

#define OPENS_AT(name)                                                     \
	int name(int directory, const char *path, int flags, ...)          \
	{                                                                  \
		va_list more;                                              \
		mode_t mode;                                               \
                                                                           \
		va_start(more, flags);                                     \
		mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
		va_end(more);                                              \
		return fails(OPEN) ? -1 : NEXT(name)(directory, path, flags, mode); \
	}
OPENS_AT(openat)
OPENS_AT(openat64)

ssize_t write(int file, const void *octets, size_t size)
{
	return fails(WRITE) ? -1 : NEXT(write)(file, octets, size);
}

int fsync(int file)
{
	return fails(FSYNC) ? -1 : NEXT(fsync)(file);
}

int rename(const char *from, const char *to)
{
	return fails(RENAME) ? -1 : NEXT(rename)(from, to);
}

int renameat(int from_directory, const char *from, int to_directory, const char *to)
{
	return fails(RENAME) ? -1 : NEXT(renameat)(from_directory, from, to_directory, to);
}

pid_t fork(void)
{
	return fails(FORK) ? -1 : NEXT(fork)();
}

int pipe(int files[2])
{
	return fails(PIPE) ? -1 : NEXT(pipe)(files);
}

int pipe2(int files[2], int flags)
{
	return fails(PIPE) ? -1 : NEXT(pipe2)(files, flags);
}

int accept(int file, struct sockaddr *restrict address, socklen_t *restrict size)
{
	return fails(ACCEPT) ? -1 : NEXT(accept)(file, address, size);
}

int accept4(int file, struct sockaddr *restrict address, socklen_t *restrict size, int flags)
{
	return fails(ACCEPT) ? -1 : NEXT(accept4)(file, address, size, flags);
}

void *mmap(void *address, size_t size, int access, int flags, int file, off_t offset)
{
	if (file >= 0 && fails(MMAP))
		return MAP_FAILED;
	return NEXT(mmap)(address, size, access, flags, file, offset);
}

void *mmap64(void *address, size_t size, int access, int flags, int file, off64_t offset)
{
	if (file >= 0 && fails(MMAP))
		return MAP_FAILED;
	return NEXT(mmap64)(address, size, access, flags, file, offset);
}
