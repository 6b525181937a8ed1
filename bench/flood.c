/* Connections that hold a place, for bench/flood.py: opened as many at a time as are due, the oldest closed for them.
 *
 * A connection costs the kernel of one machine both ends; the calls are made here so that no interpreter comes on top.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FREEBIND 78 /* IPV6_FREEBIND of linux/in6.h: an address that is local by a route alone */

/* A socket bound to *source* (IPv6, or IPv4 mapped), and in *to*, of *size* octets, where it is to connect; -1 if it cannot be had. */
static int bound(const struct in6_addr *source, uint16_t port, struct sockaddr_storage *to, socklen_t *size)
{
	const struct linger reset = {1, 0}; /* no TIME_WAIT: ports of 200 addresses would be used up in minutes */
	const int one = 1, mapped = IN6_IS_ADDR_V4MAPPED(source), family = mapped ? AF_INET : AF_INET6;
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_storage from = {0};

	if (fd < 0)
		return -1;
	*to = from;
	if (mapped) {
		struct sockaddr_in *ours = (void *)&from, *theirs = (void *)to;
		*size = sizeof *ours;
		*theirs = (struct sockaddr_in){.sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
		memcpy(&ours->sin_addr, source->s6_addr + 12, 4);
	} else {
		struct sockaddr_in6 *ours = (void *)&from, *theirs = (void *)to;
		*size = sizeof *ours;
		*theirs = (struct sockaddr_in6){.sin6_port = htons(port), .sin6_addr = in6addr_loopback};
		ours->sin6_addr = *source;
		setsockopt(fd, IPPROTO_IPV6, FREEBIND, &one, sizeof one);
	}
	from.ss_family = to->ss_family = family;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	/* The port is chosen by connect(), where only the pair of addresses has to be free: no search. */
	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
	if (bind(fd, (const struct sockaddr *)&from, *size) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Connect to *port* of 127.0.0.1 or ::1 from each of *sources* in turn, beginning with number *first*.
 * *held*: *room* descriptors in a ring, -1 where there is none; *at*: how many were ever put into it.
 * Each sends *octets* at once; with *resets* it is reset then.
 * Returns how many were opened.
 */
int flood_open(const struct in6_addr *sources, uint32_t source_count, uint16_t port, uint64_t first, uint32_t count,
	       int *held, uint32_t room, uint64_t *at, const void *octets, uint32_t size, int resets)
{
	int opened = 0;

	for (uint64_t number = first; number < first + count; number++) {
		struct sockaddr_storage to;
		socklen_t to_size;
		int *place = &held[*at % room];
		int fd = bound(&sources[number % source_count], port, &to, &to_size);

		if (fd < 0)
			continue;
		connect(fd, (const struct sockaddr *)&to, to_size); /* EINPROGRESS, and on loopback soon done */
		if (size)
			send(fd, octets, size, MSG_DONTWAIT | MSG_NOSIGNAL);
		opened++;
		if (resets) {
			close(fd);
			continue;
		}
		if (*place >= 0)
			close(*place);
		*place = fd;
		++*at;
	}
	return opened;
}
