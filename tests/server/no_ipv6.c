/* A kernel without IPv6 (ipv6.disable=1), for whoever is started with LD_PRELOAD: there are no such sockets. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/socket.h>

int socket(int family, int type, int protocol)
{
	int (*next)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");

	if (family == AF_INET6) {
		errno = EAFNOSUPPORT;
		return -1;
	}
	return next(family, type, protocol);
}
