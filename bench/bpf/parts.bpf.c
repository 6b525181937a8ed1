/* What each part of the fast path costs: the fast path's own functions, up to a chosen one, over and over on queries
 * of the mix.  A test run with `repeat` works on its own answer; so each turn first puts the next query back into the frame,
 * and the cost of that alone is measured too.  Its frame has been large before, so that growing it is cheaper here at tc than for
 * a packet that has just come in.
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

static __always_inline struct query *next_query(void)
{
	__u32 key = parts.next;

	parts.next = key + 1 < parts.count ? key + 1 : 0;
	return bpf_map_lookup_elem(&queries, &key);
}

STEP restore_xdp(struct xdp_md *ctx)
{
	struct query *query = next_query();

	if (!query)
		return -1;
	uint64_t size = query->size - 1;
	BOUND(size, 1023);
	size++;
	if (bpf_xdp_adjust_tail(ctx, (int)size - (int)bpf_xdp_get_buff_len(ctx)))
		return -1;
	return bpf_xdp_store_bytes(ctx, 0, query->frame, size);
}

STEP restore_tc(struct __sk_buff *ctx)
{
	struct query *query = next_query();

	if (!query)
		return -1;
	uint64_t size = query->size - 1;
	BOUND(size, 1023);
	size++;
	if (bpf_skb_change_tail(ctx, size, 0))
		return -1;
	return bpf_skb_store_bytes(ctx, 0, query->frame, size, 0);
}

/* From the headers that are read to the response that is decided: nonzero when the chosen part was the last, or one passes. */
static __always_inline int decide_up_to(struct scratch *s, uint32_t last)
{
	if (read_question(s) || (s->has_opt && read_opt(s)) || last == QUESTION)
		return 1;
	if (verify_checksum(s) || last == CHECKSUM)
		return 1;
	s->opt_size = 0;
	s->generation = READ_ONCE(control.active);
	if (find_answer(s) || last == FIND)
		return 1;
	if ((s->has_opt && build_opt(s)) || last == OPT)
		return 1;
	return fit(s) || last == FIT;
}

SEC("xdp")
int parts_xdp(struct xdp_md *ctx)
{
	struct scratch *s = scratch_of_this_cpu(1);
	uint32_t last = parts.last_part;

	if (!s || restore_xdp(ctx))
		return XDP_ABORTED;
	if (last == RESTORE || receive_xdp(ctx, s) || last == HEADERS || decide_up_to(s, last))
		return XDP_PASS;
	if (send_xdp(ctx, s) != XDP_TX)
		return XDP_PASS;
	parts.answered++;
	if (last == COUNT)
		count_answer(s);
	return XDP_TX;
}

SEC("tc")
int parts_tc(struct __sk_buff *ctx)
{
	struct scratch *s = scratch_of_this_cpu(1);
	uint32_t last = parts.last_part;

	if (!s || restore_tc(ctx))
		return TC_DROP;
	if (last == RESTORE || receive_tc(ctx, s) || last == HEADERS || decide_up_to(s, last))
		return TC_NEXT;
	int verdict = send_tc(ctx, s);
	if (verdict == TC_NEXT || verdict == TC_DROP)
		return TC_NEXT;
	parts.answered++;
	if (last == COUNT)
		count_answer(s);
	return verdict;
}
