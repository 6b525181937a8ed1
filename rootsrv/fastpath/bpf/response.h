/* What the response holds: OPT record, cut, header and checksum.  Nothing is written into the packet here. */

#define MAX_POINTERS 256
#define FETCHED 448 /* octets: what follows the processor fetches by itself */

/* Our OPT record with NSID into s->opt, behind it the COOKIE option if there is one. */
STEP build_opt_with_nsid(struct scratch *s)
{
	if (!s)
		return PASS_OPT;

	uint64_t size = s->opt_size - OPT_HEADER; /* COOKIE's */
	uint32_t nsid = control.nsid_option_size;
	*(uint64_t *)s->opt = s->opt_head;
	s->opt[8] = 0;
	*(uint16_t *)(s->opt + 9) = bpf_htons(nsid + size);
	for (uint32_t i = 0; i < MAX_NSID_OPTION / 8; i++) {
		if (i * 8 >= nsid)
			break;
		*(uint64_t *)(s->opt + OPT_HEADER + i * 8) = *(const uint64_t *)(control.nsid_option + i * 8);
	}
	if (size) {
		uint64_t cookie_at = OPT_HEADER + nsid;
		BOUND(cookie_at, OPT_ROOM - 1);
		uint8_t *option = s->opt + cookie_at;
		*(uint32_t *)option = COOKIE_OPTION_HEADER;
		*(uint64_t *)(option + 4) = s->cookie[0];
		*(uint64_t *)(option + 12) = s->cookie[1];
		*(uint64_t *)(option + 20) = s->cookie[2];
	}
	s->opt_size = OPT_HEADER + nsid + size;
	s->opt_sum = sum_octets(s->opt, s->opt_size, OPT_ROOM);
	return 0;
}

/* Our OPT record: root name, type, our size, extended RCODE 0, version 0, DO copied; NSID, COOKIE.  Without NSID it is
 * written into the packet at once (write_opt).
 */
static __always_inline int build_opt(struct scratch *s)
{
	uint64_t head = (uint64_t)bpf_htons(TYPE_OPT) << 8 | (uint64_t)bpf_htons(control.max_udp_response) << 24 |
			(uint64_t)s->do_flag << 63;
	uint64_t set = READ_ONCE(control.secret_set);

	BOUND(set, 1);
	s->opt_head = head;
	s->opt_sum = halves(head);
	s->opt_size = OPT_HEADER;
	if (s->cookie_size && control.secret_count[set]) {
		int reason = make_cookie(s);
		if (reason)
			return reason;
		if (capturing.units)
			s->fact_opt |= (uint64_t)s->cookie_is_good << FACT_COOKIE_VALID_AT;
		s->opt_size = OPT_HEADER + 4 + COOKIE_OPTION_SIZE;
		/* The option's data starts at the 15th octet. */
		s->opt_sum += halves(OPT_WITH_COOKIE) +
			      swapped_if_odd(sum_words((const uint8_t *)s->cookie, sizeof(s->cookie)), 1);
	}
	if (!s->asks_nsid || !control.nsid_option_size)
		return 0;
	s->opt_is_stored = 1;
	return build_opt_with_nsid(s);
}

/* The zone's lease: past it (on the clock that no clock step moves) nothing is answered from here. */
static __always_inline int is_expired(struct scratch *s, uint64_t zone, int live)
{
	uint64_t generation = s->generation, now;

	BOUND(generation, 1);
	BOUND(zone, 1);
	if (live) {
		/* Reading the clock costs a fifth of a lookup: once per tick will do. */
		uint64_t jiffies = bpf_jiffies64();
		if (jiffies != s->jiffies) {
			s->jiffies = jiffies;
			s->boottime = bpf_ktime_get_boot_ns();
			if (capturing.units) { /* no time of a row is older */
				s->clock_missed += s->clock_left;
				s->clock_left = 0;
			}
		}
		now = s->boottime;
	} else {
		if (generation != control.active)
			return 0; /* staged: nobody has granted anything yet */
		now = bpf_ktime_get_boot_ns();
	}
	return now >= control.answer_until[generation][zone];
}

/* Octets of the *number*-th cut before the answer. */
static __always_inline uint32_t cut_size(const struct scratch *s, const uint8_t *table, uint64_t number)
{
	return ((const struct table_cut *)at(table, s->answer_at - number * sizeof(struct table_cut)))->size;
}

/* The offset of the longest of *count* cuts that fits into *space* octets, or 0; the last one, the whole answer, does not. */
STEP shorten(struct scratch *s, uint64_t count, uint32_t space)
{
	if (!s)
		return 0;
	const uint8_t *table = table_of(s->generation);
	if (!table)
		return 0;
	/* Sizes fall from the answer on: how many are too large, from the highest bit to the lowest. */
	s->cut = 1;
	PATHS_MEET(); /* a number that it knows the verifier would follow through all turns */
	uint64_t large = s->cut;

	BOUND(large, 0xffff);
	for (uint32_t bit = count < 64 ? 32 : 0x8000; bit; bit >>= 1) {
		uint64_t more = large + bit;
		BOUND(more, 0xffff);
		if (more <= count && cut_size(s, table, more) > space)
			large = more;
	}
	return large < count ? s->answer_at - (large + 1) * sizeof(struct table_cut) : 0;
}

