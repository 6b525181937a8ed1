/* Maps, and the scratch space in which a packet's facts are gathered.
 *
 * Theory: the program goes in steps, each of which finds in the scratch space what earlier ones left, leaves its own
 * results there, and returns 0 or a reason to pass.  What is read back from scratch is unknown to the verifier; that is meant:
 * paths meet again there, and every offset is bounded by a mask right where it is used (BOUND).  Otherwise every loop's
 * exit would multiply the paths behind it, which is too much for the verifier.
 *
 * The steps that every packet takes are inlined, and after each of them PATHS_MEET keeps the compiler from carrying values on in
 * registers, of which there are ten: what it has no room for there it stores and loads again, and that cost more than any step.
 * Those that few packets take (STEP), and the search of addresses, are *global* functions, which the verifier proves on their own;
 * a call costs a packet some nanoseconds, and everything around it its registers.
 *
 * The scratch space is per CPU: programs run to their end with soft interrupts off, so nobody else uses it meanwhile.
 */

/* Bounds *x* so that clang cannot optimise it away: the verifier wants to see it, the compiler thinks it knows better. */
#define BOUND(x, mask) asm volatile("%0 &= %1" : "+r"(x) : "i"(mask))

#define STEP __attribute__((noinline)) int

/* What is in scratch is read anew from here on.  (The pointer to it is not: as another one it would take another register.) */
#define PATHS_MEET() asm volatile("" : : : "memory")

#define MESSAGE_SLACK 64 /* a load that starts inside the message stays inside the scratch space */
#define COPIED_AT_ONCE 64 /* octets: most queries are shorter */
#define OPT_ROOM 256
#define IP_IDS 32 /* made at once */

struct scratch {
	struct counters counters[2]; /* of test runs, of live packets; Python expects them at the front */

	/* What arrived. */
	uint32_t ifindex;
	uint32_t family;
	uint32_t mtu;
	uint32_t interface_flags;
	uint32_t network_at;       /* offset of the IP header in the frame */
	uint32_t message_at;       /* offset of the DNS header in the frame */
	uint32_t frame_size;
	uint32_t size;             /* octets of the DNS message */
	uint64_t source[2], service[2]; /* network order; IPv4: the first four octets */
	uint16_t source_port, service_port, udp_check, unused;
	uint64_t address_sum;      /* of both addresses */
	uint64_t source_hash, aggregate_hash; /* see sources.h */
	uint32_t partial;          /* a local sender left the checksum to be finished */

	/* What it asks. */
	uint64_t query_counts;     /* the message's header */
	uint32_t query_head;
	uint32_t labels;
	uint32_t last_label_at;
	uint32_t name_size;
	uint32_t question_end;     /* offset in the message */
	uint32_t qtype;
	uint32_t has_opt, do_flag;
	uint32_t limit;            /* octets that the response may have */
	uint32_t option_at;        /* where read_option goes on */
	uint32_t asks_nsid;
	uint32_t cookie_size;      /* 0: none; else 8 … 40 */
	uint32_t cookie_at;
	uint64_t message_sum;      /* only of long messages: see sum_long_message */
	uint64_t rest_sum;         /* of what follows the question: of the first so many octets */
	uint32_t rest_summed;
	uint64_t question_sum;     /* ones' complement sum of the question section, little-endian words, not folded */
	uint64_t opt_sum;          /* the same of our OPT record, as if it started at an even offset */

	/* What to answer. */
	uint32_t live;             /* 0 in a test run */
	uint32_t is_tc;
	uint32_t generation;
	uint64_t key;              /* last label's first eight octets */
	uint32_t name;             /* its place among the names, or that of the one before it */
	uint32_t found;
	uint32_t zone;
	uint64_t answer_at;        /* offset of the ANSWER in the table; its cuts stand before it, its pointers behind it */
	uint64_t pointers_at;
	struct piece { uint32_t at, size; } first, own, last; /* of the body: octets of the table */
	uint32_t pointer_count;
	uint32_t moved_by;
	uint32_t body_size;
	uint32_t opt_size;
	uint32_t cookie_is_good;
	uint32_t opt_is_stored;    /* ready in opt[]; else it is written from what follows */
	uint64_t opt_head;         /* our OPT record's first eight octets */
	uint64_t cookie[3];        /* our COOKIE option's data */
	uint32_t response_size;    /* octets of the DNS message */
	uint32_t cut;              /* 0 whole, 1 cut without loss, 2 truncated */
	uint16_t reply_flags, ancount, nscount, arcount; /* network order */
	uint16_t reply_check;
	uint16_t rcode;

	/* Limits and shed rules (limits.h, shed.h). */
	uint64_t judged_at;        /* CLOCK_BOOTTIME */
	uint64_t cells_seen[2 * LIMIT_LEVELS], cells_next[LIMIT_LEVELS];
	uint32_t cells[2 * LIMIT_LEVELS];
	uint32_t not_noted;
	/* For capture (capture.h). */
	uint64_t fact_head;        /* the second word of `struct fact`, without the response */
	uint64_t fact_opt;         /* the fourth */
	uint32_t kept_units;       /* of the packet, written ahead and not shown yet; 0: there was no room */
	uint64_t capture_time;     /* the clock as it was last read for a row */
	uint32_t clock_left, clock_spares; /* queries that may have its time still; of how many */
	uint32_t clock_missed;     /* that might have had it, but for a tick */

