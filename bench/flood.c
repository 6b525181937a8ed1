/* Connections that hold a place, for bench/flood.py: opened as many at a time as are due, the oldest closed for them.
 *
 * A connection costs the kernel of one machine both ends; the calls are made here so that no interpreter comes on top.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

/* Connect to 127.0.0.1 *port* from each of *sources* (network order) in turn, beginning with number *first*.
 * *held*: *room* descriptors in a ring, -1 where there is none; *at*: how many were ever put into it.
 * Each sends *octets* at once; with *resets* it is reset then.
 * Returns how many were opened.
 */
int flood_open(const uint32_t *sources, uint32_t source_count, uint16_t port, uint64_t first, uint32_t count,
	       int *held, uint32_t room, uint64_t *at, const void *octets, uint32_t size, int resets)
{
	const struct linger reset = {1, 0}; /* no TIME_WAIT: ports of 200 addresses would be used up in minutes */
	const int one = 1;
	const struct sockaddr_in to = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
	int opened = 0;

	for (uint64_t number = first; number < first + count; number++) {
		struct sockaddr_in from = {AF_INET, 0, {sources[number % source_count]}, {0}};
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		int *place = &held[*at % room];

		if (fd < 0)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		/* The port is chosen by connect(), where only the pair of addresses has to be free: no search. */
		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
		if (bind(fd, (const struct sockaddr *)&from, sizeof from) < 0) {
			close(fd);
			continue;
		}
		connect(fd, (const struct sockaddr *)&to, sizeof to); /* EINPROGRESS, and on loopback soon done */
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
