/* The limit for a responder in the kernel that answers from a table: looks up, copies, sends, and nothing else.
 *
 * Theory: the answer table is rootsrv's own file, and so is the way to search it: the last label's first eight octets
 * among the sorted keys, from where the index by two octets says; equal keys are told apart by the rest of the label.
 * What is found is right for every name below the root, so the body has the right size and comes from the right place
 * (and is as cold).  Everything that makes it a server is left out: no cookie, NSID or any other option (an OPT record
 * that came is answered with a bare one), no cut whatever the client offers, no pointer moved, no checksum verified (UDP's
 * is 0 in the reply, IPv4's is adjusted), no lease, no counter, no names of the host zone.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

typedef __u8 uint8_t;
typedef __u16 uint16_t;
typedef __u32 uint32_t;
typedef __u64 uint64_t;
typedef __s64 int64_t;

#include "../../rootsrv/fastpath/bpf/table.h"

#define ROOM (8 << 20)
#define SLACK 8192
#define QUERY_ROOM 512
#define ETHERNET 14
#define UDP 8
#define DNS 12
#define OPT 11
#define TYPE_DS 43

#define BOUND(x, mask) asm volatile("%0 &= %1" : "+r"(x) : "i"(mask))
#define LOAD16(p) (*(const uint16_t *)(p))
#define LOAD32(p) (*(const uint32_t *)(p))
#define LOAD64(p) (*(const uint64_t *)(p))
#define STEP __attribute__((noinline)) int

struct table {
	uint8_t octets[ROOM + SLACK];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct table);
} tables SEC(".maps");

struct facts {
	uint32_t message_at, label_at, question_end, is_root, qtype, has_opt, do_flag;
	uint32_t body_at, body_size, flags, ancount_nscount, arcount;
	uint8_t message[QUERY_ROOM + 64];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct facts);
} per_cpu SEC(".maps");

static __always_inline const uint8_t *the_table(void)
{
	uint32_t key = 0;
	struct table *table = bpf_map_lookup_elem(&tables, &key);

	return table ? table->octets : 0;
}

static __always_inline const void *at(const uint8_t *table, uint64_t offset)
{
	BOUND(offset, ROOM - 1);
	return table + offset;
}

static __always_inline const uint8_t *message_at(const struct facts *f, uint64_t offset)
{
	BOUND(offset, QUERY_ROOM - 1);
	return f->message + offset;
}

static __always_inline uint64_t lower_case(uint64_t word)
{
	uint64_t low = word & 0x7f7f7f7f7f7f7f7f;
	uint64_t upper = ((low + 0x3f3f3f3f3f3f3f3f) ^ (low + 0x2525252525252525)) & ~word & 0x8080808080808080;

	return word | upper >> 2;
}

static __always_inline uint64_t label_word(const struct facts *f, uint64_t skip, int64_t size)
{
	uint64_t word = LOAD64(message_at(f, (uint64_t)f->label_at + 1 + skip));
	int64_t left = size - (int64_t)skip;

	if (left <= 0)
		return 0;
	if (left < 8)
		word &= (1ULL << (left * 8)) - 1;
	return __builtin_bswap64(lower_case(word));
}

/* Where the last label and the question end, and what is asked. */
STEP read_question(struct facts *f)
{
	if (!f)
		return -1;
	uint64_t offset = DNS, last = DNS;

	for (uint32_t i = 0; i < 128; i++) {
		uint64_t size = *message_at(f, offset);
		if (size == 0)
			break;
		last = offset;
		offset += size + 1;
	}
	f->is_root = offset == DNS;
	f->label_at = last;
	f->qtype = bpf_ntohs(LOAD16(message_at(f, offset + 1)));
	f->question_end = offset + 5;
	f->has_opt = LOAD16(f->message + 10) != 0;
	f->do_flag = f->has_opt && *message_at(f, offset + 5 + 7) & 0x80;
	return 0;
}

