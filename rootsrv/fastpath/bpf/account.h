/* What is told of the packets: counters, the tap. */

#define BEHIND(after, before)                                                                                          \
	_Static_assert(__builtin_offsetof(struct counters, after) == __builtin_offsetof(struct counters, before) + 8,  \
		       #after " does not stand behind " #before)
BEHIND(cut, whole);
BEHIND(truncated, cut);
BEHIND(made_cookies, good_cookies);

/* A response was sent.  Which of three or two counters it is nobody can guess: they are taken by number. */
static __always_inline void count_answer(struct scratch *s, int live)
{
	uint64_t family = s->family, rcode = s->rcode, cut = s->cut, is_made = !s->cookie_is_good;
	uint64_t query = s->size / SIZE_BIN, response = s->response_size / SIZE_BIN;

	BOUND(family, 1);
	BOUND(rcode, RCODES - 1);
	BOUND(cut, 3); /* 2 at most */
	struct counters *counters = &s->counters[live];
	counters->replies[family][rcode]++;
	if (query < QUERY_BINS)
		counters->queries_by_size[family][query]++;
	if (response < RESPONSE_BINS)
		counters->replies_by_size[family][response]++;
	uint64_t *by_cut = &counters->whole, *by_cookie = &counters->good_cookies;
	by_cut[cut]++;
	if (s->cookie_size)
		by_cookie[is_made]++;
	PATHS_MEET();
	if (live)
		count_source(s);
}

static __always_inline void count_pass(struct scratch *s, uint64_t reason, int live)
{
	BOUND(reason, 63);
	if (reason < REASONS)
		s->counters[live].passes[reason]++;
}

/* Whether an operator has blocked the source; only asked when there are blocks at all. */
STEP is_blocked(struct scratch *s)
{
	if (!s)
		return 0;
	struct block_key key = source_key(s);
	uint64_t *until = bpf_map_lookup_elem(&blocks, &key);
	if (!until || bpf_ktime_get_boot_ns() >= *until)
		return 0;
	uint64_t live = s->live, family = s->family;
	BOUND(live, 1);
	BOUND(family, 1);
	s->counters[live].blocked[family]++;
	return 1;
}

/* Whether this packet is the one in N that the tap copies. */
static __always_inline int is_sampled(int live)
{
	uint32_t every = control.tap_every;

	return every && live && bpf_get_prandom_u32() % every == 0;
}

/* Hands query and response, which the caller has put behind the query, to the ring buffer. */
static __always_inline void hand_to_tap(struct scratch *s, uint32_t query_size, uint32_t response_size)
{
	s->tap.boottime = s->boottime;
	s->tap.ifindex = s->ifindex;
	s->tap.query_size = query_size;
	s->tap.response_size = response_size;
	s->tap.family = s->family;
	s->tap.source_port = s->source_port;
	s->tap.service_port = s->service_port;
	__builtin_memcpy(s->tap.source, s->source, 16);
	__builtin_memcpy(s->tap.service, s->service, 16);

	uint64_t size = sizeof(s->tap) + query_size + response_size;
	BOUND(size, 8191);
	if (size > sizeof(s->tap) + sizeof(s->tapped))
		return;
	uint64_t live = s->live;
	BOUND(live, 1);
	if (bpf_ringbuf_output(&tap, &s->tap, size, 0))
		s->counters[live].tap_lost++;
	else
		s->counters[live].tapped++;
}
