/* The answer table's file format, as rootsrv/answer/table.py writes and describes it; tests/fastpath/test_layout.py
 * compares the two.  Like shared.h this file is parsed by cffi as well.
 */

struct table_header {
	uint8_t magic[8];
	uint32_t version, size;
	uint8_t digest[32];
	uint32_t zone_count, zones_at, name_count, names_at, rests_at, index_at;
	uint32_t owner_count, owners_at, type_count, types_at, answer_count, answers_at;
	uint8_t unused[32];
};

struct table_zone {
	uint8_t name[256];
	uint32_t serial, refresh, retry, expire, minimum, name_size;
	uint64_t not_before, signatures_until;
	uint32_t nxdomain[2];
	uint32_t unused[4];
};

struct table_name {
	uint64_t key;
	uint8_t size, flags;
	uint16_t unused;
	uint32_t referral[2], ds[2], nxdomain;
};

struct table_rest {
	uint64_t words[7];
};

struct table_owner {
	uint16_t size, type_count;
	uint32_t types_at;
	uint32_t nodata[2];
	uint8_t zone;
	uint8_t unused[15];
	uint8_t name[256];
};

struct table_type {
	uint16_t type, unused;
	uint32_t answer[2];
};

struct table_answer {
	uint32_t own_at;
	uint16_t body_size, flags, anchor_size, pointer_count, cut_count;
	uint8_t zone, unused;
	uint32_t first_at, last_at;
	uint16_t first_size, last_size;
};

struct table_cut {
	uint16_t size, ancount, nscount, arcount, partial_sum, even_pointers, odd_pointers, flags;
};

enum table_flags {
	NAME_IS_DELEGATION = 1,
	NAME_HAS_HOST_ZONE = 2,
	CUT_TRUNCATED = 1
};
