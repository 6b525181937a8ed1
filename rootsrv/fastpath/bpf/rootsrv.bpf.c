/* Answers DNS queries from the answer table, in XDP or at tc ingress.
 *
 * Theory: the kernel answers only what it fully understands; everything else goes up unchanged to the asyncio server.
 * It may pass, it may never differ: its response is octet for octet the Responder's (rootsrv/answer/responder.py).  So
 * nothing is written before everything is decided; only then is the packet given its new size, which a driver may refuse (then
 * it goes up as it came), and filled: headers turned round in place, the question left where it is, the body copied
 * from the table in up to three pieces and its pointers moved, our OPT record behind it.
 *
 * The files, in the order in which a packet meets them: packet.h (headers), question.h (query), find.h (which answer),
 * checksum.h, cookie.h, response.h (which cut, OPT, checksum), body.h (its octets), sources.h, limits.h, shed.h, syn.h, account.h, capture.h; state.h holds the maps, hooks.h is what differs
 * between XDP and tc.  shared.h and table.h are what Python knows too.
 */

#include "kernel.h"
#include "shared.h"
#include "table.h"
#include "state.h"
#include "question.h"
#include "checksum.h"
#include "find.h"
#include "siphash.h"
#include "cookie.h"
#include "sources.h"
#include "hooks.h"
#include "body.h"
#include "response.h"
#include "packet.h"
#include "limits.h"
#include "shed.h"
#include "syn.h"
#include "account.h"
#include "capture.h"

#ifdef LAYOUT
/* The first eight octets of the SHA-256 digest of shared.h and table.h: Python must have read the same ones. */
const uint64_t layout SEC(".rodata.layout") __attribute__((used)) = LAYOUT;
#endif

static __always_inline struct scratch *scratch_of_this_cpu(int live)
{
	__u32 key = 0;
	struct scratch *s = bpf_map_lookup_elem(&per_cpu, &key);

	if (s)
		s->live = live;
	return s;
}

/* The message into the scratch space, in front of zeros; nonzero when the frame does not hold it. */
static __always_inline int copy_message(void *ctx, enum hook hook, struct scratch *s)
{
	uint64_t size = s->size, end = s->message_at + size;

	if (size <= COPIED_AT_ONCE && end >= COPIED_AT_ONCE) {
		/* Much faster than the helper: with what stands before it, whatever its size. */
		uint64_t start = end - COPIED_AT_ONCE;
		BOUND(start, 127);
		BOUND(size, 127);
		const uint8_t *from = data_of(ctx, hook) + start;
		uint8_t *to = s->before + size;
		if ((void *)(from + COPIED_AT_ONCE) <= end_of(ctx, hook)) {
#pragma unroll
			for (uint32_t i = 0; i < COPIED_AT_ONCE; i += 8)
				*(uint64_t *)(to + i) = LOAD64(from + i);
			return 0;
		}
	}
	size = s->size - 1;
	BOUND(size, MAX_QUERY - 1);
	size++;
	return load(ctx, hook, s->message_at, s->message, size);
}

/* The query into the scratch space: 0, or why the packet is passed. */
static __always_inline int receive(void *ctx, enum hook hook, struct scratch *s)
{
	int reason = gather(ctx, hook, ALL_HEADERS);
	if (reason)
		return reason;
	s->ifindex = ifindex_of(ctx, hook);
	reason = read_headers(s, data_of(ctx, hook), end_of(ctx, hook), frame_size_of(ctx, hook), hook);
	if (reason)
		return reason;
	PATHS_MEET();
	if (copy_message(ctx, hook, s))
		return PASS_SHORT;
	PATHS_MEET();
	return addresses_are_plain(s) ? 0 : judge_addresses(s);
}

/* The response in the query's place; PASS: there is no room for it, and the packet is as it came. */
static __always_inline int send(void *ctx, enum hook hook, struct scratch *s, const uint8_t *table)
{
	if (resize(ctx, hook, s->frame_size, s->message_at + s->response_size))
		return PASS;
	uint32_t body_at = s->message_at + s->question_end;
	if (store_body(ctx, hook, s, table, body_at))
		return ABORT;
	if (s->opt_is_stored) {
		uint64_t size = s->opt_size - 1;
		BOUND(size, OPT_ROOM - 1);
		size++;
		if (store(ctx, hook, body_at + s->body_size, s->opt, size))
			return ABORT;
	}
	PATHS_MEET();
	if (write_headers(s, data_of(ctx, hook), end_of(ctx, hook)))
		return ABORT;
	PATHS_MEET();
	if (s->pointer_count && move_pointers(s, table, data_of(ctx, hook), end_of(ctx, hook)))
		return ABORT;
	PATHS_MEET();
	return write_opt(s, data_of(ctx, hook), end_of(ctx, hook)) ? ABORT : REPLY;
}

