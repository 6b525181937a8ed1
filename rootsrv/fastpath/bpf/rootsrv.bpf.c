/* Answers DNS queries from the answer table, in XDP or at tc ingress.
 *
 * Theory: the kernel answers only what it fully understands; everything else goes up unchanged to the asyncio server.
 * It may pass, it may never differ: its response is octet for octet the Responder's (rootsrv/answer/responder.py).  So
 * nothing is written before everything is decided; only then is the packet given its new size, which a driver may refuse (then
 * it goes up as it came), and filled: headers turned round in place, the question left where it is, the body copied
 * from the table in one go and its pointers moved, our OPT record behind it.
 *
 * The files, in the order in which a packet meets them: packet.h (headers), question.h (query), find.h (which answer),
 * checksum.h, cookie.h, response.h (which cut, OPT, checksum), account.h; state.h holds the maps.  shared.h and table.h are
 * what Python knows too.
 */

#include "kernel.h"
#include "shared.h"
#include "table.h"
#include "state.h"
#include "question.h"
#include "checksum.h"
#include "find.h"
#include "cookie.h"
#include "response.h"
#include "packet.h"
#include "account.h"

#define TC_NEXT -1 /* TC_ACT_UNSPEC, TCX_NEXT: whoever comes next decides */
#define TC_DROP 2
#define PACKET_HOST 0

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

/* ── XDP ── */

STEP receive_xdp(struct xdp_md *ctx, struct scratch *s)
{
	if (!s)
		return PASS_SHORT;
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;

	s->ifindex = ctx->ingress_ifindex;
	int reason = read_headers(s, data, data_end, data_end - data, 1);
	if (reason)
		return reason;
	uint64_t size = s->size - 1;
	BOUND(size, MAX_QUERY - 1);
	size++;
	if (bpf_xdp_load_bytes(ctx, s->message_at, s->message, size))
		return PASS_SHORT;
	return judge_addresses(s);
}

STEP send_xdp(struct xdp_md *ctx, struct scratch *s)
{
	if (!s)
		return XDP_ABORTED;
	const uint8_t *table = table_of(s->generation);
	if (!table)
		return XDP_ABORTED;

	if (bpf_xdp_adjust_tail(ctx, (int)(s->message_at + s->response_size - s->frame_size)))
		return XDP_PASS; /* the driver has no tailroom */
	uint32_t body_at = s->message_at + s->question_end;
	if (s->body_size) {
		uint64_t size = s->body_size - 1;
		BOUND(size, MAX_RESPONSE - 1);
		size++;
		if (bpf_xdp_store_bytes(ctx, body_at, (void *)at(table, s->body_at), size))
			return XDP_ABORTED;
	}
	if (s->opt_size > OPT_HEADER) {
		uint64_t size = s->opt_size - 1;
		BOUND(size, OPT_ROOM - 1);
		size++;
		if (bpf_xdp_store_bytes(ctx, body_at + s->body_size, s->opt, size))
			return XDP_ABORTED;
	}
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	if (write_headers(s, data, data_end) || move_pointers(s, data, data_end) || write_bare_opt(s, data, data_end))
		return XDP_ABORTED;
	return XDP_TX;
}

STEP tap_xdp(struct xdp_md *ctx, struct scratch *s)
{
	if (!s)
		return 0;
	uint64_t query = s->size, response = s->response_size - 1;

	BOUND(query, 1023);
	if (query > TAP_QUERY)
		return 0;
	BOUND(response, TAP_RESPONSE - 1);
	response++;
	__builtin_memcpy(s->tapped, s->message, TAP_QUERY);
	if (bpf_xdp_load_bytes(ctx, s->message_at, s->tapped + query, response) == 0)
		hand_to_tap(s, query, response);
	return 0;
}

static __always_inline int answer_xdp(struct xdp_md *ctx, int live)
{
	struct scratch *s = scratch_of_this_cpu(live);
	if (!s)
		return XDP_ABORTED;

	int reason = receive_xdp(ctx, s);
	if (!reason && control.blocks && is_blocked(s))
		return XDP_DROP;
	if (!reason)
		reason = decide(s);
	if (reason) {
		count_pass(s, reason);
		return XDP_PASS;
	}
	int verdict = send_xdp(ctx, s);
	if (verdict == XDP_TX) {
		count_answer(s);
		if (is_sampled(s))
			tap_xdp(ctx, s);
	} else if (verdict == XDP_PASS) {
		count_pass(s, PASS_NO_TAILROOM);
	}
	return verdict;
}

