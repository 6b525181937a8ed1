/* The TCP client of bench/engine_tcp.py: connections one after the other, each with its series of queries.
 *
 * A flow is a place that one connection after the other takes.  The id of a query is its place in its flow's series,
 * and the series stands in memory as it goes over the wire, so any number of queries are sent by one send.
 * Connections are registered once, edge-triggered: no epoll_ctl when one is open, blocked or has something to read.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BINS = 656, MAX_EVENTS = 256, MESSAGE = 65537, READ = 1 << 16, BEHIND = 4096, CATCH_UP = 64, NO_RCODE = 0xff };

static const struct timespec PAUSE = {0, 200000};  /* between queries that are not yet due */
static const struct timespec WAIT = {0, 1000000};

/* As bench/engine_tcp.py declares it. */
struct found {
	uint64_t sent, answered, octets, truncated, wrong_id, wrong_rcode, refused, closed;
	uint64_t rcodes[16];
	uint64_t latency[BINS]; /* bench/load.py */
};

struct flow {
	unsigned char *series, *rcodes, *rest;
	uint32_t *offsets;
	uint64_t *sent_at;      /* by id; 0 = not outstanding */
	uint32_t length, row, outstanding, held;
	int fd, v6, connecting, ready;
};

struct client {
	struct flow *flows, **ready;
	struct sockaddr_in6 targets[2], *sources[2];
	struct found *found;
	uint64_t credit_from, in_schedule;
	double rate;            /* per second; 0 = as many as the windows let */
	uint32_t capacity, count, window, persistent, source_count, opened, first_ready, ready_count, open_count;
	int epoll;
	unsigned char buffer[MESSAGE + READ];
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static socklen_t size_of(int v6)
{
	return v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

/* *targets*: a sockaddr for IPv4 and one for IPv6; *sources*: first all of IPv4, then all of IPv6, or none at all. */
struct client *client_new(uint32_t flows, uint32_t window, uint32_t persistent, const struct sockaddr_in6 *targets,
			  const struct sockaddr_in6 *sources, uint32_t source_count)
{
	struct client *it = calloc(1, sizeof(*it));

	it->flows = calloc(flows, sizeof(*it->flows));
	it->ready = calloc(flows, sizeof(*it->ready));
	it->capacity = flows;
	it->window = window;
	it->persistent = persistent;
	it->source_count = source_count;
	it->epoll = epoll_create1(EPOLL_CLOEXEC);
	memcpy(it->targets, targets, sizeof(it->targets));
	for (int v6 = 0; v6 < 2; v6++) {
		it->sources[v6] = calloc(source_count + 1, sizeof(**it->sources));
		memcpy(it->sources[v6], sources + v6 * source_count, source_count * sizeof(**it->sources));
	}
	return it;
}

/* Each query of *series* has its length before it; *offsets* are *length* + 1; *rcodes* expected, or NO_RCODE. */
void client_add(struct client *it, int v6, const unsigned char *series, const uint32_t *offsets,
		const unsigned char *rcodes, uint32_t length)
{
	struct flow *flow = &it->flows[it->count++];

	flow->series = memcpy(malloc(offsets[length]), series, offsets[length]);
	flow->offsets = memcpy(malloc((length + 1) * sizeof(*offsets)), offsets, (length + 1) * sizeof(*offsets));
	flow->rcodes = memcpy(malloc(length), rcodes, length);
	flow->sent_at = calloc(length, sizeof(*flow->sent_at));
	flow->rest = malloc(MESSAGE);
	flow->length = length;
	flow->v6 = v6;
	flow->fd = -1;
}

static void may_send(struct client *it, struct flow *flow)
{
	if (flow->ready)
		return;
	flow->ready = 1;
	it->ready[(it->first_ready + it->ready_count++) % it->capacity] = flow;
}

static int open_flow(struct client *it, struct flow *flow)
{
	int one = 1, fd = socket(flow->v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (it->persistent)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	it->opened++;
	if (it->source_count) {
		struct sockaddr_in6 *source = &it->sources[flow->v6][it->opened % it->source_count];

		/* The prefix is routed here, but no interface has its addresses; one port per destination, not per host. */
		setsockopt(fd, flow->v6 ? IPPROTO_IPV6 : IPPROTO_IP, flow->v6 ? 78 /* IPV6_FREEBIND */ : IP_FREEBIND,
			   &one, sizeof(one));
		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
		if (bind(fd, (struct sockaddr *)source, size_of(flow->v6)))
			goto failed;
	}
	if (connect(fd, (struct sockaddr *)&it->targets[flow->v6], size_of(flow->v6)) && errno != EINPROGRESS)
		goto failed;
	struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = flow};
	if (epoll_ctl(it->epoll, EPOLL_CTL_ADD, fd, &wanted))
		goto failed;
	flow->fd = fd;
	flow->connecting = 1;
	flow->held = flow->outstanding = 0;
	it->open_count++;
	return 0;
failed:
	one = errno;
	close(fd);
	return -one;
}

/* What was outstanding is lost. */
static void close_flow(struct client *it, struct flow *flow)
{
	if (flow->fd < 0)
		return;
	if (flow->outstanding)
		memset(flow->sent_at, 0, flow->length * sizeof(*flow->sent_at));
	close(flow->fd); /* which takes it out of the epoll set, too */
	flow->fd = -1;
	flow->outstanding = 0;
	it->open_count--;
}

/* Sends as many queries as are due and the window lets; how many. */
static uint32_t send_queries(struct client *it, struct flow *flow, uint64_t due, uint64_t now)
{
	uint32_t row = flow->row, count = it->window - flow->outstanding;

	if (flow->fd < 0 || flow->connecting || it->window <= flow->outstanding)
		return 0;
	if (count > flow->length - row)
		count = flow->length - row;
	if (count > due)
		count = due;
	unsigned char *at = flow->series + flow->offsets[row], *end = flow->series + flow->offsets[row + count];
	ssize_t taken = send(flow->fd, at, end - at, MSG_NOSIGNAL);
	if (taken < 0)
		return 0; /* full: an event says when it is not; or at its end, which is read from it next */
	/* Part of a query is out: the rest must follow before anything else (a server that reads takes it soon). */
	while ((at += taken) < end) {
		poll(&(struct pollfd){.fd = flow->fd, .events = POLLOUT}, 1, 1000);
		taken = send(flow->fd, at, end - at, MSG_NOSIGNAL);
		if (taken < 0) {
			if (errno != EAGAIN)
				break;
			taken = 0;
		}
	}
	for (uint32_t i = 0; i < count; i++)
		flow->sent_at[row + i] = now;
	it->found->sent += count;
	flow->outstanding += count;
	flow->row = row + count < flow->length ? row + count : 0;
	if (flow->outstanding < it->window)
		may_send(it, flow);
	return count;
}

static void judge(struct found *found, struct flow *flow, const unsigned char *message, uint32_t size, uint64_t now)
{
	uint32_t id = message[0] << 8 | message[1];

	if (size < 12 || id >= flow->length || !(message[2] & 0x80) || !flow->sent_at[id]) {
		found->wrong_id++;
		return;
	}
	uint64_t took = now - flow->sent_at[id], bin = took;
	unsigned char rcode = message[3] & 15;
	flow->sent_at[id] = 0;
	found->answered++;
	found->octets += size;
	found->truncated += message[2] >> 1 & 1;
	found->rcodes[rcode]++;
	found->wrong_rcode += flow->rcodes[id] != NO_RCODE && flow->rcodes[id] != rcode;
	if (took >= 16) {
		int exponent = 63 - __builtin_clzll(took);

		bin = (exponent - 3) * 16 + (took >> (exponent - 4) & 15);
	}
	found->latency[bin < BINS ? bin : BINS - 1]++;
}

/* Takes all that the connection has; whether it is still open. */
static int receive(struct client *it, struct flow *flow, int ended)
{
	for (;;) {
		memcpy(it->buffer, flow->rest, flow->held);
		ssize_t came = recv(flow->fd, it->buffer + flow->held, READ, 0);
		if (came <= 0)
			return came < 0 && errno == EAGAIN;
		unsigned char *at = it->buffer, *end = at + flow->held + came;
		uint64_t now = now_ns();
		uint32_t size, responses = 0;
		while (end - at >= 2 && end - at >= 2 + (size = at[0] << 8 | at[1])) {
			judge(it->found, flow, at + 2, size, now);
			at += 2 + size;
			responses++;
		}
		flow->held = end - at;
		memcpy(flow->rest, at, flow->held);
		flow->outstanding -= responses < flow->outstanding ? responses : flow->outstanding;
		if (responses && !it->persistent) {
			close_flow(it, flow);
			return 1;
		}
		if (flow->outstanding < it->window)
			may_send(it, flow);
		if (came < READ && !ended)
			return 1;
	}
}

static void take_events(struct client *it, const struct timespec *wait)
{
	static const struct timespec none;
	struct epoll_event events[MAX_EVENTS];
	int count = epoll_pwait2(it->epoll, events, MAX_EVENTS, wait ?: &none, NULL);

	for (int i = 0; i < count; i++) {
		struct flow *flow = events[i].data.ptr;
		uint32_t what = events[i].events;

		if (flow->fd < 0)
			continue;
		if (flow->connecting) {
			if (what & (EPOLLERR | EPOLLHUP)) {
				it->found->refused++;
				close_flow(it, flow);
				continue;
			}
			flow->connecting = 0;
		}
		if (what & EPOLLOUT && flow->outstanding < it->window)
			may_send(it, flow);
		if (what & ~EPOLLOUT && !receive(it, flow, what & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))) {
			it->found->closed += it->persistent;
			close_flow(it, flow);
		}
	}
}

/* What a server closed while nothing was asked is nothing that it did wrong. */
void client_begin(struct client *it, double rate, struct found *found)
{
	struct found unasked = {0};

	it->found = &unasked;
	take_events(it, NULL);
	it->found = found;
	it->rate = rate;
	it->credit_from = now_ns();
	it->in_schedule = 0;
}

/* Asks until *end_ns*; 0, or the negative errno of a connection that could not be tried. */
int client_run(struct client *it, uint64_t end_ns)
{
	for (uint64_t now; (now = now_ns()) < end_ns;) {
		int64_t due = 1 << 30;

		for (uint32_t i = 0; it->open_count < it->count && i < it->count; i++) {
			int error = it->flows[i].fd < 0 ? open_flow(it, &it->flows[i]) : 0;
			if (error)
				return error;
		}
		if (it->rate) {
			due = (now - it->credit_from) * it->rate / 1e9 - it->in_schedule;
			if (due > BEHIND) { /* what is behind it is not made up */
				it->credit_from = now;
				it->in_schedule = 0;
				due = CATCH_UP;
			}
		}
		while (due > 0 && it->ready_count) {
			struct flow *flow = it->ready[it->first_ready];

			it->first_ready = (it->first_ready + 1) % it->capacity;
			it->ready_count--;
			flow->ready = 0;
			uint32_t sent = send_queries(it, flow, due, now);
			due -= sent;
			it->in_schedule += sent;
		}
		take_events(it, it->rate ? &PAUSE : &WAIT);
	}
	return 0;
}

/* Waits for what is outstanding until *end_ns*, and closes what then still is. */
void client_end(struct client *it, uint64_t end_ns)
{
	while (it->found->answered < it->found->sent && now_ns() < end_ns)
		take_events(it, &WAIT);
	for (uint32_t i = 0; i < it->count; i++)
		if (it->flows[i].outstanding || !it->persistent)
			close_flow(it, &it->flows[i]);
}

void client_free(struct client *it)
{
	for (uint32_t i = 0; i < it->count; i++) {
		struct flow *flow = &it->flows[i];

		close_flow(it, flow);
		free(flow->series);
		free(flow->offsets);
		free(flow->rcodes);
		free(flow->sent_at);
		free(flow->rest);
	}
	close(it->epoll);
	free(it->sources[0]);
	free(it->sources[1]);
	free(it->flows);
	free(it->ready);
	free(it);
}
