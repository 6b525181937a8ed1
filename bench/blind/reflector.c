/* The limit for a server with sockets: receives and sends many messages per system call, looks at nothing.
 *
 *     reflector PORT OCTETS ADDRESS...
 *
 * Whatever comes back has QR set and is OCTETS long (never shorter than the query), the size of the mix's mean response.
 * UDP and TCP have a process each.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, ROW = 2048, MAX_SOCKETS = 8, MAX_DESCRIPTORS = 1024, READ = 65536 };

static char rows[BATCH][ROW];
static struct sockaddr_storage names[BATCH];
static struct iovec iovecs[BATCH];
static struct mmsghdr messages[BATCH];

static int open_socket(const char *address, const char *port, int type)
{
	struct addrinfo hints = {.ai_socktype = type, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
	int one = 1, size = 4 << 20;

	if (getaddrinfo(address, port, &hints, &found)) {
		fprintf(stderr, "reflector: %s port %s: not an address and a port\n", address, port);
		exit(2);
	}
	int fd = socket(found->ai_family, type == SOCK_STREAM ? type | SOCK_NONBLOCK : type, 0);
	if (found->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, 26 /* IPV6_V6ONLY */, &one, sizeof(one));
	if (type == SOCK_DGRAM) {
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	} else {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	}
	if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) || (type == SOCK_STREAM && listen(fd, 4096))) {
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

/* What one connection sent so far of a query that is not whole yet. */
struct connection {
	size_t held;
	unsigned char queries[READ];
};

static struct connection *connections[MAX_DESCRIPTORS];

/* Reads once, answers all whole queries with one send (blocking: the client reads all the time). */
static void reflect_stream(int fd, size_t octets)
{
	static unsigned char responses[READ / 14 * (ROW + 2)];
	struct connection *it = connections[fd];
	unsigned char *at = it->queries, *out = responses;
	ssize_t came = recv(fd, it->queries + it->held, READ - it->held, MSG_DONTWAIT);

	if (came <= 0) {
		if (came == 0 || errno != EAGAIN) {
			free(it);
			connections[fd] = NULL;
			close(fd);
		}
		return;
	}
	unsigned char *end = it->queries + it->held + came;
	while (end - at >= 14) {
		size_t size = at[0] << 8 | at[1], longer = size > octets ? size : octets;
		if (longer > ROW || (size_t)(end - at) < size + 2)
			break;
		out[0] = longer >> 8;
		out[1] = longer;
		memcpy(out + 2, at + 2, size);
		out[4] |= 0x80; /* QR */
		at += size + 2;
		out += longer + 2;
	}
	it->held = end - at;
	memmove(it->queries, at, it->held);
	for (unsigned char *from = responses; from < out;) {
		ssize_t taken = send(fd, from, out - from, MSG_NOSIGNAL);
		if (taken <= 0)
			break; /* the next recv says why */
		from += taken;
	}
}

static void serve_tcp(int count, char **addresses, const char *port, size_t octets)
{
	int epoll = epoll_create1(0), one = 1;
	struct epoll_event events[256];

	for (int i = 0; i < count; i++) {
		int fd = open_socket(addresses[i], port, SOCK_STREAM);
		epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.fd = fd});
	}
	if (fork())
		return; /* the listening sockets are the child's */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		int ready = epoll_wait(epoll, events, 256, -1);
		for (int i = 0; i < ready; i++) {
			int fd = events[i].data.fd;
			if (connections[fd]) {
				reflect_stream(fd, octets);
				continue;
			}
			for (int opened; (opened = accept(fd, NULL, NULL)) >= 0;) {
				if (opened >= MAX_DESCRIPTORS || !(connections[opened] = malloc(sizeof(struct connection)))) {
					close(opened);
					continue;
				}
				connections[opened]->held = 0;
				setsockopt(opened, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
				epoll_ctl(epoll, EPOLL_CTL_ADD, opened,
					  &(struct epoll_event){.events = EPOLLIN, .data.fd = opened});
			}
		}
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
		sockets[i] = (struct pollfd){.fd = open_socket(argv[3 + i], argv[1], SOCK_DGRAM), .events = POLLIN};
	serve_tcp(count, argv + 3, argv[1], octets);
	puts("ready");
	fflush(stdout);
	for (;;) {
		poll(sockets, count, -1);
		for (int i = 0; i < count; i++)
			if (sockets[i].revents)
				reflect(sockets[i].fd, octets);
	}
}
