/* What each part of the fast path costs: the fast path's own functions, up to a chosen one, over and over on queries
 * of the mix.  A test run with `repeat` works on its own answer; so each turn first puts the next query back into the frame,
 * and the cost of that alone is measured too.
 */
#include "../../rootsrv/fastpath/bpf/rootsrv.bpf.c"

enum { RESTORE, HEADERS, QUESTION, CHECKSUM, FIND, OPT, FIT, SEND, COUNT };

struct query {
	uint32_t size;
	uint8_t frame[1024];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct query);
} queries SEC(".maps");

struct parts {
	uint32_t count, next, last_part, answered;
};

struct parts parts SEC(".data.parts");

STEP restore(struct xdp_md *ctx)
{
	__u32 key = parts.next;
	struct query *query = bpf_map_lookup_elem(&queries, &key);

	parts.next = key + 1 < parts.count ? key + 1 : 0;
	if (!query)
		return -1;
	uint64_t size = query->size;
	BOUND(size, 511);
	if (!size)
		return -1;
	if (bpf_xdp_adjust_tail(ctx, (int)size - (int)bpf_xdp_get_buff_len(ctx)))
		return -1;
	return bpf_xdp_store_bytes(ctx, 0, query->frame, size);
}

SEC("xdp")
int parts_xdp(struct xdp_md *ctx)
{
	struct scratch *s = scratch_of_this_cpu(1);
	uint32_t last = parts.last_part;

	if (!s || restore(ctx))
		return XDP_ABORTED;
	if (last == RESTORE || receive_xdp(ctx, s) || last == HEADERS)
		return XDP_PASS;
	if (read_question(s) || (s->has_opt && read_opt(s)) || last == QUESTION)
		return XDP_PASS;
	if (verify_checksum(s) || last == CHECKSUM)
		return XDP_PASS;
	s->opt_size = 0;
	s->generation = READ_ONCE(control.active);
	if (find_answer(s) || last == FIND)
		return XDP_PASS;
	if ((s->has_opt && build_opt(s)) || last == OPT)
		return XDP_PASS;
	if (fit(s) || last == FIT)
		return XDP_PASS;
	if (send_xdp(ctx, s) != XDP_TX)
		return XDP_PASS;
	parts.answered++;
	if (last == COUNT)
		count_answer(s);
	return XDP_TX;
}
