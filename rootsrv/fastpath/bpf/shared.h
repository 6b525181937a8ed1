/* What the BPF program and Python both read and write.
 *
 * cffi parses this very file (rootsrv/fastpath/layout.py), so there is one definition of each structure and of each
 * number: only enums, structs and fixed-width types may stand here.  All integers are in the host's order unless the
 * field says "network order"; only little-endian hosts are supported, since the answer table is little-endian.
 */

enum sizes {
	TABLE_ROOM = 16777216,     /* octets for one generation of the answer table; a power of two */
	TABLE_SLACK = 8192,        /* behind it, so that a masked offset plus any length stays inside */
	GENERATIONS = 2,
	MAX_ZONES = 2,             /* the root and its host zone */
	MAX_INTERFACES = 8,
	MAX_SERVICE_ADDRESSES = 64, /* per family; what is sent to others is passed */
	MAX_OWN_ADDRESSES = 16384, /* of the host; beyond, what only might come from one of them is passed */
	OWN_FILTER_BITS = 4096,
	MAX_SECRETS = 4,           /* the current one and three before it */
	MAX_NSID_OPTION = 136,     /* option code, length and at most 128 octets, rounded up to 8 */
	MAX_OPTIONS = 8,           /* EDNS options; the Responder takes up to 32, we pass those */
	MAX_QUERY = 512,           /* larger queries are passed up */
	MAX_RESPONSE = 4096,
	SIZE_BIN = 16,             /* octets; RSSAC002 section 2.3 */
	QUERY_BINS = 33,
	RESPONSE_BINS = 257,
	RCODES = 32,               /* four bits, and TRUNCATED */
	TRUNCATED = 16,
	REGISTERS = 16384,         /* HyperLogLog registers of one estimate, see rootsrv/page/unique_sources.py */
	REGISTER_SETS = 3,         /* IPv4, IPv6, IPv6 aggregated to /64 */
	TAP_QUERY = 512,
	TAP_RESPONSE = 4096,
	LIMIT_ROW_CELLS = 1048576, /* a power of two */
	LIMIT_CELLS = 2097152,     /* two rows */
	LIMIT_LEVELS = 4,          /* prefixes of a source */
	LIMIT_LARGE = 1100,        /* octets: such a response costs 4 units */
	MAX_RULES = 16,
	NOTES = 1024,              /* of one CPU */
	NOTE_NAME = 64,
	CAPTURE_UNIT = 16,         /* octets */
	CAPTURE_CHUNK_UNITS = 4096, /* rings are a power of two times so many */
	CAPTURE_BEYOND = 64,       /* units behind a ring, for the rest of a row that begins before its end */
	CAPTURE_MARGIN = 8         /* units behind a row that are stored with it */
};

enum family { IPV4, IPV6, FAMILIES };

/* Why a packet was passed up.  Python makes the metrics' labels from these names. */
enum reason {
	ANSWERED,                  /* not a reason: the decision so far */
	PASS_INTERFACE,            /* arrived on an interface that we are not attached to by our own doing */
	PASS_NOT_FOR_US,           /* link layer: broadcast, multicast, or another host's address */
	PASS_NOT_IP,
	PASS_SHORT,                /* too short for its headers */
	PASS_NOT_UDP,
	PASS_FRAGMENT,
	PASS_IP_OPTIONS,
	PASS_IP_LENGTH,
	PASS_IP_CHECKSUM,
	PASS_DESTINATION,          /* not a service address */
	PASS_PORT,                 /* not the service port */
	PASS_SOURCE,               /* an address or port that the stack must judge */
	PASS_UDP_LENGTH,
	PASS_UDP_CHECKSUM,
	PASS_MERGED,               /* several datagrams in one buffer (GRO, GSO) */
	PASS_MESSAGE_SIZE,
	PASS_RESPONSE,             /* QR is set */
	PASS_OPCODE,
	PASS_FLAGS,
	PASS_COUNTS,
	PASS_QNAME,
	PASS_QTYPE,
	PASS_QCLASS,
	PASS_TRAILING,             /* octets behind the question or behind OPT */
	PASS_OPT,                  /* not an OPT record, not version 0, or malformed */
	PASS_OPTION,               /* an EDNS option that only the Responder answers */
	PASS_COOKIE,               /* malformed, or bad where a good one is required */
	PASS_TRUST_ANCHOR_SIGNAL,  /* _ta-…: counted above (RFC 8145) */
	PASS_HOST_ZONE,            /* below the host zone, but not one of its names */
	PASS_EXPIRED,              /* nothing activated, or answer_until has passed */
	PASS_TABLE,                /* the table has no answer, or one beyond our limits */
	PASS_MTU,                  /* the response is larger than the interface takes */
	PASS_NO_TAILROOM,          /* the buffer cannot grow (XDP) */
	REASONS
};

