/* The limit for a server with sockets: receives and sends many datagrams per system call, looks at nothing.
 *
 *     reflector PORT OCTETS ADDRESS...
 *
 * Whatever comes back has QR set and is OCTETS long (never shorter than the query), the size of the mix's mean response.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, ROW = 2048, MAX_SOCKETS = 8 };

static char rows[BATCH][ROW];
static struct sockaddr_storage names[BATCH];
static struct iovec iovecs[BATCH];
static struct mmsghdr messages[BATCH];

static int open_socket(const char *address, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
	int one = 1, size = 4 << 20;

	if (getaddrinfo(address, port, &hints, &found)) {
		fprintf(stderr, "reflector: %s port %s: not an address and a port\n", address, port);
		exit(2);
	}
	int fd = socket(found->ai_family, SOCK_DGRAM, 0);
	if (found->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, 26 /* IPV6_V6ONLY */, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen)) {
		perror("reflector: bind");
		exit(1);
	}
	freeaddrinfo(found);
	return fd;
}

static void reflect(int fd, size_t octets)
{
	for (int i = 0; i < BATCH; i++) {
		iovecs[i].iov_len = ROW;
		messages[i].msg_hdr.msg_namelen = sizeof(names[i]);
	}
	int received = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
	if (received <= 0)
		return;
	for (int i = 0; i < received; i++) {
		rows[i][2] |= 0x80; /* QR */
		iovecs[i].iov_len = messages[i].msg_len > octets ? messages[i].msg_len : octets;
	}
	for (int sent = 0; sent < received;) {
		int more = sendmmsg(fd, messages + sent, received - sent, 0);
		if (more <= 0)
			break;
		sent += more;
	}
}

int main(int argc, char **argv)
{
	struct pollfd sockets[MAX_SOCKETS];
	int count = argc - 3;

	if (argc < 4 || count > MAX_SOCKETS) {
		fprintf(stderr, "usage: reflector PORT OCTETS ADDRESS...\n");
		return 2;
	}
	size_t octets = strtoul(argv[2], NULL, 10);
	if (octets < 12 || octets > ROW)
		return 2;
	for (int i = 0; i < BATCH; i++) {
		iovecs[i].iov_base = rows[i];
		messages[i].msg_hdr.msg_name = &names[i];
		messages[i].msg_hdr.msg_iov = &iovecs[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	for (int i = 0; i < count; i++)
		sockets[i] = (struct pollfd){.fd = open_socket(argv[3 + i], argv[1]), .events = POLLIN};
	puts("ready");
	fflush(stdout);
	for (;;) {
		poll(sockets, count, -1);
		for (int i = 0; i < count; i++)
			if (sockets[i].revents)
				reflect(sockets[i].fd, octets);
	}
}
