/* Capture: what was asked, appended to a ring of this CPU that the role capture reads (rootsrv/capture).
 *
 * Theory: a row is a number of units of 16 octets.  CAPTURE_FACTS: `struct fact`, made when the response is on its way, since it
 * tells of that too; behind it the addresses (IPv4: 8 octets; IPv6: 32) and the name.  CAPTURE_PACKETS: time, kind, family and size,
 * and the query's IP packet, kept before the reply takes its place, and shown (`written` moves) only when the reply is sent: what is
 * passed up is the worker's to tell.  Where there is no room a loss is counted; nobody is ever waited for.
 *
 * A ring is one piece of memory: its head, its units, and an octet for each unit that says whether a row begins with it (0) or goes on
 * (1).  A row that begins before the ring's end is whole, beyond that end if need be, where there is room for the longest; the next
 * one begins as far behind the ring's beginning.
 *
 * Reading the clock costs more than all else of a row.  So as long as queries come to a CPU faster than one in CLOCK_PACE, some have the
 * time of the one before them: first every other, then three of four, at last CLOCK_SPARED in a row, as long as that takes
 * less than CLOCK_REACH.  With a new tick the clock is read in any case, and one query that comes later than that ends it.
 *
 * What a row costs is the lines of the cache that it begins, how many instructions it takes, and how often the processor guesses wrong.
 * So a row is no longer than what it holds; most is put together where it is read; and what a name or a message may be long is
 * stored whatever its size, for what is too much the next row is stored over: that is why there is to be CAPTURE_MARGIN more room
 * than a row takes.
 *
 * `written` is stored behind the rows by a plain store.  The reader takes no row before it has seen `written` a second time,
 * milliseconds later, when on every machine the rows are seen as well.
 */

#define CLOCK_SPARED 63 /* queries in a row, one less than a power of two */
#define CLOCK_PACE 5000 /* nanoseconds: 200,000 queries a second */
#define CLOCK_REACH 80000 /* nanoseconds */

#define SHORT_NAME 24 /* octets: five of six in the mix */
#define KEPT_AT_ONCE 56 /* octets of a name or of a message */
#define FACT_HEAD 32
#define PACKET_HEAD 16
#define ROW_BEGINS 0x0101010101010100ULL
#define ROW_GOES_ON 0x0101010101010101ULL

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* as many as there are CPUs */
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct capture_ring)); /* and what CAPTURE_UNIT, CAPTURE_BEYOND and capturing.units make of it */
} capture_rings SEC(".maps");

static __always_inline struct capture_ring *ring_of_this_cpu(void)
{
	__u32 key = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&capture_rings, &key);
}

/* Unit *number* of the ring; those behind it, up to CAPTURE_BEYOND, may be stored too. */
static __always_inline void *row_of(struct capture_ring *ring, uint64_t number)
{
	uint64_t last = capturing.units - 1;

	asm volatile("%0 &= %1" : "+r"(number) : "r"(last));
	return (void *)(ring + 1) + number * CAPTURE_UNIT;
}

/* What stands for unit *number*, and for seven behind it. */
static __always_inline uint64_t *begins_of(struct capture_ring *ring, uint64_t number)
{
	uint64_t units = capturing.units, last = units - 1;

	asm volatile("%0 &= %1" : "+r"(number) : "r"(last));
	return (void *)(ring + 1) + (units + CAPTURE_BEYOND) * CAPTURE_UNIT + number;
}

/* When this query came, on CLOCK_BOOTTIME. */
static __always_inline uint64_t time_of_query(struct scratch *s)
{
	uint64_t jiffies = bpf_jiffies64(), spared = s->clock_spared, spares = s->clock_spares;

	if (spared < spares && jiffies == s->capture_jiffies) {
		s->clock_spared = spared + 1;
		return s->capture_time;
	}
	uint64_t now = bpf_ktime_get_boot_ns();
	uint64_t passed = now - s->capture_time;
	if (passed >= CLOCK_PACE * (spared + 1) || passed >= CLOCK_REACH)
		s->clock_spares = 0;
	else if (passed < CLOCK_REACH / 2)
		s->clock_spares = (spares << 1 | 1) & CLOCK_SPARED;
	s->clock_spared = 0;
	s->capture_jiffies = jiffies;
	s->capture_time = now;
	return now;
}

static __always_inline int has_room(const struct capture_ring *ring, uint64_t written, uint64_t units)
{
	return written + units + CAPTURE_MARGIN - READ_ONCE(ring->read) <= capturing.units;
}

/* What of *size* octets of the message from offset *from* on is behind the first KEPT_AT_ONCE, into the row that begins with unit
 * *number* and has the first of them at *at*.
 */
STEP keep_rest(struct scratch *s, uint64_t number, uint64_t at, uint64_t from, uint64_t size)
{
	struct capture_ring *ring = ring_of_this_cpu();

	if (!s || !ring || !capturing.units) /* before Linux 6.8 this is verified though nobody calls it */
		return 0;
	uint64_t *begins = begins_of(ring, number);
	void *row = row_of(ring, number);
	BOUND(at, 127);
	row += at;
	for (uint32_t i = KEPT_AT_ONCE; i < MAX_QUERY; i += 8) {
		if (i >= size)
			break;
		*(uint64_t *)(row + i) = LOAD64(message_at(s, from + i));
	}
	for (uint32_t i = 1; i < (CAPTURE_BEYOND - 8) / 8; i++)
		if ((at + size + CAPTURE_UNIT - 1) / CAPTURE_UNIT > i * 8)
			begins[i] = ROW_GOES_ON;
	return 0;
}