static __always_inline int sample(void *ctx, enum hook hook, struct scratch *s)
{
	uint64_t query = s->size, response = s->response_size - 1;

	BOUND(query, 1023);
	if (query > TAP_QUERY)
		return 0;
	BOUND(response, TAP_RESPONSE - 1);
	response++;
	__builtin_memcpy(s->tapped, s->message, TAP_QUERY);
	if (load(ctx, hook, s->message_at, s->tapped + query, response) == 0)
		hand_to_tap(s, query, response);
	return 0;
}

/* The verifier wants to know of a step of its own which kind of packet it gets. */
STEP sample_xdp(struct xdp_md *ctx, struct scratch *s)
{
	return s ? sample(ctx, XDP, s) : 0;
}

STEP sample_tc(struct __sk_buff *ctx, struct scratch *s)
{
	return s ? sample(ctx, TC, s) : 0;
}

static __always_inline int answer(void *ctx, enum hook hook, int live)
{
	struct scratch *s = scratch_of_this_cpu(live);
	if (!s)
		return verdict(ctx, hook, ABORT);

	int reason = receive(ctx, hook, s);
	PATHS_MEET();
	if (!reason && control.blocks && is_blocked(s))
		return verdict(ctx, hook, DROP);
	if (!reason && admitting.limits && admission.judging_until)
		find_cells(s);
	PATHS_MEET();
	s->generation = live ? READ_ONCE(control.active) : control.test_generation;
	const uint8_t *table = table_of(s->generation);
	if (!table)
		return verdict(ctx, hook, ABORT);
	if (!reason)
		reason = decide(s, table, live);
	if (hook == XDP && reason == PASS_NOT_UDP && admission.syn_interval &&
	    is_syn(s, data_of(ctx, hook), end_of(ctx, hook)) && is_over_syns(s))
		return verdict(ctx, hook, DROP);
	if (reason) {
		count_pass(s, reason, live);
		return verdict(ctx, hook, PASS);
	}
	PATHS_MEET();
	struct capture_ring *ring = 0; /* looked up once, and the same shape for the whole query */
	uint64_t shape = CAPTURE_OFF;
	if (capturing.units && live) {
		ring = ring_of_this_cpu();
		if (!ring)
			return verdict(ctx, hook, ABORT);
		shape = READ_ONCE(ring->shape);
		if ((uint8_t)shape == CAPTURE_PACKETS)
			keep_packet(data_of(ctx, hook), end_of(ctx, hook), s, ring);
	}
	PATHS_MEET();
	if (turn_away(s, live)) {
		if (capturing.units && live && shape != CAPTURE_OFF)
			capture_turned_away(s, shape);
		return verdict(ctx, hook, DROP);
	}
	PATHS_MEET();
	int outcome = send(ctx, hook, s, table);
	if (outcome == PASS) {
		count_pass(s, PASS_NO_TAILROOM, live);
		return verdict(ctx, hook, PASS);
	}
	if (outcome != REPLY)
		return verdict(ctx, hook, ABORT);
	PATHS_MEET();
	count_answer(s, live);
	if (capturing.units && live && shape != CAPTURE_OFF)
		capture(s, ring, shape, 1);
	if (is_sampled(live))
		AT(hook, sample_xdp(ctx, s), sample_tc(ctx, s));
	return verdict(ctx, hook, REPLY);
}

SEC("xdp")
int rootsrv_xdp(struct xdp_md *ctx)
{
	return answer(ctx, XDP, 1);
}

SEC("tc")
int rootsrv_tc(struct __sk_buff *ctx)
{
	return answer(ctx, TC, 1);
}

/* For test runs only: they read the generation that control.test_generation names and count apart. */
SEC("xdp")
int xdp_test(struct xdp_md *ctx)
{
	return answer(ctx, XDP, 0);
}

SEC("tc")
int tc_test(struct __sk_buff *ctx)
{
	return answer(ctx, TC, 0);
}

/* None of the helpers asks for the GPL. */
char _license[] SEC("license") = "Apache-2.0";