STEP compare_rest(struct facts *f, uint32_t number)
{
	const uint8_t *table = the_table();
	if (!f || !table)
		return 2;
	const struct table_header *header = (const void *)table;
	const struct table_name *name = at(table, header->names_at + (uint64_t)number * sizeof(*name));
	uint32_t size = *message_at(f, f->label_at);

	for (uint32_t i = 0; i < 7; i++) {
		uint64_t ours = label_word(f, 8 + i * 8, size), theirs = name->rest[i];
		if (theirs != ours)
			return theirs < ours ? 1 : 2;
	}
	return name->size == size ? 0 : name->size < size ? 1 : 2;
}

/* The offset of the answer; 0 when there is none. */
STEP find(struct facts *f)
{
	const uint8_t *table = the_table();
	if (!f || !table)
		return 0;
	const struct table_header *header = (const void *)table;

	if (f->is_root) {
		const struct table_owner *owner = at(table, header->owners_at);
		uint32_t count = owner->type_count;
		uint64_t types_at = owner->types_at;
		for (uint32_t i = 0; i < 64; i++) {
			if (i >= count)
				break;
			const struct table_type *type = at(table, types_at + i * sizeof(*type));
			if (type->type == f->qtype)
				return f->do_flag ? type->answer[1] : type->answer[0];
		}
		return f->do_flag ? owner->nodata[1] : owner->nodata[0];
	}
	uint64_t keys_at = header->keys_at, key = label_word(f, 0, *message_at(f, f->label_at));
	const uint8_t *index = at(table, header->index_at + (key >> 48) * 2);
	uint64_t low = LOAD16(index), high = LOAD16(index + 2);
	uint32_t found = 0;

	for (uint32_t i = 0; i < 17; i++) {
		if (low >= high)
			break;
		uint64_t middle = (low + high) >> 1, theirs = LOAD64(at(table, keys_at + middle * 8));
		int order = theirs < key ? 1 : 2;
		if (theirs == key) {
			order = compare_rest(f, middle);
			found |= order == 0;
		}
		if (order == 2)
			high = middle;
		else
			low = middle + 1;
	}
	if (low == 0)
		return 0;
	const struct table_name *name = at(table, header->names_at + (low - 1) * sizeof(*name));
	if (found && f->qtype == TYPE_DS && f->label_at == DNS)
		return f->do_flag ? name->ds[1] : name->ds[0];
	if (found)
		return f->do_flag ? name->referral[1] : name->referral[0];
	if (f->do_flag)
		return name->nxdomain;
	return ((const struct table_zone *)at(table, header->zones_at))->nxdomain[0];
}

/* What the answer is made of. */
STEP read_answer(struct facts *f, uint32_t answer_at)
{
	const uint8_t *table = the_table();
	if (!f || !table || !answer_at)
		return -1;
	const struct table_answer *answer = at(table, answer_at);
	uint64_t count = answer->cut_count;
	if (!count)
		return -1;
	const struct table_cut *whole = at(table, answer_at + sizeof(*answer) + (count - 1) * sizeof(*whole));

	f->flags = bpf_htons(0x8000 | answer->flags);
	f->body_at = answer->body_at;
	f->body_size = whole->size;
	f->ancount_nscount = bpf_htons(whole->ancount) | (uint32_t)bpf_htons(whole->nscount) << 16;
	f->arcount = bpf_htons(whole->arcount + f->has_opt);
	return 0;
}

#define SWAP(type, a, b) do { type kept = (a); (a) = (b); (b) = kept; } while (0)

