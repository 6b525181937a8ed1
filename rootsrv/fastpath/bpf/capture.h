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
 * less than CLOCK_REACH.  With a new tick, which is_expired sees, the clock is read in any case, and one query that comes later than
 * that ends it.
 *
 * What a row costs is the lines of the cache that it begins, how many instructions it takes, and how often the processor guesses wrong.
 * So a row is no longer than what it holds; most is put together where it is read; what a name, an address or a message may be long
 * is stored whatever its size, for what is too much the next piece is stored over, or the next row: that is why there is to be
 * CAPTURE_MARGIN more room than a row takes; the clock is looked at first, since a call takes all registers but four; and what the
 * reader says is looked at only when the room that it left the last time has been used up.  To ask for a row's lines before they are
 * stored costs more than to wait for them (bench/README.md).
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

/* Where unit *number* lies among the others. */
static __always_inline uint64_t place_of(uint64_t number)
{
	uint64_t last = capturing.units - 1;

	asm volatile("%0 &= %1" : "+r"(number) : "r"(last));
	return number;
}

/* The unit at *place*; those behind it, up to CAPTURE_BEYOND, may be stored too. */
static __always_inline void *unit_at(struct capture_ring *ring, uint64_t place)
{
	return (void *)(ring + 1) + place * CAPTURE_UNIT;
}

/* What stands for the unit at *place*, and for seven behind it. */
static __always_inline uint64_t *begins_at(struct capture_ring *ring, uint64_t place)
{
	return (void *)(ring + 1) + ((uint64_t)capturing.units + CAPTURE_BEYOND) * CAPTURE_UNIT + place;
}

/* When this query came, on CLOCK_BOOTTIME. */
static __always_inline uint64_t time_of_query(struct scratch *s)
{
	uint32_t left = s->clock_left, spares = s->clock_spares;

	if (left) {
		s->clock_left = left - 1;
		return s->capture_time;
	}
	uint64_t now = bpf_ktime_get_boot_ns(), passed = now - s->capture_time, spared = spares - s->clock_missed;

	if (passed >= CLOCK_PACE * (spared + 1) || passed >= CLOCK_REACH)
		spares = 0;
	else if (passed < CLOCK_REACH / 2)
		spares = (spares << 1 | 1) & CLOCK_SPARED;
	s->clock_left = s->clock_spares = spares;
	s->clock_missed = 0;
	s->capture_time = now;
	return now;
}

/* Whether units from *written* up to *until* may be stored.  Where the reader is is looked at when what it was the last time is not
 * enough, and not believed when it cannot be.
 */
static __always_inline int has_room(struct capture_ring *ring, uint64_t written, uint64_t until)
{
	if (until <= ring->room_until)
		return 1;
	uint64_t read = READ_ONCE(ring->read), room_until = read + capturing.units - CAPTURE_MARGIN;

	if (written - read > capturing.units)
		return 0;
	ring->room_until = room_until;
	return until <= room_until;
}

/* What of *size* octets of the message from offset *from* on is behind the first KEPT_AT_ONCE, into the row that begins with unit
 * *number* and has the first of them at *at*.
 */
STEP keep_rest(struct scratch *s, uint64_t number, uint64_t at, uint64_t from, uint64_t size)
{
	struct capture_ring *ring = ring_of_this_cpu();

	if (!s || !ring || !capturing.units) /* before Linux 6.8 this is verified though nobody calls it */
		return 0;
	uint64_t place = place_of(number);
	uint64_t *begins = begins_at(ring, place);
	void *row = unit_at(ring, place);
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
	uint64_t time = time_of_query(s), written = ring->written, network_at = s->network_at;
	uint64_t headers = s->message_at - network_at, octets = headers + s->size;
	uint64_t units = (PACKET_HEAD + octets + CAPTURE_UNIT - 1) / CAPTURE_UNIT;

	s->kept_units = 0;
	BOUND(network_at, 31);
	const uint8_t *packet = data + network_at;
	if (!has_room(ring, written, written + units) || (void *)(packet + IPV4_HEADER + UDP_HEADER) > data_end)
		return;
	s->kept_units = units;
	uint64_t place = place_of(written), *row = unit_at(ring, place);
	*begins_at(ring, place) = ROW_BEGINS;
	row[0] = time;
	row[1] = (CAPTURE_PACKET | 4 << 8) + ((uint64_t)s->family << 9) + (octets << 32);
	/* As many octets as IPv6 takes: what of them is the message's is stored over. */
	if ((void *)(packet + IPV6_HEADER + UDP_HEADER) <= data_end) {
#pragma unroll
		for (uint32_t i = 0; i < (IPV6_HEADER + UDP_HEADER) / 8; i++)
			row[2 + i] = LOAD64(packet + i * 8);
	} else { /* the root's name over IPv4 */
#pragma unroll
		for (uint32_t i = 0; i < 3; i++)
			row[2 + i] = LOAD64(packet + i * 8);
		*(uint32_t *)(row + 5) = LOAD32(packet + 24);
	}
	BOUND(headers, 63);
	uint64_t *message = (void *)row + PACKET_HEAD + headers;
#pragma unroll
	for (uint32_t i = 0; i < KEPT_AT_ONCE / 8; i++)
		message[i] = LOAD64(s->message + i * 8);
	if (s->size > KEPT_AT_ONCE)
		keep_rest(s, ring->written, PACKET_HEAD + (s->family == IPV4 ? IPV4_HEADER : IPV6_HEADER) + UDP_HEADER, 0, s->size);
}

