/* Capture: what was asked, appended to a ring of this CPU that the role capture reads (rootsrv/capture).
 *
 * Theory: a row is 128 octets, whatever it holds, and lies nowhere near another CPU's.  CAPTURE_FACTS: one `struct fact`, made
 * when the response is on its way, since it tells of that too.  CAPTURE_PACKETS: the query's IP packet, kept before the reply
 * takes its place, and shown (`written` moves) only when the reply is sent: what is passed up is the worker's to tell.  What
 * does not fit into a row goes on in rows behind it.  Where there is no room a loss is counted; nobody is ever waited for.
 *
 * Reading the clock costs more than all else of a row.  So as long as queries come to a CPU faster than one in CLOCK_PACE, some have the
 * time of the one before them: first every other, then three of four, at last CLOCK_SPARED in a row, as long as that takes
 * less than CLOCK_REACH.  With a new tick the clock is read in any case, and one query that comes later than that ends it.
 *
 * What a row costs is how many instructions it takes, and how often the processor guesses wrong.  So `struct fact` has its fields in
 * the order in which they are at hand, what headers and options tell of them is put together where these are read, and which of two
 * values it is decides no branch.
 *
 * `written` is stored behind the rows by a plain store.  The reader takes no row before it has seen `written` a second time,
 * milliseconds later, when on every machine the rows are seen as well.
 */

#define CAPTURED_HERE 112 /* octets of a packet in one row, behind 16 of head */
#define NAME_HERE 55
#define CAPTURE_HEAD (CAPTURE_ROW - CAPTURED_HERE)
#define CLOCK_SPARED 63 /* queries in a row, one less than a power of two */
#define CLOCK_PACE 5000 /* nanoseconds: 200,000 queries a second */
#define CLOCK_REACH 80000 /* nanoseconds */

struct capture_chunk {
	uint64_t words[CAPTURE_CHUNK_ROWS][CAPTURE_ROW / 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* as many as there are CPUs */
	__type(key, __u32);
	__type(value, struct capture_ring);
} capture_rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* capturing.chunks for each CPU */
	__type(key, __u32);
	__type(value, struct capture_chunk);
} capture_rows SEC(".maps");

static __always_inline struct capture_ring *ring_of_this_cpu(void)
{
	__u32 key = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&capture_rings, &key);
}