	uint64_t boottime, jiffies; /* the clock, read once per tick */
	uint64_t ip_ids[IP_IDS / 4]; /* IPv4 identifications, two octets each */
	uint64_t ip_ids_used;      /* since the program was loaded; modulo IP_IDS it is the place of the next */
	uint64_t syns_until;       /* the SYNs' theoretical arrival time on this CPU: live packets */
	uint64_t test_syns_until;

	uint8_t before[COPIED_AT_ONCE]; /* what stands before a message of at least one octet when so many are copied up to its end */
	uint8_t message[MAX_QUERY + MESSAGE_SLACK];
	uint8_t opt[OPT_ROOM + MESSAGE_SLACK];
	struct tap_head tap;
	uint8_t tapped[TAP_QUERY + TAP_RESPONSE];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} per_cpu SEC(".maps");

struct table {
	uint8_t octets[TABLE_ROOM + TABLE_SLACK];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, GENERATIONS);
	__type(key, __u32);
	__type(value, struct table);
} tables SEC(".maps");

struct registers {
	uint8_t values[REGISTERS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * REGISTER_SETS); /* by parity of the day */
	__type(key, __u32);
	__type(value, struct registers);
} unique_sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct block_key);
	__type(value, uint64_t); /* until when: CLOCK_BOOTTIME nanoseconds */
} blocks SEC(".maps");

/* All addresses of this host, IPv4 ones mapped (::ffff:0:0/96). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_OWN_ADDRESSES);
	__type(key, struct ipv6_address);
	__type(value, uint32_t);
} own_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1048576);
} tap SEC(".maps");

/* What is never limited nor shed: monitors, service addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct block_key);
	__type(value, uint32_t);
} exempt SEC(".maps");

/* Theoretical arrival times, which the workers share (rootsrv/admission/limits.py). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LIMIT_CELLS);
	__type(key, __u32);
	__type(value, uint64_t);
} limit_cells SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, NOTES); /* for each CPU, set before the program is loaded */
	__type(key, __u32);
	__type(value, struct query_note);
} query_notes SEC(".maps");

struct admission admission SEC(".data.admission");

/* Set before the program is loaded, so that the verifier takes out what is not asked for. */
const volatile struct {
	uint32_t limits;           /* there are cells */
} admitting SEC(".rodata.admission");

struct control control SEC(".data.control");

/* Set before the program is loaded, so that the verifier takes out what is not asked for. */
const volatile struct {
	uint32_t units;            /* of each ring, a power of two; 0: nothing can be captured */
} capturing SEC(".rodata.capture");

/* Unaligned little-endian loads, as the wire needs them. */
#define LOAD16(p) (*(const uint16_t *)(p))
#define LOAD32(p) (*(const uint32_t *)(p))
#define LOAD64(p) (*(const uint64_t *)(p))
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))

static __always_inline const uint8_t *table_of(uint32_t generation)
{
	uint32_t key = generation & 1;
	struct table *table = bpf_map_lookup_elem(&tables, &key);

	return table ? table->octets : 0;
}

/* A pointer into the table; reading up to TABLE_SLACK octets from it is allowed. */
static __always_inline const void *at(const uint8_t *table, uint64_t offset)
{
	BOUND(offset, TABLE_ROOM - 1);
	return table + offset;
}

/* A pointer into the query; reading up to MESSAGE_SLACK octets from it is allowed. */
static __always_inline const uint8_t *message_at(const struct scratch *s, uint64_t offset)
{
	BOUND(offset, MAX_QUERY - 1);
	return s->message + offset;
}

/* The smaller one of two numbers below 2^63, without a branch that nobody could guess. */
static __always_inline uint64_t smaller(uint64_t one, uint64_t other)
{
	int64_t less = one - other, is_less = less >> 63;

	asm volatile("" : "+r"(is_less));
	return other + (less & is_less);
}

/* The first *octets* of a word, 1 or more; without branches, since how many there are is different for every packet (and so the
 * compiler must not see that it is a minimum).
 */
static __always_inline uint64_t first_octets(uint64_t word, int64_t octets)
{
	int64_t missing = 8 - octets, more_than_none = ~(missing >> 63);

	asm volatile("" : "+r"(more_than_none));
	return word & ~0ULL >> (uint64_t)(missing * 8 & more_than_none);
}

#define FACT_HOP_LIMIT_AT 16
#define FACT_CLASS_AT 24
#define FACT_RESPONSE_FLAGS_AT 32
#define FACT_RESPONSE_AT 48
#define FACT_UDP_SIZE_AT 16
#define FACT_OPT (1ULL << 32)
#define FACT_DO_AT 33
#define FACT_COOKIE (1ULL << 34)
#define FACT_COOKIE_VALID_AT 35
#define FACT_CLIENT_SUBNET (1ULL << 36)
#define FACT_NAME_AT 40
#define FACT_QUERY_AT 48

#define CACHE_LINE 64

/* Has memory brought into the cache: nobody waits for what is loaded, so other work goes on until it is there. */
static __always_inline void fetch(const void *memory)
{
	uint64_t unused;

	asm volatile("%0 = *(u8 *)(%1 + 0)" : "=r"(unused) : "r"(memory));
}