STEP send(struct xdp_md *ctx, struct facts *f)
{
	const uint8_t *table = the_table();
	if (!f || !table)
		return XDP_PASS;
	uint32_t body_at = f->message_at + f->question_end, is_ipv4 = f->message_at == ETHERNET + 20 + UDP;
	uint32_t old = (long)ctx->data_end - (long)ctx->data;
	uint32_t size = body_at + f->body_size + (f->has_opt ? OPT : 0);

	if (bpf_xdp_adjust_tail(ctx, (int)(size - old)))
		return XDP_PASS;
	if (f->body_size) {
		uint64_t body_size = f->body_size - 1;
		BOUND(body_size, 4095);
		body_size++;
		if (bpf_xdp_store_bytes(ctx, body_at, (void *)at(table, f->body_at), body_size))
			return XDP_ABORTED;
	}
	if (f->has_opt) {
		uint8_t opt[OPT] = {0, 0, 41, 4, 208, 0, 0, f->do_flag ? 0x80 : 0, 0, 0, 0}; /* offers 1,232 octets */
		if (bpf_xdp_store_bytes(ctx, body_at + f->body_size, opt, sizeof(opt)))
			return XDP_ABORTED;
	}
	uint8_t *data = (uint8_t *)(long)ctx->data, *end = (uint8_t *)(long)ctx->data_end;
	if (data + ETHERNET + 20 + UDP + DNS > end)
		return XDP_ABORTED;
	for (int i = 0; i < 3; i++)
		SWAP(uint16_t, *(uint16_t *)(data + i * 2), *(uint16_t *)(data + 6 + i * 2));
	uint8_t *ip = data + ETHERNET;
	uint16_t *udp;
	if (is_ipv4) {
		SWAP(uint32_t, *(uint32_t *)(ip + 12), *(uint32_t *)(ip + 16));
		uint32_t sum = (uint16_t)~bpf_ntohs(LOAD16(ip + 10)) + (size - old);
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		*(uint16_t *)(ip + 10) = bpf_htons((uint16_t)~sum);
		*(uint16_t *)(ip + 2) = bpf_htons(size - ETHERNET);
		udp = (uint16_t *)(ip + 20);
	} else {
		if (ip + 40 + UDP + DNS > end)
			return XDP_ABORTED;
		SWAP(uint64_t, *(uint64_t *)(ip + 8), *(uint64_t *)(ip + 24));
		SWAP(uint64_t, *(uint64_t *)(ip + 16), *(uint64_t *)(ip + 32));
		*(uint16_t *)(ip + 4) = bpf_htons(size - ETHERNET - 40);
		udp = (uint16_t *)(ip + 40);
	}
	SWAP(uint16_t, udp[0], udp[1]);
	udp[2] = bpf_htons(size - f->message_at + UDP);
	udp[3] = 0;
	uint16_t *dns = udp + 4;
	dns[1] = f->flags;
	*(uint32_t *)(dns + 3) = f->ancount_nscount;
	dns[5] = f->arcount;
	return XDP_TX;
}

SEC("xdp")
int look_up(struct xdp_md *ctx)
{
	uint8_t *data = (uint8_t *)(long)ctx->data, *end = (uint8_t *)(long)ctx->data_end;
	uint32_t key = 0;
	struct facts *f = bpf_map_lookup_elem(&per_cpu, &key);

	if (!f || data + ETHERNET + 20 + UDP + DNS > end)
		return XDP_PASS;
	uint8_t *ip = data + ETHERNET;
	if (LOAD16(data + 12) == bpf_htons(0x0800)) {
		if (ip[9] != 17 || LOAD16(ip + 22) != bpf_htons(53))
			return XDP_PASS;
		f->message_at = ETHERNET + 20 + UDP;
	} else {
		if (LOAD16(data + 12) != bpf_htons(0x86dd) || ip + 40 + UDP > end || ip[6] != 17 ||
		    LOAD16(ip + 42) != bpf_htons(53))
			return XDP_PASS;
		f->message_at = ETHERNET + 40 + UDP;
	}
	uint64_t size = (long)ctx->data_end - (long)ctx->data;
	size -= *(volatile uint32_t *)&f->message_at + 1;
	BOUND(size, QUERY_ROOM - 1);
	size++;
	if (bpf_xdp_load_bytes(ctx, f->message_at, f->message, size))
		return XDP_PASS;
	if (read_question(f) || read_answer(f, find(f)))
		return XDP_PASS;
	return send(ctx, f);
}

char LICENSE[] SEC("license") = "Apache-2.0";
