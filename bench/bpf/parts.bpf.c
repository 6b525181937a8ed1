/* What each part of the fast path costs: the fast path's own functions, up to a chosen one, over and over on queries
 * of the mix.  A test run with `repeat` works on its own answer; so each turn first puts the next query back into the frame,
 * and the cost of that alone is measured too.  Its frame has been large before, so that growing it is cheaper here at tc than for
 * a packet that has just come in.
 */
#include "../../rootsrv/fastpath/bpf/rootsrv.bpf.c"

enum { RESTORE, HEADERS, QUESTION, FIND, CHECKSUM, OPT, FIT, SEND, COUNT };

#define FRAMES_ROOM 16777216

struct query {
	uint32_t at, size; /* of its frame */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct query);
} queries SEC(".maps");

/* Close to each other, so that thousands of them leave room in the cache for what is measured. */
struct frames {
	uint8_t octets[FRAMES_ROOM + 1024];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct frames);
} frames SEC(".maps");

struct parts {
	uint32_t count, next, last_part, answered;
};

struct parts parts SEC(".data.parts");

/* Puts the next query into the frame. */
static __always_inline int restore(void *ctx, enum hook hook)
{
	__u32 key = parts.next, only = 0;

	parts.next = key + 1 < parts.count ? key + 1 : 0;
	struct query *query = bpf_map_lookup_elem(&queries, &key);
	struct frames *all = bpf_map_lookup_elem(&frames, &only);
	if (!query || !all)
		return -1;
	uint64_t at = query->at, size = query->size - 1;
	BOUND(at, FRAMES_ROOM - 1);
	BOUND(size, 1023);
	size++;
	uint32_t before = AT(hook, bpf_xdp_get_buff_len(XDP_CTX(ctx)), TC_CTX(ctx)->len);
	return resize(ctx, hook, before, size) || store(ctx, hook, 0, all->octets + at, size);
}

/* As `decide` does it; nonzero when the chosen part was the last, or one passes. */
static __always_inline int decide_up_to(struct scratch *s, const uint8_t *table, uint32_t last)
{
	if (read_question(s))
		return 1;
	PATHS_MEET();
	if (s->has_opt && read_opt(s))
		return 1;
	PATHS_MEET();
	s->opt_size = s->opt_is_stored = 0;
	if (last == QUESTION || find_answer(s, table))
		return 1;
	PATHS_MEET();
	fetch_answer(s, table);
	hash_source(s);
	PATHS_MEET();
	if (last == FIND || verify_checksum(s) || last == CHECKSUM)
		return 1;
	PATHS_MEET();
	if ((s->has_opt && build_opt(s)) || last == OPT)
		return 1;
	PATHS_MEET();
	return fit(s, table, 1) || last == FIT;
}

static __always_inline int run_parts(void *ctx, enum hook hook)
{
	struct scratch *s = scratch_of_this_cpu(1);
	uint32_t last = parts.last_part;

	if (!s || restore(ctx, hook))
		return verdict(ctx, hook, ABORT);
	if (last == RESTORE || receive(ctx, hook, s))
		return verdict(ctx, hook, PASS);
	PATHS_MEET();
	s->generation = READ_ONCE(control.active);
	const uint8_t *table = table_of(s->generation);
	if (!table)
		return verdict(ctx, hook, ABORT);
	if (last == HEADERS || decide_up_to(s, table, last))
		return verdict(ctx, hook, PASS);
	PATHS_MEET();
	struct capture_ring *ring = 0;
	uint64_t shape = CAPTURE_OFF;
	if (capturing.units) {
		ring = ring_of_this_cpu();
		if (!ring)
			return verdict(ctx, hook, ABORT);
		shape = READ_ONCE(ring->shape);
		if ((uint8_t)shape == CAPTURE_PACKETS)
			keep_packet(data_of(ctx, hook), end_of(ctx, hook), s, ring);
	}
	PATHS_MEET();
	if (send(ctx, hook, s, table) != REPLY)
		return verdict(ctx, hook, PASS);
	PATHS_MEET();
	parts.answered++;
	if (last == COUNT)
		count_answer(s, 1);
	if (last == COUNT && capturing.units && shape != CAPTURE_OFF)
		capture(s, ring, shape, 1);
	return verdict(ctx, hook, REPLY);
}

SEC("xdp")
int parts_xdp(struct xdp_md *ctx)
{
	return run_parts(ctx, XDP);
}

SEC("tc")
int parts_tc(struct __sk_buff *ctx)
{
	return run_parts(ctx, TC);
}