SEC("xdp")
int rootsrv_xdp(struct xdp_md *ctx)
{
	return answer_xdp(ctx, 1);
}

/* For test runs only: reads the generation that control.test_generation names and counts apart. */
SEC("xdp")
int xdp_test(struct xdp_md *ctx)
{
	return answer_xdp(ctx, 0);
}

/* ── tc ── */

STEP receive_tc(struct __sk_buff *ctx, struct scratch *s)
{
	if (!s)
		return PASS_SHORT;
	if (ctx->pkt_type != PACKET_HOST)
		return PASS_NOT_FOR_US;
	if (ctx->gso_size || ctx->gso_segs > 1)
		return PASS_MERGED;
	if (ctx->data + ETH_HEADER + IPV6_HEADER + UDP_HEADER > ctx->data_end) {
		uint32_t wanted = ETH_HEADER + IPV6_HEADER + UDP_HEADER;
		if (ctx->len < wanted)
			wanted = ctx->len;
		if (bpf_skb_pull_data(ctx, wanted))
			return PASS_SHORT;
	}
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	s->ifindex = ctx->ifindex;
	int reason = read_headers(s, data, data_end, ctx->len, 0);
	if (reason)
		return reason;
	uint64_t size = s->size - 1;
	BOUND(size, MAX_QUERY - 1);
	size++;
	if (bpf_skb_load_bytes(ctx, s->message_at, s->message, size))
		return PASS_SHORT;
	return judge_addresses(s);
}

STEP send_tc(struct __sk_buff *ctx, struct scratch *s)
{
	if (!s)
		return TC_DROP;
	const uint8_t *table = table_of(s->generation);
	if (!table)
		return TC_DROP;

	if (bpf_skb_change_tail(ctx, s->message_at + s->response_size, 0))
		return TC_NEXT;
	uint32_t body_at = s->message_at + s->question_end;
	if (s->body_size) {
		uint64_t size = s->body_size - 1;
		BOUND(size, MAX_RESPONSE - 1);
		size++;
		if (bpf_skb_store_bytes(ctx, body_at, at(table, s->body_at), size, 0))
			return TC_DROP;
	}
	if (s->opt_size > OPT_HEADER) {
		uint64_t size = s->opt_size - 1;
		BOUND(size, OPT_ROOM - 1);
		size++;
		if (bpf_skb_store_bytes(ctx, body_at + s->body_size, s->opt, size, 0))
			return TC_DROP;
	}
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	if (write_headers(s, data, data_end) || move_pointers(s, data, data_end) || write_bare_opt(s, data, data_end))
		return TC_DROP;
	return bpf_redirect(ctx->ifindex, 0);
}

STEP tap_tc(struct __sk_buff *ctx, struct scratch *s)
{
	if (!s)
		return 0;
	uint64_t query = s->size, response = s->response_size - 1;

	BOUND(query, 1023);
	if (query > TAP_QUERY)
		return 0;
	BOUND(response, TAP_RESPONSE - 1);
	response++;
	__builtin_memcpy(s->tapped, s->message, TAP_QUERY);
	if (bpf_skb_load_bytes(ctx, s->message_at, s->tapped + query, response) == 0)
		hand_to_tap(s, query, response);
	return 0;
}

static __always_inline int answer_tc(struct __sk_buff *ctx, int live)
{
	struct scratch *s = scratch_of_this_cpu(live);
	if (!s)
		return TC_NEXT;

	int reason = receive_tc(ctx, s);
	if (!reason && control.blocks && is_blocked(s))
		return TC_DROP;
	if (!reason)
		reason = decide(s);
	if (reason) {
		count_pass(s, reason);
		return TC_NEXT;
	}
	int verdict = send_tc(ctx, s);
	if (verdict == TC_NEXT) {
		count_pass(s, PASS_NO_TAILROOM);
	} else if (verdict != TC_DROP) {
		count_answer(s);
		if (is_sampled(s))
			tap_tc(ctx, s);
	}
	return verdict;
}

SEC("tc")
int rootsrv_tc(struct __sk_buff *ctx)
{
	return answer_tc(ctx, 1);
}

SEC("tc")
int tc_test(struct __sk_buff *ctx)
{
	return answer_tc(ctx, 0);
}

/* None of the helpers asks for the GPL. */
char _license[] SEC("license") = "Apache-2.0";