enum interface_flags {
	INTERFACE_VIRTUAL = 1,     /* a local sender's unfinished checksum (CHECKSUM_PARTIAL) is as good as a right one */
	INTERFACE_LOOPBACK = 2     /* our own addresses are good sources */
};

struct interface {
	uint32_t ifindex;          /* 0: unused */
	uint32_t mtu;
	uint8_t mac[6];
	uint16_t flags;
};

struct ipv6_address {
	uint64_t upper, lower;     /* network order */
};

struct secret {
	uint64_t k0, k1;           /* the key's halves, read as little-endian numbers */
};

/* Written by the owner of the attachment only, each field by one store; mapped by both.
 * Where several words belong together the word that selects them is written last.
 */
struct control {
	uint32_t active;           /* the generation that answers */
	uint32_t test_generation;  /* the generation that the programs for test runs read */
	uint64_t answer_until[2][2]; /* [generation][zone], nanoseconds on CLOCK_BOOTTIME; past it everything is passed */
	uint32_t wall_seconds;     /* for cookies; published every second */
	uint16_t port;             /* network order */
	uint16_t max_udp_response;
	uint32_t secret_set;
	uint32_t require_server_cookie;
	struct secret secrets[2][4];
	uint32_t secret_count[2];
	uint32_t nsid_option_size;
	uint32_t blocks;           /* how many blocks there are */
	uint8_t nsid_option[136];
	uint32_t tap_every;        /* 0: off */
	uint32_t day;              /* UTC days since 1970; its parity selects the registers */
	uint64_t sources_key[2];   /* what unique sources are hashed with; as secret.k0 and k1 */
	uint64_t ip_id_key[2];     /* random, of this program alone: IPv4 identifications follow from it */
	uint64_t owner_seen;       /* CLOCK_BOOTTIME nanoseconds when the owner last renewed anything */
	uint32_t service_ipv4_count, service_ipv6_count;
	uint32_t service_ipv4[64]; /* network order */
	struct ipv6_address service_ipv6[64];
	uint32_t own_overflow;     /* the map own_addresses does not have all of them */
	uint8_t own_filter[512];   /* one bit for each of the host's addresses, by its hash: see is_own */
	struct interface interfaces[8];
};

struct counters {
	uint64_t replies[2][32];   /* [family][rcode, + TRUNCATED with TC] */
	uint64_t queries_by_size[2][33];
	uint64_t replies_by_size[2][257];
	uint64_t whole, cut, truncated; /* replies by how much of the answer they hold */
	uint64_t good_cookies, made_cookies;
	uint64_t blocked[2];       /* queries dropped because an operator said so, by family */
	uint64_t tapped, tap_lost;
	uint64_t judged[2];        /* queries that limits and shed rules looked at: all of them, those with a good cookie */
	uint64_t limited[4];       /* TC because of a limit, by family; in dry-run: would have been, by family */
	uint64_t shed[2];          /* TC because of a shed rule, by family */
	uint64_t shed_dropped;
	uint64_t rules[16][2];     /* queries for which the rule in a place held: all of them, those with a good cookie */
	uint64_t looked_at, noted; /* queries among which notes were taken; notes */
	uint64_t syns[2];          /* SYNs dropped because they were over the CPU's budget, by family */
	uint64_t passes[34];       /* by reason */
};

/* A block's key: an LPM prefix over IPv6 addresses, IPv4 ones mapped (::ffff:0:0/96). */
struct block_key {
	uint32_t prefix_size;
	uint8_t address[16];
};

/* One sample of the tap, followed by the query and the response. */
struct tap_head {
	uint64_t boottime;         /* nanoseconds */
	uint32_t ifindex;
	uint16_t query_size, response_size;
	uint8_t family;            /* enum family */
	uint8_t unused[3];
	uint16_t source_port, service_port; /* network order */
	uint8_t source[16], service[16]; /* IPv4: the first four octets */
};

enum limit_mode { LIMITS_OFF, LIMITS_DRY_RUN, LIMITS_ON };

/* Bits of shed_rule.conditions: what must hold, and two more (rootsrv/admission/shed.py). */
enum shed_condition {
	BY_SUFFIX = 1,
	BY_QTYPE = 2,
	BY_PORT = 4,
	BY_SIZE = 8,
	BY_OPT = 16,
	BY_PREFIX = 32,
	RULE_DRY = 64,             /* count it, and go on */
	RULE_IN_USE = 128
};