/* The packet that was kept is shown; without room for it it is lost. */
static __always_inline void show_packet(struct scratch *s, struct capture_ring *ring)
{
	uint64_t units = s->kept_units;

	if (!units) {
		ring->lost++;
		return;
	}
	ring->items++;
	asm volatile("" : : : "memory");
	ring->written += units;
}

/* What of a name is behind its first SHORT_NAME octets, into the row that has them at *name*. */
static __always_inline void keep_long_name(struct scratch *s, struct capture_ring *ring, uint64_t *name)
{
#pragma unroll
	for (uint32_t i = SHORT_NAME / 8; i < KEPT_AT_ONCE / 8; i++)
		name[i] = LOAD64(s->message + DNS_HEADER + i * 8);
	if (s->name_size > KEPT_AT_ONCE)
		keep_rest(s, ring->written, FACT_HEAD + (s->family == IPV4 ? 8 : 32), DNS_HEADER, s->name_size);
}

/* A fact of the query and its response, where there is room for it.  Few things at a time, for which there are registers. */
static __always_inline void append_fact(struct scratch *s, struct capture_ring *ring, int is_answered)
{
	uint64_t time = time_of_query(s), written = ring->written, family = s->family;

	BOUND(family, 1);
	uint64_t service_at = FACT_HEAD + 4 + 12 * family, name_at = FACT_HEAD + 8 + 24 * family;
	uint64_t until = written + (name_at + s->name_size + CAPTURE_UNIT - 1) / CAPTURE_UNIT;
	if (!has_room(ring, written, until)) {
		ring->lost++;
		return;
	}
	uint64_t place = place_of(written), *row = unit_at(ring, place);
	uint64_t *service = (void *)row + service_at, *name = (void *)row + name_at;
	*begins_at(ring, place) = ROW_BEGINS;
	row[0] = time;
	uint64_t flags = bpf_ntohs(s->reply_flags);
	asm volatile("" : "+r"(flags)); /* or the compiler swaps all eight octets, and masks what it does not want */
	flags |= (uint64_t)s->response_size << (FACT_RESPONSE_AT - FACT_RESPONSE_FLAGS_AT);
	row[1] = s->fact_head | (is_answered ? flags << FACT_RESPONSE_FLAGS_AT : 0);
	row[2] = bpf_be64_to_cpu(LOAD32(&s->source_port) | (uint64_t)LOAD32(s->message) << 32);
	row[3] = s->fact_opt;
	/* Of all addresses two words, over what of the one before is not there. */
	row[4] = s->source[0];
	row[5] = s->source[1];
	service[0] = s->service[0];
	service[1] = s->service[1];
#pragma unroll
	for (uint32_t i = 0; i < SHORT_NAME / 8; i++)
		name[i] = LOAD64(s->message + DNS_HEADER + i * 8);
	if (s->name_size > SHORT_NAME)
		keep_long_name(s, ring, name);
	ring->items++;
	asm volatile("" : : : "memory");
	ring->written = until;
}

/* Whether it is one of those that are wanted, where that is some. */
static __always_inline int is_chosen(const struct scratch *s, const struct capture_ring *ring)
{
	uint64_t every = READ_ONCE(ring->every), needed = CAPTURE_UDP | (CAPTURE_IPV4 + s->family);

	return (ring->wanted & needed) == needed &&
	       (every <= 1 || (ring->items + ring->lost + ring->passed_over) % every == 0);
}

/* The query was answered, or turned away: tell of it, as *shape* says, which is not off; it is counted in any case. */
static __always_inline void capture(struct scratch *s, struct capture_ring *ring, uint64_t shape, int is_answered)
{
	if (shape != CAPTURE_FACTS) {
		if (shape & CAPTURE_SOME && !is_chosen(s, ring)) {
			ring->passed_over++;
			return;
		}
		if ((uint8_t)shape == CAPTURE_PACKETS) {
			show_packet(s, ring);
			return;
		}
	}
	append_fact(s, ring, is_answered);
}

/* It was turned away without a response. */
STEP capture_turned_away(struct scratch *s, uint64_t shape)
{
	struct capture_ring *ring = ring_of_this_cpu();

	if (s && ring && capturing.units)
		capture(s, ring, shape, 0);
	return 0;
}
