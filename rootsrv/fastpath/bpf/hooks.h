/* XDP and tc ingress: all that differs between the two hooks, side by side.
 *
 * Theory: what the program does is written once, for a packet `ctx` at a `hook`.  The hook is a constant wherever it is asked
 * for, since everything down from the entry points is inlined or named for its hook; so nothing is decided per packet.
 */

enum hook { XDP, TC };

/* What becomes of a packet. */
enum outcome {
	REPLY,                     /* it is its own response now: back to where it came from */
	PASS,                      /* up to the asyncio server, unchanged */
	DROP,                      /* an operator said so */
	ABORT                      /* this cannot happen */
};

#define AT(hook, xdp, tc) ((hook) == XDP ? (xdp) : (tc))
#define XDP_CTX(ctx) ((struct xdp_md *)(ctx))
#define TC_CTX(ctx) ((struct __sk_buff *)(ctx))

#define TC_NEXT -1 /* TC_ACT_UNSPEC, TCX_NEXT: whoever comes next decides */
#define TC_DROP 2
#define PACKET_HOST 0

static __always_inline int verdict(void *ctx, enum hook hook, enum outcome outcome)
{
	switch (outcome) {
	case REPLY:
		return AT(hook, XDP_TX, bpf_redirect(TC_CTX(ctx)->ifindex, 0));
	case PASS:
		return AT(hook, XDP_PASS, TC_NEXT);
	case DROP:
		return AT(hook, XDP_DROP, TC_DROP);
	default:
		return AT(hook, XDP_ABORTED, TC_DROP);
	}
}

static __always_inline void *data_of(void *ctx, enum hook hook)
{
	return (void *)AT(hook, (long)XDP_CTX(ctx)->data, (long)TC_CTX(ctx)->data);
}

static __always_inline void *end_of(void *ctx, enum hook hook)
{
	return (void *)AT(hook, (long)XDP_CTX(ctx)->data_end, (long)TC_CTX(ctx)->data_end);
}

static __always_inline uint32_t ifindex_of(void *ctx, enum hook hook)
{
	return AT(hook, XDP_CTX(ctx)->ingress_ifindex, TC_CTX(ctx)->ifindex);
}

/* Octets of the whole frame; at tc more than what lies between data and end. */
static __always_inline uint32_t frame_size_of(void *ctx, enum hook hook)
{
	return AT(hook, XDP_CTX(ctx)->data_end - XDP_CTX(ctx)->data, TC_CTX(ctx)->len);
}

/* Nonzero: the frame has no such octets. */
static __always_inline int load(void *ctx, enum hook hook, uint32_t from, void *to, uint32_t size)
{
	return AT(hook, bpf_xdp_load_bytes(XDP_CTX(ctx), from, to, size), bpf_skb_load_bytes(TC_CTX(ctx), from, to, size));
}

static __always_inline int store(void *ctx, enum hook hook, uint32_t to, const void *from, uint32_t size)
{
	return AT(hook, bpf_xdp_store_bytes(XDP_CTX(ctx), to, (void *)from, size),
		  bpf_skb_store_bytes(TC_CTX(ctx), to, from, size, 0));
}

/* Gives the frame *size* octets; it has *before*.  Nonzero: it stays as it is (XDP: the driver has no tailroom). */
static __always_inline int resize(void *ctx, enum hook hook, uint32_t before, uint32_t size)
{
	return AT(hook, bpf_xdp_adjust_tail(XDP_CTX(ctx), (int)(size - before)), bpf_skb_change_tail(TC_CTX(ctx), size, 0));
}

/* Has the first *wanted* octets between data and end, if there are so many.  0, or why the packet is passed: only tc meets what was merged, lies scattered
 * or was sent to other hosts, whose address XDP compares itself.
 */
static __always_inline int gather(void *ctx, enum hook hook, uint32_t wanted)
{
	if (hook == XDP)
		return 0;
	struct __sk_buff *skb = ctx;
	if (skb->pkt_type != PACKET_HOST)
		return PASS_NOT_FOR_US;
	if (skb->gso_size || skb->gso_segs > 1)
		return PASS_MERGED;
	if (data_of(ctx, TC) + wanted > end_of(ctx, TC)) {
		if (skb->len < wanted)
			wanted = skb->len;
		if (bpf_skb_pull_data(skb, wanted))
			return PASS_SHORT;
	}
	return 0;
}