enum shed_action { SHED_TC_UNLESS_COOKIE, SHED_DROP, SHED_TC };
enum shed_opt { OPT_ABSENT, OPT_PRESENT, OPT_DO, OPT_NO_DO };

struct shed_rule {
	uint64_t until;            /* nanoseconds on CLOCK_BOOTTIME */
	uint64_t address[2], mask[2]; /* network order, IPv4 mapped (::ffff:0:0/96) */
	uint32_t conditions;
	uint16_t qtype, port_low, port_high, size_low, size_high, name_size;
	uint8_t action, opt;
	uint8_t unused[6];
	uint8_t name[256];         /* lower case, padded with zeros */
};

/* Limits and shed rules; written by the owner of the attachment only.  Rules stand in two sets, of which one is in force. */
struct admission {
	uint64_t judging_until;    /* nanoseconds on CLOCK_BOOTTIME: when the last rule ends, or never with limits; 0: there are neither */
	uint32_t note_every;       /* 0: no notes */
	uint32_t limit_mode;
	uint32_t rule_set;
	uint32_t unused;
	uint64_t burst;            /* nanoseconds */
	uint64_t intervals[2][4];  /* nanoseconds that a unit costs, by family and level */
	uint64_t hash_key[2];
	uint64_t test_clock;       /* CLOCK_BOOTTIME for test runs; 0: nothing is judged in them */
	uint64_t syn_interval;     /* nanoseconds of a CPU's budget that a SYN costs; 0: there is no budget */
	uint64_t syn_burst;        /* nanoseconds of it that may be spent at once */
	struct shed_rule rules[2][16];
};

enum note_flag { NOTE_OPT = 1, NOTE_COOKIE = 2, NOTE_DO = 4 };
enum note_outcome { NOTE_ANSWERED, NOTE_LIMITED, NOTE_SHED, NOTE_DROPPED };

/* What is noted of one query in so many (rootsrv/admission/samples.py). */
struct query_note {
	uint8_t source[16];        /* IPv4: the first four octets */
	uint16_t source_port;      /* network order */
	uint16_t qtype, query_size;
	uint8_t family, flags, name_size, rcode, outcome;
	uint8_t unused_here;
	uint16_t response_size;
	uint8_t unused[2];
	uint8_t name[64];          /* or its last octets */
};

/* What the capture rows hold that are written (capture.h); CAPTURE_OFF: none are. */
enum capture_shape {
	CAPTURE_OFF, CAPTURE_FACTS, CAPTURE_PACKETS,
	CAPTURE_SOME = 256         /* besides: not of all queries, see `every` and `wanted` */
};

/* What a capture row is; kinds up to 2 are those of rootsrv/capture/facts.py. */
enum capture_kind { CAPTURE_QUERY, CAPTURE_CONTINUATION, CAPTURE_MALFORMED, CAPTURE_PACKET, CAPTURE_MESSAGE };

/* Which queries are wanted: bits of capture_ring.wanted. */
enum capture_wanted { CAPTURE_IPV4 = 1, CAPTURE_IPV6 = 2, CAPTURE_UDP = 4, CAPTURE_TCP = 8 };

/* Says what is in one ring: one for each CPU, and one for each worker.  Its writer writes the first half, the role capture the
 * second; each is a cache line of its own.
 */
struct capture_ring {
	uint64_t written;          /* units (a worker's: rows) since the ring was made; stored when they are complete */
	uint64_t items;            /* queries that these are about */
	uint64_t lost;             /* queries for which there was no room */
	uint64_t passed_over;      /* queries that were not wanted, or not in the sample */
	uint64_t room_until;       /* the kernel's: up to where it may store, as `read` was when it last looked */
	uint64_t unused[3];
	uint64_t read;             /* of these, what may be written over */
	uint64_t shape;            /* enum capture_shape */
	uint64_t every;            /* keep one of so many */
	uint64_t wanted;           /* enum capture_wanted */
	uint64_t told_lost, told_passed_over; /* what the reader has taken account of */
	uint64_t identity;         /* the reader's, to know it again */
	uint64_t reader_unused;
};

/* A query and its response, as the kernel tells of it, and the first fields of every fact (rootsrv/capture/facts.py): addresses and
 * name stand behind them (units.py).
 */
struct fact {
	uint64_t time;
	uint8_t kind, family, hop_limit, traffic_class;
	uint16_t response_flags, response_octets;
	uint16_t query_flags, id, destination_port, source_port;
	uint16_t qtype, opt_udp_size;
	uint8_t opt_bits, name_octets;
	uint16_t query_octets;
};