/* The UDP checksum (checksum.h) of the response, *body* being the sum of its body as if it started at an even offset; on tc
 * the reply leaves in the state in which the query came: unfinished.
 */
static __always_inline void sum_up(struct scratch *s, uint64_t body)
{
	uint64_t start = s->question_end;
	uint16_t udp_size = bpf_htons(s->response_size + 8);
	uint64_t sum = s->address_sum + bpf_htons(17) + udp_size;

	if (s->partial && s->is_tc) {
		s->reply_check = fold(sum);
		return;
	}
	sum += (uint64_t)udp_size + s->source_port + s->service_port;
	sum += (uint16_t)s->query_head + s->reply_flags + bpf_htons(1) + s->ancount + s->nscount + s->arcount;
	sum += s->question_sum + swapped_if_odd(body, start);
	if (s->has_opt)
		sum += swapped_if_odd(s->opt_sum, start + s->body_size);
	uint16_t check = ~fold(sum);
	s->reply_check = check ? check : 0xffff; /* 0 means "none" (RFC 768) */
}

/* Chooses the longest cut that fits, and what follows from it. */
static __always_inline int fit(struct scratch *s, const uint8_t *table, int live)
{
	const struct table_answer *answer = at(table, s->answer_at);
	uint32_t zone = answer->zone, count = answer->cut_count;

	if (zone >= MAX_ZONES || count == 0)
		return PASS_TABLE;
	if (is_expired(s, zone, live))
		return PASS_EXPIRED;

	uint32_t taken = s->question_end + s->opt_size;
	if (taken > s->limit || s->name_size < answer->anchor_size)
		return PASS_TABLE;
	uint32_t space = s->limit - taken;
	uint64_t cut_at = s->answer_at - sizeof(struct table_cut); /* the longest stands next to the answer */
	s->cut = 0;
	if (((const struct table_cut *)at(table, cut_at))->size > space) {
		cut_at = shorten(s, count, space);
		if (!cut_at)
			return PASS_TABLE;
	}

	const struct table_cut *cut = at(table, cut_at);
	uint32_t moved_by = s->name_size - answer->anchor_size;
	uint32_t body_size = cut->size, start = s->question_end;
	uint16_t flags = s->reply_flags | answer->flags;

	s->rcode = answer->flags & 0xf;
	if (cut->flags & CUT_TRUNCATED) {
		flags |= FLAG_TC;
		s->cut = 2;
		s->rcode |= TRUNCATED;
	}
	s->zone = zone;
	s->body_size = body_size;
	take_pieces(s, answer, body_size);
	s->moved_by = moved_by;
	s->pointers_at = s->answer_at + sizeof(*answer);
	int64_t any = -(int64_t)moved_by >> 63; /* all bits, or none */
	asm volatile("" : "+r"(any));
	s->pointer_count = (cut->even_pointers + cut->odd_pointers) & any;
	s->response_size = start + body_size + s->opt_size;
	if (s->response_size > MAX_RESPONSE || s->pointer_count > MAX_POINTERS)
		return PASS_TABLE;
	s->reply_flags = bpf_htons(flags);
	s->ancount = bpf_htons(cut->ancount);
	s->nscount = bpf_htons(cut->nscount);
	s->arcount = bpf_htons(cut->arcount + s->has_opt);

	PATHS_MEET();
	uint64_t moved = bpf_htons(moved_by);
	sum_up(s, bpf_htons(cut->partial_sum) + cut->even_pointers * moved +
			  cut->odd_pointers * (uint64_t)__builtin_bswap16(moved));
	return 0;
}

/* An answer is seldom in the cache.  Its cut, pointers and body follow each other, so that all can be on their way at once. */
static __always_inline void fetch_answer(const struct scratch *s, const uint8_t *table)
{
	const uint8_t *answer = at(table, s->answer_at);
	for (uint32_t i = 0; i < FETCHED; i += CACHE_LINE)
		fetch(answer + i);
}

/* From the query in s->message to everything that the response needs. */
static __always_inline int decide(struct scratch *s, const uint8_t *table, int live)
{
	int reason = read_question(s);

	if (reason)
		return reason;
	PATHS_MEET();
	if (s->has_opt) {
		reason = read_opt(s);
		if (reason)
			return reason;
	}
	PATHS_MEET();
	s->opt_size = s->opt_is_stored = 0;
	reason = find_answer(s, table);
	if (reason)
		return reason;
	PATHS_MEET();
	fetch_answer(s, table); /* before the checksum, so that something else is done meanwhile */
	if (live)
		hash_source(s);
	PATHS_MEET();
	reason = verify_checksum(s);
	if (reason)
		return reason;
	PATHS_MEET();
	if (s->has_opt) {
		reason = build_opt(s);
		if (reason)
			return reason;
	}
	PATHS_MEET();
	reason = fit(s, table, live);
	if (reason)
		return reason;
	PATHS_MEET();
	if (s->message_at - s->network_at + s->response_size > s->mtu)
		return PASS_MTU;
	return 0;
}