/* Row *number* of this CPU's ring. */
static __always_inline uint64_t *row_of(uint64_t number)
{
	uint64_t place = number;
	__u32 chunk = number / CAPTURE_CHUNK_ROWS & (capturing.chunks - 1);
	__u32 key = bpf_get_smp_processor_id() * capturing.chunks + chunk;
	struct capture_chunk *rows = bpf_map_lookup_elem(&capture_rows, &key);

	BOUND(place, CAPTURE_CHUNK_ROWS - 1);
	return rows ? rows->words[place] : 0;
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

static __always_inline int has_room(const struct capture_ring *ring, uint64_t rows)
{
	return ring->written + rows - READ_ONCE(ring->read) <= (uint64_t)capturing.chunks * CAPTURE_CHUNK_ROWS;
}

static __always_inline uint64_t rows_behind(uint64_t octets, uint64_t here)
{
	return octets > here ? (octets - here + CAPTURED_HERE - 1) / CAPTURED_HERE : 0;
}

/* The first *octets* of a word, none if that is negative; without branches, whose paths the verifier would follow. */
static __always_inline uint64_t up_to(uint64_t word, int64_t octets)
{
	int64_t missing = 8 - octets;

	missing &= ~(missing >> 63);
	missing -= 8;
	missing = (missing & missing >> 63) + 8; /* 0 … 8 */
	asm volatile("" : "+r"(missing));
	return word & ~0ULL >> missing * 4 >> missing * 4;
}

/* Row *number*, with what of the message stands from offset *from* up to *end*; beyond that zeros. */
STEP continue_row(struct scratch *s, uint64_t number, uint64_t from, uint64_t end)
{
	if (!s)
		return 0;
	uint64_t *row = row_of(number);
	if (!row)
		return 0;
	row[0] = s->capture_time;
	row[1] = CAPTURE_CONTINUATION;
	for (uint32_t word = 0; word < CAPTURED_HERE / 8; word++)
		row[CAPTURE_HEAD / 8 + word] = up_to(LOAD64(message_at(s, from + word * 8)), end - from - word * 8);
	return 0;
}

/* Rows behind row *first*, with what of the message stands from offset *from* up to *end*. */
static __always_inline void continue_rows(struct scratch *s, uint64_t first, uint64_t from, uint64_t end)
{
	for (uint32_t i = 0; i < 5; i++) {
		if (from >= end)
			break;
		continue_row(s, ++first, from, end);
		from += CAPTURED_HERE;
	}
}

/* The packet into rows that `capture` shows when the reply has been sent. */
static __always_inline void keep_packet(void *data, void *data_end, struct scratch *s)
{
	struct capture_ring *ring = ring_of_this_cpu();

	s->kept_rows = 0;
	if (!ring || ring->shape != CAPTURE_PACKETS)
		return;
	uint64_t network_at = s->network_at, headers = s->message_at - network_at, octets = headers + s->size;
	uint64_t rows = 1 + rows_behind(octets, CAPTURED_HERE), written = ring->written;
	if (!has_room(ring, rows))
		return;
	uint64_t *row = row_of(written);
	BOUND(network_at, 31);
	const uint8_t *packet = data + network_at;
	if (!row || (void *)(packet + IPV4_HEADER + UDP_HEADER) > data_end)
		return;
	row[0] = time_of_query(s);
	row[1] = CAPTURE_PACKET | (uint64_t)(s->family == IPV4 ? 4 : 6) << 8 | octets << 32;
#pragma unroll
	for (uint32_t i = 0; i < 3; i++)
		row[2 + i] = LOAD64(packet + i * 8);
	/* What of the message fits is copied whatever its size: who reads the row knows where the packet ends. */
	if (s->family == IPV4) {
		row[5] = LOAD32(packet + 24) | (uint64_t)LOAD32(s->message) << 32;
#pragma unroll
		for (uint32_t i = 0; i < 10; i++)
			row[6 + i] = LOAD64(s->message + 4 + i * 8);
	} else {
		if ((void *)(packet + IPV6_HEADER + UDP_HEADER) > data_end)
			return;
#pragma unroll
		for (uint32_t i = 3; i < 6; i++)
			row[2 + i] = LOAD64(packet + i * 8);
#pragma unroll
		for (uint32_t i = 0; i < 8; i++)
			row[8 + i] = LOAD64(s->message + i * 8);
	}
	s->kept_rows = rows;
	if (rows > 1)
		continue_rows(s, written, CAPTURED_HERE - headers, s->size);
}

/* What is kept of the last 56 octets of a row: all, or from a later place on fewer of them.  Names end anywhere, and the processor
 * would guess wrong where.
 */
static const uint8_t octets_kept[63 + 56] = { [0 ... NAME_HERE] = 0xff };

/* A fact of the query and its response, at row *number*; rows behind it with the end of a long name. */
static __always_inline int write_fact(struct scratch *s, uint64_t number, int is_answered)
{
	uint64_t time = time_of_query(s), *row = row_of(number);
	if (!row)
		return -1;
	uint64_t name_size = s->name_size, response_size = is_answered ? s->response_size : 0;
	uint64_t flags = is_answered ? bpf_ntohs(s->reply_flags) : 0;

	row[0] = time;
	row[1] = s->fact_head;
	row[2] = s->source[0];
	row[3] = s->source[1];
	row[4] = s->service[0];
	row[5] = s->service[1];
	row[6] = bpf_be64_to_cpu(LOAD32(&s->source_port) | (uint64_t)LOAD32(s->message) << 32);
	row[7] = s->qtype | 1ULL << 16 | (uint64_t)s->size << 32 | response_size << 48;
	row[8] = s->fact_opt | (uint64_t)s->cookie_is_good << FACT_COOKIE_VALID_AT | flags << 32 | name_size << 48 | 1ULL << 56;
	/* The header's last octet, which is the number of OPT records, and the name behind it. */
	uint64_t beyond = name_size < NAME_HERE ? NAME_HERE - name_size : 0;
	BOUND(beyond, 63);
	const uint8_t *mask = octets_kept + beyond;
#pragma unroll
	for (uint32_t i = 0; i < 7; i++)
		row[9 + i] = LOAD64(s->message + DNS_HEADER - 1 + i * 8) & LOAD64(mask + i * 8);
	if (name_size > NAME_HERE)
		continue_rows(s, number, DNS_HEADER + NAME_HERE, DNS_HEADER + name_size);
	return 0;
}

/* A query into the ring, as it is wanted; it is counted in any case. */
static __always_inline void append(struct scratch *s, struct capture_ring *ring, uint64_t shape, int is_answered)
{
	uint64_t every = READ_ONCE(ring->every), written = ring->written, rows;
	uint64_t needed = CAPTURE_UDP | (CAPTURE_IPV4 + s->family);

	if ((ring->wanted & needed) != needed ||
	    (every > 1 && (ring->items + ring->lost + ring->passed_over) % every)) {
		ring->passed_over++;
		return;
	}
	if (shape == CAPTURE_PACKETS) {
		rows = s->kept_rows;
	} else {
		rows = 1 + rows_behind(s->name_size, NAME_HERE);
		if (!has_room(ring, rows) || write_fact(s, written, is_answered))
			rows = 0;
	}
	if (!rows) {
		ring->lost++;
		return;
	}
	ring->items++;
	asm volatile("" : : : "memory");
	ring->written = written + rows;
}

/* The query was answered: tell of it, if it is wanted. */
static __always_inline void capture(struct scratch *s, int is_answered)
{
	struct capture_ring *ring = ring_of_this_cpu();
	uint64_t shape = ring ? READ_ONCE(ring->shape) : CAPTURE_OFF;

	if (shape != CAPTURE_OFF)
		append(s, ring, shape, is_answered);
}

/* It was turned away without a response. */
STEP capture_turned_away(struct scratch *s)
{
	if (s)
		capture(s, 0);
	return 0;
}