/* The packet into a row that `capture` shows when the reply has been sent. */
static __always_inline void keep_packet(void *data, void *data_end, struct scratch *s, struct capture_ring *ring)
{
	s->kept_units = 0;
	if ((uint8_t)READ_ONCE(ring->shape) != CAPTURE_PACKETS)
		return;
	uint64_t network_at = s->network_at, headers = s->message_at - network_at, octets = headers + s->size;
	uint64_t units = (PACKET_HEAD + octets + CAPTURE_UNIT - 1) / CAPTURE_UNIT, written = ring->written;
	if (!has_room(ring, written, units))
		return;
	uint64_t *row = row_of(ring, written);
	BOUND(network_at, 31);
	const uint8_t *packet = data + network_at;
	if ((void *)(packet + IPV4_HEADER + UDP_HEADER) > data_end)
		return;
	*begins_of(ring, written) = ROW_BEGINS;
	row[0] = time_of_query(s);
	row[1] = CAPTURE_PACKET | (uint64_t)(s->family == IPV4 ? 4 : 6) << 8 | octets << 32;
#pragma unroll
	for (uint32_t i = 0; i < 3; i++)
		row[2 + i] = LOAD64(packet + i * 8);
	uint64_t *message;
	if (s->family == IPV4) {
		*(uint32_t *)(row + 5) = LOAD32(packet + 24);
		message = (void *)row + PACKET_HEAD + IPV4_HEADER + UDP_HEADER;
	} else {
		if ((void *)(packet + IPV6_HEADER + UDP_HEADER) > data_end)
			return;
#pragma unroll
		for (uint32_t i = 3; i < 6; i++)
			row[2 + i] = LOAD64(packet + i * 8);
		message = (void *)row + PACKET_HEAD + IPV6_HEADER + UDP_HEADER;
	}
#pragma unroll
	for (uint32_t i = 0; i < KEPT_AT_ONCE / 8; i++)
		message[i] = LOAD64(s->message + i * 8);
	s->kept_units = units;
	if (s->size > KEPT_AT_ONCE)
		keep_rest(s, written, PACKET_HEAD + headers, 0, s->size);
}

/* A fact of the query and its response, where there is room for it; how many units it takes, or 0. */
static __always_inline uint64_t write_fact(struct scratch *s, struct capture_ring *ring, uint64_t written, int is_answered)
{
	uint64_t family = s->family, name_size = s->name_size;

	BOUND(family, 1);
	uint64_t name_at = FACT_HEAD + 8 + 24 * family, units = (name_at + name_size + CAPTURE_UNIT - 1) / CAPTURE_UNIT;
	if (!has_room(ring, written, units))
		return 0;
	uint64_t *row = row_of(ring, written);
	*begins_of(ring, written) = ROW_BEGINS;
	row[0] = time_of_query(s);
	row[1] = s->fact_head | (is_answered ? (uint64_t)bpf_ntohs(s->reply_flags) << FACT_RESPONSE_FLAGS_AT |
						       (uint64_t)s->response_size << FACT_RESPONSE_AT : 0);
	row[2] = bpf_be64_to_cpu(LOAD32(&s->source_port) | (uint64_t)LOAD32(s->message) << 32);
	row[3] = s->fact_opt | (uint64_t)s->cookie_is_good << FACT_COOKIE_VALID_AT;
	row[4] = s->source[0] | (s->service[0] << 32 & (family - 1));
	row[5] = s->source[1];
	row[6] = s->service[0];
	row[7] = s->service[1];
	uint64_t *name = (void *)row + name_at;
#pragma unroll
	for (uint32_t i = 0; i < SHORT_NAME / 8; i++)
		name[i] = LOAD64(s->message + DNS_HEADER + i * 8);
	if (name_size > SHORT_NAME) {
#pragma unroll
		for (uint32_t i = SHORT_NAME / 8; i < KEPT_AT_ONCE / 8; i++)
			name[i] = LOAD64(s->message + DNS_HEADER + i * 8);
		if (name_size > KEPT_AT_ONCE)
			keep_rest(s, written, name_at, DNS_HEADER, name_size);
	}
	return units;
}

/* Whether it is one of those that are wanted, where that is some. */
static __always_inline int is_chosen(const struct scratch *s, const struct capture_ring *ring)
{
	uint64_t every = READ_ONCE(ring->every), needed = CAPTURE_UDP | (CAPTURE_IPV4 + s->family);

	return (ring->wanted & needed) == needed &&
	       (every <= 1 || (ring->items + ring->lost + ring->passed_over) % every == 0);
}

/* A query into the ring, as it is wanted; it is counted in any case. */
static __always_inline void append(struct scratch *s, struct capture_ring *ring, uint64_t shape, int is_answered)
{
	uint64_t written = ring->written, units;

	if (shape & CAPTURE_SOME && !is_chosen(s, ring)) {
		ring->passed_over++;
		return;
	}
	if ((uint8_t)shape == CAPTURE_PACKETS)
		units = s->kept_units;
	else
		units = write_fact(s, ring, written, is_answered);
	if (!units) {
		ring->lost++;
		return;
	}
	ring->items++;
	asm volatile("" : : : "memory");
	ring->written = written + units;
}

/* The query was answered: tell of it, if it is wanted. */
static __always_inline void capture(struct scratch *s, struct capture_ring *ring, int is_answered)
{
	uint64_t shape = READ_ONCE(ring->shape);

	if (shape != CAPTURE_OFF)
		append(s, ring, shape, is_answered);
}

/* It was turned away without a response. */
STEP capture_turned_away(struct scratch *s)
{
	struct capture_ring *ring = ring_of_this_cpu();

	if (s && ring && capturing.units)
		capture(s, ring, 0);
	return 0;
}
